"""NetworkChaos: has packets between isolated pods not arrive, or arrive late, twice or changed.

All do not arrive (partition), a part (loss), or too many (bandwidth). What is more than a bandwidth waits in no queue:
it is lost, and connections slow down by that. A pod that has no network of its own is refused: events and records say
so. Source: Chaos Mesh, "Simulate network chaos".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import NO_RULES, isolation_of
from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers.actions import Action
from rayplane.control_plane.controllers.chaos.experiment import (
    INJECTED,
    SOURCE,
    TARGET,
    ExperimentController,
    Record,
    marked,
    new_record,
    pod_of,
    records_of,
)
from rayplane.control_plane.controllers.chaos.selection import chosen
from rayplane.control_plane.controllers.core import View, Watch

ISOLATED = "namespaces"
BURST_BYTES = 1 << 16
"""As large as what a machine's own devices pass on at once."""


class NetworkChaosController(ExperimentController):
    name = "networkchaos"
    kind = mesh.NETWORK_CHAOS

    def __init__(self) -> None:
        super().__init__()
        self.watches = (Watch("pods", _hit, changed=_matters), Watch("nodes", None))

    def selected(self, experiment: Object, view: View) -> list[Record]:
        spec = meta.spec(experiment)
        made = [new_record(meta.key(pod), pod) for pod in chosen(experiment, spec, view)]
        if not made or not spec.get("target"):
            return made
        # A pod is not kept from itself.
        sources = {one["id"] for one in made}
        others = [pod for pod in chosen(experiment, spec["target"], view) if meta.key(pod) not in sources]
        return [*made, *(new_record(meta.key(pod), pod, TARGET) for pod in others)] if others else []

    def act(self, experiment: Object, pod: Object, ours: Sequence[Record], view: View) -> Action | None:
        if ours[0]["selectorKey"] != SOURCE:
            return None  # each source keeps itself from its targets
        return marked(pod, {marks.loses(meta.uid(experiment)): str(_loss(experiment, view))})

    def kept(self, experiment: Object, records: Sequence[Record], view: View) -> list[Action]:
        """Marks name the addresses of those that are there: another pod may get that of one which is gone."""
        hit = [one for one in records if (one["phase"], one["selectorKey"]) == (INJECTED, SOURCE)]
        pods = [pod for one in hit if (pod := pod_of(view, one)) is not None]
        if not pods:
            return []
        name, value = marks.loses(meta.uid(experiment)), str(_loss(experiment, view))
        return [marked(pod, {name: value}) for pod in pods if meta.annotations(pod).get(name) not in (None, value)]

    def undone(self, pod: Object) -> str:
        told = meta.get_condition(pod, marks.DISTURBED) or {}
        return f"its node could not do it: {told.get('message')}" if told.get("status") == "False" else ""

    def marks(self, experiment: Object) -> tuple[str, ...]:
        return (marks.loses(meta.uid(experiment)),)

    def refusal(self, experiment: Object, pod: Object, view: View) -> str:
        try:
            mesh.netem(meta.spec(experiment))
        except ValueError as e:
            return str(e)  # it was let in before anybody looked at it
        node = view.get("nodes", "", meta.node_name(pod))
        if node is None:
            return "the pod is on no node yet"
        if not isolation_of(node).startswith(ISOLATED):
            return f"pods on node {meta.name(node)} have no network of their own"
        if isolation_of(node).endswith(NO_RULES):
            return f"node {meta.name(node)} keeps no packet rules: network policy is off there"
        if meta.spec(pod).get("hostNetwork"):
            return "the pod is in its node's network and has none of its own"
        there = [one for one in map(partial(_there, view), records_of(experiment) or ()) if one is not None]
        waiting = [meta.key(one) for one in there if not _address(one)]
        return f"{waiting[0]} has no address yet" if waiting else ""


def _matters(old: Object, new: Object) -> bool:
    """Whether the pod has ended, or its node says anew whether it could do what marks want."""
    if pod_is_terminated(new) and not pod_is_terminated(old):
        return True
    return meta.get_condition(new, marks.DISTURBED) != meta.get_condition(old, marks.DISTURBED)


def _hit(pod: Object, view: View) -> list[str]:
    """Experiments that have chosen the pod."""
    uid = meta.uid(pod)
    found = view.list(mesh.resource(mesh.NETWORK_CHAOS))
    return [meta.key(one) for one in found if any(record["uid"] == uid for record in records_of(one) or ())]


def _loss(experiment: Object, view: View) -> marks.Loss:
    spec = meta.spec(experiment)
    netem, over, burst, percent = mesh.netem(spec), 0, 0, 100
    if rate := mesh.rate_field(spec):
        over, burst = mesh.bytes_a_second(spec), max(BURST_BYTES, int(spec[rate].get("buffer") or 0))
    elif netem is not None:
        percent = 0
    elif spec.get("action") == mesh.LOSS:
        percent = mesh.percent(spec)
    peers = _peers(spec, records_of(experiment) or (), view)
    direction = spec.get("direction") or mesh.TO
    to = peers if direction in (mesh.TO, mesh.BOTH) else ()
    return marks.Loss(percent, to, peers if direction in (mesh.FROM, mesh.BOTH) else (), over, burst, netem)


def _peers(spec: Mapping[str, Any], records: Sequence[Record], view: View) -> tuple[str, ...] | None:
    """Addresses of the other side; None for everybody."""
    outside = tuple(spec.get("externalTargets") or ())
    if not spec.get("target"):
        return outside or None
    pods = [_there(view, one) for one in records if one["selectorKey"] == TARGET]
    return tuple(_address(pod) for pod in pods if pod is not None and _address(pod)) + outside


def _there(view: View, record: Record) -> Object | None:
    """A pod that was chosen, as long as its address is its own."""
    pod = pod_of(view, record)
    ended = pod is None or pod_is_terminated(pod) or meta.spec(pod).get("hostNetwork")
    return None if ended else pod


def _address(pod: Object) -> str:
    return str(meta.status(pod).get("podIP") or "")

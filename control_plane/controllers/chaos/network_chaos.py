"""NetworkChaos: has packets between isolated pods not arrive, all of them (partition) or a part (loss).

What takes a queue of its own in the kernel (delay, duplicate, corrupt, bandwidth, netem) is refused, and so is a pod
that has no network of its own: events and records say so. Source: Chaos Mesh, "Simulate network chaos".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import isolation_of
from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.controllers.chaos.experiment import (
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
from rayplane.control_plane.controllers.core import Action, View

ISOLATED = "namespaces"


class NetworkChaosController(ExperimentController):
    name = "networkchaos"
    kind = mesh.NETWORK_CHAOS

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
        return marked(pod, self.mark(experiment), str(_loss(experiment, view)))

    def mark(self, experiment: Object) -> str:
        return marks.loses(meta.uid(experiment))

    def refusal(self, experiment: Object, pod: Object, view: View) -> str:
        action = meta.spec(experiment).get("action")
        if action not in mesh.LOSSES:
            return f"{action} is not done here; {', '.join(mesh.LOSSES)} are"
        node = view.get("nodes", "", meta.node_name(pod))
        if node is None:
            return "the pod is on no node yet"
        if not isolation_of(node).startswith(ISOLATED):
            return f"pods on node {meta.name(node)} have no network of their own"
        waiting = [one["id"] for one in records_of(experiment) or () if not _address(view, one)]
        return f"{waiting[0]} has no address yet" if waiting else ""


def _loss(experiment: Object, view: View) -> marks.Loss:
    spec = meta.spec(experiment)
    percent = 100 if spec.get("action") == mesh.PARTITION else mesh.percent(spec)
    peers = _peers(spec, records_of(experiment) or (), view)
    direction = spec.get("direction") or mesh.TO
    to = peers if direction in (mesh.TO, mesh.BOTH) else ()
    return marks.Loss(percent, to, peers if direction in (mesh.FROM, mesh.BOTH) else ())


def _peers(spec: Mapping[str, Any], records: Sequence[Record], view: View) -> tuple[str, ...] | None:
    """Addresses of the other side; None for everybody."""
    outside = tuple(spec.get("externalTargets") or ())
    if not spec.get("target"):
        return outside or None
    return tuple(_address(view, one) for one in records if one["selectorKey"] == TARGET) + outside


def _address(view: View, record: Record) -> str:
    pod = pod_of(view, record)
    return str(meta.status(pod).get("podIP") or "") if pod is not None else ""

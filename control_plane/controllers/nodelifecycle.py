"""Node life cycle: nodes whose heartbeat stops become NotReady, are tainted, and their pods are marked not ready.

A heartbeat is any change of the node's Lease in `kube-node-lease` or of its Ready condition's heartbeat time, timed
by when this controller saw it, so that clocks of other machines do not matter. That memory is the only state kept
between calls; after a change of leader every node gets a whole grace period again.

The Lease of one node may stand for those of others on the same host (`node_annotations.HEARTBEAT`). As long as that one
is ready there is no need to look at the others; when it is not, each is looked at, and judged by itself.

Silence counts only while this controller hears anything: the manager that runs it renews its own Lease all the time, so
when that did not change in the cache for half the grace period either the process stood still or its news are late
(a server that hangs, a network that is cut). Nobody is judged then, and once news come again every node gets a whole
grace period from there on.

When most nodes seem lost at once the fault is probably ours: how fast pods are evicted depends on what is lost of each
zone (`node_zones`). A node counts as healthy for that only if it was heard of within half the grace period. Turns at
eviction are state too, and which nodes were told of.
Source: Kubernetes concepts "Nodes" (node controller), well-known taints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import heartbeat_of
from rayplane.control_plane.api.node_labels import old_names
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_is_terminated
from rayplane.control_plane.api.taints import (
    DISK_PRESSURE,
    MEMORY_PRESSURE,
    NETWORK_UNAVAILABLE,
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PID_PRESSURE,
    UNREACHABLE,
    UNSCHEDULABLE,
)
from rayplane.control_plane.controllers.actions import (
    Action,
    Event,
    Patch,
    UpdateStatus,
)
from rayplane.control_plane.controllers.config import LEASE_NAME, Timing
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    never,
    result,
    soonest,
)
from rayplane.control_plane.controllers.node_zones import Turns, ZoneHealth, zone_of

OWN_LEASE = ("kube-system", LEASE_NAME)
COUNTS = 20
"""How often nodes that are heard of are counted while one that falls silent still counts as such."""
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
# Condition and value -> taint with effect NoSchedule. A node that says nothing of itself yet is not ready: admission
# taints it so, unless it was made ready.
_NO_SCHEDULE = {
    ("Ready", None): NOT_READY,
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): MEMORY_PRESSURE,
    ("DiskPressure", "True"): DISK_PRESSURE,
    ("PIDPressure", "True"): PID_PRESSURE,
    ("NetworkUnavailable", "True"): NETWORK_UNAVAILABLE,
}
_OWN_NO_SCHEDULE = frozenset(_NO_SCHEDULE.values()) | {UNSCHEDULABLE}
_OWN_NO_EXECUTE = frozenset({NOT_READY, UNREACHABLE})


def ready_status(node: Object) -> str:
    """True, False or Unknown; a node that never reported counts as Unknown."""
    condition = meta.get_condition(node, "Ready")
    return (condition or {}).get("status") or "Unknown"


def _node_keys(node: Object, view: View) -> Iterable[str]:
    """The node itself, and those that are heard of by its Lease when they have to be looked at."""
    name = meta.name(node)
    if ready_status(node) == "True" and view.get("nodes", "", name) is not None:
        return (name,)
    return (name, *(meta.name(other) for other in view.indexed("nodes", "heartbeat", name)))


def _keys_of_ended(lease: Object, view: View) -> Iterable[str]:
    """The node of a Lease that is gone: one that came after its node had gone is to be forgotten."""
    name = meta.name(lease)
    is_gone = meta.namespace(lease) == NODE_LEASES and view.get(LEASES, NODE_LEASES, name) is None
    return (name,) if is_gone else ()


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    """A pod still ready on a node that is lost."""
    node = view.get("nodes", "", meta.node_name(pod))
    if node is None or ready_status(node) != "Unknown" or not pod_is_ready(pod):
        return ()
    return (meta.name(node),)


class NodeLifecycleController(BaseController):
    name = "nodelifecycle"
    component = "node-controller"

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._heard: dict[str, float] = {}
        self._beats: dict[str, str] = {}
        self._news_at: float | None = None
        self._news_mark = ""
        self._fresh_from = float("-inf")
        self._turns = Turns()
        self._zones: tuple[float, ZoneHealth] | None = None
        """The health of zones, and when it was counted."""
        self._registered: dict[str, Object] = {}
        self.watches = (
            Watch("nodes", _node_keys, changed=_node_changed, observe=self._observe_node),
            Watch(LEASES, _keys_of_ended, changed=never, observe=self._observe_lease),
            Watch("pods", _pod_keys),
        )

    # --- heartbeats -----------------------------------------------------------------------------

    def _observe_lease(self, lease: Object, mono: float) -> None:
        if meta.namespace(lease) == NODE_LEASES:
            self._beat(meta.name(lease), "lease", meta.spec(lease).get("renewTime") or "", mono)
        elif (meta.namespace(lease), meta.name(lease)) == OWN_LEASE:
            self._news(meta.resource_version(lease), mono)

    def _news(self, mark: str, mono: float) -> None:
        """This controller's own lease changed in the cache."""
        if mark == self._news_mark:
            return
        if self._is_deaf(mono):
            self._fresh_from = mono
        self._news_mark, self._news_at = mark, mono

    def _is_deaf(self, mono: float) -> bool:
        """Whether news are late. Never before the first: then there may be no such lease."""
        return self._news_at is not None and mono - self._news_at > self._timing.nodes.grace_s / 2

    def _observe_node(self, node: Object, mono: float) -> None:
        reported = meta.get_condition(node, "Ready") or {}
        if reported.get("status") != "Unknown":  # which only this controller writes
            self._beat(meta.name(node), "status", reported.get("lastHeartbeatTime") or "", mono)

    def _beat(self, node: str, source: str, mark: str, mono: float) -> None:
        if self._beats.get(f"{source}/{node}") != mark:
            self._beats[f"{source}/{node}"] = mark
            self._heard[node] = mono

    def _silence(self, node: Object, now: Moment) -> float:
        """Seconds since the node was last heard of."""
        own = self._heard.setdefault(meta.name(node), now.mono)
        return now.mono - max(own, self._heard.get(heartbeat_of(node), own), self._fresh_from)

    # --- reconcile ------------------------------------------------------------------------------

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        node = view.get("nodes", "", key)
        told = self._tell(key, node)
        if node is None:
            self._heard.pop(key, None)
            for source in ("lease", "status"):
                self._beats.pop(f"{source}/{key}", None)
            return result(told)
        found = self._judge(node, view, now)
        return Result((tuple(told), *found.stages), found.requeue_after) if told else found

    def _tell(self, key: str, node: Object | None) -> list[Action]:
        """Events about nodes that came or went."""
        before = self._registered.get(key)
        if node is not None and before is not None and meta.uid(node) == meta.uid(before):
            return []
        found: list[Action] = []
        if before is not None:
            del self._registered[key]
            text = f"Node {key} event: Removing Node {key} from Controller"
            found.append(Event(before, "Normal", "RemovingNode", text))
        if node is not None:
            own = {"name": key, "uid": meta.uid(node)}
            self._registered[key] = {"apiVersion": "v1", "kind": "Node", "metadata": own}
            text = f"Node {key} event: Registered Node {key} in Controller"
            found.append(Event(self._registered[key], "Normal", "RegisteredNode", text))
        return found

    def _judge(self, node: Object, view: View, now: Moment) -> Result:
        key, silence = meta.name(node), self._silence(node, now)
        left = self._timing.nodes.grace_s - silence
        reported = meta.get_condition(node, "Ready")
        if left <= 0 and (reported or {}).get("status") != "Unknown":
            if self._is_deaf(now.mono):
                return result(requeue_after=self._timing.nodes.monitor_s)
            return result(self._lost(node, now), requeue_after=self._timing.nodes.monitor_s)
        status = ready_status(node)
        evict, turn = (True, None) if status == "True" else self._may_evict(node, view, now)
        taints = self._taints(node, evict=evict, now=now)
        steps = _brought_up_to_date(node, taints)
        if status == "Unknown" and left <= 0:
            steps += self._mark_pods(view, key, now)
        again = left + 0.001 if left > 0 and not _has_company(node, view) else None
        monitor = self._timing.nodes.monitor_s if reported and status != "True" else None
        return result(steps, requeue_after=soonest(again, monitor, turn))

    def _may_evict(self, node: Object, view: View, now: Moment) -> tuple[bool, float | None]:
        """Whether pods of a node that is not ready may be evicted; if not yet, when to ask again."""
        if meta.get_condition(node, "Ready") is None:  # just registered: its first report is on the way
            return False, None
        zones = self.zone_health(view, now)
        if zones.all_lost:
            return False, None
        if any(_is_own_no_execute(taint) for taint in meta.spec(node).get("taints") or ()):
            return True, None  # it has had its turn
        zone = zone_of(node)
        wait = self._turns.take(zone, zones.rate(zone, self._timing), now.mono)
        return wait is None, wait if wait != float("inf") else None

    def _lost(self, node: Object, now: Moment) -> list[Action]:
        """The conditions of a node that stopped reporting."""
        conditions = list(meta.status(node).get("conditions") or ())
        for kind in _WATCHED:
            old = meta.get_condition(conditions, kind)
            unknown: dict[str, Any] = {
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown" if old else "NodeStatusNeverUpdated",
                "message": "Kubelet stopped posting node status." if old else "Kubelet never posted node status.",
                "lastHeartbeatTime": (old or {}).get("lastHeartbeatTime")
                or meta.metadata(node).get("creationTimestamp"),
            }
            meta.set_condition(conditions, unknown, now.stamp)
        status = {**meta.status(node), "conditions": conditions}
        text = f"Node {meta.name(node)} status is now: NodeNotReady"
        done = Event(node, "Normal", "NodeNotReady", text)
        return [UpdateStatus("nodes", {**node, "status": status}, done=done)]

    def _taints(self, node: Object, *, evict: bool, now: Moment) -> list[dict[str, Any]]:
        """The node's taints with this controller's own brought up to date; times of standing ones are kept."""
        wanted: dict[tuple[str, str], None] = {}
        for (kind, value), taint in _NO_SCHEDULE.items():
            condition = meta.get_condition(node, kind)
            if value == (condition and (condition.get("status") or "Unknown")):
                wanted[taint, NO_SCHEDULE] = None
        if meta.spec(node).get("unschedulable"):
            wanted[UNSCHEDULABLE, NO_SCHEDULE] = None
        status = ready_status(node)
        if status != "True" and evict:
            wanted[NOT_READY if status == "False" else UNREACHABLE, NO_EXECUTE] = None
        kept = []
        for taint in meta.spec(node).get("taints") or ():
            ident = (taint.get("key") or "", taint.get("effect") or "")
            ours = ident[0] in (_OWN_NO_SCHEDULE if ident[1] == NO_SCHEDULE else _OWN_NO_EXECUTE)
            if ident in wanted:
                kept.append(taint)
                del wanted[ident]
            elif not ours:
                kept.append(taint)
        added = [{"key": k, "effect": effect, "timeAdded": now.stamp} for k, effect in wanted]
        return kept + added

    def _mark_pods(self, view: View, node: str, now: Moment) -> list[Action]:
        steps: list[Action] = []
        for pod in sorted(view.indexed("pods", "node", node), key=meta.key):
            if not pod_is_ready(pod) or pod_is_terminated(pod):
                continue
            conditions = list(meta.status(pod).get("conditions") or ())
            old = meta.get_condition(conditions, "Ready") or {}
            meta.set_condition(conditions, {**old, "status": "False"}, now.stamp)
            status = {**meta.status(pod), "conditions": conditions}
            done = Event(pod, "Warning", "NodeNotReady", "Node is not ready")
            steps.append(UpdateStatus("pods", {**pod, "status": status}, done=done))
        return steps

    def zone_health(self, view: View, now: Moment) -> ZoneHealth:
        """How many nodes of each zone are ready, and were heard of not long ago.

        Counted anew after a small part of the time in which nodes count as heard of: where many are lost, each asks.
        """
        fresh_s = self._timing.nodes.grace_s / 2
        known = self._zones
        if known is None or not 0 <= now.mono - known[0] < fresh_s / COUNTS:
            health = ZoneHealth.of(
                (node, ready_status(node) == "True" and self._silence(node, now) <= fresh_s)
                for node in view.list("nodes")
            )
            known = self._zones = now.mono, health
        return known[1]


def _brought_up_to_date(node: Object, taints: list[dict[str, Any]]) -> list[Action]:
    """The write of a node's taints, and of its labels under their old names."""
    labels = meta.labels(node)
    old = {name: value for name, value in old_names(labels).items() if labels.get(name) != value}
    change: dict[str, Any] = {"metadata": {"uid": meta.uid(node), "resourceVersion": meta.resource_version(node)}}
    if old:
        change["metadata"]["labels"] = old
    if taints != (meta.spec(node).get("taints") or []):
        change["spec"] = {"taints": taints or None}
    return [Patch("nodes", "", meta.name(node), change)] if old or "spec" in change else []


def _has_company(node: Object, view: View) -> bool:
    """Whether another node, which is looked at itself, is heard of whenever this one is."""
    name = heartbeat_of(node)
    lead = view.get("nodes", "", name) if name and name != meta.name(node) else None
    return lead is not None and heartbeat_of(lead) in ("", name) and ready_status(lead) == "True"


def _is_own_no_execute(taint: dict[str, Any]) -> bool:
    return taint.get("effect") == NO_EXECUTE and taint.get("key") in _OWN_NO_EXECUTE


def _node_changed(old: Object, new: Object) -> bool:
    """Heartbeats alone need no reconcile; who gives them does."""

    def facts(node: Object) -> list[tuple[str, str]]:
        found = meta.status(node).get("conditions") or ()
        return [(c.get("type") or "", c.get("status") or "") for c in found]

    return (
        meta.spec(old) != meta.spec(new)
        or facts(old) != facts(new)
        or heartbeat_of(old) != heartbeat_of(new)
        or meta.labels(old) != meta.labels(new)
    )

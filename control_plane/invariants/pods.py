"""Invariants of pods: bound once and where they fit, no node over-committed, one of a name, one writer of a volume."""

from collections.abc import Iterable, Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import requested_storage
from rayplane.control_plane.api.machinery.quantity import milli
from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import admits, required_terms
from rayplane.control_plane.api.pods.resources import pod_requests
from rayplane.control_plane.api.pods.state import is_mirror, is_static, pod_is_terminated, pod_phase
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.invariants.history import DELETED, Change, Fact, History, Runs
from rayplane.control_plane.invariants.judge import Invariant

PODS, NODES, CLAIMS = "pods", "nodes", "persistentvolumeclaims"

Amounts = dict[str, int]
"""Thousandths, by resource."""


class BoundOnce(Invariant):
    """No pod is ever bound to a second node, nor replaced by another of its name without having been deleted."""

    name = "no pod bound twice"
    looked = 0

    def changed(self, change: Change, history: History) -> Iterable[str]:
        old = change.old
        if change.resource != PODS or old is None:
            return
        self.looked += 1
        if meta.uid(old) != meta.uid(change.object):
            yield f"pod {change.key} was replaced by another of its name without having been deleted"
        elif (before := meta.node_name(old)) and before != meta.node_name(change.object):
            yield f"pod {change.key} was bound to {before} and to {meta.node_name(change.object) or 'nobody'}"


class Fits(Invariant):
    """A pod is bound to a node that is there and that its selector and required affinity admit."""

    name = "pods bound where they fit"
    looked = 0

    def changed(self, change: Change, history: History) -> Iterable[str]:
        pod = change.object
        if not _bound_now(change) or is_mirror(pod) or is_static(pod):
            return
        spec, name = meta.spec(pod), meta.node_name(pod)
        node = history.get(NODES, name)
        if node is None:
            # It may have been deleted between the decision and the write.
            return
        self.looked += 1
        labels = meta.labels(node)
        if not from_map(spec.get("nodeSelector")).matches(labels) or not admits(required_terms(spec), labels, name):
            yield f"pod {change.key} was bound to {name}, which its selector or affinity does not admit"


def _bound_now(change: Change) -> bool:
    """Whether this change bound a pod, as the scheduler does: who names a node at creation has it so."""
    if change.resource != PODS or change.kind == DELETED or change.old is None:
        return False
    return bool(meta.node_name(change.object)) and not meta.node_name(change.old)


class Room(Invariant):
    """The pods bound to a node never ask for more than it ever offered, at the moment one more is bound."""

    name = "no node over-committed"
    looked = 0

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, Amounts]] = {}  # uid of a pod to its node and what it takes there
        self._used: dict[str, Amounts] = {}
        self._room: dict[str, Amounts] = {}

    def begun(self, history: History) -> Iterable[str]:
        self.__init__()  # type: ignore[misc]
        for node in history.list(NODES):
            self._offers(node)
        for pod in history.list(PODS):
            self._hold(pod)
        return ()

    def changed(self, change: Change, history: History) -> Iterable[str]:
        if change.resource == NODES and change.kind != DELETED:
            self._offers(change.object)
        if change.resource != PODS:
            return ()
        known = meta.uid(change.object) in self._held
        if change.old is not None:
            self._give_back(meta.uid(change.old))
        if change.kind == DELETED:
            return ()
        self._hold(change.object)
        # A resize is the kubelet's to admit, and it may wait for room.
        return () if known else self._too_much(change)

    def _too_much(self, change: Change) -> Iterator[str]:
        node, amounts = self._held.get(meta.uid(change.object), ("", {}))
        if not node:
            return
        self.looked += 1
        used, room = self._used[node], self._room.get(node, {})
        over = [name for name in sorted(amounts) if amounts[name] and used[name] > room.get(name, 0)]
        if over:
            asked = ", ".join(f"{used[name] / 1000:g} of {name} and has {room.get(name, 0) / 1000:g}" for name in over)
            yield f"{node} is asked for {asked}, since pod {change.key} was bound to it"

    def _offers(self, node: Object) -> None:
        """The most that a node has offered: what it takes back may be promised already."""
        room = self._room.setdefault(meta.name(node), {})
        for name, amount in (meta.status(node).get("allocatable") or {}).items():
            room[name] = max(room.get(name, 0), milli(amount))

    def _hold(self, pod: Object) -> None:
        node = meta.node_name(pod)
        if not node or pod_is_terminated(pod):
            return
        amounts = {PODS: 1000, **{name: milli(q) for name, q in pod_requests(pod).items()}}
        self._held[meta.uid(pod)] = node, amounts
        used = self._used.setdefault(node, {})
        for name, amount in amounts.items():
            used[name] = used.get(name, 0) + amount

    def _give_back(self, uid: str) -> None:
        node, amounts = self._held.pop(uid, ("", {}))
        for name, amount in amounts.items():
            self._used[node][name] -= amount


class OneOfAName(Invariant):
    """Containers of two pods of one name, so of one ordinal of a StatefulSet, never run on two nodes at once."""

    name = "one pod of an ordinal"
    looked = 0

    def observed(self, fact: Fact, history: History) -> Iterable[str]:
        if not isinstance(fact, Runs):
            return
        self.looked += bool(fact.pods)
        places: dict[str, str] = {}
        for key, node in fact.pods:
            if (other := places.setdefault(key, node)) != node:
                yield f"pod {key} runs on {other} and on {node} at once"


class OneWriter(Invariant):
    """A ReadWriteOnce volume is never in use on two nodes at once.

    Nodes that are not Ready, and pods that are being deleted, tell nothing of what runs: volumes are fenced there.
    """

    name = "one writer of a volume"
    looked = 0

    def changed(self, change: Change, history: History) -> Iterable[str]:
        pod = change.object
        if change.resource != PODS or change.kind == DELETED or not _uses(pod, history):
            return
        for claim in claims_of(pod):
            if not _exclusive(history.get(CLAIMS, claim)):
                continue
            self.looked += 1
            for other in history.list(PODS, meta.namespace(pod)):
                if meta.node_name(other) != meta.node_name(pod) and claim in claims_of(other) and _uses(other, history):
                    yield (
                        f"volume {claim} is written by {change.key} on {meta.node_name(pod)} "
                        f"and by {meta.key(other)} on {meta.node_name(other)}"
                    )


def _uses(pod: Object, history: History) -> bool:
    """Whether a pod's containers run, as far as its node is to be believed."""
    if not meta.spec(pod).get("volumes") or pod_phase(pod) != "Running" or meta.is_deleting(pod):
        return False
    node = history.get(NODES, meta.node_name(pod))
    return node is not None and meta.condition_is(node, "Ready")


def _exclusive(claim: Object | None) -> bool:
    modes = meta.spec(claim).get("accessModes") or () if claim is not None and requested_storage(claim) else ()
    return bool(modes) and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes)

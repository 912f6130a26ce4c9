"""Queueing hints: which events may help a pod that a plug-in has refused.

Pure. Every plug-in of the scheduler lists the events that it cares for, each with a test on the pod and on the object
before and after; a pod is tried again only when one of the plug-ins that refused it has such a hint. A hint may be
wrong in one direction only: it may wake a pod for nothing.

Source: KEP-4247; Kubernetes documentation of each in-tree plug-in's queueing hints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.ports import HostPorts
from rayplane.control_plane.api.taints import HARD_EFFECTS
from rayplane.control_plane.scheduler.device_resources import resources_of
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.groups import GANGS
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm
from rayplane.control_plane.scheduler.snapshot import Snapshot
from rayplane.control_plane.scheduler.term_kinds import MANY, has_many

log = logging.getLogger(__name__)

Helps = Callable[[PodInfo, Event, Snapshot], bool]

NO_NODES = ""
"""In place of a plug-in: there was no node at all."""
CLAIM_UNNAMED, CLAIM_MISSING = "claim unnamed", "claim missing"
"""In place of DynamicResources, which does not let a pod in before it says what its claims to devices are called, and
they are there."""
_ANY = ~Action(0)
_INLINE_DISKS = ("gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd")


def _always(_pod: PodInfo, _event: Event, _snapshot: Snapshot) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Hint:
    """Events of one resource that may help; `helps` says whether this one does."""

    resource: Resource
    actions: Action
    helps: Helps = _always

    def concerns(self, event: Event) -> bool:
        return self.resource is event.resource and bool(self.actions & event.action)


# -- tests on nodes --------------------------------------------------------------------------------------------


def _newly(holds: Callable[[PodInfo, NodeInfo], bool]) -> Helps:
    """It holds for the node now and did not before."""

    def helps(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
        return holds(pod, event.new) and (event.old is None or not holds(pod, event.old))

    return helps


def _is_tolerated(pod: PodInfo, node: NodeInfo) -> bool:
    return all(taint.effect not in HARD_EFFECTS or pod.shape.tolerates(taint) for taint in node.taints)


def _is_admitted(pod: PodInfo, node: NodeInfo) -> bool:
    return pod.shape.admits_labels(node.labels, node.name)


def _has_labels(pod: PodInfo, node: NodeInfo) -> bool:
    return all(rule.topology_key in node.labels for rule in pod.spread)


def _has_features(pod: PodInfo, node: NodeInfo) -> bool:
    return node.features.issuperset(pod.features)


def _more_room(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """Empty, the node would do, and of something that the pod asks for it has more than before."""
    room: Mapping[str, int] = event.new.allocatable
    before: Mapping[str, int] = {} if event.old is None else event.old.allocatable
    asked = pod.shape.requests.items()
    return all(room.get(resource, 0) >= count for resource, count in asked) and any(
        room.get(resource, 0) > before.get(resource, 0) for resource, _ in asked
    )


def _asks_for_devices(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """The class of devices may stand behind a resource that it asks for."""
    resources = resources_of({meta.name(event.new): event.new})
    return not resources.keys().isdisjoint(pod.shape.requests)


def _spread_domains(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """A node of the pod's domains came, went, or is in another one; of the default rules' domains nothing is known."""
    old, new = event.old, event.new
    if old is None or new is None:
        return _has_labels(pod, old if new is None else new)
    if not pod.spread or len(pod.spread) >= MANY:
        return True
    keys = [rule.topology_key for rule in pod.spread]
    moved = any(old.labels.get(key) != new.labels.get(key) for key in keys)
    return moved and (_has_labels(pod, old) or _has_labels(pod, new))


# -- tests on pods ---------------------------------------------------------------------------------------------


def _is_own(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    return bool(event.new is not None and event.new.key == pod.key)


def _ports_freed(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    return HostPorts(event.old.shape.ports).conflict(pod.shape.ports)


def _spread_pods(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """A pod that counts for the rules came, went, or begins or ceases to count."""
    sides = [side for side in (event.old, event.new) if side is not None]
    if sides[0].namespace != pod.namespace:
        return False
    if len(pod.spread) >= MANY:
        return True
    if not pod.spread:  # default rules: whom they count, Services and owners say
        return True
    counts = [any(rule.selector.matches(side.labels) for rule in pod.spread) for side in sides]
    return any(counts) if len(counts) == 1 or event.action is Action.DELETE else counts[0] != counts[1]


def _near_pods(pod: PodInfo, event: Event, snapshot: Snapshot) -> bool:
    """A pod to be near to came, or one to keep away from, or that keeps away, went; any may where terms are many."""
    old, new = event.old, event.new
    if has_many(pod) or (old is not None and new is None and has_many(old)):
        return True
    if new is not None and any(_matches(term, new, old, snapshot) for term in pod.affinity):
        return True
    if old is None:
        return False
    if any(_matches(term, old, new, snapshot) for term in pod.anti_affinity):
        return True
    return any(snapshot.term_matches(term, pod) for term in old.anti_affinity) and new is None


def _matches(term: PodTerm, side: PodInfo, other: PodInfo | None, snapshot: Snapshot) -> bool:
    """The term matches a pod on this side of the event and not on the other."""
    return snapshot.term_matches(term, side) and (other is None or not snapshot.term_matches(term, other))


def _selects_namespaces(pod: PodInfo, _event: Event, _snapshot: Snapshot) -> bool:
    return any(term.namespace_selector is not None for term in (*pod.affinity, *pod.anti_affinity))


def _shares_volumes(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    if set(pod.claims) & set(event.old.claims):
        return True
    return any(disk in volume for volume in meta.spec(pod.obj).get("volumes") or () for disk in _INLINE_DISKS)


def _had_devices(_pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """It had some, or was promised what no claim says yet: by its claims, or by resources that have a prefix."""
    return bool(event.old.device_claims) or any("/" in resource for resource in event.old.shape.requests)


def _had_volumes(_pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """Others that it mounts, such as its token, are in nobody's way."""
    gone = event.old
    return bool(gone.claims or gone.disks or gone.attached)


# -- tests on other objects ------------------------------------------------------------------------------------


def _has_claim(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    """The claim to devices is the pod's own."""
    key = meta.key(event.new or event.old)
    return any(key == own for _, own in pod.device_claims)


def _may_have_devices(pod: PodInfo, event: Event, snapshot: Snapshot) -> bool:
    """The claim is the pod's own, or the one for its extended resources, or has given devices back."""
    had, has = (meta.status(claim or {}).get("allocation") for claim in (event.old, event.new))
    if had and had != has:
        return True
    return _has_claim(pod, event, snapshot) or meta.key(event.new or event.old) == DeviceIndex.key_of_resources(pod)


def _own_claim(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
    return meta.key(event.new) in pod.claims


# -- the table -------------------------------------------------------------------------------------------------

_CHANGED = Action.ADD | Action.UPDATE
_NEW_NODE = Hint(Resource.NODE, Action.ADD)
_LABELLED = Hint(Resource.NODE, Action.ADD | Action.NODE_LABELS)
_OWN_CLAIM = Hint(Resource.CLAIM, _CHANGED, _own_claim)
_ANY_VOLUME = Hint(Resource.VOLUME, _CHANGED | Action.DELETE)
_TOLERATES = Hint(Resource.PENDING_POD, Action.POD_TOLERATIONS, _is_own)
_CLAIMS_NAMED = Hint(Resource.PENDING_POD, Action.POD_CLAIMS_MADE, _is_own)
_OWN_LABELS = Hint(Resource.PENDING_POD, Action.POD_LABELS, _is_own)
#: A change that the API server allows no pending pod: whatever it was, all plug-ins look again.
_OWN_OTHERWISE = Hint(Resource.PENDING_POD, Action.POD_OTHER, _is_own)
#: They say which driver a claim's volume will have; no change of one helps.
_READ_CLASSES = Hint(Resource.STORAGE_CLASS, Action(0))

HINTS: Mapping[str, tuple[Hint, ...]] = {
    NO_NODES: (_NEW_NODE,),
    "SchedulingGates": (Hint(Resource.PENDING_POD, Action.POD_GATES_GONE, _is_own),),
    # A change of a group, or of who is in it, concerns its own pods only, which the queue knows.
    GANGS: (Hint(Resource.POD_GROUP, Action(0)),),
    "NodeUnschedulable": (
        Hint(Resource.NODE, Action.ADD | Action.NODE_TAINTS, _newly(lambda _, node: not node.unschedulable)),
        _TOLERATES,
    ),
    "TaintToleration": (Hint(Resource.NODE, Action.ADD | Action.NODE_TAINTS, _newly(_is_tolerated)), _TOLERATES),
    "NodeAffinity": (Hint(Resource.NODE, Action.ADD | Action.NODE_LABELS, _newly(_is_admitted)),),
    "NodeName": (_NEW_NODE,),
    "NodePorts": (_NEW_NODE, Hint(Resource.ASSIGNED_POD, Action.DELETE, _ports_freed)),
    "NodeResourcesFit": (
        Hint(Resource.NODE, Action.ADD | Action.NODE_ALLOCATABLE, _more_room),
        Hint(Resource.ASSIGNED_POD, Action.DELETE | Action.POD_SCALED_DOWN),
        Hint(Resource.PENDING_POD, Action.POD_SCALED_DOWN, _is_own),
    ),
    "PodTopologySpread": (
        Hint(Resource.NODE, Action.ADD | Action.DELETE | Action.NODE_LABELS, _spread_domains),
        # Which nodes count may hang on their taints.
        Hint(Resource.NODE, Action.NODE_TAINTS, lambda pod, _, __: any(rule.honor_taints for rule in pod.spread)),
        Hint(Resource.ASSIGNED_POD, Action.ADD | Action.DELETE | Action.POD_LABELS, _spread_pods),
        _OWN_LABELS,
    ),
    "InterPodAffinity": (
        _LABELLED,
        Hint(Resource.ASSIGNED_POD, Action.ADD | Action.DELETE | Action.POD_LABELS, _near_pods),
        Hint(Resource.NAMESPACE, _ANY, _selects_namespaces),
        _OWN_LABELS,
    ),
    "VolumeBinding": (
        _LABELLED,
        _OWN_CLAIM,
        _ANY_VOLUME,
        # What a node has left for volumes is among its annotations.
        Hint(Resource.NODE, Action.NODE_OTHER),
        Hint(Resource.STORAGE_CLASS, _CHANGED),
        Hint(Resource.STORAGE_CAPACITY, _CHANGED),
        Hint(Resource.CSI_NODE, _CHANGED),
        Hint(Resource.CSI_DRIVER, Action.UPDATE),
        Hint(Resource.ASSIGNED_POD, Action.DELETE, _had_volumes),
    ),
    "VolumeZone": (_LABELLED, _OWN_CLAIM, _ANY_VOLUME, Hint(Resource.STORAGE_CLASS, Action.ADD)),
    "VolumeRestrictions": (
        _NEW_NODE,
        _OWN_CLAIM,
        Hint(Resource.ASSIGNED_POD, Action.DELETE, _shares_volumes),
    ),
    "NodeVolumeLimits": (
        _READ_CLASSES,
        _OWN_CLAIM,
        Hint(Resource.CSI_NODE, _CHANGED),
        Hint(Resource.CSI_DRIVER, Action.UPDATE | Action.DELETE),
        Hint(Resource.VOLUME, Action.ADD),
        Hint(Resource.ASSIGNED_POD, Action.DELETE, _had_volumes),
        Hint(Resource.ATTACHMENT, Action.DELETE),
    ),
    "DynamicResources": (
        # A resource that a node reports no more may be one that devices stand behind.
        Hint(Resource.NODE, Action.ADD | Action.NODE_LABELS | Action.NODE_TAINTS | Action.NODE_ALLOCATABLE),
        _CLAIMS_NAMED,
        Hint(Resource.RESOURCE_CLAIM, _ANY, _may_have_devices),
        Hint(Resource.ASSIGNED_POD, Action.DELETE, _had_devices),
        Hint(Resource.RESOURCE_SLICE, _ANY),
        Hint(Resource.DEVICE_CLASS, _CHANGED),
        Hint(Resource.DEVICE_TAINT_RULE, Action.UPDATE | Action.DELETE),
    ),
    CLAIM_UNNAMED: (_CLAIMS_NAMED,),
    CLAIM_MISSING: (_CLAIMS_NAMED, Hint(Resource.RESOURCE_CLAIM, _ANY, _has_claim)),
    # These two only score.
    "NodeResourcesBalancedAllocation": (),
    "ImageLocality": (),
    "NodeDeclaredFeatures": (Hint(Resource.NODE, Action.ADD | Action.NODE_FEATURES, _newly(_has_features)),),
}
"""By plug-in. One that is not here is helped, for all that is known, by anything."""

_BY_ANYTHING = tuple(Hint(resource, _ANY) for resource in Resource)


ADDED_AFFINITY = (
    Hint(Resource.NODE, Action.ADD | Action.NODE_LABELS, lambda pod, event, _: _is_admitted(pod, event.new)),
)
"""Of NodeAffinity, where a profile adds rules of its own to those of pods: these are not looked at."""


DELEGATED = (*HINTS["NodeResourcesFit"], Hint(Resource.DEVICE_CLASS, _CHANGED, _asks_for_devices))
"""Of NodeResourcesFit, where devices may stand behind what nodes lack."""


class Hints:
    """The hints of all plug-ins: Kubernetes' own, and those that others declare."""

    def __init__(self, snapshot: Snapshot, more: Mapping[str, tuple[Hint, ...]] | None = None) -> None:
        self._snapshot = snapshot
        self._by_plugin = {**HINTS, **(more or {})}

    def resources(self, plugins: Iterable[str]) -> frozenset[Resource]:
        """The resources that these plug-ins look at or wait for."""
        return frozenset(hint.resource for name in plugins for hint in self._by_plugin.get(name, _BY_ANYTHING))

    def concerned(self, plugins: frozenset[str], event: Event) -> list[Hint]:
        """The hints of these plug-ins that such an event is for."""
        found = []
        for plugin in sorted(plugins):
            hints = self._by_plugin.get(plugin, _BY_ANYTHING)
            found += [hint for hint in (*hints, _OWN_OTHERWISE) if hint.concerns(event)]
        return found

    def help(self, hints: list[Hint], pod: PodInfo, event: Event) -> bool:
        """Whether any of them says that the event may help. One that fails does not keep a pod waiting.

        That a pod loses the node it was to have does not help the pod itself.
        """
        if event.resource is Resource.ASSIGNED_POD and event.old is not None and event.old.uid == pod.uid:
            return False
        try:
            return any(hint.helps(pod, event, self._snapshot) for hint in hints)
        except Exception:  # a hint is advice, whoever wrote it
            log.debug("hints on an event cannot be judged for pod %s", pod.key, exc_info=True)
            return True

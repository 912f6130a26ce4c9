"""Facts of a pod that matter for scheduling, read once.

Pods of one template differ in their names only: everything else is one shared `Shape`, found again by its bytes, so
that what is computed for a shape serves thousands of pods.

Source: Kubernetes API reference core/v1 PodSpec.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import (
    LabelSelector,
    Requirement,
    from_label_selector,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import NodeTerm, admits, required_terms
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.declared_features import required_features
from rayplane.control_plane.api.pods.ports import HostPort, host_ports
from rayplane.control_plane.api.pods.resources import (
    Amounts,
    has_pod_level_requests,
    pod_requests,
    resource_facts,
    whole,
)
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.api.taints import Taint, Toleration, any_tolerates

CPU, MEMORY, STORAGE, PODS = "cpu", "memory", "ephemeral-storage", "pods"
#: What a pod without requests counts for in scores (not in filters), as in Kubernetes.
_SCORED_DEFAULTS = {CPU: quantity.parse("100m"), MEMORY: quantity.parse("200Mi")}
#: Larger amounts are cut to this, so that sums stay within 64 bits.
AMOUNT_MAX = 1 << 52
SHAPES_MAX, SHAPES_BYTES_MAX = 4096, 1 << 26
#: Fields of volumes that are disks of their own, which pods of a node may not all share.
DISKS = frozenset({"gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd"})
#: Drivers that serve the volumes that were once part of Kubernetes, by their field of a volume.
MIGRATED = {
    "awsElasticBlockStore": "ebs.csi.aws.com",
    "azureDisk": "disk.csi.azure.com",
    "azureFile": "file.csi.azure.com",
    "cinder": "cinder.csi.openstack.org",
    "gcePersistentDisk": "pd.csi.storage.gke.io",
    "portworxVolume": "pxd.portworx.com",
    "vsphereVolume": "csi.vsphere.vmware.com",
}
_HANDLES = ("volumeID", "pdName", "diskURI", "shareName", "volumePath")
#: Between a driver and what it attaches; in no key of a claim.
DISK_MARK = "^"
DEFAULT_SCHEDULER = "default-scheduler"
_T = TypeVar("_T")


def amount(resource: str, text: quantity.QuantityLike) -> int:
    """Thousandths of a core for cpu, whole units for all else."""
    return min(whole(resource, text), AMOUNT_MAX)


@dataclass(frozen=True, slots=True, eq=False)
class PodTerm:
    """One pod (anti-)affinity term; `namespace_selector` adds the namespaces that it matches.

    Compared by identity: equal rules of pods in one namespace give the same objects.
    """

    topology_key: str
    selector: LabelSelector
    namespaces: tuple[str, ...]
    namespace_selector: LabelSelector | None
    weight: int = 0


@dataclass(frozen=True, slots=True)
class SpreadRule:
    """One topology spread constraint."""

    topology_key: str
    selector: LabelSelector
    max_skew: int
    hard: bool
    min_domains: int
    honor_affinity: bool
    honor_taints: bool


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The spec that pods of one template share. Compared by identity: equal specs give the same object."""

    requests: Mapping[str, int]
    scored_cpu: int
    scored_memory: int
    ports: tuple[HostPort, ...]
    node_selector: LabelSelector
    required: tuple[NodeTerm, ...] | None
    preferred: tuple[tuple[int, NodeTerm], ...]
    tolerations: tuple[Toleration, ...]
    images: tuple[str, ...]

    def tolerates(self, taint: Taint) -> bool:
        return any_tolerates(self.tolerations, taint)

    def admits_labels(self, labels: Mapping[str, str], name: str) -> bool:
        """nodeSelector and required node affinity."""
        if not self.node_selector.matches(labels):
            return False
        return admits(self.required, labels, name)


@dataclass(frozen=True, slots=True, eq=False)
class PodRules:
    """Rules of a pod about other pods."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    preferred: tuple[PodTerm, ...] = ()
    spread: tuple[SpreadRule, ...] = ()


_NO_RULES = PodRules()


@dataclass(slots=True, eq=False)
class PodInfo:
    """One pod. `node` is where it runs or is assumed to run, empty while pending."""

    obj: Object
    key: str
    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    priority: int
    may_preempt: bool
    scheduler: str
    shape: Shape
    claims: tuple[str, ...]
    rules: PodRules
    #: (kind, name) of its controller, if it has one.
    owner: tuple[str, str] | None
    #: (name in the pod, key) of its claims to devices; without a key while the claim is not made yet.
    device_claims: tuple[tuple[str, str], ...]
    #: Volumes that are disks of their own, as written.
    disks: tuple[Mapping[str, Any], ...]
    #: Volumes of the pod itself that a driver attaches, as `driver^volume`.
    attached: tuple[str, ...]
    nominated: str
    terminating: bool
    node: str = ""
    #: Key of the pod group that it is scheduled with; empty for none.
    group: str = ""
    #: Features that a node must declare.
    features: tuple[str, ...] = ()

    @property
    def affinity(self) -> tuple[PodTerm, ...]:
        return self.rules.affinity

    @property
    def anti_affinity(self) -> tuple[PodTerm, ...]:
        return self.rules.anti_affinity

    @property
    def preferred(self) -> tuple[PodTerm, ...]:
        return self.rules.preferred

    @property
    def spread(self) -> tuple[SpreadRule, ...]:
        return self.rules.spread

    @property
    def has_terms(self) -> bool:
        """Whether it says anything of other pods."""
        return self.rules is not _NO_RULES

    @property
    def wanted_node(self) -> str:
        """The node that its spec names."""
        found: str = self.obj["spec"].get("nodeName") or ""
        return found


class PodParser:
    """A parser that makes PodInfos; remembers up to SHAPES_MAX shapes, and rules about other pods."""

    def __init__(self) -> None:
        self._shapes = _Kept[Shape]()
        self._rules = _Kept[PodRules]()

    def parse(self, pod: Object) -> PodInfo:
        spec, own = meta.spec(pod), meta.metadata(pod)
        namespace, name = own.get("namespace") or "", own.get("name") or ""
        labels = own.get("labels") or {}
        return PodInfo(
            obj=pod,
            key=f"{namespace}/{name}",
            uid=own.get("uid") or "",
            namespace=namespace,
            name=name,
            labels=labels,
            priority=spec.get("priority") or 0,
            may_preempt=spec.get("preemptionPolicy") != "Never",
            scheduler=spec.get("schedulerName") or DEFAULT_SCHEDULER,
            shape=self._shape(pod, spec),
            claims=tuple(claims_of(pod)),
            rules=self._rules_of(spec, namespace, labels),
            owner=_controller(own),
            device_claims=tuple(_device_claims(pod, spec, namespace)) if spec.get("resourceClaims") else (),
            disks=tuple(v for v in spec.get("volumes") or () if not DISKS.isdisjoint(v)),
            attached=tuple(dict.fromkeys(_attached(spec))) if spec.get("volumes") else (),
            terminating=meta.is_deleting(pod),
            nominated=meta.status(pod).get("nominatedNodeName") or "",
            node=spec.get("nodeName") or "",
            group=group_of(spec, namespace) if "schedulingGroup" in spec else "",
            features=required_features(spec),
        )

    def _rules_of(self, spec: dict[str, Any], namespace: str, labels: Mapping[str, str]) -> PodRules:
        affinity = spec.get("affinity") or {}
        near, apart = affinity.get("podAffinity"), affinity.get("podAntiAffinity")
        spread = spec.get("topologySpreadConstraints")
        if not (near or apart or spread):
            return _NO_RULES
        written = orjson.dumps((near, apart, spread), option=orjson.OPT_SORT_KEYS)
        own = labels if b"atchLabelKeys" in written else None  # a rule takes values of the pod's own labels
        return self._rules.get(
            orjson.dumps((_own_namespace(near, apart, namespace), own), option=orjson.OPT_SORT_KEYS) + written,
            lambda: _make_rules(near or {}, apart or {}, spread or (), namespace, labels),
        )

    def _shape(self, pod: Object, spec: dict[str, Any]) -> Shape:
        key = orjson.dumps(
            (
                resource_facts(pod),
                [(c.get("ports"), c.get("image")) for c in lifecycled(spec)],
                [v["image"] for v in spec.get("volumes") or () if v.get("image")],
                spec.get("nodeSelector"),
                (spec.get("affinity") or {}).get("nodeAffinity"),
                spec.get("tolerations"),
                bool(spec.get("hostNetwork")),
            ),
            option=orjson.OPT_SORT_KEYS,
        )
        return self._shapes.get(key, lambda: make_shape(pod))


class _Kept(Generic[_T]):
    """Things made lately of texts: SHAPES_MAX of them, and SHAPES_BYTES_MAX of text; the oldest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _T] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes, make: Callable[[], _T]) -> _T:
        """What is known under a key, made when it is new."""
        known = self._known
        found = known.get(key)
        if found is not None:
            known.move_to_end(key)
            return found
        found = known[key] = make()
        self._bytes += len(key)
        while len(known) > SHAPES_MAX or (self._bytes > SHAPES_BYTES_MAX and len(known) > 1):
            self._bytes -= len(known.popitem(last=False)[0])
        return found


def unbound(pod: Object) -> Object:
    """The pod as it was before it had a node."""
    return {**pod, "spec": {field: value for field, value in meta.spec(pod).items() if field != "nodeName"}}


def group_of(spec: Mapping[str, Any], namespace: str) -> str:
    """The key of the pod group that a spec names; empty for none."""
    name = (spec.get("schedulingGroup") or {}).get("podGroupName")
    return f"{namespace}/{name}" if name else ""


def _attached(spec: Mapping[str, Any]) -> Iterator[str]:
    for volume in spec["volumes"]:
        for field, source in volume.items():
            driver = MIGRATED.get(field)
            if driver and source:
                handle = next((str(source[name]) for name in _HANDLES if source.get(name)), "")
                yield f"{driver}{DISK_MARK}{handle}"


def _device_claims(pod: Object, spec: Mapping[str, Any], namespace: str) -> Iterator[tuple[str, str]]:
    """A claim of a template is named in the status once it is made; one that is not needed has no name there."""
    told = meta.status(pod).get("resourceClaimStatuses") or ()
    made = {one.get("name"): one.get("resourceClaimName") for one in told}
    for claim in spec.get("resourceClaims") or ():
        name = claim.get("name") or ""
        own = claim.get("resourceClaimName")
        if own:
            yield name, f"{namespace}/{own}"
        elif name not in made:
            yield name, ""
        elif made[name]:
            yield name, f"{namespace}/{made[name]}"


def _controller(metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return owner.get("kind") or "", owner.get("name") or ""
    return None


def make_shape(pod: Object) -> Shape:
    spec = meta.spec(pod)
    requests = pod_requests(pod)
    scored = _scored(pod, requests)
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    return Shape(
        requests={**{k: amount(k, q) for k, q in requests.items() if q.nano > 0}, PODS: 1},
        scored_cpu=amount(CPU, scored.get(CPU, 0)),
        scored_memory=amount(MEMORY, scored.get(MEMORY, 0)),
        ports=tuple(host_ports(spec)),
        node_selector=LabelSelector(Requirement(k, "=", (v,)) for k, v in (spec.get("nodeSelector") or {}).items()),
        required=required_terms(spec),
        preferred=tuple(
            (item.get("weight") or 0, NodeTerm.of(item.get("preference") or {}))
            for item in affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        ),
        tolerations=tuple(Toleration.of(t) for t in spec.get("tolerations") or ()),
        images=tuple(_image_names(spec)),
    )


def _image_names(spec: Mapping[str, Any]) -> Iterator[str]:
    """Images of containers and volumes, with the tag that is meant when none is written."""
    written = [c.get("image") or "" for c in lifecycled(spec)]
    written += [v["image"].get("reference") or "" for v in spec.get("volumes") or () if v.get("image")]
    for name in written:
        yield name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _scored(pod: Object, requests: Amounts) -> Amounts:
    """What the pod counts for in scores: containers that ask for no cpu or memory are taken to need a little.

    A pod with requests of its own has them counted as they are.
    """
    absent = _SCORED_DEFAULTS
    if has_pod_level_requests(meta.spec(pod)):
        absent = {resource: little for resource, little in absent.items() if resource not in requests}
    return pod_requests(pod, absent=absent) if absent else requests


# -- terms -----------------------------------------------------------------------------------------------------


def _with_label_keys(selector: LabelSelector, item: Mapping[str, Any], labels: Mapping[str, str]) -> LabelSelector:
    """matchLabelKeys and mismatchLabelKeys: the pod's own values of these labels become requirements."""
    more = [Requirement(k, "in", (labels[k],)) for k in item.get("matchLabelKeys") or () if k in labels]
    more += [Requirement(k, "notin", (labels[k],)) for k in item.get("mismatchLabelKeys") or () if k in labels]
    if not more or selector.nothing:
        return selector
    return LabelSelector((*selector.requirements, *more))


def _pod_term(term: Mapping[str, Any], namespace: str, labels: Mapping[str, str], weight: int = 0) -> PodTerm:
    names = tuple(sorted(term.get("namespaces") or ()))
    of_namespaces = term.get("namespaceSelector")
    return PodTerm(
        topology_key=term.get("topologyKey") or "",
        selector=_with_label_keys(from_label_selector(term.get("labelSelector")), term, labels),
        namespaces=names if names or of_namespaces is not None else (namespace,),
        namespace_selector=None if of_namespaces is None else from_label_selector(of_namespaces),
        weight=weight,
    )


def _own_namespace(near: Mapping[str, Any] | None, apart: Mapping[str, Any] | None, namespace: str) -> str:
    """The pod's namespace where a term of its means that, else nothing."""
    for side in (near or {}, apart or {}):
        terms = list(side.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        for item in side.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            terms.append(item.get("podAffinityTerm") or {})
        if any(not term.get("namespaces") and term.get("namespaceSelector") is None for term in terms):
            return namespace
    return ""


def _required_terms(side: Mapping[str, Any], namespace: str, labels: Mapping[str, str]) -> tuple[PodTerm, ...]:
    terms = side.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(_pod_term(term, namespace, labels) for term in terms)


def _preferred_terms(
    side: Mapping[str, Any], namespace: str, labels: Mapping[str, str], sign: int
) -> tuple[PodTerm, ...]:
    items = side.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(
        _pod_term(item.get("podAffinityTerm") or {}, namespace, labels, sign * (item.get("weight") or 0))
        for item in items
    )


def _make_rules(
    near: Mapping[str, Any],
    apart: Mapping[str, Any],
    spread: Sequence[Mapping[str, Any]],
    namespace: str,
    labels: Mapping[str, str],
) -> PodRules:
    return PodRules(
        affinity=_required_terms(near, namespace, labels),
        anti_affinity=_required_terms(apart, namespace, labels),
        preferred=(*_preferred_terms(near, namespace, labels, 1), *_preferred_terms(apart, namespace, labels, -1)),
        spread=tuple(
            spread_rule(r, _with_label_keys(from_label_selector(r.get("labelSelector")), r, labels)) for r in spread
        ),
    )


def spread_rule(rule: Mapping[str, Any], selector: LabelSelector) -> SpreadRule:
    """One topology spread constraint over the pods that the selector matches."""
    return SpreadRule(
        topology_key=rule.get("topologyKey") or "",
        selector=selector,
        max_skew=rule.get("maxSkew") or 1,
        hard=rule.get("whenUnsatisfiable") != "ScheduleAnyway",
        min_domains=rule.get("minDomains") or 1,
        honor_affinity=rule.get("nodeAffinityPolicy") != "Ignore",
        honor_taints=rule.get("nodeTaintsPolicy") == "Honor",
    )

"""Facts of a pod that matter for scheduling, read once.

Pods of one template differ in their names only: everything else is one shared `Shape`, found again by its bytes, so
that what is computed for a shape serves thousands of pods.

Source: Kubernetes API reference core/v1 PodSpec.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
SHAPES_MAX = 4096
DEFAULT_SCHEDULER = "default-scheduler"


def amount(resource: str, text: quantity.QuantityLike) -> int:
    """Thousandths of a core for cpu, whole units for all else."""
    return min(whole(resource, text), AMOUNT_MAX)


@dataclass(frozen=True, slots=True)
class PodTerm:
    """One pod (anti-)affinity term. `namespaces` None means all; `namespace_selector` adds the ones it matches."""

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

    def tolerates(self, taint: Taint) -> bool:
        return any_tolerates(self.tolerations, taint)

    def admits_labels(self, labels: Mapping[str, str], name: str) -> bool:
        """nodeSelector and required node affinity."""
        if not self.node_selector.matches(labels):
            return False
        return admits(self.required, labels, name)


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
    affinity: tuple[PodTerm, ...]
    anti_affinity: tuple[PodTerm, ...]
    preferred: tuple[PodTerm, ...]
    spread: tuple[SpreadRule, ...]
    nominated: str
    terminating: bool
    node: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether nothing but its shape decides where it fits."""
        return not (self.claims or self.affinity or self.anti_affinity or self.preferred or self.spread)


class PodParser:
    """A parser that makes PodInfos; remembers up to SHAPES_MAX shapes."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[bytes, Shape] = OrderedDict()

    def parse(self, pod: Object) -> PodInfo:
        spec, own = meta.spec(pod), meta.metadata(pod)
        namespace, name = own.get("namespace") or "", own.get("name") or ""
        labels = own.get("labels") or {}
        affinity = spec.get("affinity") or {}
        near, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
        rules = spec.get("topologySpreadConstraints") or ()
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
            affinity=_required_terms(near, namespace, labels),
            anti_affinity=_required_terms(apart, namespace, labels),
            preferred=(*_preferred_terms(near, namespace, labels, 1), *_preferred_terms(apart, namespace, labels, -1)),
            spread=tuple(_spread_rule(rule, labels) for rule in rules),
            terminating=meta.is_deleting(pod),
            nominated=meta.status(pod).get("nominatedNodeName") or "",
            node=spec.get("nodeName") or "",
        )

    def _shape(self, pod: Object, spec: dict[str, Any]) -> Shape:
        key = orjson.dumps(
            (
                resource_facts(pod),
                [c.get("ports") for c in lifecycled(spec)],
                spec.get("nodeSelector"),
                (spec.get("affinity") or {}).get("nodeAffinity"),
                spec.get("tolerations"),
                bool(spec.get("hostNetwork")),
            ),
            option=orjson.OPT_SORT_KEYS,
        )
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = make_shape(pod)
            if len(self._shapes) > SHAPES_MAX:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(key)
        return shape


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
    )


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


def _spread_rule(rule: Mapping[str, Any], labels: Mapping[str, str]) -> SpreadRule:
    return SpreadRule(
        topology_key=rule.get("topologyKey") or "",
        selector=_with_label_keys(from_label_selector(rule.get("labelSelector")), rule, labels),
        max_skew=rule.get("maxSkew") or 1,
        hard=rule.get("whenUnsatisfiable") != "ScheduleAnyway",
        min_domains=rule.get("minDomains") or 1,
        honor_affinity=rule.get("nodeAffinityPolicy") != "Ignore",
        honor_taints=rule.get("nodeTaintsPolicy") == "Honor",
    )

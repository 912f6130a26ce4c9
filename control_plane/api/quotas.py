"""Resource quotas: what an object counts for, by the names that quotas use, and whose it counts for.

Admission adds what a write asks for, a controller recounts; both count by these rules. Source: Kubernetes concepts
"Resource Quotas", API reference core/v1 ResourceQuota.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import requested_storage
from rayplane.control_plane.api.device_claims import CLAIMS as DEVICES
from rayplane.control_plane.api.device_claims import OF_CLASS
from rayplane.control_plane.api.device_quotas import (
    NO_NAMES,
    Names,
    Usage,
    counts_devices,
    is_made_for,
    is_of_resource,
    usage_of_claim,
)
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.machinery.quantity import parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.qos import BEST_EFFORT, qos_class
from rayplane.control_plane.api.pods.resources import (
    HUGE_PAGES,
    container_limits,
    container_requests,
    has_pod_level,
    pod_limits,
    pod_requests,
)
from rayplane.control_plane.api.pods.state import pod_is_terminated

PODS, SERVICES, CLAIMS = "pods", "services", "persistentvolumeclaims"
_ONE = parse("1")
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_DEMANDED = frozenset(f"{section}{r}" for section in ("", "requests.", "limits.") for r in ("cpu", "memory"))
_OF_STORAGE = ".storageclass.storage.k8s.io/"
# These resources are also counted under a short name.
_SHORT = frozenset(
    {PODS, SERVICES, CLAIMS, "secrets", "configmaps", "replicationcontrollers", "resourcequotas"},
)
_TERMS = ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution")


# --- what an object counts for --------------------------------------------------------------------


def usage_of(
    o: Object, resource: str, now: datetime | None = None, *, names: Names = NO_NAMES, pod: Object | None = None
) -> Usage:
    """What one object of `resource` (plural[.group]) counts for.

    A pod that has ended, or should have ended by `now`, uses nothing any more; it is still stored. `names`: those of
    classes of devices; `pod`: the one whose resources a claim to devices was made for.
    """
    usage: Usage = {f"count/{resource}": _ONE}
    if resource == PODS and (pod_is_terminated(o) or _is_overdue(o, now)):
        return usage
    if resource in _SHORT:
        usage[resource] = _ONE
    if resource == PODS:
        usage |= _usage_of_pod(o)
    elif resource == SERVICES:
        usage |= _usage_of_service(meta.spec(o))
    elif resource == CLAIMS:
        usage |= _usage_of_claim(o)
    elif resource == DEVICES:
        usage |= usage_of_claim(meta.spec(o), names, {} if pod is None else usage_of(pod, PODS, now))
    return usage


def _is_overdue(pod: Object, now: datetime | None) -> bool:
    """A pod whose time to end is over: its node may have gone."""
    since, grace = meta.metadata(pod).get("deletionTimestamp"), meta.metadata(pod).get("deletionGracePeriodSeconds")
    if now is None or not since or grace is None:
        return False
    return now > meta.parse_time(since) + timedelta(seconds=grace)


def _usage_of_pod(pod: Object) -> Usage:
    requests, limits = pod_requests(pod), pod_limits(pod)
    usage: Usage = {f"limits.{r}": limits[r] for r in _COMPUTE if r in limits}
    for r, amount in requests.items():
        if r in _COMPUTE or r.startswith(HUGE_PAGES):
            usage[r] = usage[f"requests.{r}"] = amount
        elif is_extended(r) or r.startswith(OF_CLASS):
            usage[f"requests.{r}"] = amount
    return usage


def _usage_of_service(spec: Object) -> Usage:
    usage: Usage = {}
    if spec.get("type") == "LoadBalancer":
        usage["services.loadbalancers"] = _ONE
    ports = len(spec.get("ports") or ())
    if spec.get("type") == "NodePort" or (
        spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False
    ):
        usage["services.nodeports"] = parse(ports)
    return usage


def _usage_of_claim(claim: Object) -> Usage:
    size, cls = requested_storage(claim), meta.spec(claim).get("storageClassName")
    usage: Usage = {f"{cls}{_OF_STORAGE}{CLAIMS}": _ONE} if cls else {}
    if size:
        usage["requests.storage"] = parse(size)
        if cls:
            usage[f"{cls}{_OF_STORAGE}requests.storage"] = parse(size)
    return usage


def counted(hard: Iterable[str], resource: str, names: Names = NO_NAMES) -> set[str]:
    """Those names of a quota that objects of `resource` can count for. `names`: of classes of devices."""
    return {name for name in hard if _counts_for(name, resource, names)}


def _counts_for(name: str, resource: str, names: Names) -> bool:
    if name == f"count/{resource}" or (name == resource and resource in _SHORT):
        return True
    if resource == PODS:
        bare = name.removeprefix("requests.")
        return (
            name.removeprefix("limits.") in _COMPUTE
            or bare in _COMPUTE
            or bare.startswith(HUGE_PAGES)
            or is_of_resource(name)
        )
    if resource == SERVICES:
        return name in ("services.loadbalancers", "services.nodeports")
    if resource == CLAIMS:
        return name == "requests.storage" or _OF_STORAGE in name
    return resource == DEVICES and counts_devices(name, names)


def unspecified(pod: Object, hard: Mapping[str, Any]) -> str:
    """What a quota wants to be told and a pod does not say; empty for nothing.

    Quotas of cpu and memory want an amount from every container, unless the pod as a whole has some.
    """
    spec = meta.spec(pod)
    if has_pod_level(spec):
        return ""
    missing: dict[str, set[str]] = {}
    for container in lifecycled(spec):
        requests, limits = container_requests(container), container_limits(container)
        given = {*requests, *(f"requests.{r}" for r in requests), *(f"limits.{r}" for r in limits)}
        for r in _DEMANDED - given:
            if r in hard:
                missing.setdefault(r, set()).add(container.get("name") or "")
    return "; ".join(f"{r} for: {','.join(sorted(missing[r]))}" for r in sorted(missing))


# --- whose it counts for --------------------------------------------------------------------------


def used(
    quota: Object, objects: Mapping[str, Sequence[Object]], now: datetime, names: Names = NO_NAMES
) -> dict[str, str]:
    """What is used of a quota, by name: all objects of its namespace, of each resource (plural[.group]) that counts.

    Names that none of these resources counts for are left out. `names`: of classes of devices.
    """
    hard: dict[str, Any] = meta.spec(quota).get("hard") or {}
    total: Usage = {}
    for resource, held in objects.items():
        wanted = counted(hard, resource, names)
        if not wanted:
            continue
        for name in wanted:
            total.setdefault(name, parse(0))
        made_for = _made_for(objects) if resource == DEVICES else {}
        for o in held:
            if in_scope(quota, o, resource):
                for name, amount in usage_of(o, resource, now, names=names, pod=made_for.get(meta.uid(o))).items():
                    if name in wanted:
                        total[name] += amount
    return {name: str(total[name]) for name in sorted(total)}


def _made_for(objects: Mapping[str, Sequence[Object]]) -> dict[str, Object]:
    """By a claim's uid, the pod whose resources it was made for."""
    claims, pods = objects[DEVICES], {meta.uid(pod): pod for pod in objects.get(PODS) or ()}
    owned = ((claim, pods.get((meta.controller_of(claim) or {}).get("uid") or "")) for claim in claims)
    return {meta.uid(claim): pod for claim, pod in owned if pod is not None and is_made_for(claim, pod, claims)}


def in_scope(quota: Object, o: Object, resource: str) -> bool:
    """Whether an object counts for a quota at all."""
    spec = meta.spec(quota)
    terms = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    terms += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not terms:
        return True
    if resource == PODS:
        return all(_pod_is_within(o, term) for term in terms)
    if resource == CLAIMS:
        return all(_claim_is_within(o, term) for term in terms)
    return False


def _pod_is_within(pod: Object, term: Object) -> bool:
    spec, scope = meta.spec(pod), term.get("scopeName") or ""
    deadline = spec.get("activeDeadlineSeconds")
    if scope in ("Terminating", "NotTerminating"):
        return (deadline is not None and deadline >= 0) is (scope == "Terminating")
    if scope in ("BestEffort", "NotBestEffort"):
        return (qos_class(pod) == BEST_EFFORT) is (scope == "BestEffort")
    if scope == "PriorityClass":
        return _selects(term, {spec.get("priorityClassName") or ""})
    return scope == "CrossNamespacePodAffinity" and any(
        term.get("namespaces") or term.get("namespaceSelector") is not None for term in _affinity_terms(spec)
    )


def _affinity_terms(spec: Object) -> Iterator[Object]:
    for part in ("podAffinity", "podAntiAffinity"):
        affinity = (spec.get("affinity") or {}).get(part) or {}
        for when in _TERMS:
            for term in affinity.get(when) or ():
                yield term.get("podAffinityTerm") or term


def _claim_is_within(claim: Object, term: Object) -> bool:
    if term.get("scopeName") != "VolumeAttributesClass":
        return False
    status = meta.status(claim)
    modified = (status.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName")
    named = {
        meta.spec(claim).get("volumeAttributesClassName"),
        status.get("currentVolumeAttributesClassName"),
        modified,
    }
    return _selects(term, {name or "" for name in named})


def _selects(term: Object, names: set[str]) -> bool:
    """Whether a term of a scope selector is for any of the classes; an empty name is none."""
    values, classes = set(term.get("values") or ()), names - {""}
    operator = term.get("operator") or "Exists"
    if operator == "In":
        return bool(classes & values)
    if operator == "NotIn":
        return not classes or bool(classes - values)
    return bool(classes) is (operator == "Exists")

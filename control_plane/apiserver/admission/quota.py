"""ResourceQuota: what a namespace may use, counted in the transaction that creates an object.

The quota's status is a guard and an effect of that transaction, so concurrent creates on several servers cannot go
beyond it together. A controller recounts when objects go away.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rayplane.control_plane.api.claims import requested_storage
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.machinery.quantity import parse
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, name
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
from rayplane.control_plane.apiserver.admission.request import CREATE, AdmissionRequest
from rayplane.control_plane.apiserver.storage.entries import encode
from rayplane.control_plane.apiserver.storage.store import at_revision, put_op
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_DEMANDED = frozenset(f"{section}{r}" for section in ("", "requests.", "limits.") for r in ("cpu", "memory"))
# These resources are also counted under a short name.
_SHORT = frozenset(
    {
        "pods",
        "services",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "replicationcontrollers",
        "resourcequotas",
    }
)


# The bytes to put into etcd for those of an object: (resource, key in etcd, bytes).
ToStorage = Callable[[ResourceInfo, str, bytes], bytes]


class Quotas:
    """Kubernetes' ResourceQuota plugin, on creation."""

    def __init__(self, lookup: Lookup, to_storage: ToStorage) -> None:
        self._lookup = lookup
        self._to_storage = to_storage

    async def admit(self, request: AdmissionRequest) -> None:
        if request.operation != CREATE or request.subresource or not request.info.namespaced:
            return
        quotas = await self._lookup.list("resourcequotas", request.namespace)
        if not quotas:
            return
        usage = usage_of(request.object, request.info.name)
        for quota in quotas:
            if _in_scope(quota, request):
                await self._count(request, quota, usage)

    async def _count(self, request: AdmissionRequest, quota: Object, usage: dict[str, Any]) -> None:
        status = quota.get("status") or {}
        hard = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
        asked = {r: parse(usage[r]) for r in sorted(usage) if r in hard}
        info = request.info
        if info.name == "pods":
            missing = _unspecified(request.object, hard)
            if missing:
                text = f"failed quota: {name(quota)}: must specify {missing}"
                raise Forbidden.of(info.plural, request.name, text, group=info.group)
        if not asked:
            return
        recorded = status.get("used") or {}
        counted = {} if all(r in recorded for r in asked) else await self._live_usage(request)
        used = {r: parse(recorded.get(r) or counted.get(r) or "0") for r in asked}
        over = [r for r in asked if used[r] + asked[r] > parse(hard[r])]
        if over:
            parts = [
                ",".join(f"{r}={values[r]}" for r in over)
                for values in (asked, used, {r: parse(hard[r]) for r in over})
            ]
            text = f"exceeded quota: {name(quota)}, requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"
            raise Forbidden.of(info.plural, request.name, text, group=info.group)
        total = {**recorded, **{r: str(used[r] + asked[r]) for r in asked}}
        changed = {**quota, "status": {**status, "hard": hard, "used": total}}
        meta = quota["metadata"]
        stored = self._lookup.resource("resourcequotas")
        quota_key = stored.key(meta["namespace"], meta["name"])
        request.guards.append(at_revision(quota_key, int(meta["resourceVersion"])))
        request.effects.append(put_op(quota_key, self._to_storage(stored, quota_key, encode(changed))))

    async def _live_usage(self, request: AdmissionRequest) -> dict[str, Any]:
        """What is used now, for a quota that no controller has counted yet."""
        total: dict[str, Any] = {}
        for o in await self._lookup.list(request.info.name, request.namespace):
            for r, amount in usage_of(o, request.info.name).items():
                total[r] = total[r] + parse(amount) if r in total else parse(amount)
        return total


def usage_of(o: Object, resource: str) -> dict[str, Any]:
    """What one object of `resource` (plural[.group]) counts for, by the names quotas use.

    A pod that has ended uses nothing any more, but it is still stored.
    """
    usage: dict[str, Any] = {f"count/{resource}": "1"}
    if resource == "pods" and pod_is_terminated(o):
        return usage
    if resource in _SHORT:
        usage[resource] = "1"
    if resource == "pods":
        usage |= _pod_usage(o)
    elif resource == "services":
        kind = (o.get("spec") or {}).get("type")
        ports = len((o.get("spec") or {}).get("ports") or ())
        if kind == "LoadBalancer":
            usage["services.loadbalancers"] = "1"
        if kind in ("LoadBalancer", "NodePort"):
            usage["services.nodeports"] = str(ports)
    elif resource == "persistentvolumeclaims":
        spec = o.get("spec") or {}
        size = requested_storage(o)
        if size:
            usage["requests.storage"] = size
            if cls := spec.get("storageClassName"):
                usage[f"{cls}.storageclass.storage.k8s.io/requests.storage"] = size
    return usage


def _pod_usage(pod: Object) -> dict[str, Any]:
    requests, limits = pod_requests(pod), pod_limits(pod)
    usage: dict[str, Any] = {f"limits.{r}": str(limits[r]) for r in _COMPUTE if r in limits}
    for r, amount in requests.items():
        if r in _COMPUTE or r.startswith(HUGE_PAGES):
            usage[r] = usage[f"requests.{r}"] = str(amount)
        elif is_extended(r):
            usage[f"requests.{r}"] = str(amount)
    return usage


def _unspecified(pod: Object, hard: Mapping[str, Any]) -> str:
    """Quotas of cpu and memory want an amount from every container, unless the pod as a whole has some."""
    spec = pod.get("spec") or {}
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


def _in_scope(quota: Object, request: AdmissionRequest) -> bool:
    spec = quota.get("spec") or {}
    scopes = list(spec.get("scopes") or ())
    expressions = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not scopes and not expressions:
        return True
    if request.info.name != "pods":
        return False
    return all(_has_scope(request.object, s, None) for s in scopes) and all(
        _has_scope(request.object, e.get("scopeName") or "", e) for e in expressions
    )


def _has_scope(pod: Object, scope: str, expression: Object | None) -> bool:
    spec = pod.get("spec") or {}
    if scope == "Terminating":
        return spec.get("activeDeadlineSeconds") is not None
    if scope == "NotTerminating":
        return spec.get("activeDeadlineSeconds") is None
    if scope in ("BestEffort", "NotBestEffort"):
        best = qos_class(pod) == BEST_EFFORT
        return best is (scope == "BestEffort")
    if scope == "PriorityClass":
        actual = spec.get("priorityClassName") or ""
        operator = (expression or {}).get("operator") or "Exists"
        values = (expression or {}).get("values") or ()
        return {
            "In": actual in values,
            "NotIn": actual not in values,
            "Exists": bool(actual),
            "DoesNotExist": not actual,
        }.get(operator, False)
    return True

"""ResourceQuota: what a namespace may use, counted in the transaction that writes an object.

The quota's status is a guard and an effect of that transaction, so concurrent writes on several servers cannot go
beyond it together. A controller recounts when less is used.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from rayplane.control_plane.api import meta, quotas
from rayplane.control_plane.api.device_claims import CLASSES
from rayplane.control_plane.api.device_quotas import (
    NO_NAMES,
    Names,
    is_made_for,
    is_made_for_pod,
    is_of_resource,
    names_of,
)
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.machinery.quantity import parse
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import CREATE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.storage.entries import encode
from rayplane.control_plane.apiserver.storage.store import at_revision, put_op
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

# Changes that may use more.
_GROWING = frozenset({("services", ""), ("persistentvolumeclaims", ""), ("pods", "resize")})

# The bytes to put into etcd for those of an object: (resource, key in etcd, bytes).
ToStorage = Callable[[ResourceInfo, str, bytes], bytes]


def may_use_more(request: AdmissionRequest) -> bool:
    """Whether quotas have a say in a write at all."""
    if not request.info.namespaced:
        return False
    created = request.operation == CREATE and not request.subresource
    return created or (request.operation == UPDATE and (request.info.name, request.subresource) in _GROWING)


class Quotas:
    """Kubernetes' ResourceQuota plugin. `now`: the wall clock."""

    def __init__(self, lookup: Lookup, to_storage: ToStorage, now: Callable[[], datetime]) -> None:
        self._lookup = lookup
        self._to_storage = to_storage
        self._now = now

    @only(may_use_more)
    async def admit(self, request: AdmissionRequest) -> None:
        found = await self._lookup.list("resourcequotas", request.namespace)
        if not found:
            return
        resource = request.info.name
        asked = await self._usage(request)
        if request.old is not None:
            before = quotas.usage_of(request.old, resource)
            asked = {r: amount - before[r] if r in before else amount for r, amount in asked.items()}
            asked = {r: amount for r, amount in asked.items() if amount > parse(0)}
        for quota in found:
            if quotas.in_scope(quota, request.object, resource):
                await self._count(request, quota, asked)

    async def _usage(self, request: AdmissionRequest) -> quotas.Usage:
        """What the object counts for. Devices count by the names of their classes, and for a pod only once."""
        claim, resource = request.object, request.info.name
        if resource != quotas.DEVICES:
            return quotas.usage_of(claim, resource)
        pod = None
        if is_made_for_pod(claim):
            owner = (meta.controller_of(claim) or {}).get("name") or ""
            found = await self._lookup.get(quotas.PODS, owner, request.namespace)
            others = await self._lookup.list(quotas.DEVICES, request.namespace)
            pod = found if is_made_for(claim, found, others) else None
        return quotas.usage_of(claim, resource, self._now(), names=await self._names(), pod=pod)

    async def _names(self) -> Names:
        return names_of(await self._lookup.list(CLASSES))

    async def _count(self, request: AdmissionRequest, quota: Object, usage: quotas.Usage) -> None:
        status = quota.get("status") or {}
        hard = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
        asked = {r: usage[r] for r in sorted(usage) if r in hard}
        info = request.info
        if request.creates("pods"):
            missing = quotas.unspecified(request.object, hard)
            if missing:
                text = f"failed quota: {meta.name(quota)}: must specify {missing}"
                raise Forbidden.of(info.plural, request.shown_name, text, group=info.group)
        if not asked:
            return
        recorded = status.get("used") or {}
        counted = {} if all(r in recorded for r in asked) else await self._live_usage(request, quota, asked)
        used = {r: parse(recorded.get(r) or counted.get(r) or "0") for r in asked}
        self._check(request, quota, asked, used, {r: parse(hard[r]) for r in asked})
        total = {**recorded, **{r: str(used[r] + asked[r]) for r in asked}}
        changed = {**quota, "status": {**status, "hard": hard, "used": total}}
        stored = self._lookup.resource("resourcequotas")
        quota_key = stored.key(meta.namespace(quota), meta.name(quota))
        request.guards.append(at_revision(quota_key, int(meta.resource_version(quota))))
        request.effects.append(put_op(quota_key, self._to_storage(stored, quota_key, encode(changed))))

    def _check(
        self, request: AdmissionRequest, quota: Object, asked: quotas.Usage, used: quotas.Usage, hard: quotas.Usage
    ) -> None:
        over = [r for r in asked if used[r] + asked[r] > hard[r]]
        if over:
            parts = [",".join(f"{r}={values[r]}" for r in over) for values in (asked, used, hard)]
            text = f"exceeded quota: {meta.name(quota)}, requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"
            raise Forbidden.of(request.info.plural, request.shown_name, text, group=request.info.group)

    async def _live_usage(self, request: AdmissionRequest, quota: Object, asked: Iterable[str]) -> dict[str, str]:
        """What is used now, for a quota that no controller has counted yet."""
        names = await self._names() if any(map(is_of_resource, asked)) else NO_NAMES
        counting = dict.fromkeys((request.info.name, quotas.PODS, quotas.DEVICES))
        held = {
            resource: await self._lookup.list(resource, request.namespace)
            for resource in counting
            if quotas.counted(asked, resource, names)
        }
        return quotas.used(quota, held, self._now(), names)

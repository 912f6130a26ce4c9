"""Evictions: a pod's budget is counted down, the pod is told why it goes, and then it is deleted.

Each step names the pod it saw where a change of it would matter (one that was not ready may have become so).
Source: Kubernetes concepts "API-initiated Eviction".
"""

import orjson

from rayplane.control_plane.api.errors import Conflict
from rayplane.control_plane.api.kinds import deletion
from rayplane.control_plane.api.kinds.policy.eviction import (
    count_disruption,
    governing_budget,
    mark_evicted,
    needs_no_budget,
    spends_nothing,
    still_processed,
)
from rayplane.control_plane.api.kinds.policy.pod_disruption_budget import BUDGETS
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, is_deleting, name, namespace, resource_version, uid
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.reading import Reader
from rayplane.control_plane.apiserver.registry.writing import Writer
from rayplane.control_plane.apiserver.requests import SYSTEM, DeleteOptions, Target, User, WriteOptions
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

_TRIES = 20


class Evictions:
    """The pods' eviction subresource. Authorisation and admission were before."""

    def __init__(self, kinds: Kinds, reader: Reader, writer: Writer, lookup: Lookup, env: Env) -> None:
        self._kinds = kinds
        self._reader = reader
        self._writer = writer
        self._lookup = lookup
        self._env = env

    async def evict(self, user: User, target: Target, eviction: Object, *, dry_run: bool) -> None:
        """Evict a pod. Raises TooManyRequests while its budget forbids it, and what a delete raises."""
        asked = _delete_options(eviction, dry_run=dry_run)
        plain = Target(target.info, target.namespace, target.name)
        for left in range(_TRIES - 1, -1, -1):
            pod = (await self._reader.get(plain)).object
            if not needs_no_budget(pod):
                break
            begun = pod_is_terminated(pod) or is_deleting(pod)
            try:
                return await self._delete(user, plain, pod, asked, unchanged=not begun)
            except Conflict:
                # A pod that is about to begin may have begun: its budget counts then.
                if asked.resource_version or not left:
                    raise
        budget = governing_budget(pod, await self._lookup.list(BUDGETS, target.namespace))
        if budget is None:
            return await self._delete(user, plain, pod, asked)
        if not spends_nothing(pod, budget):
            await self._count(budget, name(pod), dry_run=asked.dry_run)
            return await self._delete(user, plain, pod, asked)
        try:
            return await self._delete(user, plain, pod, asked, unchanged=True)
        except Conflict as e:
            if asked.resource_version:
                raise
            raise still_processed(name(budget)) from e

    async def _count(self, budget: Object, pod_name: str, *, dry_run: bool) -> None:
        """Count a disruption in the budget as it is stored at that moment."""

        async def make(current: Object) -> Object:
            count_disruption(current, pod_name, self._env.clock.now())
            return current

        target = Target(self._kinds.named(BUDGETS), namespace(budget), name(budget), "status")
        await self._writer.change(SYSTEM, target, make, WriteOptions(dry_run=dry_run))

    async def _delete(
        self, user: User, plain: Target, pod: Object, asked: DeleteOptions, *, unchanged: bool = False
    ) -> None:
        """Mark the pod and delete it: this very one, and `unchanged` if need be."""
        version = asked.resource_version or (resource_version(pod) if unchanged else "")
        # A namesake that came meanwhile is another pod, whose budget was not asked.
        wanted = asked.uid or uid(pod)
        if not asked.dry_run:
            marked = await self._mark(plain, uid=wanted, version=version)
            version = marked if version else ""
        options = DeleteOptions(
            grace_period_s=asked.grace_period_s,
            propagation_policy=asked.propagation_policy,
            orphan_dependents=asked.orphan_dependents,
            uid=wanted,
            resource_version=version,
            dry_run=asked.dry_run,
        )
        await self._writer.delete(user, plain, options)

    async def _mark(self, plain: Target, *, uid: str, version: str) -> str:
        """Write into the pod's status that it is evicted; the version of the pod after that."""

        async def make(current: Object) -> Object:
            deletion.check_preconditions(current, plain.info.name, uid=uid, version=version)
            mark_evicted(current, self._env.clock.now())
            return current

        target = Target(plain.info, plain.namespace, plain.name, "status")
        answer = await self._writer.change(SYSTEM, target, make, WriteOptions(), prepare=_as_marked, status=True)
        return resource_version(orjson.loads(answer.json))


def _delete_options(eviction: Object, *, dry_run: bool) -> DeleteOptions:
    given = eviction.get("deleteOptions") or {}
    preconditions = given.get("preconditions") or {}
    return DeleteOptions(
        grace_period_s=given.get("gracePeriodSeconds"),
        propagation_policy=given.get("propagationPolicy") or "",
        orphan_dependents=given.get("orphanDependents"),
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run=dry_run or bool(given.get("dryRun")),
    )


def _as_marked(new: Object, old: Object, info: ResourceInfo) -> None:
    """The mark was made on the stored object itself: nothing to take back."""

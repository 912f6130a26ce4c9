"""Observers of a trial: who leads, what members and watch caches hold, whether the cluster says that it is well."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.cluster.trial.verdict import Health
from rayplane.control_plane.invariants import Hashed, Judge, Leads, Listed
from rayplane.control_plane.invariants.pods import PODS
from rayplane.control_plane.rpc import RpcError

MEMBERS_EVERY_S = 0.5
HASH_EVERY = 8  # looks at members
CACHES_EVERY_S = 2.0
HEALTH_EVERY_S = 0.5
CALL_S = 3.0
SERVED_NOW = "0"
"""The resourceVersion of a list that a server answers with what it has."""

Now = Callable[[], float]


class Observers:
    """Observers that tell a judge; `unhealthy` says what is wrong with the cluster, if anything."""

    def __init__(self, admin: Access, judge: Judge, now: Now, unhealthy: Callable[[], Awaitable[str]]) -> None:
        self.health = Health()
        self._admin = admin
        self._judge = judge
        self._now = now
        self._unhealthy = unhealthy
        self._servers: dict[str, ApiClient] = {}

    @property
    def topology(self) -> Topology:
        """As it was when last looked at."""
        return self._admin.topology

    async def members(self) -> None:
        """Until cancelled."""
        looks = 0
        while True:
            members = (await current_topology(self._admin)).of(Role.MEMBER)
            revisions = await asyncio.gather(*map(self._leads, members))
            looks += 1
            if looks % HASH_EVERY == 1 and (known := [r for r in revisions if r]):
                await asyncio.gather(*(self._hashes(member, min(known)) for member in members))
            await asyncio.sleep(MEMBERS_EVERY_S)

    async def _leads(self, member: Instance) -> int:
        """Look at one; its revision, 0 when it does not answer."""
        try:
            found = await self._admin.etcd.status(member.endpoint("client"), timeout=CALL_S)
        except RpcError:
            return 0
        if found.leader and found.leader == found.header.member_id:
            self._judge.observed(self._now(), Leads(member.name, found.raftTerm))
        return int(found.header.revision)

    async def _hashes(self, member: Instance, revision: int) -> None:
        with contextlib.suppress(RpcError):
            found = await self._admin.etcd.hash_kv(member.endpoint("client"), revision, timeout=CALL_S)
            self._judge.observed(self._now(), Hashed(member.name, revision, found.compact_revision, found.hash))

    async def caches(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.gather(*(self._listed(s) for s in self.topology.of(Role.APISERVER)))
            await asyncio.sleep(CACHES_EVERY_S)

    async def _listed(self, server: Instance) -> None:
        endpoint = server.endpoint("grpc")
        client = self._servers.setdefault(endpoint, ApiClient(self._admin.network, [endpoint]))
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(CALL_S):
                found = await client.list(PODS, resource_version=SERVED_NOW)
            versions = {meta.key(o): int(meta.resource_version(o)) for o in found.items}
            self._judge.observed(self._now(), Listed(server.name, PODS, int(found.resource_version), versions))

    async def look_at_health(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(HEALTH_EVERY_S)

    async def look(self) -> str:
        """What is wrong with the cluster now."""
        wrong = await self._unhealthy()
        self.health.add(self._now(), wrong)
        return wrong

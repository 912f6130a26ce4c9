"""etcd leases under which Events are stored, so that they go away by themselves."""

import asyncio

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.storage.outcomes import shutting_down
from rayplane.control_plane.apiserver.storage.store import api_error
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.rpc import RpcError

# One lease serves all events of this share of their time to live: a lease for each would be costly.
_SHARE = 0.05


class EventLeases:
    """Leases under which events are stored. `lease(info)` is 0 for everything that stays."""

    def __init__(self, etcd: EtcdClient, timing: Timing) -> None:
        self._etcd = etcd
        self._ttl_s = timing.event_ttl_s
        self._lease = 0
        self._until = 0.0
        self._grants: SingleFlight[None] = SingleFlight(shutting_down)

    async def lease(self, info: ResourceInfo) -> int:
        if info.plural != "events" or not self._ttl_s:
            return 0
        if asyncio.get_running_loop().time() >= self._until:
            await self._grants.run("", self._grant)
        return self._lease

    async def _grant(self) -> None:
        now, span = asyncio.get_running_loop().time(), self._ttl_s * _SHARE
        try:
            self._lease = (await self._etcd.lease_grant(int(self._ttl_s + span))).ID
        except RpcError as e:
            raise api_error(e) from e
        self._until = now + span

    async def stop(self) -> None:
        await self._grants.stop()

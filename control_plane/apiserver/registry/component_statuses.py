"""Statuses of components (`componentstatuses`): looked at when a client asks, and stored nowhere.

etcd is healthy while it answers with a quorum, the scheduler and the controller manager while their leaders renew their
Leases. kube-apiserver asks the latter two on ports of its own machine, where ours do not have to be.
"""

from datetime import datetime, timedelta
from typing import Final

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.resources import LEASES, ResourceInfo
from rayplane.control_plane.api.meta import parse_time, spec
from rayplane.control_plane.apiserver.registry.reading import Listing
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.watch_cache.cache import Selection
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

_LEASES_NAMESPACE: Final = "kube-system"
_LEADERS: Final = {"controller-manager": "kube-controller-manager", "scheduler": "kube-scheduler"}
_ETCD: Final = "etcd-0"

# The class below has a method `list`, which hides the type inside it.
_Entries = list[Entry]


class ComponentStatuses:
    """The resource: `list` and `get`."""

    def __init__(self, lookup: Lookup, hub: WatchHub, env: Env) -> None:
        self._lookup = lookup
        self._hub = hub
        self._env = env

    async def list(self, info: ResourceInfo, selection: Selection, revision: int) -> Listing:
        found = {name: await self._leader(lease) for name, lease in _LEADERS.items()}
        found[_ETCD] = "" if await self._hub.etcd_answers() else "no quorum of members answers"
        entries: _Entries = []
        for name, problem in sorted(found.items()):
            condition = {"type": "Healthy", "status": "False" if problem else "True", "message": problem or "ok"}
            status = {
                "kind": info.kind,
                "apiVersion": info.api_version,
                "metadata": {"name": name},
                "conditions": [condition],
            }
            entry = Entry(info, info.key("", name), orjson.dumps(status), revision)
            if selection.matches(entry):
                entries.append(entry)
        return Listing(info, entries, revision)

    async def get(self, info: ResourceInfo, namespace: str, own: str, revision: int) -> Entry:
        found = (await self.list(info, Selection(namespace=namespace, name=own), revision)).entries
        if not found:
            raise NotFound.of(info.plural, own, group=info.group)
        return found[0]

    async def _leader(self, name: str) -> str:
        """What is wrong with the leader that holds a Lease; empty when nothing is."""
        lease = await self._lookup.get(LEASES, name, _LEASES_NAMESPACE)
        held = spec(lease or {})
        renewed = held.get("renewTime")
        if not held.get("holderIdentity") or not renewed:
            return "nobody leads"
        if _ended(parse_time(renewed), held.get("leaseDurationSeconds") or 0, self._env.clock.now()):
            return f"the leader {held['holderIdentity']} has not renewed its Lease since {renewed}"
        return ""


def _ended(renewed: datetime, seconds: int, now: datetime) -> bool:
    return now > renewed + timedelta(seconds=seconds)

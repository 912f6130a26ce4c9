"""The Standings service: where this member stands, for clients that put a majority's word together themselves.

A leader says what is committed without asking others whether it still leads: its client asks them, at the same time
and with one round trip less (`control_plane.client.standings` tells why that is linearizable).
"""

from collections.abc import AsyncIterator
from typing import Protocol

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.mvcc import Store


class Standpoint(Protocol):
    """The driver, which knows where raft stands."""

    member_id: int

    def standing(self) -> raft.Standing: ...

    async def reached(self, index: int) -> None: ...


class StandingsService:
    """A service that answers questions about one member's standing."""

    def __init__(self, driver: Standpoint, store: Store) -> None:
        self._driver = driver
        self._store = store

    async def Ask(self, requests: AsyncIterator[wire.Question], context: Context) -> AsyncIterator[wire.Standing]:
        driver = self._driver
        async for question in requests:
            # One moment: what comes later cannot make it less true of its own.
            standing = driver.standing()
            told = wire.Standing(number=question.number, member_id=driver.member_id, term=standing.term)
            if standing.voters:
                await driver.reached(standing.committed)
                told.voters.extend(standing.voters)
                told.revision = self._store.revision
            yield told

"""Promises of etcd, which clients of a trial put to the test: what it acknowledged is kept, and it is one store."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.etcd_user import EtcdUser
from rayplane.control_plane.cluster.lease_users import LeaseUsers
from rayplane.control_plane.cluster.trial.living import Life, delete_orphans, keys_of, place_of
from rayplane.control_plane.cluster.trial.shared_keys import SharedKeys
from rayplane.control_plane.rpc import RpcError

EVERY_S, LEASES_EVERY_S = 0.2, 0.25
ETCD_PROMISES = "etcd keeps and tells what it acknowledged"
LINEARIZABLE = "etcd linearizable"
LEASES = "leases linearizable and in time"


class EtcdPromises:
    """The clients of one trial. `add` hears of each violation: the invariant and what is wrong.

    `token`: the trial's.
    """

    def __init__(
        self,
        admin: Access,
        add: Callable[[str, str], None],
        now: Callable[[], float],
        members: Callable[[], Sequence[str]],
        token: str,
    ) -> None:
        def judged(found: list[str]) -> None:
            for text in found:
                add(ETCD_PROMISES, text)

        etcd, keys = admin.etcd, keys_of(token)
        self._admin, self._token = admin, token
        self._life = Life(etcd, place_of(admin.directory), token)
        self._keys = EtcdUser(etcd, keys + b"own/", judged, lambda *_: None, members)
        self._shared = SharedKeys(etcd, keys + b"shared/", lambda text: add(LINEARIZABLE, text))
        # Most likely those of no other trial, of which some may be left.
        first_id = secrets.randbits(38) << 24 | 1
        self._leases = LeaseUsers(
            etcd,
            keys + b"leased/",
            lambda text: add(LEASES, text),
            now,
            first_id=first_id,
            pause_s=LEASES_EVERY_S,
            judge_in=asyncio.to_thread,
        )

    @property
    def looked(self) -> dict[str, int]:
        """How often each invariant was looked at."""
        return {
            ETCD_PROMISES: self._keys.acknowledged,
            LINEARIZABLE: self._shared.judged,
            LEASES: self._leases.judged,
        }

    def writing(self) -> list[Coroutine[Any, Any, None]]:
        return [self._keys.write_for_ever(EVERY_S), self._shared.run(), self._leases.run()]

    def watching(self) -> list[Coroutine[Any, Any, None]]:
        return [self._life.go_on(), self._keys.watch_for_ever()]

    def untold(self) -> list[str]:
        """What may still come right."""
        return self._keys.untold()

    async def finish(self) -> list[str]:
        """Judge all, when nobody writes any more; what could not be."""
        failed = [] if await self._keys.verify() else ["etcd does not answer in the end"]
        self._keys.verify_watched()
        await self._shared.finish()
        try:
            await self._leases.finish()
        except RpcError as e:
            failed.append(f"leases cannot be judged: {e}")
        return failed

    async def begin(self) -> None:
        """Say that the trial lives, and delete the keys of those that do not. Raises RpcError."""
        await self._life.begin()
        await delete_orphans(self._admin.etcd, place_of(self._admin.directory), self._token)
        await self._keys.clean_up()

    async def clean_up(self) -> None:
        """Delete all keys. Raises RpcError."""
        await self._life.end()

"""Promises of etcd, which clients of a trial put to the test: what it acknowledged is kept, and it is one store."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.etcd_user import EtcdUser
from rayplane.control_plane.cluster.lease_users import LeaseUsers
from rayplane.control_plane.cluster.trial.shared_keys import SharedKeys
from rayplane.control_plane.rpc import RpcError

KEYS, KEYS_END = b"/rayplane/trial/", b"/rayplane/trial0"
"""Of all clients of trials."""
EVERY_S, LEASES_EVERY_S = 0.2, 0.25
ETCD_PROMISES = "etcd keeps and tells what it acknowledged"
LINEARIZABLE = "etcd linearizable"
LEASES = "leases linearizable and in time"


class EtcdPromises:
    """The clients of one trial. `add` hears of each violation: the invariant and what is wrong."""

    def __init__(
        self,
        admin: Access,
        add: Callable[[str, str], None],
        now: Callable[[], float],
        members: Callable[[], Sequence[str]],
    ) -> None:
        def judged(found: list[str]) -> None:
            for text in found:
                add(ETCD_PROMISES, text)

        self._admin, etcd = admin, admin.etcd
        self._keys = EtcdUser(etcd, KEYS + b"own/", judged, lambda *_: None, members)
        self._shared = SharedKeys(etcd, KEYS + b"shared/", lambda text: add(LINEARIZABLE, text))
        # Most likely those of no other trial, of which some may be left.
        first_id = secrets.randbits(38) << 24 | 1
        self._leases = LeaseUsers(
            etcd,
            KEYS + b"leased/%x/" % first_id,
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

    def watching(self) -> Coroutine[Any, Any, None]:
        return self._keys.watch_for_ever()

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

    async def clean_up(self) -> None:
        """Delete all keys. Raises RpcError."""
        await delete_keys(self._admin)
        await self._keys.clean_up()


async def delete_keys(admin: Access) -> None:
    """Delete those of every trial. Raises RpcError."""
    await admin.etcd.delete(KEYS, KEYS_END)

"""The trials of a cluster that live, wherever they were started, and what those have left that do not.

Each has a token, with which the names of all begin that its clients write. Before they write anything it stands in
etcd, with the place where the trial runs and a lease: another knows by that that it lives, until it ends or nobody has
renewed the lease. In one place there is one trial at a time, so who has its lock knows that no other lives there.
"""

import asyncio
import contextlib
import itertools
import socket

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb

KEYS, KEYS_END = b"/rayplane/trial/", b"/rayplane/trial0"
"""Of all clients of trials; those of one begin with its token."""
TRIALS, TRIALS_END = b"/rayplane/trials/", b"/rayplane/trials0"
"""Each of a trial that lives, with its place."""
LEASE_S = 60
RENEWALS = 6
"""Of a lease that none of them reaches: etcd may be what is broken."""
LOOKS = 5
"""While trials begin meanwhile; what is left then the next one deletes."""


def place_of(directory: StateDir) -> bytes:
    """The one place in which one trial has the lock of that directory."""
    return f"{socket.gethostname()} {directory.path}".encode()


def keys_of(token: str) -> bytes:
    """Begins the keys of a trial's clients."""
    return KEYS + f"{token}/".encode()


class Life:
    """The sign of one trial's life."""

    def __init__(self, etcd: EtcdClient, place: bytes, token: str) -> None:
        self._etcd, self._place, self._token = etcd, place, token
        self._lease = 0

    async def begin(self) -> None:
        """Raises RpcError."""
        self._lease = (await self._etcd.lease_grant(LEASE_S)).ID
        await self._etcd.put(TRIALS + self._token.encode(), self._place, lease=self._lease)

    async def go_on(self) -> None:
        """Until cancelled. One that ran out while etcd was away begins anew."""
        while True:
            await asyncio.sleep(LEASE_S / RENEWALS)
            with contextlib.suppress(RpcError):
                if not await self._etcd.lease_keep_alive(self._lease):
                    await self.begin()

    async def end(self) -> None:
        """Delete what the trial's clients wrote. Raises RpcError."""
        start = keys_of(self._token)
        await self._etcd.delete(start, _end(start))
        await self._etcd.delete(TRIALS + self._token.encode())
        with contextlib.suppress(RpcError):  # it may have run out
            await self._etcd.lease_revoke(self._lease)


async def delete_orphans(etcd: EtcdClient, place: bytes, own: str = "") -> frozenset[str]:
    """Delete the keys of trials that live no more; the tokens of those that do. Raises RpcError.

    `place`: where the caller has the lock, so that none lives there but `own`.
    """
    living = frozenset[str]()
    for _ in range(LOOKS):
        found = await etcd.range(TRIALS, TRIALS_END)
        tokens = {kv.key.removeprefix(TRIALS).decode(): kv.value for kv in found.kvs}
        living = frozenset(token for token, where in tokens.items() if where != place or token == own)
        # None may have begun, and written, since then.
        unchanged = pb.Compare(
            key=TRIALS,
            range_end=TRIALS_END,
            target=pb.Compare.MOD,
            result=pb.Compare.LESS,
            mod_revision=found.header.revision + 1,
        )
        ended = [(TRIALS + token.encode(), b"") for token in tokens if token not in living]
        deletes = [pb.DeleteRangeRequest(key=start, range_end=end) for start, end in [*between(living), *ended]]
        if (await etcd.txn([unchanged], [pb.RequestOp(request_delete_range=one) for one in deletes])).succeeded:
            break
    return living


def between(living: frozenset[str]) -> list[tuple[bytes, bytes]]:
    """The ranges of all keys but theirs. Pure."""
    starts = sorted(map(keys_of, living))
    edges = [KEYS, *itertools.chain.from_iterable((start, _end(start)) for start in starts), KEYS_END]
    return [*zip(edges[::2], edges[1::2], strict=True)]


def _end(start: bytes) -> bytes:
    return start[:-1] + bytes([start[-1] + 1])

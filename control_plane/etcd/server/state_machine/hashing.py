"""Hashes of what a member's store holds, by which members are compared."""

from collections.abc import Callable

from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.proto.etcd.rpc_pb2 import HashKVResponse, ResponseHeader
from rayplane.storage.mvcc import MvccError, Store


class Hasher:
    """Hashes of one store. `header` makes a response header with the given revision."""

    def __init__(self, store: Store, header: Callable[[int], ResponseHeader]) -> None:
        self._store = store
        self._header = header

    async def hash_kv(self, revision: int) -> HashKVResponse:
        """The hash of all history up to a revision (0: now). Raises EtcdError."""
        try:
            value, compacted, hashed = await self._store.hash_kv_gently(revision)
        except MvccError as e:
            raise kv.from_store(e) from None
        header = self._header(self._store.revision)
        return HashKVResponse(header=header, hash=value, compact_revision=compacted, hash_revision=hashed)

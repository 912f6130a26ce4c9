"""Deleters of objects, beside etcd's history: each API server writes those of the last seconds to a key of its own.

An object that is gone cannot tell; the past of these keys does, as long as history is kept.
"""

from contextlib import aclosing
from typing import Final

import orjson

from rayplane.control_plane.api.machinery.changes import Deleters
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.storage.key_ranges import prefix_end

PREFIX: Final = b"/rayplane/deletions/"
NOTED_MAX: Final = 1000
"""Deletions that a server notes between two writes; of more nobody is told."""
NAME_MAX: Final = 128
"""Characters of a name: whatever they are, all of a write are below what etcd takes in a request."""


class Deletions:
    """The deletions that one server has seen and not written yet."""

    def __init__(self, server: str) -> None:
        self._key = PREFIX + server.encode()
        self._noted: dict[str, tuple[str, str]] = {}

    def note(self, uid: str, user: str, at: str) -> None:
        """The user has deleted an object just now, or had it marked."""
        if len(self._noted) < NOTED_MAX:
            self._noted[uid] = user[:NAME_MAX], at

    async def write(self, etcd: EtcdClient) -> None:
        """Write what was noted since the last time, where there is any. Raises RpcError; the next time tries again."""
        if not self._noted:
            return
        noted, self._noted = self._noted, {}
        try:
            await etcd.put(self._key, orjson.dumps(noted))
        except RpcError:
            self._noted = dict([*noted.items(), *self._noted.items()][:NOTED_MAX])
            raise


async def deleters(etcd: EtcdClient, revision: int) -> Deleters:
    """Who deleted what after a revision, as far as it is written: some seconds are not yet. Raises RpcError."""
    end = prefix_end(PREFIX)
    last = max((kv.mod_revision for kv in (await etcd.range(PREFIX, end)).kvs), default=0)
    found: dict[str, tuple[str, str]] = {}
    if last <= revision:
        return found
    async with aclosing(etcd.watch(PREFIX, end, start_revision=revision + 1)) as answers:
        async for answer in answers:
            for event in answer.events:
                for uid, deleter in _read(event.kv).items():
                    found.setdefault(uid, deleter)
                if event.kv.mod_revision >= last:
                    return found
            if answer.compact_revision:
                break
    return found


def _read(kv: KeyValue) -> dict[str, tuple[str, str]]:
    """Nothing where somebody else wrote there."""
    try:
        return {uid: (str(user), str(at)) for uid, (user, at) in orjson.loads(kv.value).items()}
    except (ValueError, TypeError, AttributeError):
        return {}

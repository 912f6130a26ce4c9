"""A user of etcd that writes keys of its own without pause, reads them and watches them; every answer is judged."""

import asyncio
from collections.abc import Callable, Sequence

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.invariants.members import KeyLedger
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd.kv_pb2 import Event

RETRY_S = 0.2
READ_EVERY = 7  # writes between two linearizable reads of everything
KEPT_WRITES = 200  # older ones are deleted: a long run costs no more for each of its hours

Judge = Callable[[list[str]], None]
Note = Callable[..., None]


class EtcdUser:
    """A user of all keys under `prefix`. `judge` is told what was wrong, `note` what happened.

    `members` tells where to reach etcd now: all members that it knew may have been replaced.
    """

    def __init__(
        self, etcd: EtcdClient, prefix: bytes, judge: Judge, note: Note, members: Callable[[], Sequence[str]]
    ) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._end = prefix[:-1] + bytes([prefix[-1] + 1])
        self._judge = judge
        self._note = note
        self._members = members
        self._ledger = KeyLedger()
        self._number = 0

    @property
    def acknowledged(self) -> int:
        return self._ledger.acknowledged

    async def write_for_ever(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            await self._write()
            if self._number % READ_EVERY == 0:
                await self.verify()
                await self._delete(self._ledger.retire(KEPT_WRITES))
            await asyncio.sleep(every_s)

    async def _write(self) -> None:
        self._number += 1
        ledger = self._ledger
        key, value = self._prefix + f"{self._number:08}".encode(), f"value {self._number}".encode()
        ledger.begin(key, value)
        floor = ledger.revision
        self._etcd.endpoints.replace(self._members())
        try:
            answer = await self._etcd.put(key, value)
        except RpcError as e:
            # Whether it was done is unknown: it may be there or not.
            self._note("unsure", key.decode(), e.code.name)
            return
        self._note("write", key.decode(), answer.header.revision)
        self._judge(ledger.wrote(key, answer.header.revision, floor))
        await self._read_back(key)

    async def _read_back(self, key: bytes) -> None:
        floor = self._ledger.revision
        try:
            answer = await self._etcd.range(key)
        except RpcError as e:
            self._note("unread", key.decode(), e.code.name)
            return
        self._judge(self._ledger.read(key, [kv.value for kv in answer.kvs], answer.header.revision, floor))

    async def verify(self) -> bool:
        """Read everything that was written; False when nobody answered."""
        wanted, floor = self._ledger.wanted(), self._ledger.revision
        try:
            answer = await self._etcd.range(self._prefix, self._end)
        except RpcError as e:
            self._note("unread", "all", e.code.name)
            return False
        there = {kv.key: (kv.value, kv.mod_revision) for kv in answer.kvs}
        self._judge(self._ledger.listed(wanted, there, answer.header.revision, floor))
        return True

    def untold(self) -> list[str]:
        """What `verify_watched` would find now; a watch that is late may tell it yet."""
        return self._ledger.missed()

    def verify_watched(self) -> None:
        """In the end every acknowledged write was told of, under its revision."""
        self._judge(self._ledger.missed())

    async def _delete(self, retired: list[bytes]) -> None:
        for key in retired:
            try:
                await self._etcd.delete(key)
            except RpcError as e:
                # It may stay: nobody asks for it any more.
                self._note("unsure", key.decode(), e.code.name)

    async def watch_for_ever(self) -> None:
        """Until cancelled."""
        ledger = self._ledger
        while True:
            try:
                async for answer in self._etcd.watch(self._prefix, self._end, start_revision=ledger.watched + 1):
                    if answer.compact_revision:
                        # History is gone: what happened meanwhile is only to be read.
                        ledger.watched = answer.compact_revision - 1
                    for event in answer.events:
                        if event.type != Event.DELETE:
                            self._note("told", event.kv.key.decode(), event.kv.mod_revision)
                            self._judge(ledger.told(event.kv.key, event.kv.mod_revision))
            except RpcError as e:
                self._note("rewatch", e.code.name)
            await asyncio.sleep(RETRY_S)

    async def clean_up(self) -> None:
        """Delete all keys, also those of an earlier user; nothing older is watched. Raises RpcError."""
        answer = await self._etcd.delete(self._prefix, self._end)
        self._ledger.start_after(answer.header.revision)

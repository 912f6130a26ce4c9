"""Writes and direct reads of objects in etcd.

A create is a transaction on "the key does not exist", an update and a delete on "the key is still at the revision I
read"; both may carry guards and effects on other keys (allocations), so that these change together or not at all.
A write whose answer was lost is tried again until it is certain what became of it (see `outcomes`).
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson

from rayplane.control_plane import etcd_errors
from rayplane.control_plane.api.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    InternalError,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Timeout,
    TooManyRequests,
)
from rayplane.control_plane.api.leadership import term_of
from rayplane.control_plane.api.machinery.resources import LEASES, ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.storage import leadership
from rayplane.control_plane.apiserver.storage.convoys import ConvoyedTxns
from rayplane.control_plane.apiserver.storage.encryption import Encryption
from rayplane.control_plane.apiserver.storage.entries import Entry, encode, read
from rayplane.control_plane.apiserver.storage.grouping import GroupedTxns
from rayplane.control_plane.apiserver.storage.hearing import Hearing
from rayplane.control_plane.apiserver.storage.outcomes import Fence, Tries, shutting_down, unknown
from rayplane.control_plane.apiserver.tracing.layers import layered
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.client.deletions import Deletions
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import kv_pb2, rpc_pb2
from rayplane.storage.key_ranges import prefix_end

CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)

_MOD, _EQUAL = rpc_pb2.Compare.MOD, rpc_pb2.Compare.EQUAL

# Written often, many at once, and nobody minds to miss one.
_GROUPED = frozenset({LEASES, "events"})

log = logging.getLogger(__name__)

# Versions of an object that are looked at to find out whether a write of ours is among them.
_LOOK_BACK = 16


class GuardFailed(Exception):
    """Another key than the object's own was not as expected: choose anew and try again."""


class DryRun(Exception):
    """A signal that leaves an update with what would have been stored."""

    def __init__(self, o: Object) -> None:
        super().__init__("dry run")
        self.object = o


@dataclass(slots=True)
class Write:
    """A write of an object: store `object`, or remove the key (`delete`), or leave it (`keep`)."""

    object: Object
    delete: bool = False
    keep: bool = False
    lease: int = 0
    guards: Sequence[rpc_pb2.Compare] = field(default_factory=tuple)
    effects: Sequence[rpc_pb2.RequestOp] = field(default_factory=tuple)
    spares_owners: bool = False
    """Whether it goes without managedFields where it is too large with them: not when somebody applies."""

    def lighten(self) -> bool:
        """Leave out what can be done without, in place; False where there is nothing of that."""
        return self.spares_owners and self.object["metadata"].pop("managedFields", None) is not None


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries in key order, the revision they were read at, and how many keys follow after `last_key`."""

    entries: list[Entry]
    revision: int
    left: int
    last_key: str


Change = Callable[[Entry | None], Awaitable[Write]]


def absent(key: str) -> rpc_pb2.Compare:
    """The key does not exist."""
    return at_revision(key, 0)


def at_revision(key: str, revision: int) -> rpc_pb2.Compare:
    """The key was last written at `revision`."""
    return rpc_pb2.Compare(key=key.encode(), target=_MOD, result=_EQUAL, mod_revision=revision)


def not_since(key: str, revision: int) -> rpc_pb2.Compare:
    """The key was not written after `revision`."""
    return rpc_pb2.Compare(key=key.encode(), target=_MOD, result=rpc_pb2.Compare.LESS, mod_revision=revision + 1)


def put_op(key: str, value: bytes, lease: int = 0) -> rpc_pb2.RequestOp:
    op = rpc_pb2.RequestOp()
    put = op.request_put  # filled in its place: a message that is given is copied
    put.key, put.value, put.lease = key.encode(), value, lease
    return op


def delete_op(key: str) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key.encode()))


def _get_op(key: str) -> rpc_pb2.RequestOp:
    op = rpc_pb2.RequestOp()
    op.request_range.key = key.encode()
    return op


def api_error(error: RpcError) -> ApiError:
    """What the API answers when etcd refuses or cannot be reached."""
    code, text = error.code, error.message
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceUnavailable(f"etcd cannot be reached or has no leader: {text}", retry_after=1)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"etcd did not answer in time: {text}", retry_after=1)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Expired(CONTINUE_TOO_OLD)
    said = etcd_errors.recognised(error)
    if isinstance(said, etcd_errors.TooManyRequests):
        return TooManyRequests(text, retry_after=1)
    return RequestEntityTooLarge(text) if isinstance(said, etcd_errors.RequestTooLarge) else InternalError(text)


def name_taken(info: ResourceInfo, meta: dict[str, Any], found: Entry) -> AlreadyExists:
    """What is said to who creates an object with this metadata where there is one already."""
    error = AlreadyExists.of(info.plural, meta["name"], group=info.group)
    text, retry_after = error.message, None
    if meta.get("generateName"):
        text += ", the server was not able to generate a unique name for the object"
        retry_after = 1
    if found.readable and found.object["metadata"].get("deletionTimestamp"):
        text = f"object is being deleted: {text}"
    return AlreadyExists(text, details=error.details, retry_after=retry_after)


def _claim(info: ResourceInfo) -> leadership.Claim | None:
    """The leadership that this call claims for what it writes: not for Leases, by which it is won, nor for events."""
    return None if info.name in _GROUPED else leadership.CLAIMED.get()


def _term_effects(info: ResourceInfo, current: Entry, write: Write) -> list[rpc_pb2.RequestOp]:
    """What becomes of the term beside a Lease."""
    new = write.object
    if not leadership.has_term(info, new["metadata"].get("namespace") or ""):
        return []
    if write.delete:
        return [leadership.end(new)]
    held = term_of(current.object) if current.readable else None
    return [] if held == term_of(new) else [leadership.begin(new)]


def _is_same(a: bytes, b: bytes) -> bool:
    """Whether two stored objects are one, whatever the order of their fields."""
    return a == b or (len(a) == len(b) and bool(orjson.loads(a) == orjson.loads(b)))


class Storage:
    """Objects in etcd. All `info` arguments are the stored form of the resource."""

    def __init__(
        self, etcd: EtcdClient, hearing: Hearing, *, server: str, update_attempts: int, encryption: Encryption
    ) -> None:
        """`server` names this one among those that write to the same etcd."""
        self.encryption = encryption
        self.hearing = hearing
        self.deletions = Deletions(server)
        """Who has deleted what of late, which is still to be written down."""
        self._etcd = etcd
        self._fence = Fence(etcd, server)
        self._stopped = False
        self._convoyed = ConvoyedTxns(etcd)
        self._grouped = GroupedTxns(self._convoyed)
        self._update_attempts = update_attempts

    async def stop(self) -> None:
        """End what is under way."""
        self._stopped = True
        self.hearing.stop()
        await self._grouped.stop()
        await self._fence.stop()

    async def create(self, info: ResourceInfo, write: Write) -> Entry:
        """Store a new object. AlreadyExists; Conflict for who does not lead; GuardFailed when a guard did not hold."""
        effects = write.effects
        if leadership.has_term(info, write.object["metadata"].get("namespace") or ""):
            effects = [*effects, leadership.begin(write.object)]
        try:
            return await self._create(info, write, effects)
        except RequestEntityTooLarge:
            if not write.lighten():
                raise
        return await self._create(info, write, effects)

    @spanned("etcd create")
    @layered("etcd")
    async def _create(self, info: ResourceInfo, write: Write, effects: Sequence[rpc_pb2.RequestOp]) -> Entry:
        meta = write.object["metadata"]
        key = info.key(meta.get("namespace") or "", meta["name"])
        value = encode(write.object)
        operations = [put_op(key, self.to_storage(info, key, value), write.lease), *effects]
        grouped = info.name in _GROUPED and not (write.guards or effects)
        tries, claim = Tries(), _claim(info)
        claimed, look = ((), ()) if claim is None else ((claim.holds(),), (claim.look,))
        while True:
            past = self._fence.revision
            # Leases and events may come back as they please.
            compare = [absent(key), *write.guards, *claimed, *(() if grouped else (self._fence.stands(),))]
            txn = self._grouped.txn if grouped else self._convoyed.txn
            try:
                self.hearing.check()
                with self.hearing.waiting():
                    response = await txn(compare, operations, [_get_op(key), self._fence.look, *look])
            except RpcError as e:
                await self._failed(tries, e)
                if tries.uncertain and not grouped:
                    await self._settle(tries, past)
                continue
            if response.succeeded:
                return Entry(info, key, value, response.header.revision)
            found = self._entry(info, key, response.responses[0].response_range.kvs)
            if found is not None and found.readable and found.uid == meta.get("uid"):
                return found
            if claim is not None:
                claim.check(response.responses[2].response_range.kvs)
            if found is not None:
                raise name_taken(info, meta, found)
            self._fence.seen(response.responses[1].response_range.kvs, response.header.revision)
            if self._fence.revision == past:
                raise GuardFailed(key)
            tries.go_on()

    async def _failed(self, tries: Tries, error: RpcError) -> None:
        if self._stopped:
            await tries.failed(error, shutting_down(), last=True)
        await tries.failed(error, api_error(error), last=self.hearing.deaf)

    async def _settle(self, tries: Tries, past: int) -> None:
        """See to it that no create that was on the fence at `past` can be applied any more."""
        while True:
            try:
                await self._fence.move(past)
                return
            except RpcError as e:
                await self._failed(tries, e)
            except ServiceUnavailable as e:
                raise unknown(e) from e

    @spanned("etcd get")
    @layered("etcd")
    async def get(self, info: ResourceInfo, namespace: str, name: str) -> Entry | None:
        """The object as it is now (linearizable)."""
        key = info.key(namespace, name)
        try:
            async with self.hearing.listening():
                response = await self._etcd.range(key.encode())
        except RpcError as e:
            raise api_error(e) from e
        return self._entry(info, key, response.kvs)

    async def update(
        self,
        info: ResourceInfo,
        namespace: str,
        name: str,
        change: Change,
        *,
        known: Entry | None = None,
    ) -> tuple[Entry, Entry | None]:
        """Change an object: `change` gets what is stored and says what to write; run again after a race.

        `known` may be stale: an error of `change` or a race on it leads to a look at what is really stored.
        Returns (new, old); for a deletion the new entry is the last state at the revision of the deletion.
        NotFound if there is none and `change` does not create one.
        """
        key = info.key(namespace, name)
        current, certain = known, False
        if current is None:
            current, certain = await self.get(info, namespace, name), True
        for _ in range(self._update_attempts):
            if current is None:
                raise NotFound.of(info.plural, name, group=info.group)
            try:
                write = await change(current)
            except ApiError:
                if certain:
                    raise
                latest = await self.get(info, namespace, name)
                if latest is not None and latest.revision == current.revision:
                    raise
                current, certain = latest, True
                continue
            if write.keep and certain:
                return current, current
            try:
                done, current = await self._attempt(info, key, current, write)
            except GuardFailed:
                current = await self.get(info, namespace, name)
                done = None
            if done is not None:
                return done, current
            certain = True
        raise Conflict.of(info.plural, name, group=info.group)

    async def _attempt(
        self, info: ResourceInfo, key: str, current: Entry, write: Write
    ) -> tuple[Entry | None, Entry | None]:
        """See `_transact`; without what can be done without, where it is too large."""
        try:
            return await self._transact(info, key, current, write)
        except RequestEntityTooLarge:
            if not write.lighten():
                raise
        return await self._transact(info, key, current, write)

    async def _transact(
        self, info: ResourceInfo, key: str, current: Entry, write: Write
    ) -> tuple[Entry | None, Entry | None]:
        """One transaction. (new, old) when it went through, else (None, what is stored now); Conflict for who does not
        lead."""
        value = b"" if write.delete else encode(write.object)
        if write.keep or (not (write.delete or current.stale or write.effects) and _is_same(value, current.value)):
            # Nothing changes: no new revision, but make sure that this is what is stored.
            response, _ = await self._txn([at_revision(key, current.revision)], [], [_get_op(key)])
            if response.succeeded:
                return current, current
            return None, self._entry(info, key, response.responses[0].response_range.kvs)
        if write.delete:
            operation = delete_op(key)
        else:
            operation = put_op(key, self.to_storage(info, key, value), write.lease)
        effects, claim = [*write.effects, *_term_effects(info, current, write)], _claim(info)
        claimed, look = ((), ()) if claim is None else ((claim.holds(),), (claim.look,))
        response, uncertain = await self._txn(
            [at_revision(key, current.revision), *write.guards, *claimed],
            [operation, *effects],
            [_get_op(key), *look],
            grouped=info.name in _GROUPED and not (write.delete or write.guards or effects),
        )
        if response.succeeded:
            content = encode(write.object) if write.delete else value
            return Entry(info, key, content, response.header.revision), current
        found = self._entry(info, key, response.responses[0].response_range.kvs)
        if (
            uncertain
            and write.delete
            and (found is None or (found.readable and current.readable and found.uid != current.uid))
        ):
            # What was to go is gone, by an earlier try or by somebody else; a namesake is another matter.
            return Entry(info, key, encode(write.object), response.header.revision), current
        if uncertain and not write.delete:
            if found is None:
                # Deleted since: nobody can look whether it was changed before.
                raise unknown()
            done = await self._look_back(info, key, value, since=current.revision, latest=found)
            if done is not None:
                return done, current
        if claim is not None:
            claim.check(response.responses[1].response_range.kvs)
        if found is not None and found.revision == current.revision:
            raise GuardFailed(key)
        return None, found

    async def _look_back(
        self, info: ResourceInfo, key: str, value: bytes, *, since: int, latest: Entry
    ) -> Entry | None:
        """The version after `since` that has these bytes: an earlier try that went through. Timeout when unknown."""
        entry: Entry | None = latest
        for _ in range(_LOOK_BACK):
            if entry is None or entry.revision <= since:
                return None
            if entry.readable and entry.value == value:
                return entry
            try:
                response = await self._etcd.range(key.encode(), revision=entry.revision - 1)
            except RpcError as e:
                raise unknown(api_error(e)) from e
            entry = self._entry(info, key, response.kvs)
        raise unknown()

    @spanned("etcd list")
    @layered("etcd")
    async def page(self, info: ResourceInfo, prefix: str, *, start: str, limit: int, revision: int) -> Page:
        """Up to `limit` entries from key `start` on at `revision` (0: now). Expired when compacted."""
        try:
            first = start.encode(errors="surrogateescape")
            async with self.hearing.listening():
                response = await self._etcd.range(first, prefix_end(prefix.encode()), limit=limit, revision=revision)
        except RpcError as e:
            raise api_error(e) from e
        transformer = self.encryption.of(info)
        keys = [kv.key.decode(errors="surrogateescape") for kv in response.kvs]
        entries = [
            read(info, key, kv.value, kv.mod_revision, transformer) for key, kv in zip(keys, response.kvs, strict=True)
        ]
        last = keys[-1] if keys else ""
        return Page(entries, revision or response.header.revision, response.count - len(response.kvs), last)

    def to_storage(self, info: ResourceInfo, key: str, value: bytes) -> bytes:
        """What to put into etcd for an object's bytes."""
        transformer = self.encryption.of(info)
        return value if transformer is None else transformer.to_storage(key, value)

    def _entry(self, info: ResourceInfo, key: str, kvs: Sequence[kv_pb2.KeyValue]) -> Entry | None:
        for kv in kvs:
            return read(info, key, kv.value, kv.mod_revision, self.encryption.of(info))
        return None

    @spanned("etcd transaction")
    @layered("etcd")
    async def _txn(
        self,
        compare: Sequence[rpc_pb2.Compare],
        success: Sequence[rpc_pb2.RequestOp],
        failure: Sequence[rpc_pb2.RequestOp],
        *,
        grouped: bool = False,
    ) -> tuple[rpc_pb2.TxnResponse, bool]:
        """A transaction that is applied once at most, as its comparison cannot hold again after it.

        Tried again while etcd gives no answer: (answer, an earlier try may have been applied).
        """
        txn = self._grouped.txn if grouped else self._convoyed.txn
        tries = Tries(writes=bool(success))
        while True:
            try:
                self.hearing.check()
                with self.hearing.waiting():
                    return await txn(compare, success, failure), tries.uncertain
            except RpcError as e:
                await self._failed(tries, e)

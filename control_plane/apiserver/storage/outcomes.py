"""Outcomes of writes whose answer was lost: each is tried again until it is certain what became of it.

An update is on "the key is still at the revision I read". Whatever a later look shows, it can be applied once at most,
and never after the key was seen at another revision. A create is on "the key does not exist", which holds again when
the object was deleted: one that was held up on its way could bring it back. So a create is also on "the fence of this
server stands where it stood", and whoever must know what became of one moves the fence first.

Clients are told 503 only when it is certain that nothing was done: client-go repeats such a request by itself. What
stays unknown is 504 without Retry-After, which it does not repeat.
"""

import asyncio
from collections.abc import Sequence

from rayplane.control_plane.api.errors import ApiError, ServiceUnavailable, Timeout
from rayplane.control_plane.apiserver.storage.hearing import SILENT
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client.endpoints import never_sent
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.etcd_errors import EtcdError, recognised
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import kv_pb2, rpc_pb2

# How long a write is tried again while etcd has no leader, and the pauses in between.
SPAN_S = 15.0
_BACKOFF = Backoff(0.05, 0.5)


def surely_not_done(error: RpcError) -> bool:
    """Whether a failed transaction cannot have been applied, now or later."""
    if never_sent(error):
        return True
    # A member's own word. Connections and channels that end say nothing of what became of a request.
    said = recognised(error)
    return isinstance(said, EtcdError) and not said.taken


class Tries:
    """The tries of one transaction. `uncertain`: one of them may have been applied."""

    def __init__(self, *, writes: bool = True) -> None:
        self.uncertain = False
        self._writes = writes
        self._deadline = asyncio.get_running_loop().time() + SPAN_S
        self._pause_s = _BACKOFF.first_s

    async def failed(self, error: RpcError, give_up: ApiError, *, last: bool = False) -> None:
        """Wait until the next try. Raises `give_up` when there is none and nothing was done, else Timeout."""
        self.uncertain = self.uncertain or (self._writes and not surely_not_done(error))
        if last and self.uncertain:
            raise unknown(give_up)
        # A refusal is final, unless an earlier try may have gone through: then it has to be found out.
        if last or (error.code not in SILENT and not self.uncertain):
            raise give_up
        self.go_on(give_up)
        await asyncio.sleep(self._pause_s)
        self._pause_s = _BACKOFF.after_s(self._pause_s)

    def go_on(self, give_up: ApiError | None = None) -> None:
        """Raises what `failed` raises when the time is up."""
        if asyncio.get_running_loop().time() + self._pause_s >= self._deadline:
            raise unknown(give_up) if self.uncertain or give_up is None else give_up


def unknown(cause: ApiError | None = None) -> Timeout:
    """What a client is told that must look for itself; without Retry-After, lest it tries blindly."""
    why = f": {cause.message}" if cause is not None else ""
    return Timeout(f"etcd did not say in time whether the write was done; look before trying again{why}", details={})


def shutting_down() -> ServiceUnavailable:
    """For whoever waits for work of a server that stops."""
    return ServiceUnavailable("the server is shutting down", retry_after=1)


class Fence:
    """A key of this server's own. Creates hold only while it stands at `revision`."""

    def __init__(self, etcd: EtcdClient, name: str) -> None:
        self._etcd = etcd
        self._key = f"/rayplane/fences/{name}".encode()
        self.look = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=self._key))
        """Shows where it stands."""
        self.revision = 0
        """Of its last write as far as known; a server of an earlier life may have moved it."""
        self._known_at = 0
        self._moves: SingleFlight[None] = SingleFlight(shutting_down)

    def stands(self) -> rpc_pb2.Compare:
        equal, mod = rpc_pb2.Compare.EQUAL, rpc_pb2.Compare.MOD
        return rpc_pb2.Compare(key=self._key, target=mod, result=equal, mod_revision=self.revision)

    def seen(self, kvs: Sequence[kv_pb2.KeyValue], at: int) -> None:
        """What `look` showed at a revision."""
        if at >= self._known_at:
            self._known_at, self.revision = at, kvs[0].mod_revision if kvs else 0

    async def move(self, past: int) -> None:
        """When it returns, no create that was on `past` can be applied any more. Raises RpcError, ApiError."""
        while self.revision == past:
            await self._moves.run("", self._move)

    async def _move(self) -> None:
        at = (await self._etcd.put(self._key, b"")).header.revision
        if at >= self._known_at:
            self._known_at = self.revision = at

    async def stop(self) -> None:
        await self._moves.stop()

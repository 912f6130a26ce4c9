"""Messages between members: one ordered stream to each peer, state transfer, forwarded calls.

A stream carries batches: everything queued for the peer at the moment goes in one. Queues are bounded; when one is
full, or its connection is lost, messages are dropped and raft is told that the peer is unreachable, which it is built
for. One task per peer holds the connection and makes it anew.
"""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import PEER, message_to_wire
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

log = logging.getLogger(__name__)

#: Encoded entries and proposals in one batch, about; the connection's limit is far above.
BATCH_BYTES_MAX = 4 << 20
PROPOSALS_QUEUED_MAX = 5_000
#: Waits between attempts to connect double from the first to the second. The first is short: whether the port of a
#: lost leader refuses connections tells a dead process from a bad line, and starts an election.
RECONNECTS = Backoff(0.01, 0.1)
SNAPSHOT_TIMEOUT_S = 600.0
#: `RpcError.details` that tells a member it was removed from the cluster.
REMOVED = b"removed"


class Observer(Protocol):
    """Listener of the transport."""

    def unreachable(self, peer: int) -> None:
        """Messages to a peer were lost."""

    def gone(self, peer: int) -> None:
        """Nothing listens any more where a peer did."""

    def told_removed(self) -> None:
        """A peer says that this member is none any more."""


class _Connection:
    """One attempt of a stream; closed for good when it ends."""

    def __init__(self) -> None:
        self.open = True
        self.wake = asyncio.Event()

    def close(self) -> None:
        self.open = False
        self.wake.set()


class Traffic:
    """Counts per peer: bytes of entries and proposals, and connections that broke."""

    def __init__(self) -> None:
        self.sent_bytes: Counter[int] = Counter()
        self.received_bytes: Counter[int] = Counter()
        self.send_failures: Counter[int] = Counter()


class _Link:
    """The link to one peer, and what is on its way."""

    def __init__(self, transport: "PeerTransport", peer: int, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self._attempt = 0
        self._began = 0.0
        self._refused = 0  # attempts in a row
        self._transport = transport
        self._peer = peer
        self._messages: deque[raft.Message] = deque()
        self._proposals: deque[bytes] = deque()
        self._not_taken: list[int] = []
        self._connection: _Connection | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer-{peer:x}")

    @property
    def address(self) -> str:
        """The one in use; after a failure it is the next one's turn."""
        return self.addresses[self._attempt % len(self.addresses)]

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def active_since(self) -> float | None:
        """The loop's time when the present stream was opened; None while there is none."""
        return self._began if self._connection is not None else None

    def send(self, message: raft.Message) -> bool:
        """False when the message is dropped: the queue is full or there is no connection."""
        if self._connection is None or len(self._messages) >= self._transport.queue_max:
            return False
        self._messages.append(message)
        self._connection.wake.set()
        return True

    def propose(self, data: bytes) -> bool:
        if self._connection is None or len(self._proposals) >= PROPOSALS_QUEUED_MAX:
            return False
        self._proposals.append(data)
        self._connection.wake.set()
        return True

    def refuse(self, request_ids: Sequence[int]) -> None:
        """The peer's proposals that were not taken; what is not told is waited for until its time is out."""
        if self._connection is not None and len(self._not_taken) < PROPOSALS_QUEUED_MAX:
            self._not_taken.extend(request_ids)
            self._connection.wake.set()

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        pauses = Pauses(RECONNECTS)
        while True:
            connection, began = _Connection(), now()
            self._connection, self._began = connection, began
            try:
                stub = self._transport.stub(self.address)
                async with contextlib.aclosing(stub.Send(self._batches(connection))) as stream:
                    async for _ in stream:
                        break
            except RpcError as e:
                log.debug("stream to %x at %s ended: %s", self._peer, self.address, e)
                self._refused = self._refused + 1 if e.refused else 0
                if e.details == REMOVED:
                    self._transport.observer.told_removed()
            except Exception:
                # Without this task the peer would never hear from this member again.
                log.exception("the stream to %x at %s broke", self._peer, self.address)
            finally:
                connection.close()
                self._connection = None
                self._messages.clear()
                self._proposals.clear()
                self._not_taken.clear()
            self._attempt += 1
            self._transport.traffic.send_failures[self._peer] += 1
            self._transport.observer.unreachable(self._peer)
            if self._refused >= len(self.addresses):
                self._transport.observer.gone(self._peer)
            if now() - began > RECONNECTS.max_s:
                pauses.reset()
            await asyncio.sleep(pauses.next_s())

    async def _batches(self, connection: _Connection) -> AsyncIterator[wire.Batch]:
        while True:
            while connection.open and not (self._messages or self._proposals or self._not_taken):
                connection.wake.clear()
                await connection.wake.wait()
            if not connection.open:
                return
            yield self._take()

    def _take(self) -> wire.Batch:
        transport = self._transport
        batch = wire.Batch(cluster_id=transport.cluster_id, to=self._peer, **{"from": transport.member_id})  # type: ignore[arg-type]
        size = 0
        while self._messages and size < BATCH_BYTES_MAX:
            message = self._messages.popleft()
            size += sum([len(e.data) for e in message.entries])
            message_to_wire(message, batch.messages.add())
        while self._proposals and size < BATCH_BYTES_MAX:
            data = self._proposals.popleft()
            size += len(data)
            batch.proposals.append(data)
        batch.refused.extend(self._not_taken)
        self._not_taken.clear()
        transport.traffic.sent_bytes[self._peer] += size
        return batch


class PeerTransport:
    """All links of one member. `observer` must be there before the first link is (`set_peers`)."""

    observer: Observer

    def __init__(self, network: Network, *, member_id: int, cluster_id: int, queue_max: int) -> None:
        self.member_id = member_id
        self.cluster_id = cluster_id
        self.queue_max = queue_max
        self._network = network
        self.traffic = Traffic()
        self._links: dict[int, _Link] = {}
        self._retired: dict[asyncio.Task[None], None] = {}

    def stub(self, address: str) -> Stub:
        return Stub(self._network.channel(address), PEER)

    @property
    def peers(self) -> list[int]:
        return sorted(self._links)

    def received(self, peer: int, messages: Iterable[raft.Message], proposals: Iterable[bytes]) -> None:
        """Count what came."""
        size = sum([len(e.data) for m in messages for e in m.entries])
        self.traffic.received_bytes[peer] += size + sum(map(len, proposals))

    def is_connected(self, peer: int) -> bool:
        """Whether messages to a peer can be sent now."""
        link = self._links.get(peer)
        return link is not None and link.connected

    def active_since(self, peer: int) -> float | None:
        """Since when, by the loop's time, there is a stream to a peer; None if there is none."""
        link = self._links.get(peer)
        return link.active_since if link is not None else None

    def stub_of(self, peer: int) -> Stub | None:
        """Calls to a peer; None when its address is not known."""
        link = self._links.get(peer)
        return self.stub(link.address) if link is not None else None

    def set_peers(self, addresses: dict[int, tuple[str, ...]]) -> None:
        """Keep links to exactly these; each has one or more addresses, tried in turn."""
        for peer in list(self._links):
            if addresses.get(peer) != self._links[peer].addresses:
                task = asyncio.get_running_loop().create_task(self._links.pop(peer).stop())
                self._retired[task] = None
                task.add_done_callback(lambda done: self._retired.pop(done, None))
        for peer, tried in sorted(addresses.items()):
            if peer not in self._links:
                self._links[peer] = _Link(self, peer, tried)

    def send(self, messages: Iterable[raft.Message]) -> None:
        for message in messages:
            link = self._links.get(message.to)
            if (link is None or not link.send(message)) and message.entries:
                self.observer.unreachable(message.to)

    def propose(self, peer: int, data: bytes) -> bool:
        """Hand a proposal to the leader; False when it cannot be reached now."""
        link = self._links.get(peer)
        return link is not None and link.propose(data)

    def refuse(self, peer: int, request_ids: Sequence[int]) -> None:
        """Tell a peer which of its proposals were not taken."""
        link = self._links.get(peer)
        if link is not None:
            link.refuse(request_ids)

    async def send_snapshot(self, message: raft.Message, chunks: Iterator[bytes]) -> None:
        """Ship a SNAP message and the state it speaks of. Raises RpcError."""
        stub = self.stub_of(message.to)
        if stub is None:
            raise errors.MemberNotFound
        requests = _snapshot_chunks(self.cluster_id, message, chunks)
        async with contextlib.aclosing(stub.Snapshot(requests, timeout=SNAPSHOT_TIMEOUT_S)) as stream:
            async for _ in stream:
                break

    async def stop(self) -> None:
        for link in self._links.values():
            await link.stop()
        self._links.clear()
        await asyncio.gather(*self._retired, return_exceptions=True)


async def _snapshot_chunks(
    cluster_id: int, message: raft.Message, chunks: Iterator[bytes]
) -> AsyncIterator[wire.SnapshotChunk]:
    first = wire.SnapshotChunk(cluster_id=cluster_id)
    message_to_wire(message, first.message)
    yield first
    for chunk in chunks:
        yield wire.SnapshotChunk(data=chunk)

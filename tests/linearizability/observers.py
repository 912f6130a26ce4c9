"""Clients that write down what they are told: watches and leases."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from rayplane.control_plane.etcd_errors import LeaseExists, LeaseNotFound, recognised
from rayplane.control_plane.invariants.lease_model import Attach, Grant, Look, Renew, Revoke
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.linearizability.history import Change, Recorder, change_of
from tests.linearizability.leasing import LeaseStory, Renewal
from tests.linearizability.watching import Batch, Progress, Segment, Wanted

SERVICES = pb.DESCRIPTOR.services_by_name


class WatchClient:
    """A client whose watches on one stream never end: it connects to any endpoint, for a while, and resumes at the
    next.
    """

    def __init__(
        self,
        network: Network,
        endpoints: Callable[[], Sequence[str]],
        rng: random.Random,
        *wanted: Wanted,
        slow_s: float = 0.0,
        restless: bool = True,
    ) -> None:
        """`slow_s`: it may rest so long between two answers. `restless`: it changes endpoints of itself."""
        self.tracks = [[Segment(each, 1)] for each in wanted]
        self._network, self._endpoints, self._rng = network, endpoints, rng
        self._slow_s, self._restless = slow_s, restless

    @property
    def position(self) -> int:
        """The next revision that not all of its watches know of yet."""
        return min(track[-1].resume_at for track in self.tracks)

    @property
    def segments(self) -> list[Segment]:
        return [segment for track in self.tracks for segment in track]

    def hurry(self) -> None:
        """Neither rest nor change endpoints any more."""
        self._slow_s, self._restless = 0.0, False

    def complete(self) -> None:
        """It had time to come to the end of all changes."""
        for track in self.tracks:
            track[-1].complete = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            stay = self._rng.choice([0.5, 3.0, 20.0]) if self._restless else None
            with contextlib.suppress(RpcError, TimeoutError):
                async with asyncio.timeout(stay):
                    await self._connect(self._rng.choice(self._endpoints()))
            await asyncio.sleep(self._rng.uniform(0.0, 0.3))

    def _create(self, number: int) -> pb.WatchRequest:
        segment = self.tracks[number][-1]
        wanted = segment.wanted
        filters = [pb.WatchCreateRequest.NOPUT] * wanted.no_put + [pb.WatchCreateRequest.NODELETE] * wanted.no_delete
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=wanted.key,
                range_end=wanted.end,
                start_revision=segment.resume_at,
                prev_kv=wanted.prev_kv,
                filters=filters,
                progress_notify=True,
                fragment=True,
                watch_id=number + 1,
            )
        )

    async def _requests(self) -> AsyncIterator[pb.WatchRequest]:
        for number in range(len(self.tracks)):
            yield self._create(number)
        if self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.uniform(0.0, 3.0))
        while True:
            # Often at once: the past is not read then.
            yield pb.WatchRequest(progress_request=pb.WatchProgressRequest())
            await asyncio.sleep(self._rng.uniform(0.1, 3.0))

    async def _connect(self, endpoint: str) -> None:
        """Until the connection breaks, or a watch needs history that is compacted."""
        stub = Stub(self._network.channel(endpoint), SERVICES["Watch"])
        metadata = {"hasleader": "true"} if self._rng.random() < 0.5 else {}
        # What a broken connection cut in two comes again as a whole: fragments count when complete.
        pieces: list[list[tuple[int, Change]]] = [[] for _ in self.tracks]
        async with contextlib.aclosing(stub.Watch(self._requests(), metadata=metadata)) as answers:
            async for answer in answers:
                number = answer.watch_id - 1
                if answer.canceled:
                    if answer.compact_revision:
                        track = self.tracks[number]
                        track.append(Segment(track[-1].wanted, answer.compact_revision))
                    return
                if answer.events:
                    pieces[number] += [(e.kv.mod_revision, change_of(e)) for e in answer.events]
                    if not answer.fragment:
                        batch = Batch(answer.header.revision, tuple(pieces[number]))
                        self.tracks[number][-1].seen.append(batch)
                        pieces[number] = []
                elif not answer.created:
                    # The answer to a request for progress is for all watches of the stream.
                    for track in self.tracks if answer.watch_id == -1 else [self.tracks[number]]:
                        track[-1].seen.append(Progress(answer.header.revision))
                if self._slow_s:
                    await asyncio.sleep(self._rng.uniform(0.0, self._slow_s))


class LeaseClient:
    """A client that takes leases, hangs two keys on each, renews them, and lets them run out (or revokes them)."""

    def __init__(
        self,
        name: str,
        network: Network,
        endpoints: Callable[[], Sequence[str]],
        recorder: Recorder,
        rng: random.Random,
    ) -> None:
        self.stories: list[LeaseStory] = []
        self.history = Recorder()
        """What it was told of leases and their keys."""
        self._name, self._network, self._endpoints, self._recorder, self._rng = name, network, endpoints, recorder, rng

    def _stub(self, service: str) -> Stub:
        return Stub(self._network.channel(self._rng.choice(self._endpoints())), SERVICES[service])

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(RpcError):
                await self._one_lease()
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))

    async def _one_lease(self) -> None:
        rng, now = self._rng, asyncio.get_running_loop().time
        number = len(self.stories) + 1
        lease_id = rng.getrandbits(40) << 8 | 1
        keys = tuple(f"lease/{self._name}/{number}/{part}".encode() for part in "ab")
        story = LeaseStory(lease_id, keys)
        self.stories.append(story)
        ttl, called, moment = rng.choice([1, 1, 1, 2, 5]), now(), self._recorder.tick()
        grant = pb.LeaseGrantRequest(ID=lease_id, TTL=ttl)
        if not await self._told(Grant(lease_id), self._stub("Lease").LeaseGrant(grant, timeout=3.0)):
            return
        story.renewals.append(Renewal(called, moment, ttl))
        puts = [pb.RequestOp(request_put=pb.PutRequest(key=key, lease=lease_id)) for key in keys]
        attaching = self._stub("KV").Txn(pb.TxnRequest(success=puts), timeout=3.0)
        await self._told(Attach(lease_id, keys), attaching)
        for _ in range(rng.choice([0, 3, 15])):
            await asyncio.sleep(rng.uniform(0.1, 0.6) * ttl)
            await asyncio.gather(self._renew(story), self._look(story), self._look(story))
        if rng.random() < 0.2:
            story.ended = True
            revoke = pb.LeaseRevokeRequest(ID=lease_id)
            await self._told(Revoke(lease_id), self._stub("Lease").LeaseRevoke(revoke, timeout=3.0))
            await self._look(story)

    async def _told(self, what: Grant | Attach | Revoke, call: Awaitable[Any]) -> bool:
        """Whether it was done. Raises RpcError, after which nobody knows."""
        number = self.history.begin(self._name, what)
        try:
            await call
        except RpcError as e:
            if isinstance(recognised(e), LeaseNotFound | LeaseExists):
                self.history.end(number, False)
                return False
            raise
        self.history.end(number, True)
        return True

    async def _look(self, story: LeaseStory) -> None:
        number = self.history.begin(self._name, Look(story.id))
        try:
            first, last = story.keys
            found = await self._stub("KV").Range(pb.RangeRequest(key=first, range_end=last + b"\0"), timeout=3.0)
        except RpcError:
            self.history.refuse(number)  # of a read nobody knows what it would have said
            return
        self.history.end(number, frozenset(kv.key for kv in found.kvs))

    async def _renew(self, story: LeaseStory) -> None:
        async def requests() -> AsyncIterator[pb.LeaseKeepAliveRequest]:
            yield pb.LeaseKeepAliveRequest(ID=story.id)
            await asyncio.get_running_loop().create_future()

        called, moment = asyncio.get_running_loop().time(), self._recorder.tick()
        number = self.history.begin(self._name, Renew(story.id))
        stream = self._stub("Lease").LeaseKeepAlive(requests(), timeout=self._rng.choice([0.5, 3.0]))
        answer = None
        with contextlib.suppress(RpcError):
            async with contextlib.aclosing(stream) as answers:
                answer = await anext(answers, None)
        if answer is None:
            self.history.refuse(number)  # it changes nothing but times
            return
        self.history.end(number, answer.TTL > 0)
        story.renewals.append(Renewal(called, moment, answer.TTL, self._recorder.tick()))

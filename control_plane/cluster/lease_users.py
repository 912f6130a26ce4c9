"""Users of etcd's leases: what they are told of each must be what one lease with its keys would tell, in its time.

A few share one lease at a time, grant it, renew it, put keys with it, look at these, and end it or leave it to its end.
Each lease's story is short, and is judged and forgotten when it is over.
"""

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

import grpc

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.invariants.lease_model import Attach, Grant, LeaseModel, Look, Renew, Request, Revoke
from rayplane.control_plane.invariants.linearizable import Operation, found_wrong
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb

USERS = 2
CALLS, RENEWING = 24, 12
"""Of each user, for one lease; and those among which it is renewed: then it is left to its end."""
TTL_S = 2
OVER_S = 30.0
"""After its time, in which new leaders may have given it that time anew, few of a lease's keys are left."""
LOOKS = 4
"""In the end, for keys that a new leader has kept until then; those that are there each time stay."""
LOOK_AGAIN_TTLS = 3
"""Between two, as many granted times: one, and two for an election and what its leader adds, which are no longer."""
REMEMBERED = 1000
BUDGET_STEPS = 200_000


@dataclass(eq=False)
class _Story:
    """The life of one lease. Times are seconds of the users' clock."""

    id: int
    history: list[Operation] = field(default_factory=list)
    ttl_s: float = TTL_S
    lives_until_s: float = 0.0
    """Not before does it end, unless somebody ends it."""
    is_ended: bool = False
    """Whether somebody has tried to."""
    judged: bool = False


Search = Callable[[], str]


async def _here(search: Search) -> str:
    return search()


class LeaseUsers:
    """Users of leases and of keys under `prefix`. `tell` hears of all that is wrong.

    `first_id`: of the first lease; nobody else may have it or those that follow. `judge_in`: where a story is judged,
    which takes a second; a thread, where others wait for this loop.
    """

    def __init__(
        self,
        etcd: EtcdClient,
        prefix: bytes,
        tell: Callable[[str], None],
        now: Callable[[], float],
        *,
        first_id: int,
        pause_s: float,
        judge_in: Callable[[Search], Awaitable[str]] = _here,
    ) -> None:
        self._etcd, self._prefix, self._tell, self._now = etcd, prefix, tell, now
        self._pause_s, self._judge_in = pause_s, judge_in
        # Which call comes next changes nothing of a plan.
        self._rng = random.Random(0)
        self._ids = itertools.count(first_id)
        self._ticks = itertools.count(1)
        self._story = _Story(first_id, judged=True)
        self._over_s: OrderedDict[int, float] = OrderedDict()
        """When none of a lease's keys may be left."""
        self._ttl_s = float(TTL_S)
        """The longest that was granted."""
        self.judged = 0
        """Leases that were."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            story = self._story = _Story(next(self._ids))
            await self._call("user 0", story, Grant(story.id))
            async with asyncio.TaskGroup() as users:
                for number in range(USERS):
                    users.create_task(self._use(f"user {number}", story))
            await self._judge(story)

    async def _use(self, name: str, story: _Story) -> None:
        for number in range(CALLS):
            await self._call(name, story, self._request(story, renewing=number < RENEWING))
            await asyncio.sleep(self._rng.uniform(0.0, 2 * self._pause_s))

    def _request(self, story: _Story, *, renewing: bool) -> Request:
        what, id = self._rng.random(), story.id
        if what < 0.4 and renewing:
            return Renew(id)
        if what < 0.6:
            number = next(self._ticks)
            return Attach(id, tuple(self._key(id, f"{number}{letter}") for letter in "ab"))
        return Look(id) if what < 0.98 else Revoke(id)

    def _key(self, id: int, name: str = "") -> bytes:
        return self._prefix + f"{id:x}/{name}".encode()

    async def _call(self, name: str, story: _Story, request: Request) -> None:
        """One call; of one without an answer nobody knows whether it was done."""
        called, called_s, number = next(self._ticks), self._now(), len(story.history)
        story.history.append(Operation(name, called, request))
        story.is_ended |= isinstance(request, Revoke)
        try:
            answer = await self._ask(story, request)
        except RpcError:
            return
        story.history[number] = Operation(name, called, request, next(self._ticks), answer)
        match request, answer:
            case ((Grant() | Renew()), True):
                story.lives_until_s = max(story.lives_until_s, called_s + story.ttl_s)
            case ((Renew() | Attach()), False) if not story.is_ended and self._now() < story.lives_until_s:
                early_s = story.lives_until_s - self._now()
                self._tell(f"lease {story.id:x} ended {early_s:.3f} s before its time: {request} -> {answer}")

    async def _ask(self, story: _Story, request: Request) -> bool | frozenset[bytes]:
        """Raises RpcError when nobody knows."""
        try:
            match request:
                case Grant(id):
                    story.ttl_s = (await self._etcd.lease_grant(TTL_S, lease_id=id)).TTL
                    self._ttl_s = max(self._ttl_s, story.ttl_s)
                case Attach(id, keys):
                    puts = [pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"-", lease=id)) for key in keys]
                    await self._etcd.txn([], puts, [])
                case Renew(id):
                    return await self._etcd.lease_keep_alive(id) > 0
                case Revoke(id):
                    await self._etcd.lease_revoke(id)
                case Look(id):
                    start = self._key(id)
                    return frozenset(kv.key for kv in (await self._etcd.range(start, _end(start))).kvs)
        except RpcError as e:
            if e.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def _judge(self, story: _Story) -> None:
        if story.judged:
            return
        story.judged = True
        self._over_s[story.id] = max(story.lives_until_s, self._now() + story.ttl_s) + OVER_S
        if len(self._over_s) > REMEMBERED:
            self._over_s.popitem(last=False)
        try:
            wrong = await self._judge_in(partial(found_wrong, LeaseModel(), story.history, budget=BUDGET_STEPS))
        except asyncio.CancelledError:
            story.judged = False
            raise
        self.judged += 1
        if wrong:
            self._tell(wrong)

    async def finish(self) -> None:
        """Judge what is not yet: nobody must run any more, or what runs is judged as far as it is. Raises RpcError."""
        await self._judge(self._story)
        overdue = await self._overdue()
        for _ in range(1, LOOKS):
            if not overdue:
                return
            await asyncio.sleep(LOOK_AGAIN_TTLS * self._ttl_s)
            overdue &= await self._overdue()
        for id in sorted(overdue):
            self._tell(f"lease {id:x} never ran out: its keys are left")

    async def _overdue(self) -> set[int]:
        """Leases with keys that should be over by now; a new leader may have given them their time anew."""
        now_s, left = self._now(), (await self._etcd.range(self._prefix, _end(self._prefix))).kvs
        return {kv.lease for kv in left if self._over_s.get(kv.lease, inf) < now_s}


def _end(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])

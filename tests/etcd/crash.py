"""Members as real processes, killed at random moments and at every failpoint, under load.

    python -m tests.etcd.crash --kills 500 [--seed N]

Clients write and remember what was acknowledged; a historian watches everything from the first revision on. In the
end: every acknowledged write is in the history at its revision, revisions have neither gaps nor repetitions, every
member holds what the history leads to, all hashes are equal, and no member ever refused to start.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.faults.vocabulary import Failpoint, Kill, Target
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import Event
from rayplane.storage.env.failpoints import POINTS
from scripts.benchmarks.members import MemberFailed, MemberProcess, end_members, new_members
from tests.etcd.injector import MemberInjector

FLAGS = (
    "--heartbeat-interval=50",
    "--election-timeout=400",
    "--snapshot-count=40",
    "--experimental-snapshot-catchup-entries=20",
    "--wal-segment-bytes=16384",
    "--log-level=error",
)
CLIENTS = 4
KEYS_OF_CLIENT = 12
VALUE_BYTES_MAX = 2000
CALL_TIMEOUT_S = 3.0
#: How long an armed member may live before it is killed from outside.
ARMED_S = 12.0
RESUME_S = 30.0
#: A learner that is never started, to have changes of members.
NOBODY = "http://127.0.0.1:1"
#: Entries that make a member miss so much that it gets a snapshot.
MISSED_REVISIONS = 150

_CREATING = ("identity.before_create", "identity.before_rename", "identity.after_create")
FOUNDING = (*_CREATING, "identity.before_found", "identity.after_found")
JOINING = (*_CREATING, "identity.before_claim", "identity.after_claim")
INSTALLING = tuple(p for p in POINTS if p.startswith("install.") or p.endswith("_replace"))
#: A life comes to these once.
ONCE = {*INSTALLING, "wal.before_cut", "wal.after_cut", "store.before_marker", "store.after_marker"}
RUNNING = tuple(p for p in POINTS if p not in {*FOUNDING, *JOINING, *INSTALLING})


@dataclass
class Ledger:
    """What clients were told, and what the history says."""

    acknowledged: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    history: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    revision: int = 1
    unknown: int = 0
    problems: list[str] = field(default_factory=list)

    def acknowledge(self, revision: int, changes: dict[bytes, bytes | None]) -> None:
        if revision in self.acknowledged:
            self.problems.append(
                f"revision {revision} was given to two writes: {self.acknowledged[revision]}, {changes}"
            )
        self.acknowledged[revision] = changes

    def record(self, events: list[Event]) -> None:
        """Events as a watch delivers them: all of a revision at once, revisions in order."""
        groups: dict[int, dict[bytes, bytes | None]] = {}
        for event in events:
            value = None if event.type == Event.DELETE else event.kv.value
            groups.setdefault(event.kv.mod_revision, {})[event.kv.key] = value
        for revision, changes in groups.items():
            if revision != self.revision + 1:
                self.problems.append(f"the history goes from revision {self.revision} to {revision}")
            self.history[revision] = changes
            self.revision = revision

    def state(self) -> dict[bytes, tuple[bytes, int]]:
        """Key to value and revision, as the history leaves it."""
        state: dict[bytes, tuple[bytes, int]] = {}
        for revision in sorted(self.history):
            for key, value in self.history[revision].items():
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = (value, revision)
        return state

    def check_acknowledged(self) -> None:
        for revision, changes in sorted(self.acknowledged.items()):
            if self.history.get(revision) != changes:
                self.problems.append(
                    f"acknowledged at {revision}: {sorted(changes)}, the history has "
                    f"{sorted(self.history.get(revision, {}))} there"
                )


class CrashRun:
    """One cluster, its clients, and who kills it."""

    def __init__(self, root: Path, seed: int, *, say: Callable[[str], None] = lambda line: None) -> None:
        self.seed, self.rng, self.say = seed, random.Random(seed), say
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.members = new_members(3, root, rng=self.rng)
        self.injector = MemberInjector(self.members)
        for member in self.members:
            member.flags += FLAGS
        self.network = GrpcNetwork()
        self.client = EtcdClient(self.network, [m.client for m in self.members])
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def run(self, kills: int) -> None:
        """Raises AssertionError that names the seed and what went wrong."""
        try:
            await self._found()
            self._tasks = [asyncio.create_task(self._write(n)) for n in range(CLIENTS)]
            self._tasks += [asyncio.create_task(work()) for work in (self._watch, self._compact)]
            steps = self._steps()
            while sum(self.kills.values()) < kills and not self.ledger.problems:
                step, argument = next(steps)
                self.say(f"{sum(self.kills.values()):4} {step.__name__} {argument}")
                await step(argument)
                await self._resumed()
            await self._verify()
        except MemberFailed as e:
            self.ledger.problems.append(f"a member did not start: {e}")
        finally:
            await self._end()
        assert not self.ledger.problems, f"seed {self.seed}: " + "; ".join(self.ledger.problems[:5])

    # Load

    async def _write(self, number: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        client = EtcdClient(self.network, [m.client for m in self.members])
        count = 0
        while not self._stopping:
            count += 1
            chosen = rng.sample(range(KEYS_OF_CLIENT), 2)
            keys = [b"client%d/%02d" % (number, k) for k in chosen]
            value = b"%d.%d " % (number, count) + rng.randbytes(rng.choice((10, 200, VALUE_BYTES_MAX)))
            kind = rng.choice(("put", "put", "put", "txn", "convoy", "delete"))
            try:
                for revision, changes in await self._change(client, kind, keys, value):
                    self.ledger.acknowledge(revision, changes)
                    await self._read_own(client, next(iter(changes)), revision)
            except RpcError:
                self.ledger.unknown += 1
            await asyncio.sleep(0.005)

    async def _change(
        self, client: EtcdClient, kind: str, keys: list[bytes], value: bytes
    ) -> list[tuple[int, dict[bytes, bytes | None]]]:
        """What was acknowledged, with its revision. Raises RpcError where that is unknown."""
        if kind == "put":
            put = await client.put(keys[0], value, timeout=CALL_TIMEOUT_S)
            return [(put.header.revision, {keys[0]: value})]
        if kind == "delete":
            deleted = await client.delete(keys[0], timeout=CALL_TIMEOUT_S)
            return [(deleted.header.revision, {keys[0]: None})] if deleted.deleted else []
        puts = [pb.RequestOp(request_put=pb.PutRequest(key=k, value=value)) for k in keys]
        if kind == "txn":
            txn = await client.txn([], puts, timeout=CALL_TIMEOUT_S)
            return [(txn.header.revision, dict.fromkeys(keys, value))]
        # Asked for in one turn of the event loop they travel in one call, each for itself.
        asked = (client.txn([], [put], timeout=CALL_TIMEOUT_S) for put in puts)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for failure in (a for a in answers if isinstance(a, BaseException)):
            if not isinstance(failure, RpcError):
                raise failure
            self.ledger.unknown += 1
        return [
            (a.header.revision, {key: value})
            for key, a in zip(keys, answers, strict=True)
            if isinstance(a, pb.TxnResponse)
        ]

    async def _read_own(self, client: EtcdClient, key: bytes, revision: int) -> None:
        """Nobody else writes this key: a read shows the write just acknowledged, or its absence."""
        read = await client.range(key, timeout=CALL_TIMEOUT_S)
        if read.header.revision < revision or (read.kvs and read.kvs[0].mod_revision < revision):
            self.ledger.problems.append(f"a read after revision {revision} was answered as of {read.header.revision}")

    async def _watch(self) -> None:
        client = EtcdClient(self.network, [m.client for m in self.members])
        while True:
            with contextlib.suppress(RpcError):
                stream = client.watch(b"\0", b"\0", start_revision=self.ledger.revision + 1)
                async with contextlib.aclosing(stream) as responses:
                    async for response in responses:
                        self.ledger.record(list(response.events))
            await asyncio.sleep(0.05)

    async def _compact(self) -> None:
        """Keeps the store small, or no snapshot would be written; what the historian has not seen stays."""
        while True:
            await asyncio.sleep(0.3)
            with contextlib.suppress(RpcError):
                await self.client.compact(max(1, self.ledger.revision - 20))

    # Killing

    def _steps(self):  # type: ignore[no-untyped-def]
        """All failpoints in random order, again and again, between kills at random moments."""
        plain = (self._kill_one, self._kill_leader, self._kill_all, self._kill_two, self._kill_twice)
        while True:
            points = [*RUNNING, *INSTALLING, *JOINING]
            self.rng.shuffle(points)
            for point in points:
                yield self.rng.choice(plain), None
                if point in JOINING:
                    yield self._kill_joining, point
                else:
                    yield self._kill_at, point

    async def _found(self) -> None:
        """Each founder dies at one point of its beginning, and begins again."""
        points = self.rng.sample(FOUNDING, len(self.members))
        self.say(f"     founding with {points}")
        for member, point in zip(self.members, points, strict=True):
            await self.injector.begin(Failpoint(Target(name=member.name), point))
        for member, point in zip(self.members, points, strict=True):
            await self._dies(member, point)
        for member in self.members:
            await member.launch()
        for member in self.members:
            await member.listening()

    async def _pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))

    async def _kill(self, members: list[MemberProcess], kind: str) -> None:
        for member in members:
            await self.injector.begin(Kill(Target(name=member.name)))
            self.kills[kind] += 1
        for member in members:
            await member.wait()
            await member.launch()
        for member in members:
            await member.listening()

    async def _kill_one(self, _: None) -> None:
        await self._pause()
        await self._kill([self.rng.choice(self.members)], "one")

    async def _kill_leader(self, _: None) -> None:
        leader = None
        for member in self.members:
            with contextlib.suppress(RpcError):
                status = await self.client.status(member.client, timeout=CALL_TIMEOUT_S)
                leader = next((m for m in self.members if m.about["member_id"] == status.leader), leader)
        await self._pause()
        await self._kill([leader or self.members[0]], "leader")

    async def _kill_two(self, _: None) -> None:
        await self._pause()
        await self._kill(self.rng.sample(self.members, 2), "two")

    async def _kill_all(self, _: None) -> None:
        await self._pause()
        await self._kill(self.members, "all")

    async def _kill_twice(self, _: None) -> None:
        """Again while it starts."""
        member = self.rng.choice(self.members)
        member.kill()
        await member.wait()
        await member.launch()
        await asyncio.sleep(self.rng.uniform(0.2, 1.2))
        self.kills["starting"] += 1
        await self._kill([member], "one")

    async def _kill_at(self, point: str) -> None:
        """Start a member so that it dies at a point, and once more without."""
        member = self.rng.choice(self.members)
        member.kill()
        await member.wait()
        self.kills["one"] += 1
        if point in INSTALLING:
            await self._until_missed()
        nth = 1 if point in ONCE else self.rng.choice((1, 1, 2, 3))
        await self.injector.begin(Failpoint(Target(name=member.name), point, hit=nth))
        await self._dies(member, point)
        await member.start()

    async def _dies(self, member: MemberProcess, point: str) -> None:
        """Wait for an armed member's death; do what leads it to the point meanwhile."""
        provoke = asyncio.create_task(self._provoke(member, point))
        try:
            async with asyncio.timeout(ARMED_S):
                code = await member.wait()
            self.kills[point] += 1
            if code != -9:
                self.ledger.problems.append(f"{member.name} ended with {code} before {point}: {member.last_words()}")
        except TimeoutError:
            self.missed[point] += 1
            member.kill()
            self.kills["late"] += 1
            await member.wait()
        finally:
            await cancel_and_wait(provoke)

    async def _provoke(self, member: MemberProcess, point: str) -> None:
        work: Callable[[], Awaitable[object]]
        if point.endswith("conf_change"):
            work = self._churn_learner
        elif point.startswith("defrag.") or point.endswith("_swap"):
            maintenance = Stub(self.network.channel(member.client), pb.DESCRIPTOR.services_by_name["Maintenance"])

            def defragment() -> Awaitable[object]:
                return maintenance.Defragment(pb.DefragmentRequest(), timeout=CALL_TIMEOUT_S)

            work = defragment
        else:
            return
        while True:
            with contextlib.suppress(RpcError):
                await work()
            await asyncio.sleep(0.2)

    async def _churn_learner(self) -> None:
        await self._remove_learner()
        await self.client.member_add(NOBODY, learner=True)
        await self._remove_learner()

    async def _remove_learner(self) -> None:
        for member in (await self.client.member_list()).members:
            if NOBODY in member.peerURLs:
                await self.client.member_remove(member.ID)

    async def _until_missed(self) -> None:
        """The others go on until their logs do not reach back to where a stopped member is."""
        wanted = self.ledger.revision + MISSED_REVISIONS
        try:
            async with asyncio.timeout(RESUME_S):
                while self.ledger.revision < wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            acknowledged = max(self.ledger.acknowledged)
            self.ledger.problems.append(
                f"with one member down, the history came to {self.ledger.revision} and writes to {acknowledged}"
            )

    async def _kill_joining(self, point: str) -> None:
        """A member is replaced; the new one dies at a point of its beginning, and begins again."""
        member = self.rng.choice(self.members)
        own = member.about["member_id"]
        await self._insist(self._remove_learner, lambda listed: all(NOBODY not in m.peerURLs for m in listed))
        await self._insist(lambda: self.client.member_remove(own), lambda listed: all(own != m.ID for m in listed))
        member.kill()
        await member.wait()
        shutil.rmtree(member.data_dir)
        await self._insist(
            lambda: self.client.member_add(member.peer_url, learner=True),
            lambda listed: any(member.peer_url in m.peerURLs for m in listed),
        )
        if "--initial-cluster-state=existing" not in member.flags:
            member.flags.append("--initial-cluster-state=existing")
        await self.injector.begin(Failpoint(Target(name=member.name), point))
        await self._dies(member, point)
        await member.start()
        own = member.about["member_id"]
        await self._insist(
            lambda: self.client.member_promote(own), lambda listed: any(own == m.ID and not m.isLearner for m in listed)
        )

    async def _insist(self, work: Callable[[], Awaitable[object]], done: Callable[[Sequence[pb.Member]], bool]) -> None:
        """Until the members are so: refusals pass (a learner that lags, an election), and answers are lost."""
        failure: RpcError | None = None
        try:
            async with asyncio.timeout(RESUME_S):
                while True:
                    try:
                        if done((await self.client.member_list()).members):
                            return
                        await work()
                    except RpcError as e:
                        failure = e
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"seed {self.seed}: the cluster refused a change of members: {failure}") from None

    async def _resumed(self) -> None:
        """Writes are acknowledged again."""
        before = len(self.ledger.acknowledged)
        try:
            async with asyncio.timeout(RESUME_S):
                while len(self.ledger.acknowledged) < before + 3:
                    for member in self.members:
                        if not member.running:
                            code = await member.wait()
                            self.ledger.problems.append(f"{member.name} ended with {code}: {member.last_words()}")
                            return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self.ledger.problems.append(f"no write was acknowledged for {RESUME_S:.0f} s")

    # Judging

    async def _verify(self) -> None:
        if self.ledger.problems:
            return
        self._stopping = True
        await asyncio.gather(*self._tasks[:CLIENTS])
        self._tasks[-1].cancel()
        last = await self._last_write()
        async with asyncio.timeout(RESUME_S):
            while self.ledger.revision < last:
                await asyncio.sleep(0.02)
        self.ledger.check_acknowledged()
        expected = self.ledger.state()
        hashes = set()
        for member in self.members:
            hashes.add(await self._hash(member, last))
            stub = Stub(self.network.channel(member.client), pb.DESCRIPTOR.services_by_name["KV"])
            request = pb.RangeRequest(key=b"\0", range_end=b"\0", serializable=True)
            held = await stub.Range(request, timeout=CALL_TIMEOUT_S)
            if {kv.key: (kv.value, kv.mod_revision) for kv in held.kvs} != expected:
                self.ledger.problems.append(f"{member.name} does not hold what the history leads to")
        if len(hashes) != 1:
            self.ledger.problems.append(f"the members' hashes differ: {hashes}")

    async def _last_write(self) -> int:
        """Its revision. Repeated until it is acknowledged; a repetition does no harm to what is checked."""
        async with asyncio.timeout(RESUME_S):
            while True:
                with contextlib.suppress(RpcError):
                    return (await self.client.put(b"last", b"write")).header.revision
                await asyncio.sleep(0.1)

    async def _hash(self, member: MemberProcess, revision: int) -> tuple[int, int]:
        """Hash and compacted revision, once the member has come so far."""
        stub = Stub(self.network.channel(member.client), pb.DESCRIPTOR.services_by_name["Maintenance"])
        async with asyncio.timeout(RESUME_S):
            while True:
                with contextlib.suppress(RpcError):
                    # A linearizable read brings the member up to date.
                    kv = Stub(self.network.channel(member.client), pb.DESCRIPTOR.services_by_name["KV"])
                    await kv.Range(pb.RangeRequest(key=b"last"), timeout=CALL_TIMEOUT_S)
                    answer = await stub.HashKV(pb.HashKVRequest(revision=revision), timeout=CALL_TIMEOUT_S)
                    return answer.hash, answer.compact_revision
                await asyncio.sleep(0.05)

    async def _end(self) -> None:
        await cancel_and_wait(*self._tasks)
        await end_members(self.members)
        await self.network.close()


async def crash(kills: int, seed: int, *, say: Callable[[str], None] = lambda line: None) -> CrashRun:
    """A run in a directory of its own, which stays if it fails."""
    root = Path(tempfile.mkdtemp(prefix="rp-crash-"))
    run = CrashRun(root, seed, say=say)
    try:
        await run.run(kills)
    except BaseException:
        say(f"data directories and logs are in {root}")
        raise
    shutil.rmtree(root, ignore_errors=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    try:
        run = asyncio.run(crash(arguments.kills, arguments.seed, say=lambda line: print(line, flush=True)))
    except AssertionError as e:
        sys.exit(f"failed: {e}")
    ledger = run.ledger
    print(f"{sum(run.kills.values())} kills in {time.monotonic() - started:.0f} s: {dict(sorted(run.kills.items()))}")
    print(f"{len(ledger.acknowledged)} writes acknowledged, {ledger.unknown} unknown, {ledger.revision} revisions")
    never = [p for p in POINTS if p not in run.kills]
    print(f"points not reached: {never or 'none'}; in vain: {dict(run.missed)}")


if __name__ == "__main__":
    main()

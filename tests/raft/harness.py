"""A raft group in memory: members with a disk that forgets what was not saved, and a network at the test's mercy.

Every step is checked against the properties of figure 3 of the Raft paper (see `Oracle`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from control_plane.etcd.raft import (
    ConfChange,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    ReadState,
    Ready,
    Role,
    Snapshot,
    bootstrap,
)


class Oracle:
    """What may never happen, in any schedule."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.chosen: dict[int, Entry] = {}  # every entry that any state machine applied

    def leads(self, member: Member) -> None:
        """Election safety, and leader completeness: a leader's log holds every entry applied anywhere."""
        status = member.node.status()
        assert status.role is Role.LEADER
        newest = max(self.leaders, default=0)
        first = self.leaders.setdefault(status.term, member.id)
        assert first == member.id, f"{first} and {member.id} both lead in term {status.term}"
        if status.term <= newest:
            return  # a leader of the past need not know what its successors committed
        log = member.log()
        for index, entry in self.chosen.items():
            if index > member.first_index() - 1:
                assert log.get(index) == entry, f"leader {member.id} lacks committed entry {entry}"

    def applies(self, member: Member, entry: Entry) -> None:
        """State machine safety: one entry per index, for all and for ever."""
        first = self.chosen.setdefault(entry.index, entry)
        assert first == entry, f"{member.id} applies {entry}, another applied {first}"

    def logs_match(self, members: Iterable[Member]) -> None:
        """Log matching: same index and term, same entry and the same before it."""
        logs = [member.log() for member in members]
        for position, one in enumerate(logs):
            for other in logs[:position]:
                shared = sorted(one.keys() & other.keys(), reverse=True)
                same = False
                for index in shared:
                    if one[index].term == other[index].term:
                        same = True
                    if same:
                        assert one[index] == other[index], f"logs differ at {index} below a match"


@dataclass
class DurableState:
    """What a crash leaves."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None

    def save(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.snapshot, self.entries = ready.snapshot, []
        if ready.entries:
            self.entries = [e for e in self.entries if e.index < ready.entries[0].index]
            self.entries.extend(ready.entries)
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state


class Member:
    """A RawNode, its driver and its state machine (a list of what was applied)."""

    def __init__(self, group: Group, id_: int, disk: DurableState) -> None:
        self.group = group
        self.id = id_
        self.disk = disk
        self.reads: list[ReadState] = []
        self.alive = True
        self.start()

    def start(self) -> None:
        """From the disk alone: the state machine begins at the snapshot, the log replays the rest."""
        disk = self.disk
        self.applied: list[bytes] = disk.snapshot.data.split(b",") if disk.snapshot and disk.snapshot.data else []
        self.applied_index = disk.snapshot.index if disk.snapshot else 0
        conf = disk.snapshot.conf_state if disk.snapshot else self.group.founding
        self.conf = conf
        self.storage = MemoryStorage(
            entries=disk.entries, snapshot=disk.snapshot, hard_state=disk.hard_state, conf_state=conf
        )
        config = Config(id=self.id, applied=self.applied_index, **self.group.config)
        self.node = RawNode(config, self.storage, random.Random(self.group.rng.random()))
        self.out: Ready | None = None
        self.alive = True

    def crash(self) -> None:
        self.alive = False
        self.out = None

    def first_index(self) -> int:
        return self.storage.first_index()

    def log(self) -> dict[int, Entry]:
        raft_log = self.node._raft.log
        first = raft_log.first_index
        entries = raft_log.entries(first, raft_log.last_index + 1, 1 << 62)
        return {entry.index: entry for entry in entries}

    def process(self) -> Ready | None:
        """One turn of the driver's loop; None when there was nothing to do."""
        ready = self.begin()
        if ready is not None:
            self.finish()
        return ready

    def begin(self) -> Ready | None:
        """The part that need not wait for the disk; the Ready stays out until `finish`."""
        if not self.alive or not self.node.has_ready():
            return None
        self.out = ready = self.node.ready()
        if self.node.is_leader:
            self.group.oracle.leads(self)
        self.group.send(ready.messages)
        self.reads.extend(ready.read_states)
        for read in ready.read_states:
            self.group.read_done(read)
        if ready.snapshot is None:
            self._apply(ready.committed_entries)
        return ready

    def finish(self, crash: Callable[[str], bool] = lambda _point: False) -> None:
        """Save, acknowledge, advance. `crash(point)` may stop it between any two effects."""
        ready, self.out = self.out, None
        assert ready is not None
        if crash("before_save"):
            return self.crash()
        self.disk.save(ready)
        if crash("after_save"):
            return self.crash()
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
            self.applied = ready.snapshot.data.split(b",") if ready.snapshot.data else []
            self.applied_index, self.conf = ready.snapshot.index, ready.snapshot.conf_state
            self._apply(ready.committed_entries)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        self.group.send(ready.messages_after_append)
        if crash("after_send"):
            return self.crash()
        self.node.advance(ready)
        return None

    def _apply(self, entries: Iterable[Entry]) -> None:
        durable = {entry.index: entry for entry in self.disk.entries}
        for entry in entries:
            assert entry.index == self.applied_index + 1, "applied out of order"
            assert durable.get(entry.index) == entry, f"{self.id} applies {entry} before it is durable"
            self.group.oracle.applies(self, entry)
            self.applied_index = entry.index
            if entry.type is EntryType.CONF_CHANGE:
                self.conf = self.node.apply_conf_change(ConfChange.decode(entry.data))
            elif entry.data:
                self.applied.append(entry.data)

    def compact(self, keep: int = 0) -> None:
        """Snapshot the state machine and cut the log, as a member does now and then."""
        index = self.applied_index
        if index <= (self.disk.snapshot.index if self.disk.snapshot else 0):
            return
        self.disk.snapshot = self.storage.create_snapshot(index, self.conf, b",".join(self.applied))
        self.disk.entries = [e for e in self.disk.entries if e.index > index - keep]
        if index - keep >= self.storage.first_index():
            self.storage.compact(index - keep)


class Group:
    """Members 1..n. Messages wait in `network` until they are delivered or dropped."""

    def __init__(self, size: int = 3, *, seed: int = 0, learners: Sequence[int] = (), **config: object) -> None:
        self.rng = random.Random(seed)
        self.config: dict = config
        self.founding = ConfState(tuple(i for i in range(1, size + 1) if i not in learners), tuple(sorted(learners)))
        self.oracle = Oracle()
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.read_floor: dict[bytes, int] = {}
        self.members = {i: Member(self, i, DurableState()) for i in range(1, size + 1)}

    def found_through_log(self) -> None:
        """Start over with the founders in the log instead of given, so that later members learn of them."""
        self.founding = ConfState()
        hard_state, entries = bootstrap((id_, b"%d" % id_) for id_ in self.members)
        for member in self.members.values():
            member.disk = DurableState(hard_state, list(entries))
            member.start()
        self.settle()

    def join(self, id_: int) -> Member:
        """A new, empty member; somebody must add it to the configuration."""
        member = Member.__new__(Member)
        founding, self.founding = self.founding, ConfState()
        member.__init__(self, id_, DurableState())  # type: ignore[misc]
        self.founding = founding
        self.members[id_] = member
        return member

    def read(self, member: int, context: bytes) -> None:
        """Ask for a read; its answer may not lie below anything applied anywhere by now."""
        self.read_floor[context] = max(self.oracle.chosen, default=0)
        self.members[member].node.read_index(context)

    def read_done(self, read: ReadState) -> None:
        floor = self.read_floor[read.context]
        assert read.index >= floor, f"stale read {read}: {floor} was applied before it was asked for"

    def send(self, messages: Iterable[Message]) -> None:
        self.network.extend(messages)

    def isolate(self, *ids: int) -> None:
        """Cut every link between these and the others."""
        for one in self.members:
            for other in self.members:
                if (one in ids) != (other in ids):
                    self.cut.add((one, other))

    def heal(self) -> None:
        self.cut.clear()

    def deliver(self, message: Message) -> bool:
        """Hand one message over; False when it is lost."""
        arrived = (message.from_, message.to) not in self.cut
        target = self.members.get(message.to)
        arrived = arrived and target is not None and target.alive
        if arrived and target is not None:
            target.node.step(message)
        source = self.members.get(message.from_)
        if message.type is MessageType.SNAP and source is not None and source.alive:
            source.node.report_snapshot(message.to, arrived)
        return arrived

    def until(self, reached: Callable[[], bool], rounds: int = 50) -> None:
        """One turn of every driver, then the network, again and again, but not further than to `reached`."""
        for _ in range(rounds):
            for member in self.members.values():
                member.process()
                if reached():
                    return
            pending, self.network = self.network, []
            for message in pending:
                self.deliver(message)
            if reached():
                return
        raise AssertionError("never reached")

    def settle(self, rounds: int = 200) -> None:
        """Run drivers and network until nothing moves."""
        for _ in range(rounds):
            moved = False
            for member in self.members.values():
                if member.out is not None:
                    member.finish()
                while member.process() is not None:
                    moved = True
            pending, self.network = self.network, []
            for message in pending:
                self.deliver(message)
                moved = True
            if not moved:
                self.oracle.logs_match(m for m in self.members.values() if m.alive)
                return
        raise AssertionError("the group does not settle")

    def tick(self, times: int = 1, only: Sequence[int] | None = None) -> None:
        """Time passes for all, with everything delivered in between."""
        for _ in range(times):
            for member in self.members.values():
                if member.alive and (only is None or member.id in only):
                    member.node.tick()
            self.settle()

    def elect(self, id_: int = 1) -> Member:
        self.members[id_].node.campaign()
        self.settle()
        assert self.members[id_].node.is_leader
        return self.members[id_]

    def leader(self) -> Member:
        """The leader of the newest term; ticks until there is one."""
        for _ in range(200):
            leaders = [m for m in self.members.values() if m.alive and m.node.is_leader]
            if leaders:
                return max(leaders, key=lambda m: m.node.status().term)
            self.tick()
        raise AssertionError("no leader was elected")

    def propose(self, *data: bytes) -> None:
        """To the leader; returns when all that can happen has happened."""
        leader = self.leader()
        for item in data:
            leader.node.propose(item)
        self.settle()

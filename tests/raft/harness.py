"""A raft group in memory: members with a disk that forgets what was not saved, and a network at the test's mercy.

Every step is checked by the oracle against the properties of figure 3 of the Raft paper.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rayplane.control_plane.etcd.raft import (
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
    Snapshot,
    bootstrap,
)
from tests.raft.oracle import Oracle


@dataclass
class DurableState:
    """What a crash leaves. A hard state that needed no sync is in `lazy` until the next save, and may be lost."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    lazy: HardState | None = None
    #: The state machine as it was saved last, where it is durable by itself: index, its content, configuration.
    machine: tuple[int, list[bytes], ConfState] | None = None

    def last_index(self) -> int:
        if self.entries:
            return self.entries[-1].index
        return self.snapshot.index if self.snapshot else 0

    def holds(self, entry: Entry) -> bool:
        """Whether a crash leaves the entry, or a snapshot of it."""
        if self.snapshot is not None and self.snapshot.index >= entry.index:
            return True
        position = entry.index - self.entries[0].index if self.entries else -1
        return 0 <= position < len(self.entries) and self.entries[position].term == entry.term

    def save(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.snapshot, self.entries = ready.snapshot, []
        if ready.entries:
            self.append(ready.entries)
        if ready.hard_state is not None:
            self.lazy = ready.hard_state
        if ready.must_sync and self.lazy is not None:
            self.hard_state, self.lazy = self.lazy, None

    def append(self, entries: Sequence[Entry]) -> None:
        held = self.entries
        if held:
            del held[max(0, entries[0].index - held[0].index) :]
        held.extend(entries)

    def crash(self, rng: random.Random) -> None:
        if self.lazy is not None and rng.random() < 0.5:
            self.hard_state = self.lazy
        self.lazy = None

    def recovered(self, applied: int) -> HardState:
        """As a server makes it up from what it finds: no entry's term is news, and what is applied was committed."""
        hard = self.lazy or self.hard_state
        term = max(hard.term, self.entries[-1].term if self.entries else 0)
        return HardState(term, hard.vote if term == hard.term else 0, max(hard.commit, applied))


class Member:
    """A RawNode, its driver and its state machine (a list of what was applied)."""

    def __init__(self, group: Group, id_: int, disk: DurableState, founding: ConfState) -> None:
        self.group = group
        self.id = id_
        self.disk = disk
        self.founding = founding
        self.reads: list[ReadState] = []
        self.start()

    def start(self) -> None:
        """From the disk alone: the state machine begins at what was saved of it, the log replays the rest."""
        disk, snapshot = self.disk, self.disk.snapshot
        self.applied: list[bytes] = list(filter(None, snapshot.data.split(b","))) if snapshot else []
        self.applied_index = snapshot.index if snapshot else 0
        self.conf = snapshot.conf_state if snapshot else self.founding
        if disk.machine is not None and disk.machine[0] > self.applied_index:
            self.applied_index, self.applied, self.conf = disk.machine[0], list(disk.machine[1]), disk.machine[2]
        self.storage = MemoryStorage(
            entries=disk.entries,
            snapshot=snapshot,
            hard_state=disk.recovered(self.applied_index),
            conf_state=self.conf,
        )
        config = Config(id=self.id, applied=self.applied_index, **self.group.config)
        self.node = RawNode(config, self.storage, random.Random(self.group.rng.getrandbits(32)))
        self.out: Ready | None = None
        self.alive = True
        # The oracle's notes.
        self.seen_commit = self.storage.first_index() - 1
        self.led_term = self.led_last = 0
        self.group.oracle.observe(self)

    def crash(self) -> None:
        self.alive = False
        self.out = None
        self.disk.crash(self.group.rng)

    def first_index(self) -> int:
        return self.storage.first_index()

    def log(self) -> dict[int, Entry]:
        raft_log = self.node._raft.log
        return {entry.index: entry for entry in raft_log.scan(raft_log.first_index, raft_log.last_index + 1)}

    def tick(self) -> None:
        self.node.tick()
        self.group.oracle.observe(self)

    def step(self, message: Message) -> None:
        self.node.step(message)
        self.group.oracle.observe(self)

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
        group = self.group
        self.out = ready = self.node.ready()
        group.oracle.observe(self)
        group.oracle.takes(self, ready)
        group.send(ready.messages)
        self.reads.extend(ready.read_states)
        for read in ready.read_states:
            group.oracle.answers(read)
        assert ready.snapshot is None or not ready.committed_entries, "entries after a snapshot that is not restored"
        return ready

    def apply(self) -> None:
        """What is committed; at any time between `begin` and `finish`, as it needs no disk."""
        ready = self.out
        if ready is None or not ready.committed_entries or ready.committed_entries[-1].index <= self.applied_index:
            return
        self.group.oracle.applies(self, ready.committed_entries)
        for entry in ready.committed_entries:
            self.applied_index = entry.index
            if entry.type is EntryType.CONF_CHANGE:
                self.conf = self.node.apply_conf_change(ConfChange.decode(entry.data))
                self.group.oracle.configured(self)
            elif entry.data:
                self.applied.append(entry.data)

    def finish(self, crash: str = "") -> None:
        """Apply, save, acknowledge, advance; `crash` names the moment at which it stops instead."""
        self.apply()
        ready, self.out = self.out, None
        assert ready is not None
        if crash == "before save":
            return self.crash()
        if crash == "within save" and ready.entries and ready.snapshot is None:
            # The log's last record is torn: entries are written before the hard state.
            self.disk.append(ready.entries[: self.group.rng.randrange(1, len(ready.entries) + 1)])
            return self.crash()
        self.disk.save(ready)
        if crash == "after save":
            return self.crash()
        if ready.snapshot is not None:
            snapshot = ready.snapshot
            self.group.oracle.restores(self, snapshot)
            self.storage.apply_snapshot(snapshot)
            self.applied = list(filter(None, snapshot.data.split(b",")))
            self.applied_index, self.conf = snapshot.index, snapshot.conf_state
            self.disk.machine = None
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        self.group.oracle.sends_after_append(self, ready.messages_after_append)
        self.group.send(ready.messages_after_append)
        if crash:
            return self.crash()
        self.node.advance(ready)
        self.group.oracle.observe(self)
        if self.node._raft.conf is not self.conf:
            self.group.oracle.configured(self)
        return None

    def save_machine(self) -> None:
        """A server whose store is durable by itself."""
        self.disk.machine = (self.applied_index, list(self.applied), self.conf)

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
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.members: dict[int, Member] = {}
        self.oracle = Oracle(self.founding, self.members)
        for id_ in range(1, size + 1):
            self.members[id_] = Member(self, id_, DurableState(), self.founding)

    def found_through_log(self) -> None:
        """Start over with the founders in the log instead of given, so that later members learn of them."""
        self.founding = ConfState()
        self.oracle = Oracle(self.founding, self.members)
        hard_state, entries = bootstrap((id_, b"%d" % id_) for id_ in self.members)
        for member in self.members.values():
            member.disk, member.founding = DurableState(hard_state, list(entries)), self.founding
            member.start()
        self.settle()

    def join(self, id_: int) -> Member:
        """A new, empty member; somebody must add it to the configuration."""
        self.members[id_] = Member(self, id_, DurableState(), ConfState())
        return self.members[id_]

    def read(self, member: int, context: bytes) -> None:
        """Ask for a linearizable read."""
        self.oracle.asks(context)
        self.members[member].node.read_index(context)

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
            target.step(message)
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

    def settle(self, rounds: int = 2000) -> None:
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
                return
        raise AssertionError("the group does not settle")

    def tick(self, times: int = 1, only: Sequence[int] | None = None) -> None:
        """Time passes for all, with everything delivered in between."""
        for _ in range(times):
            for member in self.members.values():
                if member.alive and (only is None or member.id in only):
                    member.tick()
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

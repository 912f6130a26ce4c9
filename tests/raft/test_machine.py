"""One event at a time, chosen by hypothesis: slower than the schedules, but what fails comes out as short as can be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rayplane.control_plane.etcd.raft import ConfChange, ConfChangeType, MessageType
from tests.raft.harness import Group, Member
from tests.raft.schedule import CRASHES, MEMBERS_MAX, REFUSALS
from tests.tiers import examples

pytestmark = pytest.mark.timeout(300)

#: Picks one of whatever there is at that moment.
anyone = st.integers(0, 1 << 16)


class RaftMachine(RuleBasedStateMachine):
    """A group; the oracle checks each step. At the end it is healed and must agree."""

    group: Group
    count = 0

    @initialize(
        size=st.integers(1, 5),
        pre_vote=st.booleans(),
        check_quorum=st.booleans(),
        largest=st.sampled_from([0, 10, 1 << 20]),
        window=st.sampled_from([1, 2, 256]),
        seed=st.integers(0, 3),
    )
    def found(self, size: int, *, pre_vote: bool, check_quorum: bool, largest: int, window: int, seed: int) -> None:
        config: dict[str, Any] = {"pre_vote": pre_vote, "check_quorum": check_quorum, "election_ticks": 3}
        config |= {"max_size_per_message": largest, "max_inflight_messages": window}
        self.group = Group(size, seed=seed, **config)
        self.group.found_through_log()

    def one(self, number: int) -> Member:
        members = list(self.group.members.values())
        return members[number % len(members)]

    # Time, disks, lines

    @rule(number=anyone, ticks=st.integers(1, 7))
    def tick(self, number: int, ticks: int) -> None:
        member = self.one(number)
        for _ in range(ticks if member.alive else 0):
            member.tick()

    @rule(number=anyone)
    def begin(self, number: int) -> None:
        member = self.one(number)
        if member.out is None:
            member.begin()

    @rule(number=anyone)
    def apply(self, number: int) -> None:
        self.one(number).apply()

    @rule(number=anyone, crash=st.sampled_from(["", "", "", *CRASHES]))
    def finish(self, number: int, crash: str) -> None:
        member = self.one(number)
        if member.out is not None:
            member.finish(crash)

    @rule()
    def everybody_processes(self) -> None:
        for member in self.group.members.values():
            if member.out is not None:
                member.finish()
            member.process()

    @rule(number=anyone)
    def crash_or_restart(self, number: int) -> None:
        member = self.one(number)
        if member.alive:
            member.crash()
        else:
            member.start()

    @rule(number=anyone, keep=st.integers(0, 2))
    def compact(self, number: int, keep: int) -> None:
        member = self.one(number)
        if member.alive and member.out is None:
            member.compact(keep)

    @precondition(lambda self: self.group.network)
    @rule(number=anyone, twice=st.booleans())
    def deliver(self, number: int, twice: bool) -> None:
        message = self.group.network.pop(number % len(self.group.network))
        if twice and message.type is not MessageType.SNAP:
            self.group.network.append(message)
        self.group.deliver(message)

    @precondition(lambda self: self.group.network)
    @rule()
    def deliver_all(self) -> None:
        pending, self.group.network = self.group.network, []
        for message in pending:
            self.group.deliver(message)

    @precondition(lambda self: self.group.network)
    @rule(number=anyone)
    def lose(self, number: int) -> None:
        message = self.group.network.pop(number % len(self.group.network))
        source = self.group.members[message.from_]
        if message.type is MessageType.SNAP and source.alive:
            source.node.report_snapshot(message.to, False)

    @rule(number=anyone)
    def isolate(self, number: int) -> None:
        self.group.heal()
        self.group.isolate(self.one(number).id)

    @rule()
    def heal(self) -> None:
        self.group.heal()

    # What clients, operators and transports ask for

    @rule(number=anyone, count=st.integers(1, 3))
    def propose(self, number: int, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.ask(number, lambda m: m.node.propose(b"%d" % self.count))

    @rule(number=anyone)
    def read(self, number: int) -> None:
        self.count += 1
        self.ask(number, lambda m: self.group.read(m.id, b"%d" % self.count))

    @rule(number=anyone, to=anyone)
    def transfer(self, number: int, to: int) -> None:
        self.ask(number, lambda m: m.node.transfer_leader(self.one(to).id))

    @rule(number=anyone)
    def campaign(self, number: int) -> None:
        self.ask(number, lambda m: m.node.campaign())

    @rule(number=anyone)
    def forget_leader(self, number: int) -> None:
        self.ask(number, lambda m: m.node.forget_leader(m.node.leader))

    @rule(number=anyone, other=anyone)
    def unreachable(self, number: int, other: int) -> None:
        self.ask(number, lambda m: m.node.report_unreachable(self.one(other).id))

    @rule(number=anyone, kind=st.sampled_from(list(ConfChangeType)), node=st.integers(1, MEMBERS_MAX))
    def reconfigure(self, number: int, kind: ConfChangeType, node: int) -> None:
        target = min(node, len(self.group.members) + 1)
        taken = self.ask(number, lambda m: m.node.propose_conf_change(ConfChange(kind, target)))
        if taken and target not in self.group.members:
            self.group.join(target)

    def ask(self, number: int, wish) -> bool:  # type: ignore[no-untyped-def]
        """False when it is refused, which is fine."""
        member = self.one(number)
        if not member.alive:
            return False
        try:
            wish(member)
        except REFUSALS:
            return False
        self.group.oracle.observe(member)
        return True

    def teardown(self) -> None:
        """Liveness."""
        if not hasattr(self, "group"):
            return
        self.group.heal()
        for member in self.group.members.values():
            if not member.alive:
                member.start()
        leader = None
        for _ in range(60):
            self.group.tick()
            leader = self.group.leader()
            try:
                leader.node.propose(b"after")
            except REFUSALS:
                continue
            self.group.settle()
            conf = leader.conf
            if leader.node.is_leader and b"after" in leader.applied:
                taking_part = [self.group.members[i] for i in (*conf.voters, *conf.learners)]
                if all(m.applied == leader.applied for m in taking_part):
                    return
        raise AssertionError("the healed group does not agree")


TestRaftMachine = RaftMachine.TestCase
TestRaftMachine.settings = settings(
    max_examples=examples(100), stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)

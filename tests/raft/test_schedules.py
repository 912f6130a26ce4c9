"""Random schedules of everything a network, a disk and an operator can do to a group.

The oracle and the assertions in the harness check safety at every step; each schedule ends with a healed network and
must then make progress (liveness).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.etcd.raft import (
    NONE,
    ConfChange,
    ConfChangeRefused,
    ConfChangeType,
    ProposalDropped,
    ReadIndexDropped,
    TransferRefused,
)
from tests.raft.harness import Group

REFUSALS = (ProposalDropped, ReadIndexDropped, TransferRefused, ConfChangeRefused)


class Chaos:
    """Draws one event at a time from `rng`; the same rng state gives the same schedule."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        size = rng.choice([1, 2, 3, 3, 3, 4, 5])
        self.group = Group(
            size,
            seed=rng.randrange(1 << 30),
            pre_vote=rng.random() < 0.7,
            check_quorum=rng.random() < 0.7,
            max_size_per_message=rng.choice([0, 10, 1 << 20]),
            max_inflight_messages=rng.choice([1, 2, 256]),
            max_committed_size_per_ready=rng.choice([1, 1 << 20]),
            election_ticks=rng.choice([3, 5, 10]),
        )
        self.group.found_through_log()
        self.loss = rng.choice([0.0, 0.05, 0.3])
        self.duplicates = rng.choice([0.0, 0.1])
        self.crashes = rng.choice([0.0, 0.02, 0.1])
        self.counter = 0

    def event(self) -> None:
        rng, group = self.rng, self.group
        member = group.members[rng.choice(sorted(group.members))]
        kind = rng.choices(
            ["process", "deliver", "tick", "propose", "read", "operate", "cut", "restart", "compact"],
            [45, 45, 20, 8, 3, 0.7, 0.6, 2, 1],
        )[0]
        if kind == "deliver":
            self.deliver()
        elif kind == "cut":
            group.heal()
            if rng.random() < 0.6:
                group.isolate(*rng.sample(sorted(group.members), rng.randrange(len(group.members))))
        elif kind == "restart":
            if not member.alive:
                member.start()
        elif member.alive:
            if kind == "process":
                if member.out is None:
                    member.begin()
                else:
                    member.finish(lambda _point: rng.random() < self.crashes / 3)
            elif kind == "tick":
                member.node.tick()
            elif kind == "compact" and member.out is None:
                member.compact(keep=rng.choice([0, 2]))
            elif kind != "compact":
                self.ask(kind, member.id)

    def deliver(self) -> None:
        """Any message, in any order; it may be lost or come twice."""
        rng, network = self.rng, self.group.network
        if not network:
            return
        position = rng.randrange(min(len(network), 8))
        message = network.pop(position)
        if rng.random() < self.loss:
            source = self.group.members[message.from_]
            if message.snapshot is not None and source.alive:
                source.node.report_snapshot(message.to, False)
            return
        if rng.random() < self.duplicates:
            network.append(message)
        self.group.deliver(message)

    def ask(self, kind: str, id_: int) -> None:
        """What clients and operators want; being refused is fine."""
        self.counter += 1
        node, rng = self.group.members[id_].node, self.rng
        try:
            if kind == "propose":
                for part in range(rng.choice([1, 1, 4])):
                    node.propose(b"%d.%d" % (self.counter, part))
            elif kind == "read":
                self.group.read(id_, b"%d" % self.counter)
            elif rng.random() < 0.4:
                node.transfer_leader(rng.choice(sorted(self.group.members)))
            elif rng.random() < 0.2:
                node.campaign()
            else:
                self.reconfigure(id_)
        except REFUSALS:
            pass

    def reconfigure(self, id_: int) -> None:
        group, rng = self.group, self.rng
        target = rng.choice(sorted(group.members))
        if rng.random() < 0.3 and len(group.members) < 6:
            target = max(group.members) + 1
        kind = rng.choice([ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE_NODE])
        group.members[id_].node.propose_conf_change(ConfChange(kind, target))
        if target not in group.members:
            group.join(target)

    def heal(self) -> None:
        """Nothing fails any more: a leader must be found, and what it takes must reach every member of the group."""
        group = self.group
        group.heal()
        for member in group.members.values():
            if not member.alive:
                member.start()
        group.settle(2000)
        for _ in range(400):
            group.tick()
            leaders = [m for m in group.members.values() if m.node.is_leader]
            if not leaders:
                continue
            leader = max(leaders, key=lambda m: m.node.status().term)
            if leader.node.status().lead_transferee != NONE:
                continue
            leader.node.propose(b"after")
            group.settle(2000)
            group.tick(3)
            conf = leader.node.status().conf_state
            taking_part = [group.members[i] for i in (*conf.voters, *conf.learners)]
            if leader.node.is_leader and all(m.applied_index == leader.applied_index for m in taking_part):
                assert all(m.applied == leader.applied for m in taking_part)
                assert b"after" in leader.applied
                return
        raise AssertionError("the healed group makes no progress")


def run(rng: random.Random, events: int) -> Chaos:
    chaos = Chaos(rng)
    for number in range(events):
        chaos.event()
        if number % 50 == 0:
            chaos.group.oracle.logs_match(m for m in chaos.group.members.values() if m.alive)
    chaos.heal()
    return chaos


@pytest.mark.parametrize("seed", range(60))
def test_seeded_schedules_are_safe_and_heal(seed: int) -> None:
    run(random.Random(seed), 1500)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False), events=st.integers(0, 400))
def test_any_schedule_is_safe_and_heals(rng: random.Random, events: int) -> None:
    run(rng, events)


def test_the_same_seed_gives_the_same_history() -> None:
    one, other = (run(random.Random(7), 800).group for _ in range(2))
    assert one.oracle.chosen == other.oracle.chosen
    assert one.oracle.leaders == other.oracle.leaders

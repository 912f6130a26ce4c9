"""Random schedules of everything that a network, disks, clocks and operators can do to a group.

Each schedule draws its own parameters first (swarm testing: most schedules lack most faults, so that rare features
meet each other), then runs two phases. Safety: anything may happen, the oracle watches every step. Liveness: nothing
fails any more; within a bounded number of ticks somebody leads and everybody in the group has everything.

`python -m tests.raft.schedule FIRST COUNT` runs seeds at leisure and prints the first that fails.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable

from rayplane.control_plane.etcd.raft import (
    NONE,
    ConfChange,
    ConfChangeRefused,
    ConfChangeType,
    Message,
    MessageType,
    ProposalDropped,
    ReadIndexDropped,
    TransferRefused,
)
from tests.raft.harness import Group, Member

REFUSALS = (ProposalDropped, ReadIndexDropped, TransferRefused, ConfChangeRefused)
MEMBERS_MAX = 6
NETWORK_MAX = 400
SNAP = MessageType.SNAP
CRASHES = ("before save", "within save", "after save", "after send")
#: Election timeouts until a healed group must have a leader, and everything everywhere. So many, as all ticks fall
#: together and without pre-vote votes may split again and again.
LIVENESS_TIMEOUTS = 30


class Swarm:
    """One schedule's parameters."""

    def __init__(self, rng: random.Random) -> None:
        def often(share: float, *values: float) -> float:
            """One of the values in this share of all schedules, else 0."""
            return rng.choice(values) if rng.random() < share else 0.0

        self.size = rng.choice((1, 2, 3, 3, 3, 3, 4, 5))
        largest = rng.choice((0, 10, 60, 1 << 20))
        self.config = {
            "pre_vote": rng.random() < 0.75,
            "check_quorum": rng.random() < 0.75,
            "election_ticks": rng.choice((3, 3, 4, 8)),
            "max_size_per_message": largest,
            "max_inflight_messages": rng.choice((1, 2, 8, 256)),
            "max_inflight_bytes": rng.choice((max(1, largest), 1 << 20)),
            "max_committed_size_per_ready": rng.choice((1, 40, 1 << 20)),
            "max_uncommitted_size": max(largest, rng.choice((50, 1 << 20))),
            "max_pending_reads": rng.choice((1, 3, 1000)),
        }
        self.learners = rng.random() < 0.15
        self.elect_first = rng.random() < 0.7
        self.durable_machine = rng.random() < 0.3
        # Probabilities per round, member or message.
        self.tick = rng.choice((0.3, 0.6, 1.0))
        self.process = rng.choice((0.5, 1.0, 1.0))
        self.finish = rng.choice((0.4, 0.8, 1.0))
        self.hold = rng.choice((0.0, 0.0, 0.2, 0.5))
        self.lose = often(0.5, 0.02, 0.1, 0.3)
        self.duplicate = often(0.4, 0.05, 0.3)
        self.shuffle = often(0.5, 1.0)
        self.crash = often(0.4, 0.01, 0.05)
        self.stop = often(0.4, 0.02, 0.1)
        self.restart = rng.choice((0.05, 0.3))
        self.cut = often(0.5, 0.05, 0.2)
        self.pause = often(0.2, 0.03)
        self.propose = rng.choice((0.05, 0.3, 0.7))
        self.read = often(0.5, 0.1, 0.4)
        self.reconfigure = often(0.35, 0.05, 0.25)
        # Who joins later learns of the founders from the log.
        self.founders_in_log = self.reconfigure > 0 or rng.random() < 0.1
        self.transfer = often(0.3, 0.03, 0.15)
        self.campaign = often(0.35, 0.05, 0.2)
        self.forget = often(0.3, 0.05, 0.2)
        self.unreachable = often(0.3, 0.05, 0.2)
        self.compact = often(0.5, 0.05, 0.3)
        self.value = rng.choice((1, 8, 30))


class Schedule:
    """The same seed gives the same history."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.swarm = swarm = Swarm(rng)
        learners = [swarm.size] if swarm.learners and swarm.size > 1 else []
        self.group = Group(swarm.size, seed=seed, learners=learners, **swarm.config)
        if swarm.founders_in_log:
            self.group.found_through_log()
        self.paused: dict[int, int] = {}  # until which round
        self.round = self.counter = 0
        if swarm.elect_first:
            self.group.members[1].node.campaign()
            self.group.settle()

    # Safety

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.one_round()

    def one_round(self) -> None:
        rng, swarm, group = self.rng, self.swarm, self.group
        chance = rng.random
        self.round += 1
        for member in list(group.members.values()):
            if self.paused.get(member.id, 0) > self.round:
                continue
            if not member.alive:
                if chance() < swarm.restart:
                    member.start()
                continue
            if chance() < swarm.tick:
                member.tick()
            if member.out is None:
                if chance() < swarm.process:
                    member.begin()
            elif chance() < 0.3:
                member.apply()
            if member.out is not None and chance() < swarm.finish:
                member.finish(rng.choice(CRASHES) if chance() < swarm.crash else "")
        self.deliver()
        if chance() < 0.7:
            self.clients()
        if chance() < 0.5:
            self.trouble()

    def deliver(self) -> None:
        """Messages arrive, wait, get lost or come twice, in any order."""
        rng, swarm, group = self.rng, self.swarm, self.group
        chance = rng.random
        pending, group.network = group.network, []
        if swarm.shuffle and len(pending) > 1:
            rng.shuffle(pending)
        if len(pending) > NETWORK_MAX:
            for message in pending[NETWORK_MAX:]:
                self.lost(message)
            del pending[NETWORK_MAX:]
        for message in pending:
            if chance() < swarm.hold or self.paused.get(message.to, 0) > self.round:
                group.network.append(message)
            elif chance() < swarm.lose:
                self.lost(message)
            else:
                group.deliver(message)
                if chance() < swarm.duplicate and message.type is not SNAP:
                    group.network.append(message)

    def lost(self, message: Message) -> None:
        """Whoever sends a snapshot learns how that ended; it may be wrong when it looked well."""
        if message.type is SNAP and (source := self.group.members[message.from_]).alive:
            source.node.report_snapshot(message.to, self.rng.random() < 0.2)
            self.group.oracle.observe(source)

    def clients(self) -> None:
        """What clients and operators want; being refused is fine."""
        rng, swarm, group = self.rng, self.swarm, self.group
        chance = rng.random
        leaders = [m for m in group.members.values() if m.alive and m.node.is_leader]
        member = rng.choice(leaders if leaders and chance() < 0.8 else list(group.members.values()))
        if not member.alive:
            return
        self.counter += 1
        wishes: list[tuple[float, Callable[[Member], object]]] = [
            (swarm.propose, self.propose),
            (swarm.read, lambda m: group.read(m.id, b"%d" % self.counter)),
            (swarm.reconfigure, self.reconfigure),
            (swarm.transfer, lambda m: m.node.transfer_leader(rng.choice(list(group.members)))),
        ]
        for probability, wish in wishes:
            if probability and chance() < probability:
                with contextlib.suppress(*REFUSALS):
                    wish(member)
                group.oracle.observe(member)

    def propose(self, member: Member) -> None:
        for part in range(self.rng.choice((1, 1, 2, 5))):
            member.node.propose(b"%d.%d" % (self.counter, part) + b"x" * self.rng.randrange(self.swarm.value))

    def reconfigure(self, member: Member) -> None:
        group, rng = self.group, self.rng
        target = rng.choice(list(group.members))
        if rng.random() < 0.3 and len(group.members) < MEMBERS_MAX:
            target = max(group.members) + 1
        kind = rng.choice((ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE_NODE))
        member.node.propose_conf_change(ConfChange(kind, target))
        if target not in group.members:
            group.join(target)

    def trouble(self) -> None:
        """What happens to machines and lines."""
        rng, swarm, group = self.rng, self.swarm, self.group
        chance = rng.random
        members = list(group.members.values())
        leaders = [m for m in members if m.alive and m.node.is_leader]
        member = rng.choice(leaders if leaders and chance() < 0.4 else members)
        if chance() < swarm.cut:
            self.cut(member)
        if chance() < swarm.pause:
            self.paused[member.id] = self.round + rng.randrange(1, 30)
        if not member.alive:
            return
        if chance() < swarm.stop:
            member.crash()
            return
        node = member.node
        if chance() < swarm.campaign:
            node.campaign()
        if chance() < swarm.forget:
            node.forget_leader(rng.choice((node.leader, node.leader, member.id % 5 + 1)))
        if chance() < swarm.unreachable:
            node.report_unreachable(rng.choice(members).id)
        if member.out is None and chance() < swarm.compact:
            member.compact(keep=rng.choice((0, 1, 4)))
        if swarm.durable_machine and chance() < 0.2:
            member.save_machine()
        group.oracle.observe(member)

    def cut(self, victim: Member) -> None:
        """Heal all lines, cut off one member or some, or cut single lines in one direction."""
        rng, group = self.rng, self.group
        group.heal()
        kind, ids = rng.random(), list(group.members)
        if kind < 0.25:
            group.isolate(victim.id)
        elif kind < 0.5:
            group.isolate(*rng.sample(ids, rng.randrange(len(ids))))
        elif kind < 0.7:
            group.cut.update((one, other) for one in ids for other in ids if one != other and rng.random() < 0.3)

    # Liveness

    def heal(self) -> None:
        """Nothing fails any more: somebody must lead soon, and what it takes must reach every member of the group."""
        group = self.group
        group.heal()
        for member in group.members.values():
            if not member.alive:
                member.start()
        bound = LIVENESS_TIMEOUTS * self.swarm.config["election_ticks"]
        asked = -1
        context = b"after"
        for _ in range(bound):
            group.tick()
            leaders = [m for m in group.members.values() if m.node.is_leader]
            leader = max(leaders, key=lambda m: m.node.term, default=None)
            if leader is None or leader.node.status().lead_transferee != NONE:
                continue
            if asked != leader.node.term:
                try:
                    leader.node.propose(b"after")
                    group.read(leader.id, context)
                except REFUSALS:
                    continue
                asked = leader.node.term
                group.settle()
            if self.agreed(leader, context):
                return
        raise AssertionError(f"no agreement {bound} ticks after the group was healed")

    def agreed(self, leader: Member, context: bytes) -> bool:
        conf = leader.node._raft.conf
        taking_part = [self.group.members[i] for i in (*conf.voters, *conf.learners)]
        if any(m.applied_index != len(self.group.oracle.ledger) for m in taking_part) or not leader.node.is_leader:
            return False
        assert all(m.applied == leader.applied for m in taking_part), "state machines differ"
        return b"after" in leader.applied and any(read.context == context for read in leader.reads)


def run(seed: int, rounds: int = 60) -> Schedule:
    """One schedule; what goes wrong says the seed."""
    try:
        schedule = Schedule(seed)
        schedule.run(rounds)
        schedule.heal()
    except Exception as error:
        raise AssertionError(f"seed {seed}, {rounds} rounds: {error}") from error
    return schedule


if __name__ == "__main__":
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for number in range(first, first + count):
        run(number)
    print(f"{count} schedules from {first} on are safe and live")

"""The supervisor's plan from any state: done over and over it gets there, whoever dies meanwhile, and harms nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.cluster.supervisor.actions import (
    Action,
    AddLearner,
    DeleteNode,
    Promote,
    RemoveMember,
    Start,
    Stop,
    StoreTopology,
)
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus, Observed
from rayplane.control_plane.cluster.supervisor.plan import SPREAD, is_settled, plan
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology
from tests.cluster.test_supervisor_plan import HEIR, MACHINES, A, B, C, phased, small, with_ports

ROUNDS_MAX = 150
STAYS_DRAINED = (Role.NODE_HOST, Role.SUPERVISOR)
_UP, _DOWN, _LOST_DATA, _GONE = "up", "down", "lost its data", "gone with its machine"


@dataclass
class Model:
    """A small cluster that does as it is told, and asserts that it is told nothing harmful.

    What a supervisor only remembers is `failures`, `lost`, `deregistered` and `overdue`; a successor begins without.
    """

    topology: Topology
    machines: list[Machine]
    running: set[str]
    damaged: set[str]
    """Members that cannot come back."""
    members: dict[int, tuple[str, bool]]
    """Peer endpoint and learner."""
    tries_to_promote: int = 0
    stuck: set[str] = field(default_factory=set)
    """Members whose every start fails, though their data is as it was."""
    failures: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    deregistered: set[str] = field(default_factory=set)
    overdue: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)
    now: float = 0.0

    def observed(self) -> Observed:
        return Observed(
            running=frozenset(self.running),
            machines=tuple(self.machines),
            failures=dict(self.failures),
            lost=frozenset(self.lost),
            overdue=frozenset(self.overdue),
            deregistered=frozenset(self.deregistered),
            members=tuple(
                MemberStatus(n, (peer,), learner, self.is_healthy(n)) for n, (peer, learner) in self.members.items()
            )
            if self.has_quorum()
            else (),
            retired=frozenset(self.retired),
        )

    def name(self, member_id: int) -> str:
        peer = self.members[member_id][0]
        return next((i.name for i in self.topology.of(Role.MEMBER) if i.endpoint("peer") == peer), "")

    def voters(self) -> list[int]:
        return [n for n, (_, learner) in self.members.items() if not learner]

    def is_healthy(self, member_id: int) -> bool:
        return self.name(member_id) in self.running

    def has_quorum(self) -> bool:
        return sum(map(self.is_healthy, self.voters())) > len(self.voters()) // 2

    def do(self, action: Action) -> None:
        match action:
            case Start(instance):
                self.start(instance)
            case Stop(name):
                voter = any(self.name(n) == name for n in self.voters())
                assert not voter, f"{name} votes and is stopped"
                self.running.discard(name)
            case StoreTopology(topology):
                self.store(with_ports(topology))
            case AddLearner(_, peer) if self.has_quorum():
                assert not any(learner for _, learner in self.members.values()), "etcd allows one learner"
                if peer not in [p for p, _ in self.members.values()]:
                    self.members[max(self.members) + 1] = (peer, True)
            case Promote(name, member_id) if self.has_quorum() and name in self.running:
                self.tries_to_promote -= 1
                if self.tries_to_promote <= 0:
                    self.members[member_id] = (self.members[member_id][0], False)
            case RemoveMember(_, member_id) if self.has_quorum():
                self.remove(member_id)
            case DeleteNode(node):
                self.deregistered.add(node)

    def start(self, instance: Instance) -> None:
        assert instance.machine in self.machines, f"{instance.name} is started on a machine that is gone"
        assert instance.name not in self.retired, f"{instance.name} was a member"
        goes = instance.role not in (*STAYS_DRAINED, Role.MEMBER)
        assert not goes or instance.machine in self.open(), f"{instance.name} is started on a drained machine"
        enough = len(self.topology.of(Role.MEMBER)) > 2
        assert not (instance.name in self.lost and enough), f"{instance.name} has lost its data and is started"
        if instance.name in self.damaged:
            self.lost.add(instance.name)
        elif instance.name in self.stuck:
            self.failures[instance.name] = self.failures.get(instance.name, 0) + 1
        elif instance.role is not Role.MEMBER or any(p == instance.endpoint("peer") for p, _ in self.members.values()):
            self.running.add(instance.name)

    def store(self, topology: Topology) -> None:
        if not self.has_quorum():
            return
        before = {i.name for i in self.topology.of(Role.MEMBER)}
        after = {i.name for i in topology.of(Role.MEMBER)}
        assert not (after - before) & self.ever, "a member's name is given again"
        self.ever |= before | after
        self.retired |= before - after
        self.topology = topology

    def open(self) -> list[Machine]:
        return [m for m in self.machines if m.address not in self.topology.drained] or self.machines

    def remove(self, member_id: int) -> None:
        others = [n for n in self.voters() if n != member_id]
        ill = [self.name(n) for n in others if not self.is_healthy(n)]
        learner = self.members[member_id][1]
        assert learner or not (self.is_healthy(member_id) and ill), f"removed while {ill} are not healthy"
        del self.members[member_id]
        assert self.has_quorum(), "no majority is left"

    def is_done(self) -> bool:
        wanted = {i.name for i in self.topology.instances}
        voting = {self.name(n) for n in self.voters()}
        return (
            self.running == wanted
            and all(i.phase is Phase.ACTIVE and i.machine in self.machines for i in self.topology.instances)
            and all(i.role in STAYS_DRAINED or i.machine in self.open() for i in self.topology.instances)
            and voting == {i.name for i in self.topology.of(Role.MEMBER)}
            and len(self.voters()) == len(self.members)
            and all(map(self.is_spread, (Role.MEMBER, *SPREAD)))
        )

    def is_spread(self, role: Role) -> bool:
        there = Counter(i.machine for i in self.topology.of(role))
        return max(there.values()) - min(there[m] for m in self.open()) < 2


@st.composite
def models(draw: Callable[..., Any]) -> Model:
    """A cluster in trouble, with a majority that can be had, at any point of any change."""
    count = draw(st.integers(1, 5))
    drained = draw(st.sampled_from([(), (), (A.address,), (B.address,)]))
    sizes = {"nodes": draw(st.integers(1, 2)), "apiservers": draw(st.integers(2, 4)), "schedulers": 2}
    topology = replace(small(members=count, **sizes), drained=drained)
    if draw(st.booleans()):
        for instance in topology.of(draw(st.sampled_from(SPREAD))):
            topology = topology.replaced(replace(instance, machine=A))
    gone = draw(st.sampled_from([(), (), (B,), (C,)]))
    machines = [m for m in MACHINES if m not in gone]
    running, damaged = {"supervisor"}, set()
    for instance in topology.instances:
        state = draw(st.sampled_from([_UP, _UP, _UP, _DOWN, _LOST_DATA]))
        if instance.role is Role.MEMBER and (state == _LOST_DATA or instance.machine in gone):
            damaged.add(instance.name)
        elif state == _UP and instance.machine not in gone:
            running.add(instance.name)
    # Of two members with one damaged nothing can be done, and of none the others are a majority.
    names = [i.name for i in topology.of(Role.MEMBER)]
    while 2 * len(damaged) >= len(names) and damaged:
        saved = topology.get(max(damaged))
        damaged.discard(saved.name)
        topology = topology.replaced(replace(saved, machine=A))
    members = {n: (topology.get(name).endpoint("peer"), False) for n, name in enumerate(names, 1)}
    model = Model(topology, machines, running, damaged, members, draw(st.integers(0, 3)))
    whole = [name for name in names if name not in damaged]
    if 2 * (len(damaged) + 1) < len(names) and draw(st.booleans()):
        model.stuck = {draw(st.sampled_from(whole))}
        running -= model.stuck
    _change(draw, model)
    return model


def _change(draw: Callable[..., Any], model: Model) -> None:
    """Put the model in the midst of a change that a supervisor began which is no more."""
    heir = with_ports(model.topology.with_instance(replace(HEIR, name="member-9", ports={}, machine=A))).get("member-9")
    what = draw(st.sampled_from(["nothing", "join", "replace", "leave", "leave node", "stray learner"]))
    names = [i.name for i in model.topology.of(Role.MEMBER)]
    if what in ("join", "replace"):
        model.topology = model.topology.with_instance(
            replace(heir, replaces=draw(st.sampled_from(sorted(model.damaged) or names)) if what == "replace" else "")
        )
        point = draw(st.sampled_from(["stored", "added", "runs", "votes"]))
        if point != "stored":
            model.members[9] = (heir.endpoint("peer"), point != "votes")
        if point in ("runs", "votes"):
            model.running.add("member-9")
        if point == "runs" and draw(st.booleans()):
            model.running.discard("member-9")
            model.damaged.add("member-9")
    elif what == "leave" and len(names) > 1:
        name = draw(st.sampled_from(names))
        model.topology = phased(name, Phase.LEAVING, model.topology)
        if draw(st.booleans()) and _may_go(model, name):
            del model.members[names.index(name) + 1]
    elif what == "leave node":
        model.topology = phased("node-host-0", Phase.LEAVING, model.topology)
    elif what == "stray learner":
        model.members[9] = ("10.9.9.9:1", True)


def _may_go(model: Model, name: str) -> bool:
    """Whether the members that are left can be a majority of themselves."""
    left = [i.name for i in model.topology.of(Role.MEMBER) if i.name != name]
    return 2 * sum(n in model.damaged | model.stuck for n in left) < len(left)


@settings(max_examples=400, deadline=None)
@given(models(), st.sets(st.integers(0, 40), max_size=5), st.sets(st.integers(0, 40), max_size=10))
def test_from_any_state_the_topology_is_reached_and_nothing_harmful_is_done(
    model: Model, successions: set[int], lost_actions: set[int]
) -> None:
    """`successions`: rounds in which the supervisor dies and another begins. `lost_actions`: rounds in which it dies
    after its first action."""
    for number in range(ROUNDS_MAX):
        if number in successions:
            model.failures, model.lost, model.deregistered, model.overdue = {}, set(), set(), set()
        actions = plan(model.topology, model.observed(), model.now)
        for action in actions[:1] if number in lost_actions else actions:
            model.do(action)
        model.now += 1.0
        # Whoever asked for a change gives up after a while.
        pending = {i.name for i in model.topology.instances if i.phase is not Phase.ACTIVE}
        model.overdue = pending if number % 40 == 39 else set()
        if not actions and model.is_done():
            break
    assert model.is_done(), (model, plan(model.topology, model.observed(), model.now))
    assert is_settled(model.topology, model.observed())

"""The supervisor's plan: what is done next from every state."""

from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.supervisor.actions import (
    Action,
    AddLearner,
    DeleteNode,
    Promote,
    RemoveMember,
    Start,
    Stop,
    StoreTopology,
    WaitUntil,
)
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus, Observed
from rayplane.control_plane.cluster.supervisor.plan import SPREAD, is_settled, plan
from rayplane.control_plane.cluster.supervisor.starts import STARTS_MAX
from rayplane.control_plane.cluster.topology import PORTS, TIED, Instance, Machine, Phase, Role, Topology, founding

A, B, C = Machine("10.0.0.1", "a"), Machine("10.0.0.2", "b"), Machine("10.0.0.3", "c")
MACHINES = (A, B, C)


def with_ports(topology: Topology) -> Topology:
    """Every port a number that no other has."""
    used = [p for i in topology.instances for p in i.ports.values()]
    following = max(used, default=1000)
    for instance in topology.instances:
        if len(instance.ports) < len(PORTS[instance.role]):
            ports = {}
            for label in PORTS[instance.role]:
                following += 1
                ports[label] = following
            topology = topology.replaced(replace(instance, ports=ports))
    return topology


def small(**flags: int) -> Topology:
    sizes: dict[str, Any] = {"members": 3, "apiservers": 2, "schedulers": 1, "controllers": 1, "nodes": 1}
    return with_ports(founding(ClusterConfig(**(sizes | flags)), MACHINES))


TOPOLOGY = small()
ALL = frozenset(i.name for i in TOPOLOGY.instances)
HEIR = Instance("member-3", Role.MEMBER, B, {"client": 1, "peer": 2}, joins=True, phase=Phase.JOINING)


def status(instance: Instance, *, learner: bool = False, healthy: bool = True) -> MemberStatus:
    number = int(instance.name.rpartition("-")[2]) + 100
    return MemberStatus(number, (instance.endpoint("peer"),), learner, healthy)


def listed(topology: Topology = TOPOLOGY, *, ill: str = "", learner: str = "", without: str = "") -> Any:
    """Etcd's list of a topology's members."""
    return tuple(
        status(i, learner=i.name == learner, healthy=i.name != ill)
        for i in topology.of(Role.MEMBER)
        if i.name != without
    )


def seen(**changes: Any) -> Observed:
    return replace(Observed(running=ALL, machines=MACHINES, members=listed()), **changes)


def phased(name: str, phase: Phase, topology: Topology = TOPOLOGY) -> Topology:
    return topology.replaced(replace(topology.get(name), phase=phase))


def stored(actions: list[Action]) -> Topology:
    """The topology that the only such action stores."""
    (found,) = (a.topology for a in actions if isinstance(a, StoreTopology))
    return found


# --- actors -------------------------------------------------------------------------------------


def test_nothing_is_to_be_done_when_all_is_as_desired() -> None:
    assert plan(TOPOLOGY, seen(), 0.0) == []
    assert is_settled(TOPOLOGY, seen(members=None))


def test_what_is_missing_is_started_once_and_not_before_its_time() -> None:
    gone = ALL - {"scheduler-0", "member-1", "supervisor"}
    missing = [Start(TOPOLOGY.get("member-1")), Start(TOPOLOGY.get("scheduler-0"))]
    assert plan(TOPOLOGY, seen(running=gone), 0.0) == missing
    assert plan(TOPOLOGY, seen(running=gone, starting=frozenset({"member-1"})), 0.0) == missing[1:]
    later = seen(running=gone, not_before={"scheduler-0": 5.0})
    assert plan(TOPOLOGY, later, 4.9) == missing[:1]
    assert plan(TOPOLOGY, later, 5.0) == missing


def test_until_the_stored_topology_is_known_only_what_is_missing_is_started() -> None:
    odd = seen(running=ALL - {"lb"} | {"stray"}, machines=(A, B), members=None, current=False)
    homes = {i.name for i in TOPOLOGY.instances if i.machine is C}
    assert "lb" not in homes
    assert plan(TOPOLOGY, odd, 0.0) == [Start(TOPOLOGY.get("lb"))]


def test_what_is_not_wanted_is_stopped_even_while_it_starts_but_once() -> None:
    stray = Stop("stray", "it is not wanted")
    assert plan(TOPOLOGY, seen(running=ALL | {"stray"}), 0.0) == [stray]
    assert plan(TOPOLOGY, seen(starting=frozenset({"stray"})), 0.0) == [stray]
    assert plan(TOPOLOGY, seen(running=ALL | {"stray"}, stopping=frozenset({"stray"})), 0.0) == []


def test_what_was_on_a_lost_machine_is_stopped_then_moved_then_started() -> None:
    left = seen(machines=(A, C))
    instance = TOPOLOGY.get("apiserver-1")
    assert instance.machine is B
    assert Stop("apiserver-1", "its machine 10.0.0.2 is gone") in plan(TOPOLOGY, left, 0.0)
    gone = replace(left, running=ALL - {"apiserver-1"}, members=None)
    moved = stored(plan(TOPOLOGY, gone, 0.0))
    assert moved.get("apiserver-1").machine in (A, C) and moved.get("apiserver-1").ports == {}
    assert moved.get("member-1").machine is B, "data does not move"
    assert Start(moved.get("apiserver-1")) in plan(moved, gone, 0.0)


@pytest.mark.parametrize("name", ["apiserver-1", "scheduler-0", "controllers-0", "lb"])
def test_what_fails_again_and_again_where_it_is_gets_other_ports_on_another_machine(name: str) -> None:
    failing = seen(running=ALL - {name}, members=None, not_before={name: 9.0}, failures={name: STARTS_MAX - 1})
    assert plan(TOPOLOGY, failing, 0.0) == []
    failing = replace(failing, failures={name: STARTS_MAX})
    moved = stored(plan(TOPOLOGY, failing, 0.0)).get(name)
    assert moved.machine != TOPOLOGY.get(name).machine and moved.machine in MACHINES and moved.ports == {}
    crowded = replace(failing, crowded=frozenset({name}))
    there = stored(plan(TOPOLOGY, crowded, 0.0)).get(name)
    assert (there.machine, there.ports) == (TOPOLOGY.get(name).machine, {}), "where a port is taken, others will do"
    gone = tuple(m for m in MACHINES if m != TOPOLOGY.get(name).machine)
    assert stored(plan(TOPOLOGY, replace(crowded, machines=gone), 0.0)).get(name).machine in gone
    alone = stored(plan(TOPOLOGY, replace(failing, machines=(TOPOLOGY.get(name).machine,)), 0.0)).get(name)
    assert alone.machine == TOPOLOGY.get(name).machine and alone.ports == {}
    for unsure in ({"members": ()}, {"running": ALL}, {"starting": frozenset({name})}, {"current": False}):
        assert not any(isinstance(a, StoreTopology) for a in plan(TOPOLOGY, replace(failing, **unsure), 0.0))


def test_a_node_host_that_fails_stays_with_its_volumes_and_a_member_with_its_data() -> None:
    both = {"node-host-0", "member-1"}
    failing = seen(
        running=ALL - both, members=None, failures=dict.fromkeys(both, 99), not_before=dict.fromkeys(both, 9)
    )
    moved = stored(plan(TOPOLOGY, failing, 0.0))
    node = moved.get("node-host-0")
    assert node.machine == TOPOLOGY.get("node-host-0").machine and node.ports == {}
    assert moved.get("member-1") == TOPOLOGY.get("member-1")


def test_a_leaving_api_server_goes_when_all_know_the_newest() -> None:
    leaving = phased("apiserver-1", Phase.LEAVING)
    early = plan(leaving, seen(learnt_at=7.0), 6.0)
    assert [type(a) for a in early] == [WaitUntil] and early[0].time == 7.0  # type: ignore[union-attr]
    assert plan(leaving, seen(learnt_at=7.0), 7.0) == [Stop("apiserver-1", "it leaves")]
    gone = seen(running=ALL - {"apiserver-1"})
    assert stored(plan(leaving, gone, 0.0)) == TOPOLOGY.without("apiserver-1")


def test_a_leaving_node_host_takes_the_objects_of_its_nodes_with_it() -> None:
    leaving = phased("node-host-0", Phase.LEAVING)
    assert plan(leaving, seen(), 0.0) == [Stop("node-host-0", "it leaves")]
    gone = seen(running=ALL - {"node-host-0"})
    assert plan(leaving, gone, 0.0) == [DeleteNode("node-0")]
    deleted = replace(gone, deregistered=frozenset({"node-0"}))
    assert stored(plan(leaving, deleted, 0.0)) == TOPOLOGY.without("node-host-0")


# --- a replacement, from every point ------------------------------------------------------------

_LOST = phased("member-1", Phase.ACTIVE)
_JOINING = TOPOLOGY.with_instance(replace(HEIR, replaces="member-1"))
_VOTES = phased("member-1", Phase.LEAVING, TOPOLOGY.with_instance(replace(HEIR, phase=Phase.ACTIVE)))
_HEIR, _OLD = _JOINING.get("member-3"), TOPOLOGY.get("member-1")
_RUNS = ALL - {"member-1"}


def _members(*, heir: bool | None = None, old: bool = True) -> Any:
    """`heir`: not listed, or whether it votes."""
    found = listed(TOPOLOGY, ill="member-1", without="" if old else "member-1")
    return found if heir is None else (*found, status(_HEIR, learner=not heir))


_GONE_DATA = frozenset({"member-1"})
_STEPS: dict[str, tuple[Topology, Observed, list[Action] | Topology]] = {
    "found out": (_LOST, seen(lost=_GONE_DATA, running=_RUNS, members=_members()), _JOINING),
    "to be added": (
        _JOINING,
        seen(lost=_GONE_DATA, running=_RUNS, members=_members()),
        [AddLearner("member-3", "10.0.0.2:2")],
    ),
    "to be started": (_JOINING, seen(lost=_GONE_DATA, running=_RUNS, members=_members(heir=False)), [Start(_HEIR)]),
    "starting": (
        _JOINING,
        seen(lost=_GONE_DATA, running=_RUNS, starting=frozenset({"member-3"}), members=_members(heir=False)),
        [],
    ),
    "to be promoted": (
        _JOINING,
        seen(lost=_GONE_DATA, running=_RUNS | {"member-3"}, members=_members(heir=False)),
        [Promote("member-3", 103)],
    ),
    "votes": (_JOINING, seen(lost=_GONE_DATA, running=_RUNS | {"member-3"}, members=_members(heir=True)), _VOTES),
    "to be removed": (
        _VOTES,
        seen(lost=_GONE_DATA, running=_RUNS | {"member-3"}, members=_members(heir=True), learnt_at=9.0),
        [RemoveMember("member-1", 101), WaitUntil(9.0, "all clients know of the actors that came last")],
    ),
    "to be stopped": (
        _VOTES,
        seen(running=ALL | {"member-3"}, members=_members(heir=True, old=False)),
        [Stop("member-1", "it leaves")],
    ),
    "to be forgotten": (
        _VOTES,
        seen(lost=_GONE_DATA, running=_RUNS | {"member-3"}, members=_members(heir=True, old=False)),
        _VOTES.without("member-1"),
    ),
    "done": (
        _VOTES.without("member-1"),
        seen(lost=_GONE_DATA, running=_RUNS | {"member-3"}, members=_members(heir=True, old=False)),
        [],
    ),
}


@pytest.mark.parametrize("step", _STEPS)
def test_a_replacement_goes_on_from_every_point(step: str) -> None:
    desired, observed, expected = _STEPS[step]
    actions = plan(desired, observed, 1.0)
    if isinstance(expected, Topology):
        assert with_ports(stored(actions)).instances == with_ports(_portless(expected, stored(actions))).instances
        assert len(actions) == 1
    else:
        assert actions == expected


def _portless(expected: Topology, found: Topology) -> Topology:
    """As the plan gives it: it does not know which ports are free, nor whose turn it is on which machine."""
    for instance in found.instances:
        if not instance.ports and PORTS[instance.role]:
            like = replace(expected.get(instance.name), ports={}, machine=instance.machine)
            expected = expected.replaced(like)
    return expected


def test_a_successor_starts_the_old_member_too_which_refuses_by_itself() -> None:
    observed = seen(running=_RUNS, members=_members(heir=False))
    assert plan(_JOINING, observed, 0.0) == [Start(_OLD), Start(_HEIR)]


def test_a_member_whose_machine_is_gone_is_replaced_too_and_its_name_is_not_given_again() -> None:
    observed = seen(machines=(A, C), running=_RUNS, members=_members(), retired=frozenset({"member-3", "member-4"}))
    (heir,) = [i for i in stored(plan(TOPOLOGY, observed, 0.0)).of(Role.MEMBER) if i.phase is Phase.JOINING]
    assert (heir.name, heir.replaces, heir.joins) == ("member-5", "member-1", True)
    assert heir.machine in (A, C)


def test_a_member_that_never_starts_is_replaced_elsewhere_and_tried_until_then() -> None:
    failing = seen(running=_RUNS, members=_members(), failures={"member-1": STARTS_MAX}, not_before={"member-1": 9.0})
    joining = stored(plan(TOPOLOGY, failing, 0.0))
    (heir,) = [i for i in joining.of(Role.MEMBER) if i.phase is Phase.JOINING]
    assert heir.replaces == "member-1" and heir.machine in (A, C)
    assert Start(_OLD) in plan(_JOINING, replace(failing, members=_members(heir=False)), 9.0)
    assert stored(plan(TOPOLOGY, replace(failing, machines=(B,)), 0.0)).has("member-3"), "there is no other machine"
    assert not is_settled(TOPOLOGY, replace(failing, members=None)), "etcd is asked, who else is well"


@pytest.mark.parametrize(
    ("topology", "changes"),
    [
        (TOPOLOGY, {"failures": {"member-1": STARTS_MAX - 1}}),
        (TOPOLOGY, {"members": listed(), "running": ALL}),
        (TOPOLOGY, {"members": tuple(replace(m, healthy=m.id == 102) for m in listed())}),
        (TOPOLOGY, {"members": ()}),
        (small(members=2), {"members": listed(small(members=2), ill="member-1")}),
    ],
    ids=["not often enough", "it runs again", "another is ill too", "etcd is silent", "of two"],
)
def test_a_member_that_does_not_start_stays_where_its_heir_would_be_a_risk(
    topology: Topology, changes: dict[str, Any]
) -> None:
    """What keeps two of three from starting, such as a full disk, must not cost the majority."""
    failing = seen(running=_RUNS, members=_members(), failures={"member-1": STARTS_MAX}, not_before={"member-1": 9.0})
    actions = plan(topology, replace(failing, **changes), 0.0)
    assert not any(
        isinstance(a, StoreTopology) and a.topology.of(Role.MEMBER) != topology.of(Role.MEMBER) for a in actions
    )


def test_members_are_replaced_one_at_a_time() -> None:
    five = small(members=5)
    everybody = frozenset(i.name for i in five.instances)
    lost = frozenset({"member-1", "member-2"})
    observed = seen(running=everybody - lost, lost=lost, members=listed(five))
    first = stored(plan(five, observed, 0.0))
    assert [i.replaces for i in first.of(Role.MEMBER) if i.phase is Phase.JOINING] == ["member-1"]
    again = plan(with_ports(first), observed, 0.0)
    assert [type(a) for a in again] == [AddLearner]


@pytest.mark.parametrize("phase", [Phase.JOINING, Phase.LEAVING])
def test_while_etcd_is_silent_every_member_may_be_needed_for_a_majority(phase: Phase) -> None:
    changing = phased("member-1", phase)
    down = seen(running=ALL - {"member-1"}, members=None)
    assert plan(changing, down, 0.0) == []
    assert plan(changing, replace(down, members=()), 0.0) == [Start(changing.get("member-1"))]


def test_of_two_members_none_is_replaced_for_lost_data() -> None:
    two = small(members=2)
    observed = seen(running=ALL - {"member-1"}, lost=frozenset({"member-1"}), members=())
    assert Start(two.get("member-1")) in plan(two, observed, 0.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failures": {"member-3": 1}, "awaited": frozenset({"member-3"})}, "does not start"),
        ({"failures": {"member-3": STARTS_MAX}}, "does not start"),
        ({"lost": frozenset({"member-3"})}, "lost its data"),
        ({"overdue": frozenset({"member-3"})}, "does not catch up"),
    ],
)
def test_a_member_that_was_asked_for_and_cannot_join_leaves(changes: dict[str, Any], why: str) -> None:
    joining = TOPOLOGY.with_instance(HEIR)
    learning = (*listed(), status(HEIR, learner=True))
    (action,) = plan(joining, seen(members=learning, running=ALL | {"member-3"}, **changes), 0.0)
    assert isinstance(action, StoreTopology) and why in action.why
    leaving = action.topology
    assert leaving.get("member-3").phase is Phase.LEAVING
    assert plan(leaving, seen(members=learning), 0.0) == [RemoveMember("member-3", 103)]
    assert stored(plan(leaving, seen(), 0.0)) == TOPOLOGY


def test_a_member_that_nobody_waits_for_is_not_given_up_at_its_first_failure() -> None:
    joining, learning = TOPOLOGY.with_instance(HEIR), (*listed(), status(HEIR, learner=True))
    assert plan(joining, seen(members=learning, failures={"member-3": STARTS_MAX - 1}), 0.0) == [Start(HEIR)]


def test_an_heir_is_tried_for_longer_but_not_for_ever() -> None:
    late = frozenset({"member-3"})
    observed = seen(lost=_GONE_DATA, running=_RUNS, members=_members(heir=False), overdue=late)
    once = replace(observed, failures={"member-3": STARTS_MAX - 1})
    assert plan(_JOINING, once, 0.0) == [Start(_HEIR)]
    given_up = stored(plan(_JOINING, replace(observed, failures={"member-3": STARTS_MAX}), 0.0))
    assert given_up.get("member-3").phase is Phase.LEAVING


def test_a_healthy_member_stays_while_another_is_not_healthy() -> None:
    leaving = phased("member-2", Phase.LEAVING)
    assert plan(leaving, seen(), 0.0) == [RemoveMember("member-2", 102)]
    assert plan(leaving, seen(members=listed(ill="member-0")), 0.0) == []
    overdue = seen(members=listed(ill="member-0"), overdue=frozenset({"member-2"}))
    assert stored(plan(leaving, overdue, 0.0)) == TOPOLOGY


def test_a_learner_that_nobody_wants_is_taken_out_and_one_that_is_wanted_is_promoted() -> None:
    odd = MemberStatus(999, ("10.9.9.9:1",), learner=True)
    assert plan(TOPOLOGY, seen(members=(*listed(), odd)), 0.0) == [RemoveMember("member 3e7", 999)]
    assert plan(TOPOLOGY, seen(members=listed(learner="member-1")), 0.0) == [Promote("member-1", 101)]


def test_who_is_a_member_no_more_is_not_wanted_any_more() -> None:
    observed = seen(members=listed(without="member-1"))
    assert stored(plan(TOPOLOGY, observed, 0.0)) == TOPOLOGY.without("member-1")
    of_others = tuple(MemberStatus(n, (f"10.9.9.9:{n}",)) for n in (1, 2, 3))
    assert plan(TOPOLOGY, seen(members=of_others), 0.0) == []


# --- members on different machines ----------------------------------------------------------------

SHARED = TOPOLOGY.replaced(replace(TOPOLOGY.get("member-2"), machine=A))


def test_a_member_that_shares_its_machine_moves_to_one_that_has_none() -> None:
    well = seen(members=listed(SHARED))
    assert not is_settled(SHARED, replace(well, members=None)), "etcd must be asked whether all are well"
    assert plan(SHARED, replace(well, members=None), 0.0) == []
    heir = stored(plan(SHARED, well, 0.0)).get("member-3")
    assert (heir.machine, heir.replaces, heir.phase) == (C, "member-2", Phase.JOINING)
    for unsure in (
        {"members": listed(SHARED, ill="member-0")},
        {"members": listed(SHARED, learner="member-1")},
        {"members": listed(SHARED, without="member-1")},
        {"members": (*listed(SHARED), status(HEIR))},
        {"machines": (A, B)},
        {"steady_at": 1.0},
    ):
        actions = plan(SHARED, replace(well, **unsure), 0.0)
        assert not any(isinstance(a, StoreTopology) and a.topology.has("member-3") for a in actions), unsure


def test_no_member_that_is_well_moves_to_a_machine_where_an_heir_was_given_up() -> None:
    unfit = seen(members=listed(SHARED), unfit=frozenset({(Role.MEMBER, C.id)}))
    assert plan(SHARED, unfit, 0.0) == [] and is_settled(SHARED, replace(unfit, members=None))
    drained = replace(TOPOLOGY, drained=(A.address,))
    for machine, other in ((B, C), (C, B)):
        assert (
            stored(plan(drained, seen(unfit=frozenset({(Role.MEMBER, machine.id)})), 0.0)).get("member-3").machine
            is other
        )
    nowhere = seen(unfit=frozenset({(Role.MEMBER, B.id), (Role.MEMBER, C.id)}))
    assert not any(isinstance(a, StoreTopology) for a in plan(drained, nowhere, 0.0))
    assert is_settled(drained, replace(nowhere, members=None))
    lost = replace(nowhere, running=ALL - {"member-0"}, lost=frozenset({"member-0"}))
    assert stored(plan(drained, lost, 0.0)).get("member-3").machine in (B, C), "one that is lost has to"


def test_members_are_not_moved_for_a_machine_that_has_one_already() -> None:
    four = with_ports(SHARED.with_instance(replace(HEIR, machine=C, phase=Phase.ACTIVE, ports={})))
    assert is_settled(four, seen(members=None)), "each machine has one"
    assert not any(isinstance(a, StoreTopology) for a in plan(four, seen(members=listed(four)), 0.0))


def test_of_five_members_no_machine_has_more_than_it_must() -> None:
    """Else its loss would take the majority."""
    five = small(members=5)
    crowd = replace(five, instances=tuple(_at(i, {"member-4": A}.get(i.name, i.machine)) for i in five.instances))
    assert [i.machine for i in crowd.of(Role.MEMBER)] == [A, B, C, A, A]
    running = frozenset(i.name for i in crowd.instances)
    heir = stored(plan(crowd, seen(running=running, members=listed(crowd)), 0.0)).get("member-5")
    assert heir.replaces == "member-4" and heir.machine in (B, C)


# --- actors without data on different machines ----------------------------------------------------


def _at(instance: Instance, machine: Machine) -> Instance:
    return replace(instance, machine=machine)


SEVERAL = small(apiservers=3, schedulers=2, controllers=2)
# As after the loss and the return of two machines, one after the other.
HEAPED = replace(SEVERAL, instances=tuple(i if i.role in TIED else _at(i, A) for i in SEVERAL.instances))
HEAPED_ALL = frozenset(i.name for i in HEAPED.instances)


def heaped(**changes: Any) -> Observed:
    return seen(running=HEAPED_ALL, members=listed(HEAPED), **changes)


def test_actors_without_data_that_share_a_machine_part_one_after_the_other() -> None:
    topology, parted = HEAPED, list[str]()
    while actions := plan(topology, heaped(), 0.0):
        (stop,) = actions
        assert isinstance(stop, Stop) and "shares" in stop.why
        gone = replace(heaped(), running=HEAPED_ALL - {stop.name})
        topology = with_ports(stored(plan(topology, gone, 0.0)))
        assert Start(topology.get(stop.name)) in plan(topology, gone, 0.0)
        parted.append(stop.name)
    assert parted == ["apiserver-2", "apiserver-1", "scheduler-1", "controllers-1"]
    assert {i.machine for i in topology.of(Role.APISERVER)} == {A, B, C}
    for role in (Role.SCHEDULER, Role.CONTROLLERS):
        assert len({i.machine for i in topology.of(role)}) == 2, role
    assert topology.of(Role.LOAD_BALANCER) == HEAPED.of(Role.LOAD_BALANCER)


@pytest.mark.parametrize(
    "unsure",
    [
        {"steady_at": 1.0},
        {"learnt_at": 1.0},
        {"machines": (A,)},
        {"running": HEAPED_ALL - {"node-host-0"}},
        {"starting": frozenset({"node-host-0"})},
        {"unfit": frozenset((role, m.id) for role in SPREAD for m in (B, C))},
    ],
)
def test_nobody_is_stopped_to_be_apart_while_anything_is_not_as_it_should_be(unsure: dict[str, Any]) -> None:
    assert not any(isinstance(a, Stop) for a in plan(HEAPED, replace(heaped(), **unsure), 0.0))


def test_who_should_be_apart_starts_where_it_was_when_no_other_place_can_be_stored() -> None:
    gone = replace(heaped(), running=HEAPED_ALL - {"apiserver-2"})
    at_home = Start(HEAPED.get("apiserver-2"))
    assert at_home not in plan(HEAPED, gone, 0.0)
    for unsure in ({"members": ()}, {"current": False}, {"steady_at": 1.0}):
        assert at_home in plan(HEAPED, replace(gone, **unsure), 0.0), unsure


def test_members_part_before_those_that_have_no_data() -> None:
    both = HEAPED.replaced(_at(HEAPED.get("member-2"), A))
    (first,) = plan(both, replace(heaped(), members=listed(both)), 0.0)
    assert isinstance(first, StoreTopology) and first.topology.get("member-3").replaces == "member-2"


def test_an_heir_goes_to_a_machine_without_a_member_though_more_runs_there() -> None:
    busy = small(nodes=9)
    crowd = replace(busy, instances=tuple(i for i in busy.instances if i.role is not Role.NODE_HOST or i.machine is C))
    running = frozenset(i.name for i in crowd.instances)
    lost = seen(running=running, members=listed(crowd), lost=frozenset({"member-2"}))
    assert stored(plan(crowd, lost, 0.0)).get("member-3").machine is C


def test_of_several_that_join_one_learns_at_a_time() -> None:
    """Etcd allows no more."""
    later = replace(HEIR, name="member-4", machine=C)
    both = with_ports(TOPOLOGY.with_instance(HEIR).with_instance(replace(later, ports={})))
    learning = seen(members=(*listed(), status(HEIR, learner=True)), running=ALL)
    assert not any(isinstance(a, AddLearner) for a in plan(both, learning, 0.0))
    assert AddLearner("member-4", both.get("member-4").endpoint("peer")) in plan(
        both.replaced(replace(HEIR, phase=Phase.ACTIVE)), replace(learning, members=(*listed(), status(HEIR))), 0.0
    )


def test_no_member_goes_to_a_machine_that_came_for_nodes_alone() -> None:
    """It would never be given back."""
    alone = with_ports(founding(ClusterConfig(nodes=1), (A,)))
    grown = with_ports(alone.with_instance(Instance("node-host-1", Role.NODE_HOST, B, nodes=("node-1",))))
    seen = Observed(
        running=frozenset(i.name for i in grown.instances), machines=(A, B), members=listed(grown), elastic=True
    )
    assert plan(grown, seen, 100.0) == []
    assert plan(grown, replace(seen, elastic=False), 100.0) != []
    # Where there is no other, it is better than none.
    lost = replace(seen, machines=(B,))
    assert any(isinstance(one, StoreTopology) for one in plan(grown, lost, 100.0))

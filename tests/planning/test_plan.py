"""A plan has as many nodes as the scheduler's rules ask for, and says what a loss costs; nothing of it stays."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.planning.plan import Group, Limits, Plan, plan
from rayplane.control_plane.scheduler import Cluster, Cycle, Failure, SchedulerConfig
from rayplane.control_plane.scheduler.config import DEFAULT_PROFILES, Profile, default_profiles
from rayplane.control_plane.scheduler.nodes import ZONE, NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, unbound
from tests.scheduler.build import PARSER, node, pod
from tests.tiers import examples

ANYWHERE = Limits(nodes_max=20)
ZONES = ("a", "b", "c")


PACKS, SPREADS = DEFAULT_PROFILES[0], default_profiles(spreads=True)[0]


def world(nodes: int = 0, profile: Profile = PACKS) -> Cycle:
    cycle = Cycle(SchedulerConfig(identity="s", profiles=(profile,)), Cluster())
    for i in range(nodes):
        made = template(f"node-{i}", "a")
        cycle.snapshot.set_node(NodeInfo.of(made))
        cycle.cluster.node_objects[f"node-{i}"] = made
    return cycle


def template(name: str, zone: str) -> dict[str, Any]:
    return node(name, cpu="4", labels={ZONE: zone, "kubernetes.io/hostname": name})


def group(name: str, count: int, cpu: str = "1", **fields: Any) -> Group:
    return Group([PARSER.parse(pod(f"{name}-{i}", cpu=cpu, labels={"app": name}, **fields)) for i in range(count)])


def apart(key: str, app: str) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def planned(cycle: Cycle, groups: Sequence[Group], limits: Limits = ANYWHERE) -> Plan:
    return plan(cycle, groups, limits, template=template, parse=lambda one: PARSER.parse(unbound(one.obj)))


def used(found: Plan) -> list[int]:
    return [sum(need["pods"] for need in one.requested.values()) for one in found.nodes.values()]


def test_nodes_come_until_all_pods_have_one() -> None:
    found = planned(world(), [group("web", 9)])
    assert (found.added, found.lower_bound, found.unplaced) == (("new-0", "new-1", "new-2"), 3, ())
    assert sorted(used(found)) == [1, 4, 4]


def test_nodes_that_are_there_are_filled_first() -> None:
    found = planned(world(2), [group("web", 9)])
    assert found.added == ("new-2",) and len(found.nodes) == 3


def test_what_fits_on_no_node_brings_none_and_is_told_in_the_schedulers_words() -> None:
    found = planned(world(), [group("big", 3, cpu="9"), group("web", 1)])
    (one,) = found.unplaced
    assert (len(found.nodes), one.count) == (1, 3)
    assert one.message.startswith("0/2 nodes are available: 2 Insufficient cpu")


def test_no_more_nodes_come_than_there_may_be_and_the_more_important_have_them() -> None:
    groups = [group("web", 8), group("vip", 4, priority=100)]
    found = planned(world(), groups, Limits(nodes_max=2))
    ((one, *others)) = found.unplaced
    assert (one.workload, one.count, others, used(found)) == ("Pod/default/web-4", 4, [], [4, 4])


def test_new_nodes_are_of_the_zones_that_pods_need() -> None:
    found = planned(world(), [group("db", 3, affinity=apart(ZONE, "db"))], Limits(nodes_max=20, zones=ZONES))
    assert sorted(one.zone for one in found.nodes.values()) == ["a", "b", "c"]


def daemon(cpu: str) -> Group:
    owned = {"ownerReferences": [{"controller": True, "kind": "DaemonSet", "name": "agent", "uid": "u"}]}

    def on(one: dict[str, Any]) -> PodInfo:
        name = one["metadata"]["name"]
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        only = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
        made = pod(f"agent-{name}", cpu=cpu, affinity=only)
        return PARSER.parse({**made, "metadata": made["metadata"] | owned})

    return Group((), on)


def test_each_node_has_its_daemon_once_and_room_is_counted_after_it() -> None:
    found = planned(world(1), [group("web", 6), daemon("1")])
    assert (len(found.nodes), used(found)) == (2, [4, 4])
    # It goes with its node, and nobody looks for another one for it.
    assert [sum(one.homeless.values()) for one in found.losses] == [3, 3]


def test_daemons_that_have_no_room_are_told() -> None:
    (one,) = planned(world(2), [daemon("9")]).unplaced
    assert (one.workload, one.count) == ("DaemonSet/default/agent", 2) and "1 Insufficient cpu" in one.message


def test_a_scheduler_that_spreads_pods_needs_nodes_for_those_that_come_last() -> None:
    """On two nodes it would leave no room for the second workload, on which a plan node by node sees some."""
    groups = [group("small", 4), group("large", 1, cpu="4")]
    assert len(planned(world(), groups).nodes) == 2
    found = planned(world(profile=SPREADS), groups)
    assert (len(found.nodes), found.unplaced) == (5, ())


def test_who_is_less_important_makes_room_when_a_node_is_lost() -> None:
    found = planned(world(), [group("vip", 4, priority=100), group("batch", 4)])
    assert [sum(one.homeless.values()) for one in found.losses] == [4, 4]
    assert all(name.startswith("Pod/default/batch") for one in found.losses for name in one.homeless)


def test_pods_that_are_placed_by_others_are_nobodys_loss_here() -> None:
    cycle = world(1)
    cycle.snapshot.set_pod(PARSER.parse(pod("odd", cpu="1", scheduler="other", nodeName="node-0")))
    assert planned(cycle, []).losses == ()


def test_a_plan_that_nobody_waits_for_ends() -> None:
    def check() -> None:
        raise InterruptedError

    cycle = world(1)
    with pytest.raises(InterruptedError):
        plan(cycle, [group("web", 9)], ANYWHERE, template=template, parse=lambda one: one, check=check)
    assert len(cycle.snapshot) == 1 and not cycle.snapshot.pods


def test_the_loss_of_a_node_is_told_with_who_would_have_no_place() -> None:
    found = planned(world(2), [group("web", 6)])
    assert [(one.name, sum(one.homeless.values())) for one in found.losses] == [("node-0", 2), ("node-1", 2)]
    assert planned(world(3), [group("web", 6)]).losses == ()


def test_so_many_nodes_are_added_that_any_one_may_be_lost() -> None:
    found = planned(world(2), [group("web", 6)], Limits(nodes_max=20, survive="node"))
    assert (len(found.nodes), found.losses) == (3, ())


def test_so_many_nodes_are_added_that_any_zone_may_be_lost() -> None:
    found = planned(world(), [group("web", 16)], Limits(nodes_max=20, zones=("a", "b"), survive="zone"))
    assert [one.zone for one in found.nodes.values()].count("a") == 4
    assert (len(found.nodes), found.losses) == (8, ())
    short = planned(world(), [group("web", 16)], Limits(nodes_max=6, zones=("a", "b"), survive="zone"))
    assert [(one.name, sum(one.homeless.values())) for one in short.losses] == [("b", 8)]


@settings(max_examples=examples(60))
@given(
    st.integers(0, 3),
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["500m", "1", "3", "5"]), st.booleans(), st.integers(0, 2)),
        max_size=4,
    ),
    st.sampled_from(["", "node"]),
    st.sampled_from([PACKS, SPREADS]),
)
def test_a_plan_is_enough_for_the_scheduler_itself_and_leaves_nothing(
    nodes: int, asked: list[tuple[int, str, bool, int]], survive: str, profile: Profile
) -> None:
    cycle = world(nodes, profile)
    groups = [
        group(
            f"w{i}",
            count,
            cpu,
            priority=priority,
            **({"affinity": apart("kubernetes.io/hostname", f"w{i}")} if alone else {}),
        )
        for i, (count, cpu, alone, priority) in enumerate(asked)
    ]
    found = planned(cycle, groups, Limits(nodes_max=60, survive=survive))
    assert len(cycle.snapshot) == len(cycle.cluster.node_objects) == nodes and not cycle.snapshot.pods
    pods = sum(len(one.pods) for one in groups)
    assert sum(used(found)) + sum(one.count for one in found.unplaced) == pods
    assert sorted(one.count for one in found.unplaced) == sorted(count for count, cpu, *_ in asked if cpu == "5")
    assert not survive or not found.losses
    # The scheduler, on the nodes of the plan, in the order of its queue.
    there = world(0, profile)
    for name, one in found.nodes.items():
        there.snapshot.set_node(NodeInfo.of(template(name, one.zone)))
    queue = sorted((PARSER.parse(one.obj) for each in groups for one in each.pods), key=lambda one: -one.priority)
    failed = [one.pod.name for one in there.schedule(queue) if isinstance(one, Failure)]
    assert len(failed) == sum(one.count for one in found.unplaced)

"""A plan has as many nodes as the scheduler's rules ask for, and says what a loss costs; nothing of it stays."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.planning.plan import Group, Limits, Plan, plan
from rayplane.control_plane.scheduler import Cluster, Cycle, SchedulerConfig
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.nodes import ZONE, NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, unbound
from tests.scheduler.build import PARSER, node, pod
from tests.tiers import examples

ANYWHERE = Limits(nodes_max=20)
ZONES = ("a", "b", "c")


def world(nodes: int = 0) -> Cycle:
    cycle = Cycle(SchedulerConfig(identity="s", profiles=(Profile(name="default-scheduler"),)), Cluster())
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
    assert one.message.startswith("0/1 nodes are available: 1 Insufficient cpu")


def test_no_more_nodes_come_than_there_may_be_and_the_more_important_have_them() -> None:
    groups = [group("web", 8), group("vip", 4, priority=100)]
    found = planned(world(), groups, Limits(nodes_max=2))
    ((one, *others)) = found.unplaced
    assert (one.workload, one.count, others, used(found)) == ("Pod/default/web-4", 4, [], [4, 4])


def test_new_nodes_are_of_the_zones_that_pods_need() -> None:
    found = planned(world(), [group("db", 3, affinity=apart(ZONE, "db"))], Limits(nodes_max=20, zones=ZONES))
    assert sorted(one.zone for one in found.nodes.values()) == ["a", "b", "c"]


def test_each_node_has_its_daemon_and_room_is_counted_after_it() -> None:
    def on(name: str) -> PodInfo:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        only = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
        return PARSER.parse(pod(f"agent-{name}", cpu="1", affinity=only))

    found = planned(world(1), [group("web", 6), Group((), on)])
    assert (len(found.nodes), used(found)) == (2, [4, 4])
    # It goes with its node, and nobody looks for another one for it.
    assert [sum(one.homeless.values()) for one in found.losses] == [3, 3]


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
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["500m", "1", "3", "5"]), st.booleans()), max_size=4),
    st.sampled_from(["", "node"]),
)
def test_a_plan_is_enough_by_the_schedulers_own_word_and_leaves_nothing(
    nodes: int, asked: list[tuple[int, str, bool]], survive: str
) -> None:
    cycle = world(nodes)
    groups = [
        group(f"w{i}", count, cpu, **({"affinity": apart("kubernetes.io/hostname", f"w{i}")} if alone else {}))
        for i, (count, cpu, alone) in enumerate(asked)
    ]
    found = planned(cycle, groups, Limits(nodes_max=30, survive=survive))
    assert len(cycle.snapshot) == len(cycle.cluster.node_objects) == nodes and not cycle.snapshot.pods
    pods = sum(len(one.pods) for one in groups)
    assert sum(used(found)) + sum(one.count for one in found.unplaced) == pods
    assert {one.count for one in found.unplaced} <= {count for count, cpu, _ in asked if cpu == "5"}
    assert len(found.nodes) >= found.lower_bound
    assert not survive or not found.losses

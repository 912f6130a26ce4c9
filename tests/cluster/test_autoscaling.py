"""The number of nodes that an autoscaler decides on, by the scheduler's own rules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.cluster.autoscaling import rooms
from rayplane.control_plane.cluster.autoscaling.decision import Decision, Limits, Memory, Seen, Unit, decide, is_waiting
from rayplane.control_plane.cluster.autoscaling.keeping import why_kept
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.specs import founders
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology, on_machines
from rayplane.control_plane.scheduler import Cluster, Cycle, Placement, SchedulerConfig
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, unbound
from tests.scheduler.build import PARSER, node, pod

LIMITS = Limits(nodes_min=1, nodes_max=5, unneeded_s=30, delay_s=30, provision_s=120)
OWNED = {"ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": "web", "uid": "u"}]}


class World:
    """A cluster whose nodes come and go as is decided, and whose scheduler places what it can."""

    def __init__(self, nodes: int = 1, *, limits: Limits = LIMITS) -> None:
        self.cycle = Cycle(SchedulerConfig(identity="s"), Cluster())
        self.limits = limits
        self.units: list[str] = []
        self.silent: set[str] = set()
        """Those that are not ready."""
        self.pending: dict[str, PodInfo] = {}
        self.memory, self.now, self.made = Memory(), 0.0, 0
        self.changes: list[tuple[float, str, str]] = []
        for _ in range(nodes):
            self._come()

    def _come(self) -> None:
        name, self.made = f"node-{self.made}", self.made + 1
        self.units.append(name)
        self.cycle.cluster.snapshot.set_node(NodeInfo.of(node(name)))
        self.cycle.cluster.node_objects[name] = node(name)

    def add(self, name: str, cpu: str, *, labels: dict[str, str] | None = None, **spec: Any) -> None:
        made = pod(name, cpu=cpu, labels=labels, **spec)
        self.pending[name] = PARSER.parse({**made, "metadata": made["metadata"] | OWNED})

    def put(self, name: str, cpu: str, on: str, **own: Any) -> None:
        made = pod(name, cpu=cpu, nodeName=on)
        self.cycle.snapshot.set_pod(PARSER.parse({**made, "metadata": made["metadata"] | OWNED | own}))

    def schedule(self) -> None:
        for found in self.cycle.schedule([*self.pending.values()]):
            if isinstance(found, Placement):
                placed = self.pending.pop(found.pod.name)
                bound = {**placed.obj, "spec": placed.obj["spec"] | {"nodeName": found.node}}
                self.cycle.snapshot.set_pod(PARSER.parse(bound))

    def delete(self, name: str) -> None:
        if self.pending.pop(name, None) is None:
            self.cycle.snapshot.remove_pod(f"default/{name}")

    def look(self) -> Decision:
        before = self._state()
        seen = Seen(
            cycle=self.cycle,
            pending=[*self.pending.values()],
            units=[
                Unit(name, (name,), name in self.cycle.snapshot.index and name not in self.silent)
                for name in self.units
            ],
            parse=lambda one: PARSER.parse(unbound(one.obj)),
            template=node,
        )
        decision = decide(seen, self.memory, self.limits, self.now)
        assert self._state() == before, "what was tried is left"
        self.memory = decision.memory
        return decision

    def _state(self) -> Any:
        snapshot = self.cycle.snapshot
        used = {name: snapshot.requested[row].tolist() for name, row in snapshot.index.items()}
        return used, {key: found.node for key, found in snapshot.pods.items()}, set(self.cycle.cluster.node_objects)

    def step(self, seconds: float = 1.0) -> Decision:
        """One look, and what comes of it: pods of a node that goes find another, or wait."""
        decision = self.look()
        for name in decision.remove:
            self.changes.append((self.now, "-", name))
            for found in [*self.cycle.snapshot.pods_on(name).values()]:
                self.cycle.snapshot.remove_pod(found.key)
                self.pending[found.name] = PARSER.parse(unbound(found.obj))
            self.cycle.snapshot.remove_node(name)
            del self.cycle.cluster.node_objects[name]
            self.units.remove(name)
        for _ in range(decision.add):
            self._come()
            self.changes.append((self.now, "+", self.units[-1]))
        self.schedule()
        self.now += seconds
        return decision


def test_pods_without_a_node_get_as_many_as_they_fit_on() -> None:
    world = World()
    for number in range(6):
        world.add(f"p{number}", "2")
    world.schedule()
    decision = world.step()
    assert (decision.add, len(decision.triggers)) == (2, 4)
    assert not world.pending
    assert world.step().add == 0


def test_a_node_that_is_on_its_way_is_not_asked_for_twice() -> None:
    world = World()
    world.units.append("node-1")  # wanted, and not there yet
    world.add("big", "4")
    world.add("also", "4")
    world.schedule()
    assert world.look().add == 0
    world.now += LIMITS.provision_s
    decision = world.look()
    assert (decision.add, decision.lost) == (1, ("node-1",))  # it does not come


def test_a_node_that_registered_and_is_not_ready_is_waited_for() -> None:
    """After a supervisor began anew it does not know of one that was ready once."""
    world = World(2)
    world.silent.add("node-1")
    world.look()
    world.now += LIMITS.provision_s
    assert world.look().lost == ()
    assert world.look().memory.coming


def test_a_pod_that_no_node_would_help_is_told_why() -> None:
    world = World()
    world.add("huge", "5")
    world.add("picky", "1", nodeSelector={"disk": "ssd"})
    found = {one.name: why for one, why in world.step().refused}
    assert found == {"huge": "1 Insufficient cpu", "picky": "1 node(s) didn't match Pod's node affinity/selector"}
    assert world.units == ["node-0"]


def test_there_are_never_more_than_the_limit() -> None:
    world = World(limits=replace(LIMITS, nodes_max=2))
    for number in range(3):
        world.add(f"p{number}", "4")
    world.schedule()
    decision = world.step()
    assert decision.add == 1
    assert [why for _, why in decision.refused] == ["1 max node group size reached"]


def test_what_daemons_take_of_a_new_node_is_not_there_for_pods() -> None:
    """Else each node that comes would be found too small, and another be added."""
    world = World()
    world.put("agent", "1", "node-0", ownerReferences=[{"controller": True, "kind": "DaemonSet", "name": "agent"}])
    world.add("all", "4")
    assert [why for _, why in world.look().refused] == ["1 Insufficient cpu"]


def test_a_needless_node_goes_after_a_while_and_the_fewest_stay() -> None:
    world = World(3)
    world.add("web", "1")
    world.schedule()
    while world.now < LIMITS.unneeded_s:
        assert not world.step().remove
    while len(world.units) > 1:
        world.step()
        assert world.now < 3 * LIMITS.unneeded_s
    assert [*world.cycle.snapshot.pods_on(world.units[0])] == ["default/web"]
    assert not any(world.step().remove for _ in range(100))


def test_need_in_between_starts_the_wait_anew() -> None:
    world = World(2, limits=replace(LIMITS, nodes_min=0))
    world.add("web", "1")
    world.schedule()
    for _ in range(25):
        world.step()
    world.add("big", "4")
    world.schedule()
    world.step()
    world.delete("big")
    removed_at = next(world.now for _ in range(100) if world.step().remove)
    assert removed_at >= 25 + LIMITS.unneeded_s


OWNER: dict[str, Any] = {"metadata": {"namespace": "default", "name": "p", **OWNED}, "spec": {}}
SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"


@pytest.mark.parametrize(
    ("change", "budgeted", "why"),
    [
        ({}, False, ""),
        ({"annotations": {SAFE: "false"}}, True, "NotSafeToEvictAnnotation"),
        ({"ownerReferences": []}, False, "NotReplicated"),
        ({"ownerReferences": [], "annotations": {SAFE: "true"}}, False, ""),
        ({"namespace": "kube-system"}, False, "UnmovableKubeSystemPod"),
        ({"namespace": "kube-system"}, True, ""),
    ],
)
def test_which_pods_keep_their_node(change: dict[str, Any], budgeted: bool, why: str) -> None:
    assert why_kept({**OWNER, "metadata": OWNER["metadata"] | change}, budgeted=budgeted) == why


def test_a_pod_with_files_of_its_own_keeps_its_node_unless_they_may_go() -> None:
    spec = {"volumes": [{"name": "cache", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    assert why_kept({**OWNER, "spec": spec}, budgeted=False) == "LocalStorageRequested"
    told = {"annotations": {f"{SAFE}-local-volumes": "cache, other"}}
    assert why_kept({"metadata": OWNER["metadata"] | told, "spec": spec}, budgeted=False) == ""


def test_a_node_stays_whose_pods_find_no_other_or_have_a_budget() -> None:
    world = World(2, limits=replace(LIMITS, unneeded_s=0, delay_s=0))
    world.put("web", "1", "node-1", labels={"app": "web"})
    world.put("full", "4", "node-0")
    assert world.look().kept["node-1"] == "NoPlaceToMovePods: default/web"
    world.delete("full")
    world.put("tiny", "100m", "node-0", labels={"app": "web"})
    assert world.look().remove
    budget = {"spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 0}}
    world.cycle.cluster.budgets.set({"metadata": {"namespace": "default", "name": "b"}, **budget})
    assert world.look().remove == ()
    assert {why.partition(":")[0] for why in world.look().kept.values()} == {"NotEnoughPdb"}


def test_a_node_stays_that_is_busy_or_annotated_so() -> None:
    world = World(3, limits=replace(LIMITS, unneeded_s=0, delay_s=0))
    world.put("half", "2100m", "node-0")
    world.cycle.cluster.node_objects["node-1"] = node(
        "node-1", annotations={"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"}
    )
    decision = world.look()
    assert decision.remove == ("node-2",)
    assert decision.kept == {"node-0": "NotUnderutilized", "node-1": "ScaleDownDisabledAnnotation"}


def test_pods_for_which_others_are_ended_and_those_of_no_account_bring_no_node() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    waiting = {**pod("p"), "status": {"conditions": [condition]}}
    assert is_waiting(PARSER.parse(waiting))
    assert not is_waiting(PARSER.parse(pod("p")))
    assert not is_waiting(PARSER.parse({**waiting, "status": waiting["status"] | {"nominatedNodeName": "node-0"}}))
    assert not is_waiting(PARSER.parse({**waiting, "spec": waiting["spec"] | {"priority": -11}}))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), st.sampled_from(("100m", "1", "2", "3", "4", "5"))),
        st.tuples(st.just("delete"), st.integers(0, 9), st.just("")),
        st.tuples(st.just("wait"), st.integers(1, 12), st.just("")),
    ),
    max_size=20,
)


@given(STEPS, st.integers(0, 2), st.integers(0, 3))
def test_whatever_comes_and_goes_the_limits_hold_and_in_the_end_nothing_changes_any_more(
    steps: Sequence[tuple[str, int, str]], least: int, more: int
) -> None:
    most = max(least, 1) + more
    world = World(max(least, 1), limits=replace(LIMITS, nodes_min=least, nodes_max=most))
    for what, number, cpu in steps:
        if what == "add" and f"default/p{number}" not in world.cycle.snapshot.pods:
            world.add(f"p{number}", cpu)
            world.schedule()
        elif what == "delete":
            world.delete(f"p{number}")
        for _ in range(number if what == "wait" else 1):
            world.step(5)
            assert least <= len(world.units) <= most
    for _ in range(5 * (1 + most)):
        world.step(10)
    done = len(world.changes)
    for _ in range(10):
        world.step(10)
    assert len(world.changes) == done, "nodes come and go while nothing is asked for"
    if any(world.cycle.snapshot.request_vector(one.shape)[1].max() <= 4000 for one in world.pending.values()):
        assert len(world.units) == most, "a pod waits that another node would help"
    came = {name: time for time, what, name in world.changes if what == "+"}
    for time, what, name in world.changes:
        assert what == "+" or time - came.get(name, -LIMITS.delay_s) >= LIMITS.delay_s, "a node that just came goes"


# -- machines that are asked for ------------------------------------------------------------------------------------

HEAD, FIRST, SECOND = Machine("10.0.0.1", "h"), Machine("10.0.0.2", "a"), Machine("10.0.0.3", "b")


def hosts(*machines: Machine) -> Topology:
    found = [Instance(f"node-host-{n}", Role.NODE_HOST, m, nodes=(f"node-{n}",)) for n, m in enumerate(machines)]
    return Topology(tuple(found))


def test_nodes_go_where_there_is_room_and_machines_are_asked_for_when_there_is_none() -> None:
    cpus = {"h": 2.0, "a": 8.0}
    machines, topology = (HEAD, FIRST), hosts(HEAD, HEAD, FIRST)  # two were founded where none has room
    assert rooms.free(topology, machines, cpus, 4.0) == [FIRST]
    assert len(rooms.asked(topology, machines, cpus, 4.0, missing=0)) == 1
    full = hosts(HEAD, HEAD, FIRST, FIRST)
    assert rooms.free(full, machines, cpus, 4.0) == []
    # As Ray counts it: both that fit, and one for which a machine must come.
    assert rooms.asked(full, machines, cpus, 4.0, missing=1) == [{"CPU": 4.0}] * 3
    grown = cpus | {"b": 4.0}
    assert rooms.free(full, (*machines, SECOND), grown, 4.0) == [SECOND]
    # It is given back when its node has gone.
    assert len(rooms.asked(full, (*machines, SECOND), grown, 4.0, missing=0)) == 2


def test_nodes_leave_whose_machines_were_given_back_while_the_cluster_was_down() -> None:
    before = hosts(HEAD, FIRST)
    found = on_machines(before, [replace(HEAD, id="other")], {}, elastic=True)
    assert [(i.name, i.phase) for i in found.instances] == [
        ("node-host-0", Phase.ACTIVE),
        ("node-host-1", Phase.LEAVING),
    ]
    assert [i.name for i in founders(found)] == ["node-host-0"]
    with pytest.raises(ClusterError, match="add that machine"):
        on_machines(before, [HEAD], {})

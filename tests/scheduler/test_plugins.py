"""What plug-ins say in Kubernetes' words, and disruption budgets."""

from __future__ import annotations

import pytest

from rayplane.control_plane.scheduler import Failure, Placement
from rayplane.control_plane.scheduler.config import Profile
from tests.scheduler.build import World, claim, node, on, pod, storage_class, volume


def budget(allowed: int, **labels: str) -> dict:
    return {
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}},
        "status": {"disruptionsAllowed": allowed},
    }


def test_a_read_write_once_pod_claim_has_one_pod() -> None:
    world = World(node("a"), node("b"))
    one = claim("data", volume="pv")
    one["spec"]["accessModes"] = ["ReadWriteOncePod"]
    world.volumes.set_claim(one)
    world.volumes.set_volume(volume("pv"))
    assert world.place(pod("p", claims=("data",))) == "a"
    words = "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
    assert words in world.fail(pod("q", claims=("data",)))
    world.snapshot.remove_pod("default/p")
    assert world.place(pod("q", claims=("data",))) == "a"


def test_a_driver_attaches_so_many_volumes_and_no_more() -> None:
    world = World(node("a"))
    for name in ("x", "y"):
        world.volumes.set_claim(claim(name, volume=f"pv-{name}"))
        one = volume(f"pv-{name}")
        one["spec"]["csi"] = {"driver": "csi.x"}
        world.volumes.set_volume(one)
    driver = {"name": "csi.x", "nodeID": "a", "allocatable": {"count": 1}}
    world.volumes.use.set_csi_node({"metadata": {"name": "a"}, "spec": {"drivers": [driver]}})
    assert world.place(pod("p", claims=("x",))) == "a"
    assert "1 node(s) exceed max volume count" in world.fail(pod("q", claims=("y",)))
    assert world.place(pod("r", claims=("x",))) == "a", "the volume is there already"


def test_disks_of_pods_without_claims_count_for_their_drivers() -> None:
    world = World(node("a"))
    driver = {"name": "ebs.csi.aws.com", "nodeID": "a", "allocatable": {"count": 1}}
    world.volumes.use.set_csi_node({"metadata": {"name": "a"}, "spec": {"drivers": [driver]}})
    one, other = ({"name": "v", "awsElasticBlockStore": {"volumeID": name}} for name in ("x", "y"))
    assert world.place(pod("p", volumes=[one])) == "a"
    assert "1 node(s) exceed max volume count" in world.fail(pod("q", volumes=[other]))
    assert world.place(pod("r", volumes=[{"name": "v", "emptyDir": {}}])) == "a"
    world.snapshot.remove_pod("default/p")
    assert world.place(pod("q", volumes=[other])) == "a"


def test_a_claim_that_is_still_to_be_made_counts_for_the_provisioner_of_its_class() -> None:
    world = World(node("a"))
    world.volumes.classes["standard"] = storage_class("standard", provisioner="csi.x")
    driver = {"name": "csi.x", "nodeID": "a", "allocatable": {"count": 1}}
    world.volumes.use.set_csi_node({"metadata": {"name": "a"}, "spec": {"drivers": [driver]}})
    for name in ("x", "y"):
        world.volumes.set_claim(claim(name))
    assert world.place(pod("p", claims=("x",))) == "a"
    assert "1 node(s) exceed max volume count" in world.fail(pod("q", claims=("y",)))


def test_pods_that_share_a_claim_go_where_the_first_makes_it_and_each_keeps_that_promise() -> None:
    world = World(node("a"), node("b"))
    world.volumes.classes["standard"] = storage_class("standard", provisioner="kubernetes.io/no-provisioner")
    world.volumes.set_claim(claim("shared"))
    world.volumes.set_claim(claim("other"))
    world.volumes.set_volume(volume("pv", on=("b",)))
    first, second = world.decide(pod("p", claims=("shared",))), world.decide(pod("q", claims=("shared",)))
    assert isinstance(first, Placement) and isinstance(second, Placement)
    assert first.node == second.node == "b"
    world.cycle.forget(first.pod)
    assert "didn't find available persistent volumes to bind" in world.fail(pod("r", claims=("other",)))
    assert world.place(pod("s", claims=("shared",))) == "b"
    for one in (second.pod, world.snapshot.pods["default/s"]):
        world.cycle.forget(one)
    assert world.place(pod("r", claims=("other",))) == "b"


@pytest.mark.parametrize(
    ("mine", "theirs", "fits"),
    [
        ({"gcePersistentDisk": {"pdName": "d"}}, {"gcePersistentDisk": {"pdName": "d"}}, False),
        ({"gcePersistentDisk": {"pdName": "d", "readOnly": True}},) * 2 + (True,),
        ({"awsElasticBlockStore": {"volumeID": "d", "readOnly": True}},) * 2 + (False,),
        ({"rbd": {"monitors": ["m"], "image": "i"}}, {"rbd": {"monitors": ["n"], "image": "i"}}, True),
        ({"iscsi": {"iqn": "i"}}, {"iscsi": {"iqn": "j"}}, True),
    ],
)
def test_a_disk_is_shared_by_readers_only(mine: dict, theirs: dict, fits: bool) -> None:
    world = World(node("a"))
    world.run(on("a", pod("x", volumes=[theirs])))
    decision = world.decide(pod("p", volumes=[mine]))
    assert isinstance(decision, Failure) is not fits
    if isinstance(decision, Failure):
        assert "1 node(s) had no available disk" in decision.message


def test_budgets_are_broken_only_where_nothing_else_helps() -> None:
    world = World(node("a", cpu="1"), node("b", cpu="1"))
    world.run(
        on("a", pod("guarded", cpu="1", labels={"app": "db"})),
        on("b", pod("other", cpu="1", priority=5)),
    )
    world.cluster.budgets.set(budget(0, app="db"))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is not None
    assert decision.preemption.node == "b", "its victim is more important, but breaks no budget"
    world.cluster.budgets.set(budget(1, app="db"))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is not None
    assert decision.preemption.node == "a"


def test_who_breaks_a_budget_is_kept_first() -> None:
    world = World(node("a", cpu="2"))
    world.run(
        on("a", pod("guarded", cpu="1", labels={"app": "db"}, priority=1)), on("a", pod("free", cpu="1", priority=5))
    )
    world.cluster.budgets.set(budget(0, app="db"))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is not None
    assert [victim.name for victim in decision.preemption.victims] == ["free"]


def test_the_room_of_a_nominated_pod_is_not_given_away_twice() -> None:
    world = World(node("a", cpu="1"), node("b", cpu="1"))
    world.run(on("a", pod("x", cpu="1")), on("b", pod("y", cpu="1", priority=1)))
    for name, node_name in (("vip1", "a"), ("vip2", "b")):
        decision = world.decide(pod(name, cpu="1", priority=10))
        assert isinstance(decision, Failure) and decision.preemption is not None
        assert decision.preemption.node == node_name
        world.cycle.nominate(decision.pod, node_name)
    assert "No preemption victims found" in world.fail(pod("vip3", cpu="1", priority=10))


def test_without_preemption_nobody_is_deleted() -> None:
    world = World(node("a", cpu="1"), profiles=(Profile(name="default-scheduler", preempts=False),))
    world.run(on("a", pod("x", cpu="1")))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is None
    assert decision.message == "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate"


def test_a_plug_in_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="there is no scheduler plug-in Nonsense"):
        World(profiles=(Profile(name="p", filters=("Nonsense",)),))


def test_room_kept_for_a_pod_is_not_in_its_own_way_when_it_preempts_again() -> None:
    """Others that are like it were asked meanwhile, for whom it is."""
    world = World(node("a", cpu="4"))
    world.run(on("a", pod("small", cpu="4")))
    important = pod("one", cpu="4", priority=10)
    decision = world.decide(important)
    assert isinstance(decision, Failure)
    assert decision.preemption is not None
    world.cycle.nominate(decision.pod, "a")
    other = world.decide(pod("two", cpu="4", priority=10))
    assert isinstance(other, Failure)
    assert other.preemption is None
    again = world.decide(important)
    assert isinstance(again, Failure)
    assert again.preemption is not None

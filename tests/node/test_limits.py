"""Resources as the kernel's control groups have them, on a tree of plain files; memory that is looked after."""

import os
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime.isolation import cgroups
from rayplane.node.runtime.isolation.cgroups import Group, find
from rayplane.node.runtime.isolation.limits import Limits, of_container, of_pod, quota_us, shares, weight
from rayplane.node.shim.hogs import NEAR_S, PAUSE_S, Most, Seen, families, over
from tests.node.conftest import make_pod

MIB = 1 << 20


@pytest.mark.parametrize(
    ("milli", "of_cpu", "heavy", "quota"),
    [
        (0, 2, 1, 0),
        (1, 2, 1, 1000),
        (100, 102, 17, 10_000),
        (1000, 1024, 100, 100_000),
        (256_001, 262_144, 10_000, 25_600_100),
    ],
)
def test_processors_are_shares_weights_and_quotas(milli: int, of_cpu: int, heavy: int, quota: int) -> None:
    assert (shares(milli), weight(of_cpu), quota_us(milli)) == (of_cpu, heavy, quota)


def test_weights_grow_with_shares() -> None:
    weights = [weight(n) for n in range(2, 262_145, 97)]
    assert weights == sorted(weights) and weights[0] == 1 and weight(262_144) == 10_000


def test_a_container_without_requests_counts_for_its_limit() -> None:
    assert of_container({"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}) == Limits(512, 50_000, 64 * MIB)
    both = {"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "250m"}}}
    assert of_container(both) == Limits(256, 100_000, 0)
    assert of_container({}) == Limits(2, 0, 0)


def test_a_pod_is_bounded_where_all_its_containers_are() -> None:
    amounts = {"cpu": "500m", "memory": "64Mi"}
    limited: dict[str, Any] = {"resources": {"limits": amounts, "requests": amounts}}
    pod = make_pod("p", container=limited)
    assert of_pod(pod, 2048) == Limits(512, 50_000, 64 * MIB, 2048, whole_pod=True)
    pod["spec"]["containers"].append(
        {"name": "free", "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}}}
    )
    assert of_pod(pod, 0) == Limits(1024, 100_000, 0, 0, whole_pod=True)
    whole = make_pod("p", resources={"limits": {"memory": "32Mi"}})
    assert of_pod(whole, 0).memory == 32 * MIB
    whole["status"] = {"resources": {"limits": {"memory": "64Mi"}}}
    assert of_pod(whole, 0).memory == 64 * MIB
    assert of_pod(whole, 0, reported=False).memory == 32 * MIB


def tree(root: Path, *, controllers: str = "cpu memory pids", files: str = "") -> Path:
    """A directory that looks like a group of version 2, which a kernel would fill."""
    root.mkdir(parents=True)
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text(controllers)
    (root / "cgroup.procs").write_text("")
    for name in files.split():
        (root / name).write_text("")
    return root


LEAF = "cpu.weight cpu.max memory.max memory.oom.group pids.max memory.swap.max"


def test_limits_are_written_where_there_are_files_for_them(tmp_path: Path) -> None:
    leaf = tree(tmp_path / "leaf", files=LEAF)
    group = Group({"cpu": str(leaf), "memory": str(leaf), "pids": str(leaf)}, 2)
    group.set(Limits(1024, 50_000, 64 * MIB))
    found = {name: (leaf / name).read_text() for name in LEAF.split()}
    assert found == {
        "cpu.weight": "100",
        "cpu.max": "50000 100000",
        "memory.max": str(64 * MIB),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "max",
    }
    group.set(Limits(processes=9))
    assert (leaf / "cpu.max").read_text() == "max 100000" and (leaf / "pids.max").read_text() == "9"
    (leaf / "cpu.max").unlink()
    group.set(Limits(cpu_quota_us=1000))
    assert not (leaf / "cpu.max").exists()


def test_a_new_group_is_told_only_what_is_not_so_by_itself(tmp_path: Path) -> None:
    new = Group({"cpu": str(tmp_path / "new"), "memory": str(tmp_path / "new")}, 1)
    assert new.make() and not new.make()
    leaf = tree(tmp_path / "leaf", files=LEAF)
    group = Group({"cpu": str(leaf), "memory": str(leaf), "pids": str(leaf)}, 2)
    group.set(Limits(2, whole_pod=True), is_new=True)
    said = {name: (leaf / name).read_text() for name in LEAF.split()}
    assert {name: value for name, value in said.items() if value} == {"cpu.weight": "1", "memory.swap.max": "0"}
    group.set(Limits(2, 50_000, MIB, processes=3), is_new=True)
    assert [(leaf / name).read_text() for name in ("cpu.max", "memory.max", "pids.max", "memory.oom.group")] == [
        "50000 100000",
        str(MIB),
        "3",
        "1",
    ]


def test_a_group_that_others_are_in_hands_its_controllers_on(tmp_path: Path) -> None:
    top = tree(tmp_path / "top", controllers="cpu io memory")
    Group({"memory": str(top)}, 2).make(hands_on=True)
    assert (top / "cgroup.subtree_control").read_text() == "+cpu +memory"


def test_use_is_what_cannot_be_given_back_at_once(tmp_path: Path) -> None:
    leaf = tree(tmp_path / "leaf")
    group = Group({"memory": str(leaf)}, 2)
    (leaf / "cgroup.procs").unlink(missing_ok=True)
    assert group.use() == cgroups.Use(0, 0, 0, 0)
    (leaf / "cgroup.procs").write_text("41\n42\n")
    (leaf / "cpu.stat").write_text("usage_usec 7\nuser_usec 5\n")
    (leaf / "memory.current").write_text("100\n")
    (leaf / "memory.stat").write_text("anon 60\ninactive_file 30\n")
    (leaf / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert group.use() == cgroups.Use(7000, 70, 1, 2)
    one = Group({"memory": str(leaf), "cpuacct": str(leaf)}, 1)
    (leaf / "cpuacct.usage").write_text("5")
    (leaf / "memory.usage_in_bytes").write_text("50")
    (leaf / "memory.stat").write_text("total_inactive_file 60")
    (leaf / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert one.use() == cgroups.Use(5, 0, 3, 2)


def found_in(tmp_path: Path, own: str, mounts: str) -> Group | None:
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc" / "cgroup").write_text(own)
    (tmp_path / "mounts").write_text(mounts)
    return find("host", proc=str(tmp_path / "proc"), mounts=str(tmp_path / "mounts"))


def test_the_nearest_group_that_hands_memory_on_is_taken(tmp_path: Path) -> None:
    top = tree(tmp_path / "fs", controllers="")
    app = tree(top / "user" / "app")
    scope = tree(app / "scope", controllers="")
    mounts = f"30 20 0:26 / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n29 20 0:25 / /x rw - tmpfs tmpfs rw\n"
    group = found_in(tmp_path, f"0::/{scope.relative_to(top)}\n", mounts)
    assert group is not None and [os.path.dirname(path) for path in group.paths] == [str(app)]
    assert found_in(tmp_path, "0::/user\n", mounts) is None
    (app / "cgroup.subtree_control").unlink()
    assert found_in(tmp_path, f"0::/{scope.relative_to(top)}\n", mounts) is None


def test_odd_descriptions_of_groups_are_none(tmp_path: Path) -> None:
    assert found_in(tmp_path, "", "") is None
    assert found_in(tmp_path, "0::/x\n", "odd\n - \n1 2 3 4 5 - cgroup\n") is None


# --- looking --------------------------------------------------------------------------------------


def test_a_containers_processes_are_those_below_it() -> None:
    seen = {1: Seen(0, 1), 2: Seen(1, 1), 3: Seen(2, 1), 4: Seen(3, 1), 5: Seen(1, 1), 6: Seen(99, 1)}
    found = families(seen, {"a": [2], "b": [5, 6, 77]})
    assert {name: sorted(pids) for name, pids in found.items()} == {"a": [2, 3, 4], "b": [5, 6]}


def test_shared_memory_is_nobodys_whole() -> None:
    seen, members = {n: Seen(1, 60) for n in (2, 3)}, {"a": [2, 3]}
    assert over(seen, members, {"a": Most(100)}, lambda pid: 30) == ([], [], NEAR_S)
    assert over(seen, members, {"a": Most(100)}, lambda pid: 51) == (["a"], [], NEAR_S)
    assert over(seen, members, {"a": Most(1000)}, lambda pid: 1 // 0) == ([], [], PAUSE_S)


def test_threads_count_and_memory_without_a_bound_does_not() -> None:
    seen, members = {2: Seen(1, 60, threads=4), 3: Seen(2, 60)}, {"a": [2, 3]}
    assert over(seen, members, {"a": Most(processes=100)}, lambda pid: 1 // 0) == ([], [], PAUSE_S)
    assert over(seen, members, {"a": Most(processes=5)}, lambda pid: 1 // 0) == ([], [], NEAR_S)
    assert over(seen, members, {"a": Most(processes=4)}, lambda pid: 1 // 0) == ([], ["a"], NEAR_S)


def test_who_is_seen_below_two_counts_once() -> None:
    assert families({2: Seen(1, 1), 3: Seen(2, 1)}, {"a": [2, 3]}) == {"a": [3, 2]}

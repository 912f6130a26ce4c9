"""Limits of isolated containers: what happens to one that wants more, and that its neighbours go on."""

import asyncio
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.pods import marks
from rayplane.node.host import NodeHost
from rayplane.node.runtime import host_group
from rayplane.node.runtime.isolation.cgroups import Group, find
from rayplane.node.runtime.isolation.pods import processes_of_user
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, logs, phase, run_in, shell, state, stub

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
HOG = "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))"
GROUPS = find("test") is not None
ways = pytest.mark.parametrize(
    "groups", [pytest.param(True, marks=pytest.mark.skipif(not GROUPS, reason="no control groups here")), False]
)


@pytest.fixture
def looking(groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not groups:
        monkeypatch.setattr(host_group, "find", lambda name: None)


def limited(memory: str, **limits: str) -> dict[str, Any]:
    return {"resources": {"limits": {"memory": memory, **limits}}}


def cpu_bound(group: Group) -> str:
    """The first word of what bounds a group's time on processors."""
    name = "cpu.max" if group.version == 2 else "cpu.cfs_quota_us"
    (path,) = [path for path in group.paths if os.path.exists(f"{path}/{name}")]
    return Path(path, name).read_text().split()[0]


def restarts(api: FakeClient, name: str) -> int:
    statuses = api.pod(name)["status"].get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount") or 0)


@ways
async def test_who_takes_more_memory_than_he_may_is_killed_and_told_so(
    api: FakeClient, make_isolating: Isolating, looking: None, groups: bool
) -> None:
    host = await make_isolating(NODE)
    assert (host._runtimes["process"].groups.top is not None) == groups  # type: ignore[attr-defined]
    api.put("pods", shell("calm", SLEEP, container=limited("64Mi")))
    await api.until(lambda: phase(api, "calm") == "Running")
    hog = {"command": ["python3", "-c", HOG], **limited("64Mi")}
    api.put("pods", make_pod("hog", container=hog, restartPolicy="Never"))
    await api.until(lambda: phase(api, "hog") == "Failed")
    ended = state(api, "hog")["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert "running" in state(api, "calm")


@ways
async def test_work_beside_a_container_takes_of_what_it_may_have_until_its_end(
    api: FakeClient, make_isolating: Isolating, looking: None, groups: bool
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("web", SLEEP, container=limited("256Mi")))
    await api.until(lambda: phase(api, "web") == "Running")
    mark, size = marks.stressed("a"), 64 << 20

    async def bears(value: str | None, *, more: bool) -> None:
        await api.patch("pods", "web", "default", {"metadata": {"annotations": {mark: value}}})
        while ((await stub(host).Stats(pb.StatsRequest(node="n1"))).memory_bytes > size) != more:
            await asyncio.sleep(0.02)

    await bears(marks.stress(marks.Stress(1, 10, 2, size), ["main"]), more=True)
    said, _, _ = await run_in(host, "web", "ps", "-e")
    assert b"python" not in said, "nothing in the container sees it, or could end it"
    await bears(None, more=False)
    assert "running" in state(api, "web") and restarts(api, "web") == 0


@ways
async def test_a_child_that_takes_the_memory_counts(
    api: FakeClient, make_isolating: Isolating, looking: None, groups: bool
) -> None:
    host = await make_isolating(NODE)
    script = f"setsid env -u RAYPLANE_CONTAINER_ID python3 -c '{HOG}'; wait; exit 1"
    script = script.replace("b'x'", 'b"x"')
    pod = shell("hog", script, container=limited("64Mi"), shareProcessNamespace=True, restartPolicy="Never")
    api.put("pods", pod)
    await api.until(lambda: phase(api, "hog") == "Failed")
    assert state(api, "hog")["terminated"]["reason"] == "OOMKilled"
    assert host is not None


@ways
async def test_memory_is_used_by_whom_stats_say(
    api: FakeClient, make_isolating: Isolating, looking: None, groups: bool
) -> None:
    host = await make_isolating(NODE)
    script = "import time\nx = bytearray(b'x') * (40 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)"
    api.put("pods", make_pod("user", container={"command": ["python3", "-c", script]}))
    await api.until(lambda: "running" in state(api, "user"))
    run = worker_run(host, "user")
    async with asyncio.timeout(60):
        while run.usage(api.pod("user")).memory_bytes < 40 << 20:
            await asyncio.sleep(0.01)
    assert run.usage(api.pod("user")).memory_bytes < 80 << 20


@ways
async def test_a_limit_that_changes_holds_at_once(
    api: FakeClient, make_isolating: Isolating, looking: None, groups: bool
) -> None:
    host = await make_isolating(NODE)
    script = "import time\nx = bytearray(b'x') * (40 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)"
    container = {"command": ["python3", "-c", script], **limited("256Mi")}
    api.put("pods", make_pod("user", container=container, restartPolicy="Never"))
    await api.until(lambda: "running" in state(api, "user"))
    run, pod = worker_run(host, "user"), api.pod("user")
    async with asyncio.timeout(60):
        while run.usage(pod).memory_bytes < 40 << 20:
            await asyncio.sleep(0.01)
    await run.resize(pod, container | limited("512Mi"))
    assert "running" in state(api, "user")
    if not groups:
        # The kernel refuses to go below what is used, or takes it away, as its version is.
        await run.resize(pod, container | limited("16Mi"))
        await api.until(lambda: phase(api, "user") == "Failed")
        assert state(api, "user")["terminated"]["reason"] == "OOMKilled"


@pytest.mark.skipif(not GROUPS, reason="no control groups here")
async def test_what_is_killed_waits_for_no_share_of_a_processor(
    api: FakeClient, make_isolating: Isolating, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await make_isolating(NODE)
    group = host._runtimes["process"].groups.top  # type: ignore[attr-defined]
    pod, lift, lifted = group.below("uid-box"), Group.lift_cpu, []

    def bounds() -> list[str]:
        return [cpu_bound(pod), cpu_bound(pod.below("main-1"))]

    def seen(self: Group) -> None:
        lift(self)
        lifted.append(bounds())

    monkeypatch.setattr(Group, "lift_cpu", seen)
    api.put("pods", shell("box", SLEEP, container=limited("64Mi", cpu="500m")))
    await api.until(lambda: "running" in state(api, "box"))
    bounded = bounds()
    worker_run(host, "box").stop(0.0)
    await api.until(lambda: restarts(api, "box") == 1 and "running" in state(api, "box"))
    assert bounded[0] == bounded[1] != lifted[-1][0] == lifted[-1][1]
    assert cpu_bound(pod) == bounded[0]


@pytest.mark.skipif(not GROUPS, reason="no control groups here")
async def test_a_pod_has_no_more_processes_than_it_may(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE, pod_pids_limit=16)
    forks = "import os\nn = 0\ntry:\n while n < 60:\n  os.fork() or os.read(0, 1) or os._exit(0)\n  n += 1"
    script = f"{forks}\nexcept OSError as e:\n print(e.errno, n)"
    # Those that were forked wait for input that comes with their end.
    api.put("pods", make_pod("many", container={"command": ["python3", "-c", script], "stdin": True}))
    await api.until(lambda: "running" in state(api, "many"))
    async with asyncio.timeout(60):
        while not (said := await logs(host, "many")):
            await asyncio.sleep(0.01)
    number, forked = map(int, said.split()[:2])
    assert number == errno.EAGAIN and 8 <= forked < 16


async def test_a_pod_without_a_group_has_no_more_processes_than_it_may_either(
    api: FakeClient, make_isolating: Isolating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_group, "find", lambda name: None)
    await make_isolating(NODE, pod_pids_limit=16)
    api.put("pods", shell("calm", SLEEP))
    api.put("pods", shell("many", "for _ in $(seq 40); do sleep 1000 & done; wait", restartPolicy="Never"))
    await api.until(lambda: phase(api, "many") == "Failed")
    assert state(api, "many")["terminated"]["reason"] == "TooManyProcesses"
    assert "running" in state(api, "calm")


async def test_the_limit_of_a_user_does_not_stand_before_that_of_the_pod(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE, pod_pids_limit=3000)
    assert await ended(api, host, "bash -c 'ulimit -u'") == "3000\n"
    assert [processes_of_user(most) for most in (16, 3000, 1 << 20, 0)] == [2048, 3000, 8192, 8192]


@pytest.mark.skipif(not GROUPS, reason="no control groups here")
async def test_groups_go_with_their_pods(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    group = host._runtimes["process"].groups.top  # type: ignore[attr-defined]
    api.put("pods", shell("box", SLEEP, container=limited("64Mi", cpu="500m")))
    await api.until(lambda: "running" in state(api, "box"))
    pod = group.below("uid-box")
    assert pod.below("main-1").use().memory_bytes > 0
    assert (await run_in(host, "box", "cat", "/proc/self/cgroup"))[0].decode().count(":/\n") >= 3
    api.remove("pods", "default/box")
    await api.until(lambda: gone(pod))
    await host.stop()
    assert gone(group)


@pytest.mark.skipif(not GROUPS, reason="no control groups here")
async def test_groups_go_with_a_host_that_is_killed(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    runtime: Any = host._runtimes["process"]
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    groups = runtime.groups
    group = groups.top
    groups.top, groups._made = None, set()
    # What the kernel does for a process that is gone.
    os.kill(runtime.shim.pid, signal.SIGKILL)
    while groups._holds:
        os.close(groups._holds.pop())
    await api.until(lambda: gone(group))


def gone(group: Any) -> bool:
    return not any(os.path.exists(path) for path in group.paths)


def worker_run(host: NodeHost, pod: str) -> Any:
    return host.kubelet("n1").worker("default", pod).runs["main"]

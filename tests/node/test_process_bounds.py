"""Plain processes of a pod are held to what they may have: by control groups where there are some, else by looking."""

import asyncio
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime import host_group
from rayplane.node.runtime.isolation import limits
from rayplane.node.runtime.isolation.cgroups import Group, find
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, MakeHost, logs, phase, shell, state

pytestmark = pytest.mark.processes
MOST = 20
FORKS = "for _ in $(seq 40); do sleep 1000 & done"
GROUPS = find("test") is not None
needs_groups = pytest.mark.skipif(not GROUPS, reason="no control groups here")


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_group, "find", lambda name: None)


@pytest.mark.parametrize(
    "script",
    [f"{FORKS}; wait", f"(setsid sh -c '{FORKS}; wait' &); sleep 1000", f"setsid sh -c '{FORKS}' & sleep 1000"],
    ids=["children", "another session", "orphans"],
)
async def test_who_has_too_many_processes_is_ended_and_told_so(
    script: str, api: FakeClient, make_host: MakeHost, looking: None
) -> None:
    await make_host(NODE, pod_pids_limit=MOST)
    api.put("pods", shell("calm", "sleep 1000"))
    await api.until(lambda: phase(api, "calm") == "Running")
    api.put("pods", shell("many", script, restartPolicy="Never"))
    await api.until(lambda: phase(api, "many") == "Failed")
    ended = state(api, "many")["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("TooManyProcesses", 137)
    await api.until(lambda: api.events("TooManyProcesses"))
    assert "running" in state(api, "calm")


async def test_who_has_more_memory_than_he_may_is_ended(api: FakeClient, make_host: MakeHost, looking: None) -> None:
    await make_host(NODE)
    api.put("pods", make_pod("hog", container=holding(96, "64Mi"), restartPolicy="Never"))
    api.put("pods", make_pod("free", container=holding(96, "256Mi"), restartPolicy="Never"))
    await api.until(lambda: phase(api, "hog") == "Failed")
    assert state(api, "hog")["terminated"]["reason"] == "OOMKilled"
    assert "running" in state(api, "free")


@needs_groups
async def test_a_group_refuses_more_processes_and_the_pod_goes_on(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, pod_pids_limit=MOST)
    script = (
        "import os, time\nforked = 0\ntry:\n"
        "    for _ in range(40):\n        if not os.fork(): time.sleep(1000)\n        forked += 1\n"
        "except BlockingIOError: print('refused', flush=True)\ntime.sleep(1000)"
    )
    api.put("pods", make_pod("many", container={"command": [sys.executable, "-c", script]}))
    await api.until(lambda: phase(api, "many") == "Running")
    text = b""
    while not text:
        text = await logs(host, "many")
    assert text == b"refused\n"
    assert "running" in state(api, "many")


@needs_groups
async def test_a_group_ends_who_has_more_memory_than_he_may(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    api.put("pods", make_pod("hog", container=holding(96, "64Mi"), restartPolicy="Never"))
    await api.until(lambda: phase(api, "hog") == "Failed")
    assert state(api, "hog")["terminated"]["reason"] == "OOMKilled"
    top = host._runtimes["process"].groups.top  # type: ignore[attr-defined]
    await host.stop()
    assert not there(top)


@needs_groups
async def test_a_start_that_fails_leaves_no_group(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    pod = make_pod("none", container={"command": ["no-such-program"]}, restartPolicy="Never")
    pod["spec"]["containers"].append({"name": "other", "image": "x", "command": ["sleep", "1000"]})
    api.put("pods", pod)
    await api.until(lambda: "terminated" in state(api, "none"))
    group = host._runtimes["process"].groups.pod("uid-none")  # type: ignore[attr-defined]
    assert there(group.below("other-1"))
    await api.until(lambda: not there(group.below("main-1")))


def there(group: Group) -> bool:
    return any(os.path.exists(path) for path in group.paths)


def holding(megabytes: int, limit: str) -> dict[str, Any]:
    """A container that has so much memory and keeps it."""
    script = f"import time\nx = bytearray(b'x') * ({megabytes} << 20)\ntime.sleep(1000)"
    return {"command": [sys.executable, "-c", script], "resources": {"limits": {"memory": limit}}}


@needs_groups
async def test_a_group_that_was_closed_is_not_made_again(tmp_path: Path) -> None:
    group = host_group.HostGroup(str(tmp_path), MOST)
    await group.open()
    top, pod = group.top, make_pod("late")
    assert top is not None
    group.add("uid", pod)
    one = group.container("uid", "main-1", limits.Limits())
    assert one is not None and there(one)
    await group.close()
    assert group.container("uid", "main-2", limits.Limits()) is None
    group.limit("uid", pod)
    group.remove("uid")
    assert not there(top)


def group_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> host_group.HostGroup:
    """A host's group whose files are anybody's."""
    monkeypatch.setattr(host_group, "_fresh", lambda name: (Group({"pids": str(place)}, 1), []))
    return host_group.HostGroup("host", MOST)


async def test_a_group_whose_opening_is_cancelled_has_no_janitor_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()
    told, tell = os.pipe()

    def slowly(name: str) -> tuple[Group, list[int]]:
        began.set()
        go.wait()
        return Group({"pids": str(tmp_path / name)}, 1), [tell]

    monkeypatch.setattr(host_group, "_fresh", slowly)
    groups = host_group.HostGroup("host", MOST)
    opening = asyncio.ensure_future(groups.open())
    while not began.is_set():
        await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await groups.close()
    os.set_blocking(told, False)
    assert os.read(told, 1) == b"", "the janitor still waits for the end of its host"
    os.close(told)


async def test_a_pods_group_is_held_to_its_limits_before_anybody_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, held = group_in(tmp_path, monkeypatch), list[tuple[int, bool]]()

    def busy(self: Group, wanted: limits.Limits, *, is_new: bool = False) -> None:
        held.append((wanted.processes, is_new))
        if len(held) == 1:
            raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(Group, "set", busy)
    await groups.open()
    groups.add("uid", make_pod("late"))
    with pytest.raises(OSError, match="busy"):
        groups.container("uid", "main-1", limits.Limits())
    assert groups.container("uid", "main-1", limits.Limits()) is not None
    assert held == [(MOST, True), (MOST, False), (0, True)]


async def test_a_containers_group_that_cannot_be_held_to_its_limits_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, removed = group_in(tmp_path, monkeypatch), list[str]()

    def refused(self: Group, wanted: limits.Limits, *, is_new: bool = False) -> None:
        if not wanted.whole_pod:
            raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(Group, "set", refused)
    monkeypatch.setattr(Group, "remove", lambda self: removed.extend(self.paths))
    await groups.open()
    groups.add("uid", make_pod("late"))
    with pytest.raises(OSError, match="refused"):
        groups.container("uid", "main-1", limits.Limits())
    assert removed == groups.pod("uid").below("main-1").paths

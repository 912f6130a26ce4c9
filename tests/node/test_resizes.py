"""In-place resizes: who is given what he asks for, when, and at what price."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.config import NodeConfig
from rayplane.node.errors import RuntimeFailed
from rayplane.node.kubelet.admission import Allocations, Room, room_of
from rayplane.node.kubelet.attendance import hold
from rayplane.node.kubelet.resizing import new_images, new_resources, refusal, summary
from rayplane.node.lifecycle import (
    Event,
    Exited,
    Moment,
    PodMachine,
    Record,
    ResourcesHeld,
    Respecified,
    SandboxReady,
    Started,
)
from rayplane.node.restarts import KUBERNETES_RESTARTS
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import MakeHost

STAMP = "2026-01-01T00:00:00Z"


def sized(name: str, cpu: str, *, generation: int = 1, **container: Any) -> Object:
    pod = make_pod(name, container={"resources": {"requests": {"cpu": cpu}}, **container})
    pod["metadata"]["generation"] = generation
    return pod


def whole(cpu: str, *, generation: int) -> Object:
    pod = make_pod("a")
    pod["spec"]["resources"] = {"requests": {"cpu": cpu}}
    pod["metadata"]["generation"] = generation
    return pod


def pending(pod: Object) -> tuple[str, str]:
    found = meta.get_condition(pod, "PodResizePending") or {}
    return found.get("reason", ""), found.get("message", "")


def allocated(pod: Object) -> str:
    containers = meta.status(pod).get("containerStatuses") or [{}]
    return str((containers[0].get("allocatedResources") or {}).get("cpu", ""))


@pytest.mark.parametrize(
    ("policy", "section", "restarts"),
    [("NotRequired", "cpu", False), ("RestartContainer", "cpu", True), ("RestartContainer", "memory", False)],
)
def test_a_container_is_run_anew_if_a_resource_that_asks_for_that_changes(
    policy: str, section: str, restarts: bool
) -> None:
    policies = [{"resourceName": "cpu", "restartPolicy": policy}]
    before = {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}, "resizePolicy": policies}
    after = {**before, "resources": {"requests": {**before["resources"]["requests"], section: "2"}}}  # type: ignore[index]
    asked = new_resources({"spec": {"containers": [after]}}, {"c": before})
    assert asked.containers == (after,)
    assert asked.restart == ((("c", "Container c resize requires restart"),) if restarts else ())
    assert new_images({"spec": {"containers": [after]}}, {"c": before}).containers == ()


def test_what_never_fits_is_infeasible_and_what_does_not_fit_now_is_deferred() -> None:
    room = Allocations(Room(4000, 1 << 30, 10))
    have = room_of(sized("a", "1"))
    for held in (have, room_of(sized("b", "2"))):
        room.hold(held)
    for cpu, reason, text in (
        ("5", "Infeasible", "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"),
        ("3", "Deferred", "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"),
    ):
        found = refusal(sized("a", cpu), have, room_of(sized("a", cpu)), room)
        assert found is not None and (found.reason, found.message) == (reason, text)
    assert refusal(sized("a", "2"), have, room_of(sized("a", "2")), room) is None
    mirror = sized("a", "2")
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
    found = refusal(mirror, have, room_of(mirror), room)
    assert found is not None and found.message == "In-place resize of static-pods is not supported"


def test_events_tell_what_a_resize_asks_for() -> None:
    pod = make_pod("a", container={"resources": {"requests": {"memory": "1Gi", "cpu": "2"}, "limits": {"cpu": "3"}}})
    pod["metadata"]["generation"] = 2
    asked = '{"limits":{"cpu":"3"},"requests":{"cpu":"2","memory":"1Gi"}}'
    name = pod["spec"]["containers"][0]["name"]
    containers = f'"containers":[{{"name":"{name}","resources":{asked}}}],"generation":2'
    assert summary(pod) == f"{{{containers}}}"
    assert summary(pod, "no room") == f'{{{containers},"error":"no room"}}'
    pod["spec"]["resources"] = {"requests": {"cpu": "4"}}
    assert summary(pod) == f'{{"resources":{{"requests":{{"cpu":"4"}}}},{containers}}}'


def test_a_resize_tells_its_begin_and_its_end() -> None:
    pod = sized("a", "1")
    machine = PodMachine({**pod, "status": {}}, KUBERNETES_RESTARTS)
    told: list[str] = []

    def step(event: Event | None) -> None:
        told.extend(e.reason for e in machine.step(event, Moment(0.0, STAMP)) if isinstance(e, Record))

    (container,) = machine.containers
    for event in (None, SandboxReady("10.0.0.2"), Started(container.name, 1, "id")):
        step(event)
    step(Respecified(({**container.spec, "resources": {"requests": {"cpu": "2"}}},), told="{}"))
    for error in ("no memory", "no memory", ""):
        assert told[-1] == ("ResizeError" if machine.resize_error else "ResizeStarted") and machine.resize_in_progress
        assert container.in_force != container.spec["resources"], "the kernel has not taken it"
        step(ResourcesHeld(error))
    assert told[-3:] == ["ResizeStarted", "ResizeError", "ResizeCompleted"] and not machine.resize_in_progress
    assert container.in_force == container.spec["resources"]
    third = {**container.spec, "resources": {"requests": {"cpu": "3"}}}
    step(Respecified((third,), ((container.name, "why"),), told="{}"))
    step(ResourcesHeld())
    step(Exited(container.name, 1, 143))
    assert told[-2:] == ["ResizeStarted", "Killing"] and machine.resize_in_progress, "it does not run yet"
    step(Started(container.name, 2, "id2"))
    assert "ResizeCompleted" in told[-3:] and not machine.resize_in_progress


async def test_a_container_that_cannot_be_held_yet_keeps_nothing_from_the_others() -> None:
    pod = make_pod("a")
    pod["spec"]["containers"] = [{"name": name} for name in "abc"]
    told: list[str] = []
    others, failure = asyncio.Event(), RuntimeFailed("not here")

    async def late(*_: Object) -> None:
        await others.wait()
        told.append("a")

    async def at_once(*_: Object) -> None:
        told.append("b")
        others.set()

    runs = {"a": Mock(resize=late), "b": Mock(resize=at_once), "c": Mock(resize=AsyncMock(side_effect=failure))}
    worker: Any = SimpleNamespace(
        pod=pod,
        machine=PodMachine({**pod, "status": {}}, KUBERNETES_RESTARTS),
        runs=runs,
        resize=lambda _: told.append("the pod"),
    )
    async with asyncio.timeout(5):
        assert await hold(worker, "abc") == "container c: not here"
    assert told == ["b", "a", "the pod"]


async def test_the_resources_of_a_pod_as_a_whole_change(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await make_host(NodeConfig("n1", cpu="4"))
    held: list[Object] = []
    monkeypatch.setattr(host._runtimes["simulated"], "resize_pod", lambda pod: held.append(meta.spec(pod)["resources"]))
    api.put("pods", whole("1", generation=1))
    await api.until(lambda: meta.status(api.pod("a")).get("phase") == "Running")
    for generation, cpu, reason in ((2, "5", "Infeasible"), (3, "3", "")):
        changed = whole(cpu, generation=generation)
        api.put("pods", {**api.pod("a"), "spec": changed["spec"], "metadata": changed["metadata"]})
        await api.until(lambda g=generation: meta.status(api.pod("a")).get("observedGeneration") == g)
        assert pending(api.pod("a"))[0] == reason
        given = "1" if reason else cpu
        assert api.pod("a")["status"]["allocatedResources"] == {"cpu": given}
        assert api.pod("a")["status"]["resources"] == {"requests": {"cpu": given}}
    assert held == [{"requests": {"cpu": "3"}}]


async def test_a_deferred_resize_comes_when_there_is_room(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", cpu="4"))
    api.put("pods", sized("a", "1"))
    api.put("pods", sized("b", "2"))
    await api.until(lambda: all(meta.status(api.pod(name)).get("phase") == "Running" for name in "ab"))
    assert [allocated(api.pod(name)) for name in "ab"] == ["1", "2"], "told from the beginning"
    assert api.pod("a")["status"]["containerStatuses"][0]["resources"] == {"requests": {"cpu": "1"}}
    grown = sized("a", "3", generation=2)
    api.put("pods", {**api.pod("a"), "spec": grown["spec"], "metadata": grown["metadata"]})
    await api.until(lambda: pending(api.pod("a"))[0] == "Deferred")
    assert allocated(api.pod("a")) == "1"
    await api.delete("pods", "b", "default")
    await api.until(lambda: allocated(api.pod("a")) == "3")
    assert pending(api.pod("a")) == ("", "")
    assert api.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_another_image_is_run_anew(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    api.put("pods", sized("a", "1"))
    await api.until(lambda: meta.status(api.pod("a")).get("phase") == "Running")
    changed = sized("a", "1", generation=2, image="app:2")
    api.put("pods", {**api.pod("a"), "spec": changed["spec"], "metadata": changed["metadata"]})
    await api.until(lambda: api.pod("a")["status"]["containerStatuses"][0]["image"] == "app:2")
    assert api.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 1

"""A container runtime that hangs, lies, dies or forgets: what a node makes of it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from grpc import StatusCode as Code

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import NO_SERVICES
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import RpcError
from rayplane.node.config import NodeConfig
from rayplane.node.environment import Reference
from rayplane.node.errors import NodeError, NotRunning, RuntimeAway, RuntimeFailed, RuntimeUnfit, SandboxError
from rayplane.node.kubelet import registration
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime import LogOptions, PodPlace, StartOrder
from rayplane.node.runtime.cri import client, images, observer, run
from rayplane.node.runtime.cri.client import CriClient
from rayplane.node.runtime.cri.configs import OWNER, Node
from rayplane.node.runtime.cri.groups import remove_groups
from rayplane.node.runtime.cri.runtime import CriRuntime, runtime_at
from rayplane.node.runtime.cri.streams import end_of
from rayplane.node.runtime.logfile import LogLimits
from rayplane.node.shim.container_log import generation
from rayplane.proto.cri import cri_pb2 as pb
from tests.node.conftest import make_pod
from tests.node.fake_runtime import FakeRuntime


class Heard:
    """A listener; `until` waits for its next word."""

    def __init__(self) -> None:
        self.words: list[tuple[Any, ...]] = []
        self._changed = asyncio.Event()

    def _hear(self, *word: Any) -> None:
        self.words.append(word)
        self._changed.set()

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        self._hear("started", container_id)

    def failed(self, reason: str, message: str) -> None:
        self._hear("failed", reason, message)

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        self._hear("exited", exit_code, message, reason)

    async def until(self, count: int) -> list[tuple[Any, ...]]:
        while len(self.words) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.words


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CHECK_S", 0.2)
    monkeypatch.setattr(observer, "LIST_S", 0.02)
    monkeypatch.setattr(observer, "LIST_WITH_EVENTS_S", 0.05)
    monkeypatch.setattr(observer, "BACKOFF", Backoff(0.02, 0.05))
    monkeypatch.setattr(observer, "EVENTS_BACKOFF", Backoff(0.02, 0.05))


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    found = FakeRuntime(tmp_path / "s")
    await found.start()
    yield found
    await found.stop()


@contextlib.asynccontextmanager
async def opened(path: Path, owner: str = "me") -> AsyncIterator[CriRuntime]:
    runtime = CriRuntime(CriClient(str(path)), Node(owner, "n1", 8 << 30))
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


@pytest.fixture
async def runtime(fake: FakeRuntime) -> AsyncIterator[CriRuntime]:
    async with opened(fake.path) as found:
        yield found


def place(tmp_path: Path, pod: Object, **more: Any) -> PodPlace:
    directory = tmp_path / pod["metadata"]["uid"]
    directory.mkdir(exist_ok=True)
    return PodPlace(pod["metadata"]["uid"], "127.1.1.1", "127.1.1.0", "h", str(directory), pod=pod, **more)


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def order(tmp_path: Path, pod: Object, attempt: int = 0, *, survivor: str = "", **container: Any) -> StartOrder:
    spec, directory = {**pod["spec"]["containers"][0], **container}, str(tmp_path / pod["metadata"]["uid"])
    return StartOrder(pod, spec, attempt, "rayplane://0", "", directory=directory, survivor=survivor)


async def begun(runtime: CriRuntime, tmp_path: Path, name: str = "p") -> tuple[Heard, Any]:
    pod = make_pod(name)
    await runtime.add_pod(place(tmp_path, pod))
    heard = Heard()
    found = runtime.start(order(tmp_path, pod), heard)
    assert (await heard.until(1))[0][0] == "started", heard.words
    return heard, found


async def test_a_container_is_started_watched_and_stopped(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    assert (runtime.version, runtime.trouble) == ("fake://9", "")
    heard, found = await begun(runtime, tmp_path)
    assert heard.words == [("started", "fake://container-2")]
    found.stop(7.0)
    assert (await heard.until(2))[1][:2] == ("exited", 143)
    assert fake.requests["StopContainer"].timeout == 7
    runtime.remove_pod("uid-p")
    await until(lambda: not fake.sandboxes)


@pytest.mark.parametrize("has_events", [True, False], ids=["events", "lists"])
async def test_ends_are_noticed(fake: FakeRuntime, tmp_path: Path, has_events: bool) -> None:
    fake.has_events = has_events
    async with opened(fake.path) as runtime:
        heard, _ = await begun(runtime, tmp_path)
        fake.exit("container-2", 5)
        assert (await heard.until(2))[1][:2] == ("exited", 5)


async def test_nobody_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "nobody") as runtime:
        assert "does not answer Version" in runtime.trouble
        fake = FakeRuntime(tmp_path / "nobody")
        await fake.start()
        await until(lambda: not runtime.trouble)
        await fake.stop()
        await until(lambda: bool(runtime.trouble))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"api_version": "v2"}, RuntimeUnfit, "speaks CRI v2"),
        ({"ready": False}, RuntimeFailed, "NetworkReady is false: NoCNI: cni is missing"),
        ({"hang": {"Version"}}, RuntimeAway, "does not answer Version"),
        ({"fail": {"Status": RpcError(Code.UNIMPLEMENTED, "?")}}, RuntimeUnfit, "has no Status of CRI v1"),
    ],
    ids=["version", "network", "hangs", "another service"],
)
async def test_a_runtime_that_cannot_be_used_is_told(
    fake: FakeRuntime, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    for name, value in change.items():
        setattr(fake, name, value)
    found = CriClient(str(fake.path))
    with pytest.raises(error, match=text):
        await found.check()
    await found.close()


async def test_a_runtime_that_stops_answering_is_trouble_until_it_answers(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, _ = await begun(runtime, tmp_path)
    told: list[str] = []
    runtime.watchers.append(lambda: told.append(runtime.trouble))
    fake.fail["ListContainers"] = RpcError(Code.UNAVAILABLE, "down")
    fake.hang.add("Version")
    for _ in range(2):
        await until(lambda: "ListContainers" not in fake.fail or bool(told))
        fake.fail["ListContainers"] = RpcError(Code.UNAVAILABLE, "down")
    await until(lambda: bool(told))
    fake.fail.clear()
    fake.hang.clear()
    await until(lambda: told[-1] == "")
    assert heard.words[1:] == []


async def test_a_runtime_without_memory_has_ended_all_and_gets_it_anew(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    moved: list[str] = []
    pod = make_pod("p")
    first = await runtime.add_pod(place(tmp_path, pod, moved=moved.append))
    heard = Heard()
    runtime.start(order(tmp_path, pod), heard)
    await heard.until(1)
    fake.forget()
    assert (await heard.until(2))[1][:2] == ("exited", run.LOST_CODE)
    again = Heard()
    runtime.start(order(tmp_path, pod, 1), again)
    assert (await again.until(1))[0][0] == "started"
    assert moved and moved != [first]
    assert fake.requests["RunPodSandbox"].config.metadata.attempt == 1


async def test_answers_about_others_are_not_taken(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    heard, _ = await begun(runtime, tmp_path)
    fake.wrong_ids = True
    fake.exit("container-2", 0)
    seen = fake.calls["ContainerStatus"]
    await until(lambda: fake.calls["ContainerStatus"] > seen + 2)
    assert len(heard.words) == 1
    with pytest.raises(SandboxError, match="told of 'another'"):
        await runtime.add_pod(place(tmp_path, make_pod("q")))
    fake.wrong_ids = False
    assert (await heard.until(2))[1][0] == "exited"


@pytest.mark.parametrize("count", [observer.CONTAINERS_MAX + 1, 1_000_000], ids=["many", "more than an answer holds"])
async def test_a_runtime_that_tells_of_too_many_is_trouble(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, count: int
) -> None:
    heard, _ = await begun(runtime, tmp_path)
    fake.flood = count
    await until(lambda: bool(runtime.trouble))
    fake.flood = 0
    await until(lambda: not runtime.trouble)
    fake.exit("container-2", 1)
    await heard.until(2)


async def test_only_what_bears_the_label_is_removed(fake: FakeRuntime, tmp_path: Path) -> None:
    fake.filters = False
    for ident, labels in (("mine", {OWNER: "me"}), ("theirs", {OWNER: "you"}), ("nobodys", {})):
        fake.sandboxes[ident] = pb.PodSandboxStatus(id=ident, labels=labels)
    async with opened(fake.path) as runtime:
        assert "mine" in fake.sandboxes, "until all pods of the host have been seen it may be of one"
        runtime.survivors.settle()
        await until(lambda: [*fake.sandboxes] == ["theirs", "nobodys"])
        await begun(runtime, tmp_path)
    assert [*fake.sandboxes] == ["theirs", "nobodys"]


async def test_a_sandbox_is_removed_by_one_at_a_time(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    """What a host that stops finds left is what a pod that ends has removed already."""
    await runtime.add_pod(place(tmp_path, make_pod("p")))
    fake.hang.add("StopPodSandbox")
    runtime.remove_pod("uid-p")
    await until(lambda: fake.calls["StopPodSandbox"] == 1)
    removing = asyncio.create_task(runtime.remove_strangers())
    listed = fake.calls["ListPodSandbox"]
    await until(lambda: fake.calls["ListPodSandbox"] > listed)
    await until(lambda: fake.calls["ListContainers"] > 3)
    assert fake.calls["StopPodSandbox"] == 1
    removing.cancel()


async def test_a_runtime_gets_the_handler_that_the_pods_class_names(fake: FakeRuntime, tmp_path: Path) -> None:
    async def find(namespace: str, wanted: list[Reference]) -> dict[tuple[str, str], Object | None]:
        classes = {"secure": {"handler": "kata"}}
        return {(one.resource, one.name): classes.get(one.name) for one in wanted}

    runtime = runtime_at(str(fake.path), NodeConfig("n1"), own=(str(tmp_path),) * 3, find=find)
    await runtime.open()
    try:
        for name, chosen, handler in (("p", "secure", "kata"), ("q", "", "")):
            await runtime.add_pod(place(tmp_path, make_pod(name, runtimeClassName=chosen)))
            assert fake.requests["RunPodSandbox"].runtime_handler == handler
        with pytest.raises(SandboxError, match='"none" not found'):
            await runtime.add_pod(place(tmp_path, make_pod("r", runtimeClassName="none")))
    finally:
        await runtime.close()


async def test_a_pod_that_does_not_find_services_runs_and_says_so(fake: FakeRuntime, tmp_path: Path) -> None:
    events: list[tuple[str, ...]] = []
    gateway = Mock(open=AsyncMock(), remove_sandbox=AsyncMock())
    runtime = CriRuntime(
        CriClient(str(fake.path)),
        Node("me", "n1", 8 << 30),
        gateway=gateway,
        record=lambda pod, *said, part="": events.append((pod["metadata"]["name"], *said)),
    )
    await runtime.open()
    try:
        assert await runtime.add_pod(place(tmp_path, make_pod("p")))
        ((*said, why),) = events
        assert said == ["p", "Warning", "NoServices"] and "does not tell which network" in why
    finally:
        await runtime.close()


async def test_where_no_pod_finds_services_the_node_says_so_and_takes_it_back(fake: FakeRuntime) -> None:
    gateway = Mock(open=AsyncMock(side_effect=PermissionError(1, "Operation not permitted")))
    runtime = CriRuntime(CriClient(str(fake.path)), Node("me", "n1", 8 << 30), gateway=gateway)
    await runtime.open()
    await runtime.close()
    assert "Operation not permitted" in runtime.no_services
    usual = {c["type"]: c["status"] for c in _told("", {})}
    assert NO_SERVICES not in usual
    told = _told(runtime.no_services, {})
    assert {c["type"]: c["status"] for c in told} == usual | {NO_SERVICES: "True"}
    assert "not permitted" in told[-1]["message"]
    assert {c["type"]: c["status"] for c in _told("", {"conditions": told})} == usual | {NO_SERVICES: "False"}


def _told(no_services: str, before: dict[str, Any]) -> list[dict[str, Any]]:
    health = registration.Health(no_services=no_services)
    node = {"metadata": {"name": "n1"}, "status": before}
    status = registration.node_status(NodeConfig("n1"), node, node_ip="", port=0, stamp="now", health=health)
    return list(status["conditions"])


async def test_a_sandbox_whose_making_failed_is_made_under_another_name(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    fake.fail["RunPodSandbox"] = RpcError(Code.UNKNOWN, "no network")
    with pytest.raises(SandboxError, match="no network"):
        await runtime.add_pod(place(tmp_path, make_pod("p")))
    await runtime.add_pod(place(tmp_path, make_pod("p")))
    assert fake.requests["RunPodSandbox"].config.metadata.attempt == 1
    await runtime.remove_strangers()
    assert len(fake.sandboxes) == 1  # what the failed call had left is gone


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        ("CreateContainer", Code.UNKNOWN, "CreateContainerError"),
        ("StartContainer", Code.UNKNOWN, "StartError"),
        ("StartContainer", Code.UNAVAILABLE, "RunContainerError"),
        ("PullImage", Code.UNKNOWN, "ErrImagePull"),
    ],
)
async def test_failures_have_their_reasons(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, call: str, code: Code, reason: str
) -> None:
    pod = make_pod("p")
    await runtime.add_pod(place(tmp_path, pod))
    fake.fail[call] = RpcError(code, "because")
    heard = Heard()
    runtime.start(order(tmp_path, pod, image="other:1" if call == "PullImage" else "app:1"), heard)
    word = (await heard.until(1))[0]
    assert (word[:2], "because" in word[2]) == (("failed", reason), True)


async def test_images_are_pulled_as_their_policy_says(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    pod = make_pod("p")
    await runtime.add_pod(place(tmp_path, pod))

    async def start(attempt: int, **container: Any) -> tuple[Any, ...]:
        heard = Heard()
        runtime.start(order(tmp_path, pod, attempt, **container), heard)
        return (await heard.until(1))[0]

    assert (await start(0))[0] == "started"
    assert fake.calls["PullImage"] == 0
    assert (await start(1, imagePullPolicy="Always"))[0] == "started"
    assert fake.calls["PullImage"] == 1
    assert (await start(2, image="b:1", imagePullPolicy="Never"))[1] == "ErrImageNeverPull"
    fake.fail["PullImage"] = RpcError(Code.UNKNOWN, "denied")
    assert (await start(3, image="b:1"))[1] == "ErrImagePull"
    assert (await start(4, image="b:1"))[1:] == (
        "ImagePullBackOff",
        'Back-off pulling image "b:1": ErrImagePull: denied',
    )
    assert fake.calls["PullImage"] == 2


async def test_each_of_the_pods_credentials_is_tried(fake: FakeRuntime) -> None:
    async def keys(pod: Object, image: str) -> list[pb.AuthConfig]:
        return [pb.AuthConfig(username="wrong"), pb.AuthConfig(username="right")]

    found = CriClient(str(fake.path))
    fake.fail["PullImage"] = RpcError(Code.UNKNOWN, "denied")
    told: list[tuple[str, str]] = []
    store = images.Images(found, keys, lambda about, kind, reason, message, part="": told.append((reason, message)))
    await store.ensure(make_pod("p"), {"name": "c", "image": "private:1"}, pb.PodSandboxConfig())
    assert fake.requests["PullImage"].auth.username == "right"
    assert told[0] == ("Pulling", 'Pulling image "private:1"')
    assert told[1][0] == "Pulled" and told[1][1].startswith('Successfully pulled image "private:1" in ')
    await found.close()


async def test_what_is_to_end_before_it_runs_does_not_run(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    pod = make_pod("p")
    await runtime.add_pod(place(tmp_path, pod))
    heard = Heard()
    runtime.start(order(tmp_path, pod), heard).stop(0.0)
    assert (await heard.until(1))[0][0] == "failed"
    assert fake.calls["StartContainer"] == 0
    await until(lambda: not fake.containers)


async def test_a_stop_that_got_lost_is_told_again(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LATE_S", 0.0)
    heard, found = await begun(runtime, tmp_path)
    fake.fail["StopContainer"] = RpcError(Code.UNKNOWN, "busy")
    found.stop(0.0)
    assert (await heard.until(2))[1][:2] == ("exited", 143)
    assert fake.calls["StopContainer"] >= 2


async def test_commands_go_by_the_call_where_streams_cannot_be_reached(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    heard, found = await begun(runtime, tmp_path)
    session = await found.exec(["x"], tty=False, stdin=False)
    assert [chunk async for chunk in session.output()] == [(b"out", b"err")]
    assert await session.wait() == 3
    with pytest.raises(RuntimeAway):
        await found.exec(["x"], tty=False, stdin=True)
    fake.exit("container-2", 0)
    await heard.until(2)
    with pytest.raises(NotRunning):
        await found.exec(["x"], tty=False, stdin=False)


async def test_a_long_log_begins_anew(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    runtime.logs = LogLimits(10, 3)
    _, found = await begun(runtime, tmp_path)
    for count in range(1, 5):
        fake.write_log("container-2", b"long enough %d" % count)
        await until(lambda: fake.calls["ReopenContainerLog"] == count)  # noqa: B023
    runtime.logs = LogLimits()  # what comes now is too long as well, and its turn may come before this test's look
    fake.write_log("container-2", b"short")
    text = b"".join([chunk async for chunk in found.logs(LogOptions())])
    assert text == b"long enough 3\nlong enough 4\nshort\n"


async def test_a_log_that_was_moved_and_not_begun_anew_is_so_by_the_next_life(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    _, found = await begun(runtime, tmp_path)
    fake.write_log("container-2", b"before")
    os.replace(found.log_path, generation(found.log_path, 1))
    await until(lambda: fake.calls["ReopenContainerLog"] == 1)
    fake.write_log("container-2", b"after")
    assert b"".join([chunk async for chunk in found.logs(LogOptions())]) == b"before\nafter\n"


async def test_a_follower_sees_every_line_once_and_in_order_while_the_log_begins_anew(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    heard, found = await begun(runtime, tmp_path)
    seen: list[bytes] = []

    async def follow() -> None:
        async for chunk in found.logs(LogOptions(follow=True)):
            seen.append(chunk)

    following = asyncio.create_task(follow())
    fake.write_log("container-2", b"one")
    await until(lambda: bool(seen))
    runtime.logs = LogLimits(1, 3)
    await until(lambda: fake.calls["ReopenContainerLog"] == 1)
    runtime.logs = LogLimits()
    fake.write_log("container-2", b"three")
    fake.write_log("container-2", b"two", late=True)
    fake.exit("container-2", 0)
    await heard.until(2)
    await following
    assert b"".join(seen) == b"one\ntwo\nthree\n"


async def test_other_resources_are_told(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    heard, found = await begun(runtime, tmp_path)
    pod = make_pod("p", container={"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}})
    await found.resize(pod, pod["spec"]["containers"][0])
    assert fake.requests["UpdateContainerResources"].linux.cpu_quota == 200_000
    fake.fail["UpdateContainerResources"] = RpcError(Code.UNIMPLEMENTED, "not here")
    with pytest.raises(NodeError, match="not here"):
        await found.resize(pod, pod["spec"]["containers"][0])
    assert len(heard.words) == 1


async def test_a_container_that_is_being_made_is_told_once_it_runs(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    pod = make_pod("p", container={"resources": {"limits": {"cpu": "2"}}})
    await runtime.add_pod(place(tmp_path, pod))
    heard = Heard()
    await runtime.start(order(tmp_path, pod, resources={}), heard).resize(pod, pod["spec"]["containers"][0])
    assert [word[0] for word in heard.words] == ["started"]
    assert fake.requests["UpdateContainerResources"].linux.cpu_quota == 200_000
    fake.fail["CreateContainer"] = RpcError(Code.INVALID_ARGUMENT, "no")
    await runtime.start(order(tmp_path, pod, 1), heard).resize(pod, pod["spec"]["containers"][0])
    assert [word[0] for word in heard.words] == ["started", "failed"]
    assert fake.calls["UpdateContainerResources"] == 1


async def test_a_container_that_ran_out_of_memory_says_so(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path
) -> None:
    heard, _ = await begun(runtime, tmp_path)
    fake.containers["container-2"][1].reason = "OOMKilled"
    fake.exit("container-2", 137)
    assert (await heard.until(2))[1][3] == "OOMKilled"


def test_empty_groups_of_a_pod_go_and_others_stay(tmp_path: Path) -> None:
    mine, full, others = (tmp_path / f"cpu/kubepods/{name}" for name in ("besteffort/poda", "burstable/poda", "podb"))
    for group in (mine, full / "container", others):
        group.mkdir(parents=True)
    remove_groups("a", str(tmp_path))
    remove_groups("../kubepods/podb", str(tmp_path))
    assert (mine.exists(), full.exists(), others.exists()) == (False, True, True)


async def test_what_a_runtime_lacks_beside_containers_is_no_trouble(
    fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.logs = LogLimits(10, 2)
    monkeypatch.setattr(observer, "STATS_S", 0.0)
    told: list[str] = []
    runtime.watchers.append(lambda: told.append(runtime.trouble))
    _, found = await begun(runtime, tmp_path)
    for count in range(1, 5):
        for name in ("ListContainerStats", "ReopenContainerLog"):
            fake.fail[name] = RpcError(Code.UNIMPLEMENTED, "not here")
        write(found.log_path, b"longer than that\n")
        found.usage({})
        await until(lambda: fake.calls["ListContainerStats"] >= count)  # noqa: B023
    assert told == []


async def test_usage_is_fetched_once_somebody_asks(fake: FakeRuntime, runtime: CriRuntime, tmp_path: Path) -> None:
    _, found = await begun(runtime, tmp_path)
    assert fake.calls["ListContainerStats"] == 0
    found.usage({})
    await until(lambda: found.usage({}).memory_bytes == 6)
    assert (found.usage({}).cpu_nanocores, found.usage({}).cpu_ns) == (5, 7)


@pytest.mark.parametrize(
    ("status", "told", "code", "why"),
    [
        (b"", True, 0, ""),
        (b"", False, 126, ""),
        (b'{"status": "Success"}', True, 0, ""),
        (b'{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}', True, 7, ""),
        (b'{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "x"}]}}', True, 126, ""),
        (b'{"status": "Failure", "message": "no such program"}', True, 126, "no such program"),
        (b'{"status": "Failure"}', True, 126, ""),
        (b"[]", True, 126, ""),
        (b"\xff", True, 126, ""),
    ],
)
def test_how_a_command_ended(status: bytes, told: bool, code: int, why: str) -> None:
    assert end_of(status, told=told) == (code, why)

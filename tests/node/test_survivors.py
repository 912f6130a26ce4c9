"""Containers that outlived their node host: its next life goes on with them, and with nothing else."""

from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode as Code

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import RpcError
from rayplane.node.config import NodeConfig
from rayplane.node.errors import SandboxError
from rayplane.node.lifecycle import (
    Exited,
    HookRan,
    PrepareSandbox,
    RunHook,
    SandboxFailed,
    SandboxReady,
    StartContainer,
    Started,
    StartProbe,
    StopRequested,
    Vanished,
    grace_left,
)
from rayplane.node.lifecycle.model import Stage, StopContainer, Survivor
from rayplane.node.runtime.cri.runtime import CriRuntime
from rayplane.node.runtime.survivors import Left, Survivors
from rayplane.proto.cri import cri_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.fake_runtime import FakeRuntime
from tests.node.processes import QUICK, MakeHost, state
from tests.node.test_cri_runtime import Heard, begun, fake, opened, order, place, quick, until
from tests.node.test_lifecycle import STAMP, Life

__all__ = ["fake", "quick"]
LATER = "2026-01-01T00:10:00Z"
PROBED = {"name": "c", "image": "app:1", "readinessProbe": {"exec": {}}}


def ready() -> Life:
    life = Life(initContainers=[{"name": "i"}], containers=[PROBED])
    life.step()
    life.exit("i", 0)
    life.machine.by_name["c"].ready = True
    return life


def again(status: dict[str, Any], **survivors: Survivor) -> Life:
    life = Life(initContainers=[{"name": "i"}], containers=[PROBED])
    life.machine.adopt(status, LATER, survivors)
    return life


def test_a_pod_goes_on_as_it_was() -> None:
    before = ready().status
    life = again(before, c=Survivor("id", 1, STAMP))
    assert life.status == before, "before it is taken over"
    life.step()
    assert life.status == before
    kinds = [type(effect) for effect in life.effects]
    assert kinds == [PrepareSandbox, StartContainer, StartProbe], "nothing is told of, nor made ready anew"
    assert life.machine.by_name["c"].attempt == 1
    life.exit("c", 3)
    assert (life.container()["restartCount"], life.container()["lastState"]["terminated"]["startedAt"]) == (1, STAMP)


def test_what_ended_meanwhile_ends_when_it_is_taken_over() -> None:
    life = again(ready().status, c=Survivor("id", 1, STAMP))
    life.obedient = False
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    life.step(Started("c", 1, "id"))
    life.step(Exited("c", 1, 7))
    ended = life.container()["lastState"]["terminated"]
    assert (ended["exitCode"], ended["containerID"], ended["startedAt"]) == (7, "id", STAMP)


def test_a_run_that_nobody_was_told_of_is_the_next_one() -> None:
    life = again(ready().status, c=Survivor("newer", 2, LATER))
    life.step()
    container = life.container()
    assert (container["restartCount"], container["containerID"]) == (1, "newer")
    assert container["state"] == {"running": {"startedAt": LATER}}
    assert container["lastState"]["terminated"]["containerID"] == "id"


def test_a_run_whose_end_was_told_is_over() -> None:
    before = ready()
    before.exit("c", 1)
    life = again(
        before.status | {"containerStatuses": [before.container() | {"state": {}}]}, c=Survivor("id", 1, STAMP)
    )
    assert not life.machine.goes_on


def test_what_runs_anew_has_a_number_of_its_own() -> None:
    """Names of logs are made of it: those of runs before must not be written on."""
    assert again(ready().status).machine.by_name["c"].attempt == 1
    life = again(ready().status, c=Survivor("", 4, STAMP))
    assert (life.machine.goes_on, life.machine.by_name["c"].attempt) == (False, 4)


def test_a_pod_that_is_deleted_before_it_is_taken_over_stops_what_runs() -> None:
    life = again(ready().status, c=Survivor("id", 1, STAMP))
    life.obedient = False
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    life.step(StopRequested(3.0))
    life.step(Started("c", 1, "id"))
    assert StopContainer("c", 1, 3.0) in life.effects and life.machine.stage is Stage.ENDING


def test_a_pod_that_was_deleted_while_nobody_looked_is_taken_over_to_end() -> None:
    """In what is left of its grace: it is neither killed at once nor given all of that again."""
    hooked = {"name": "c", "lifecycle": {"preStop": {"exec": {}}}}
    life = Life(containers=[hooked, {"name": "gone"}], obedient=False)
    life.machine.adopt(ready().status, LATER, {"c": Survivor("id", 1, STAMP)})
    life.step(StopRequested(7.0))
    assert [type(effect) for effect in life.effects] == [PrepareSandbox] and life.machine.stage is Stage.PREPARING
    life.now = 2.0
    life.step(SandboxReady("10.0.0.2"))
    assert [e.container for e in life.effects if isinstance(e, StartContainer)] == ["c"], "nothing begins anew"
    life.step(Started("c", 1, "id"))
    assert life.effects[-1] == RunHook("c", 1, "preStop", 5.0)
    life.step(HookRan("c", 1, "preStop"))
    assert life.effects[-1] == StopContainer("c", 1, 5.0)
    life.step(Exited("c", 1, 0))
    assert life.machine.stage is Stage.GONE


def test_a_pod_that_ends_and_cannot_be_taken_over_ends_at_once() -> None:
    for event in (SandboxFailed("FailedMount", "no"), Vanished()):
        life = again(ready().status, c=Survivor("id", 1, STAMP))
        life.obedient = False
        life.step(StopRequested(7.0))
        life.step(event)
        assert life.machine.stage is Stage.GONE and not any(isinstance(e, StartContainer) for e in life.effects)


@pytest.mark.parametrize(("stamp", "left"), [(STAMP, 30.0), ("2026-01-01T00:00:20Z", 10.0), (LATER, 2.0)])
def test_what_is_left_of_a_grace(stamp: str, left: float) -> None:
    pod = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}}
    assert (grace_left(pod, 30.0, stamp), grace_left(pod, 0.0, stamp)) == (left, 0.0)


def test_what_nobody_keeps_is_nobodys() -> None:
    survivors = Survivors()
    survivors.found({uid: Left(f"of {uid}", 0, {"c": Survivor("id", 1, STAMP)}) for uid in ("kept", "not", "unseen")})
    survivors.keep("kept", ["c"])
    survivors.keep("not", [])
    assert survivors.sandboxes == {"of kept", "of unseen"}
    survivors.settle()
    assert survivors.sandboxes == {"of kept"}
    assert survivors.take("kept") is not None and survivors.take("kept") is None


async def killed(fake: FakeRuntime, tmp_path: Path) -> None:
    """A host that has made a pod, and ended without a word."""
    async with opened(fake.path) as runtime:
        await begun(runtime, tmp_path)
        runtime.pods.clear()
        runtime.remove_strangers = nothing  # type: ignore[method-assign]


async def nothing() -> None:
    return


async def taken_over(runtime: CriRuntime, tmp_path: Path, pod: Object) -> tuple[Heard, Any]:
    (name, survivor), *_ = runtime.survivors.of("uid-p").items()
    runtime.survivors.keep("uid-p", [name])
    await runtime.add_pod(place(tmp_path, pod))
    heard = Heard()
    return heard, runtime.start(order(tmp_path, pod, 1, survivor=survivor.container_id), heard)


async def test_a_sandbox_and_its_containers_are_taken_over(fake: FakeRuntime, tmp_path: Path) -> None:
    await killed(fake, tmp_path)
    async with opened(fake.path) as runtime:
        heard, _ = await taken_over(runtime, tmp_path, make_pod("p"))
        assert await heard.until(1) == [("started", "fake://container-2")]
        await runtime.remove_strangers()
        assert [*fake.sandboxes] == ["sandbox-1"] and [*fake.containers] == ["container-2"]
        fake.exit("container-2", 5)
        assert (await heard.until(2))[1][:2] == ("exited", 5)
    assert not fake.sandboxes


async def test_a_container_that_runs_and_is_not_kept_is_not_doubled(fake: FakeRuntime, tmp_path: Path) -> None:
    await killed(fake, tmp_path)
    extra = pb.ContainerStatus(id="extra", state=pb.CONTAINER_CREATED, metadata=pb.ContainerMetadata(name="other"))
    fake.containers["extra"] = ("sandbox-1", extra)
    async with opened(fake.path) as runtime:
        await taken_over(runtime, tmp_path, make_pod("p"))
        assert [*fake.containers] == ["container-2"]


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "not ready"])
async def test_what_went_with_its_sandbox_has_ended(fake: FakeRuntime, tmp_path: Path, is_gone: bool) -> None:
    await killed(fake, tmp_path)
    async with opened(fake.path) as runtime:
        if is_gone:
            fake.forget()
        else:
            fake.sandboxes["sandbox-1"].state = pb.PodSandboxState.SANDBOX_NOTREADY
        heard, _ = await taken_over(runtime, tmp_path, make_pod("p"))
        assert [word[:2] for word in await heard.until(2)] == [("started", "fake://container-2"), ("exited", 137)]
        assert runtime.pods["uid-p"].config.metadata.attempt == 1, "no sandbox has a name that one had"


async def test_a_runtime_that_is_away_when_its_host_returns_costs_no_pod_what_runs(
    fake: FakeRuntime, tmp_path: Path
) -> None:
    await killed(fake, tmp_path)
    async with opened(fake.path) as runtime:
        (name, _), *_ = runtime.survivors.of("uid-p").items()
        runtime.survivors.keep("uid-p", [name])
        runtime.survivors.settle()
        fake.fail["PodSandboxStatus"] = RpcError(Code.UNAVAILABLE, "starting")
        with pytest.raises(SandboxError, match="starting"):
            await runtime.add_pod(place(tmp_path, make_pod("p")))
        await runtime.remove_strangers()
        await runtime.add_pod(place(tmp_path, make_pod("p")))
        assert ([*fake.sandboxes], [*fake.containers]) == (["sandbox-1"], ["container-2"])
        assert runtime.survivors.take("uid-p") is None


async def test_a_pod_whose_volumes_cannot_be_had_for_a_moment_is_taken_over_once_they_can(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime
) -> None:
    node, settings = NodeConfig("n1", runtime=f"cri:unix://{fake.path}"), {"name": "settings", "namespace": "default"}
    config = {"metadata": settings, "data": {"a": "one"}}
    api.put("configmaps", config)
    host = await make_host(node, timing=QUICK, directory="same")
    for name in ("p", "q"):
        pod = make_pod(name, container={"volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]})
        pod["spec"]["volumes"] = [{"name": "cfg", "configMap": {"name": "settings"}}]
        pod["metadata"]["finalizers"] = ["example.com/keep"]
        api.put("pods", pod)
    await api.until(lambda: all("running" in state(api, name) for name in ("p", "q")))
    runtime: Any = host.kubelets["n1"].runtime
    runtime.pods.clear()
    runtime.remove_strangers = nothing  # as if it had been killed
    await host.stop()
    before = {*fake.containers}
    api.remove("configmaps", "default/settings")
    host = await make_host(node, timing=QUICK, directory="same")

    def failures(name: str) -> int:
        events = api.objects.get("events", {}).values()
        return sum(e["reason"] == "FailedMount" and e["involvedObject"]["name"] == name for e in events)

    await api.until(lambda: all(failures(name) for name in ("p", "q")))
    runtime = host.kubelets["n1"].runtime
    await runtime.remove_strangers()
    assert {*fake.containers} == before and fake.calls["StopPodSandbox"] == 0
    # One that is deleted meanwhile is tried once more, and ends.
    await api.delete("pods", "q", "default")
    await api.until(lambda: len(fake.sandboxes) == 1)
    api.put("configmaps", config)
    await api.until(lambda: "uid-p" in runtime.pods and not runtime.pods["uid-p"].left)
    await api.until(lambda: "main" in runtime.pods["uid-p"].running)
    assert runtime.pods["uid-p"].running["main"] in before
    status = api.pod("p")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["ready"]) == (0, True)


async def test_what_ends_before_it_is_taken_over_leaves_nothing(fake: FakeRuntime, tmp_path: Path) -> None:
    await killed(fake, tmp_path)
    async with opened(fake.path) as runtime:
        runtime.survivors.keep("uid-p", ["main"])
        runtime.remove_pod("uid-p")
        await until(lambda: not fake.sandboxes)

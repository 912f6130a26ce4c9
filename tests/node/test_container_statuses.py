"""What statuses say of the user of a container and of its read-only mounts, on nodes of each runtime."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.node.config import NodeConfig
from rayplane.node.lifecycle import PodMachine, SandboxReady, Started
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.restarts import KUBERNETES_RESTARTS
from rayplane.node.runtime.isolation import syscalls
from rayplane.proto.cri import cri_pb2 as pb
from tests.fakes import FakeClient
from tests.node.cri_clients import upper
from tests.node.fake_runtime import FakeRuntime
from tests.node.isolated import Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, QUICK, MakeHost, phase, shell, state
from tests.node.test_cri_runtime import fake, quick
from tests.node.test_isolation_volumes import let_all_pass
from tests.node.test_lifecycle import STAMP, Life

__all__ = ["fake", "make_isolating", "quick"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, and has users: root's alone")
STRICT = {"supplementalGroupsPolicy": "Strict"}
REFUSED = (
    'failed to resolve recursive read-only mode: volume "v" requested recursive read-only mode, but it is not '
    "supported by the runtime"
)


def mounting(path: Path | str, mode: str, **more: Any) -> dict[str, Any]:
    """Parts of a pod that mounts a part of the machine at /v, read-only."""
    mount = {"name": "v", "mountPath": "/v", "readOnly": True, "recursiveReadOnly": mode, **more}
    return {"volumes": [{"name": "v", "hostPath": {"path": str(path)}}], "container": {"volumeMounts": [mount]}}


def told(api: FakeClient, name: str) -> dict[str, Any]:
    status: dict[str, Any] = api.pod(name)["status"]["containerStatuses"][0]
    return status


def recursive(api: FakeClient, name: str) -> str:
    return str(told(api, name)["volumeMounts"][0]["recursiveReadOnly"])


def of_node(api: FakeClient, name: str) -> tuple[Any, Any]:
    status = api.objects["nodes"][name]["status"]
    return status.get("features"), status.get("runtimeHandlers")


def test_a_status_keeps_its_user_and_mounts_beyond_the_life_of_its_host() -> None:
    mounts = mounting("/", "IfPossible")["container"]["volumeMounts"]
    life = Life(containers=[{"name": "c", "volumeMounts": mounts}], restartPolicy="Never", obedient=False)
    life.step()
    life.step(SandboxReady("10.0.0.2", recursive=True))
    life.step(Started("c", 1, "id", user=ContainerUser(5, 6, (7, 8))))
    told = life.container()
    assert told["user"] == {"linux": {"uid": 5, "gid": 6, "supplementalGroups": [7, 8]}}
    assert told["volumeMounts"][0]["recursiveReadOnly"] == "Enabled"
    life.exit("c", 0)
    again = Life(containers=[{"name": "c", "volumeMounts": mounts}], restartPolicy="Never")
    again.machine = PodMachine(again.pod, KUBERNETES_RESTARTS)
    again.machine.adopt(life.status, STAMP)
    assert again.container()["user"] == told["user"] and again.container()["volumeMounts"] == told["volumeMounts"]


async def test_simulated_pods_have_no_user_and_any_mount(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"), timing=QUICK)
    api.put(
        "pods", shell("p", "true", securityContext={"supplementalGroupsPolicy": "Strict"}, **mounting("/x", "Enabled"))
    )
    await api.until(lambda: phase(api, "p") == "Running")
    assert recursive(api, "p") == "Enabled" and "user" not in told(api, "p")
    handlers = [{"name": "", "features": {"recursiveReadOnlyMounts": True}}]
    assert of_node(api, "n1") == ({"supplementalGroupsPolicy": True}, handlers)


@pytest.mark.processes
async def test_plain_processes_are_the_hosts_users_and_cannot_have_such_mounts(
    api: FakeClient, make_host: MakeHost, tmp_path: Path
) -> None:
    await make_host(NODE, timing=QUICK)
    api.put("pods", shell("asks", "sleep 1000", **mounting(tmp_path, "IfPossible")))
    api.put("pods", shell("wants", "sleep 1000", **mounting(tmp_path, "Enabled")))
    api.put("pods", shell("strict", "sleep 1000", securityContext=STRICT))
    await api.until(lambda: "running" in state(api, "asks"))
    linux = told(api, "asks")["user"]["linux"]
    assert (linux["uid"], linux["gid"]) == (os.getuid(), os.getgid())
    assert linux.get("supplementalGroups", []) == os.getgroups() and recursive(api, "asks") == "Disabled"
    await api.until(lambda: "waiting" in state(api, "wants") and "message" in state(api, "wants")["waiting"])
    assert state(api, "wants")["waiting"] == {"reason": "CreateContainerConfigError", "message": REFUSED}
    await api.until(lambda: phase(api, "strict") == "Failed")
    status = api.pod("strict")["status"]
    assert status["reason"] == "SupplementalGroupsPolicyNotSupported"
    assert status["message"].endswith("SupplementalGroupsPolicy=Strict is not supported in this node")


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system mounted below it."""
    volume = tmp_path / "volume"
    below = volume / "below"
    below.mkdir(parents=True)
    let_all_pass(below)
    syscalls.mount("tmpfs", str(below), "tmpfs", 0, "size=64k,mode=0777")
    yield volume
    syscalls.unmount(str(below))


@as_root
@isolating
@pytest.mark.processes
async def test_what_is_mounted_below_is_read_only_where_the_pod_wants_that(
    api: FakeClient, make_isolating: Isolating, nested: Path
) -> None:
    host = await make_isolating(NODE)
    script = "for at in /v /v/below; do touch $at/f 2>/dev/null && echo written || echo kept; done"
    for mode, said, shown in (
        ("Disabled", "kept\nwritten\n", "Disabled"),
        ("IfPossible", "kept\nkept\n", "Enabled"),
        ("Enabled", "kept\nkept\n", "Enabled"),
    ):
        assert await ended(api, host, script, name=mode.lower(), **mounting(nested, mode)) == said, mode
        assert recursive(api, mode.lower()) == shown


@as_root
@isolating
@pytest.mark.processes
async def test_an_isolated_container_tells_as_whom_it_began(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    context = {"runAsUser": 1234, "runAsGroup": 5, "supplementalGroups": [7], "fsGroup": 8}
    assert await ended(api, host, "id -u", securityContext=context) == "1234\n"
    assert told(api, "job")["user"] == {"linux": {"uid": 1234, "gid": 5, "supplementalGroups": [7, 8]}}
    api.put("pods", shell("missing", "", container={"command": ["/no/such"]}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "missing") == "Failed")
    assert "user" not in told(api, "missing"), "it never began"


@pytest.mark.processes
async def test_another_runtime_is_told_what_it_says_it_can(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime, tmp_path: Path
) -> None:
    fake.features = pb.RuntimeFeatures(supplemental_groups_policy=True)
    fake.handlers = [pb.RuntimeHandler(features=pb.RuntimeHandlerFeatures(recursive_read_only_mounts=True))]
    fake.user = pb.ContainerUser(linux=pb.LinuxContainerUser(uid=9, gid=8, supplemental_groups=[7]))
    await make_host(upper(fake.path), timing=QUICK)
    api.put("pods", on_other("p", "Enabled", tmp_path, securityContext=STRICT))
    await api.until(lambda: "running" in state(api, "p"))
    config = fake.requests["CreateContainer"].config
    assert next(m for m in config.mounts if m.container_path == "/v").recursive_read_only
    assert config.linux.security_context.supplemental_groups_policy == pb.SupplementalGroupsPolicy.Strict
    assert told(api, "p")["user"] == {"linux": {"uid": 9, "gid": 8, "supplementalGroups": [7]}}
    assert recursive(api, "p") == "Enabled"
    handlers = [{"name": "", "features": {"recursiveReadOnlyMounts": True}}]
    assert of_node(api, "n2") == ({"supplementalGroupsPolicy": True}, handlers)


@pytest.mark.processes
async def test_another_runtime_that_tells_of_nothing_is_asked_for_nothing(
    api: FakeClient, make_host: MakeHost, fake: FakeRuntime, tmp_path: Path
) -> None:
    await make_host(upper(fake.path), timing=QUICK)
    api.put("pods", on_other("asks", "IfPossible", tmp_path))
    await api.until(lambda: "running" in state(api, "asks"))
    config = fake.requests["CreateContainer"].config
    assert not any(mount.recursive_read_only for mount in config.mounts)
    assert recursive(api, "asks") == "Disabled" and "user" not in told(api, "asks")
    api.put("pods", on_other("wants", "Enabled", tmp_path))
    await api.until(lambda: (state(api, "wants").get("waiting") or {}).get("message") == REFUSED)
    assert of_node(api, "n2")[0] == {"supplementalGroupsPolicy": False}


def on_other(name: str, mode: str, path: Path, **spec: Any) -> Object:
    made = shell(name, "", **mounting(path, mode), **spec)
    made["spec"]["nodeName"] = "n2"
    made["spec"]["containers"][0]["image"] = "app:1"
    return made

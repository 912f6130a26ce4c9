"""crictl as a user runs it, against a node host: what it shows of the kubelet's pods, and what it makes itself."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rayplane.node.host import NodeHost
from tests.fakes import FakeClient
from tests.node.processes import NODE, QUICK, MakeHost, shell, state

CRICTL = shutil.which("crictl")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CRICTL is None, reason="no crictl in PATH: cri-tools of Kubernetes bring it"),
]
Crictl = Callable[..., Awaitable[str]]


@pytest.fixture
async def host(api: FakeClient, make_host: MakeHost, tmp_path: Path) -> NodeHost:
    found = await make_host(NODE, timing=QUICK, cri_socket=str(tmp_path / "cri"))
    api.put("pods", shell("web", "echo up; while :; do sleep 1; done"))
    await api.until(lambda: "running" in state(api, "web"))
    return found


@pytest.fixture
def crictl(host: NodeHost, tmp_path: Path) -> Crictl:
    endpoint = f"unix://{tmp_path / 'cri'}"
    config = tmp_path / "crictl.yaml"
    config.write_text(f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 20\n")

    async def run(*args: str, code: int = 0, stdin: bytes = b"") -> str:
        """What it prints. `code`: with which it has to exit."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            CRICTL or "", "-c", str(config), *args, stdin=pipe, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate(stdin)
        assert process.returncode == code, (args, err.decode())
        return out.decode()

    return run


async def test_it_shows_the_kubelets_pods(crictl: Crictl) -> None:
    assert "RuntimeName:  rayplane" in await crictl("version")
    (pod,) = json.loads(await crictl("pods", "-o", "json"))["items"]
    (container,) = json.loads(await crictl("ps", "-o", "json"))["containers"]
    assert (pod["metadata"]["name"], container["podSandboxId"]) == ("web", pod["id"])
    assert await crictl("logs", container["id"][:12]) == "up\n"
    assert json.loads(await crictl("inspect", container["id"]))["status"]["state"] == "CONTAINER_RUNNING"
    assert json.loads(await crictl("inspectp", pod["id"]))["status"]["network"]["ip"].startswith("127.77.1.")
    stats = json.loads(await crictl("stats", "-o", "json"))["stats"]
    assert [s["attributes"]["id"] for s in stats] == [container["id"]]
    assert "app" in await crictl("images")


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_it_runs_commands(crictl: Crictl, transport: str) -> None:
    (ident,) = (await crictl("ps", "-q")).split()
    assert await crictl("exec", "--transport", transport, ident, "echo", "hi") == "hi\n"
    assert await crictl("exec", "--transport", transport, "-i", ident, "cat", stdin=b"typed") == "typed"
    await crictl("exec", "--transport", transport, ident, "sh", "-c", "exit 3", code=1)
    assert (await crictl("exec", "--sync", ident, "echo", "hi")).strip() == "hi"


async def test_what_it_runs_is_its_own(crictl: Crictl, tmp_path: Path) -> None:
    sandbox, container = tmp_path / "sandbox.json", tmp_path / "container.json"
    metadata = {"name": "mine", "namespace": "default", "uid": "u", "attempt": 1}
    sandbox.write_text(json.dumps({"metadata": metadata, "log_directory": str(tmp_path / "logs"), "linux": {}}))
    script = "echo started; trap 'echo ending; exit 0' TERM; while :; do sleep 0.05; done"
    command = {"command": ["sh", "-c", script], "log_path": "c.log", "linux": {}}
    container.write_text(json.dumps({"metadata": {"name": "c"}, "image": {"image": "busybox"}, **command}))
    ident = (await crictl("run", str(container), str(sandbox))).split()[-1]
    while "started" not in await crictl("logs", ident):
        pass
    await crictl("stop", "--timeout", "10", ident)
    assert await crictl("logs", ident) == "started\nending\n"
    (found,) = json.loads(await crictl("ps", "-a", "--id", ident, "-o", "json"))["containers"]
    assert found["state"] == "CONTAINER_EXITED"
    await crictl("rm", ident)
    pod = found["podSandboxId"]
    await crictl("stopp", pod)
    await crictl("rmp", pod)
    assert "mine" not in await crictl("pods")

"""What tests of real processes share: pods that run a script, and what is asked of their host."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_phase
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import Stub
from rayplane.node.config import NodeConfig, NodeTiming
from rayplane.node.host import NodeHost
from rayplane.node.restarts import RestartTiming
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod

MakeHost = Callable[..., Awaitable[NodeHost]]
NODE = NodeConfig("n1", runtime="process")
QUICK = NodeTiming(0.05, 1, 30.0, RestartTiming(Backoff(0.05, 0.2), 60.0, 0.05))


def shell(name: str, script: str, **spec: Any) -> Object:
    container = {"command": ["sh", "-c", script], **spec.pop("container", {})}
    return make_pod(name, container=container, **spec)


def phase(api: FakeClient, name: str) -> str:
    return pod_phase(api.pod(name))


def state(api: FakeClient, name: str) -> dict[str, Any]:
    statuses = api.pod(name)["status"].get("containerStatuses") or [{}]
    return statuses[0].get("state") or {}


def stub(host: NodeHost) -> Stub:
    return Stub(host.network.channel(host.advertised), pb.DESCRIPTOR.services_by_name["Node"])


async def logs(host: NodeHost, pod: str, *, node: str = "n1", container: str = "", **options: Any) -> bytes:
    ref = pb.ContainerRef(node=node, namespace="default", pod=pod, container=container)
    request = pb.LogsRequest(ref=ref, **options)
    return b"".join([chunk.data async for chunk in stub(host).Logs(request)])


async def run_in(
    host: NodeHost,
    pod: str,
    *command: str,
    container: str = "",
    place: tuple[str, str] = ("n1", "default"),
    **first: Any,
) -> tuple[bytes, bytes, int]:
    """`place`: node and namespace."""

    async def requests() -> Any:
        node, namespace = place
        ref = pb.ContainerRef(node=node, namespace=namespace, pod=pod, container=container)
        yield pb.ExecRequest(ref=ref, command=command, **first)

    out = err = b""
    code = -1
    async for response in stub(host).Exec(requests()):
        out += response.stdout
        err += response.stderr
        if response.HasField("exit_code"):
            code = response.exit_code
    return out, err, code


def log_bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*.log*"))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True

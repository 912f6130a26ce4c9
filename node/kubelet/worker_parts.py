"""Parts that the pod workers of one node share, and the ports through which they reach what they do not own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.node.events import Events
from rayplane.node.images.containers import ContainerImage
from rayplane.node.kubelet.addresses import NodeAddresses
from rayplane.node.kubelet.admission import Allocations
from rayplane.node.kubelet.fence import Fence
from rayplane.node.kubelet.metrics import KubeletMetrics
from rayplane.node.kubelet.sandbox import Sandbox
from rayplane.node.kubelet.status_manager import WrittenPod
from rayplane.node.restarts import RestartTiming
from rayplane.node.runtime import ContainerRun, Runtime
from rayplane.node.tasks import Tasks
from rayplane.storage.env import Env


class Statuses(Protocol):
    """A writer that takes note of pods whose status may have changed."""

    def mark(self, subject: WrittenPod) -> None: ...

    def forget(self, subject: WrittenPod) -> None: ...


class Probes(Protocol):
    """A prober of containers; see Prober."""

    async def run(
        self,
        probe: str,
        container: dict[str, Any],
        run: ContainerRun,
        *,
        ip: str,
        runs: Callable[[], bool],
        report: Callable[[bool, str, bool], None],
    ) -> None: ...


class Images(Protocol):
    """A manager that finds the images of containers; see ImageManager."""

    async def image(self, pod: Object, container: dict[str, Any]) -> ContainerImage | None: ...

    def release(self, uid: str) -> None: ...


class MakeSandbox(Protocol):
    """A factory that makes the sandbox of a pod; see Sandbox."""

    def __call__(self, pod: Object, ip: str, *, own_address: bool, moved: Callable[[str], None]) -> Sandbox: ...


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """Parts that the workers of one node share.

    `gone`: told of a worker whose pod is no more; `respecified`: of one whose pod's spec has changed; `freed`: of room.
    `undisturbed` tells by uid why a pod loses no packets that experiments want it to lose.
    """

    env: Env
    restarts: RestartTiming
    runtime: Runtime
    runs_processes: bool
    addresses: NodeAddresses
    room: Allocations
    fence: Fence
    sandbox: MakeSandbox
    statuses: Statuses
    prober: Probes
    events: Events
    tasks: Tasks
    gone: Callable[[Any], None]
    respecified: Callable[[Any], None]
    freed: Callable[[], None]
    undisturbed: Callable[[str], str]
    metrics: KubeletMetrics
    images: Images | None = None
    """None where containers have none: all are simulated."""

"""Parts that the kubelets of one host share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayplane.control_plane.api import meta
from rayplane.control_plane.client import ApiClient
from rayplane.node.config import PROCESS, NodeConfig, NodeTiming
from rayplane.node.events import Events
from rayplane.node.kubelet.eviction_manager import Vitals
from rayplane.node.kubelet.image_watch import ImageStock
from rayplane.node.kubelet.pod_certificates import PodCertificates
from rayplane.node.kubelet.pod_credentials import Tokens
from rayplane.node.kubelet.sandbox import ObjectLookup, PodVolumes
from rayplane.node.kubelet.stage_player import PlayerParts, Worker
from rayplane.node.kubelet.worker_parts import Probes, Statuses
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.tasks import Tasks
from rayplane.node.volumes.pod_files import PodFiles
from rayplane.storage.env import Env

if TYPE_CHECKING:
    from rayplane.node.kubelet.image_manager import ImageManager

RunsOfPods = Callable[[], Mapping[str, Mapping[str, ContainerRun]]]
"""Runs by container, of each pod by its uid."""
MakeVitals = Callable[[NodeConfig, RunsOfPods, Callable[[], str]], Vitals]
"""By a node, its runs, and what tells where its images are."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Parts that the kubelets of one host share."""

    client: ApiClient
    env: Env
    timing: NodeTiming
    address: str
    """host:port of the host's gRPC services, as others dial it."""
    volume_capacity: str
    heartbeat: str
    """The node whose Lease stands for those of all; empty where each has its own."""
    tasks: Tasks
    events: Events
    statuses: Statuses
    prober: Probes
    objects: ObjectLookup
    tokens: Tokens
    certificates: PodCertificates
    volumes: PodVolumes
    stages: PlayerParts
    simulated: SimulatedRuntime
    files: PodFiles | None
    """Directories of pods, where containers are processes."""
    images: "ImageManager | None" = None
    """Images of containers, where they are processes."""
    stocks: Mapping[str, ImageStock] = field(default_factory=dict)
    """All images of the nodes, by the runtime."""
    dns: str = ""
    """See NodeHostConfig."""
    foreign_dns: str = ""
    """See NodeHostConfig."""
    undisturbed: Callable[[str], str] = lambda uid: ""
    """See WorkerParts."""
    vitals: MakeVitals | None = None
    """Tells what a node has left, where containers are processes."""

    def dns_of(self, node: NodeConfig) -> str:
        """The DNS server that pods of a node are given; empty where they have the machine's own."""
        return self.foreign_dns if node.cri_path else self.dns

    def vitals_of(self, node: NodeConfig, workers: Callable[[], list[Worker]]) -> Vitals | None:
        """The vitals of one of the nodes; None where they cannot be told."""
        if self.vitals is None or not node.takes_processes:
            return None
        stock = self.stock_of(node)
        place = (lambda: stock.place) if stock is not None else str
        return self.vitals(node, lambda: {meta.uid(w.pod): w.runs for w in workers()}, place)

    def stock_of(self, node: NodeConfig) -> ImageStock | None:
        """The images that containers of a node run from; None where all are simulated."""
        return self.stocks.get(node.runtime if node.cri_path else PROCESS) if node.takes_processes else None

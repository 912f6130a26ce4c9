"""Sandboxes and containers of a host by id: the kubelets' pods, and what clients of CRI made."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.cri.own_pods import OwnContainer, OwnPods, OwnSandbox
from rayplane.node.cri.selection import find
from rayplane.node.cri.views import KubeletPod, container_statuses, sandbox_id, sandbox_status
from rayplane.node.errors import NotRunning
from rayplane.node.runtime import ContainerRun
from rayplane.proto.cri import cri_pb2 as pb


@dataclass(frozen=True, slots=True)
class SandboxEntry:
    """A sandbox. `own`: None for a kubelet's."""

    status: pb.PodSandboxStatus
    pod: Object
    ip: str
    runs: Mapping[str, ContainerRun]
    own: OwnSandbox | None

    def mine(self) -> OwnSandbox:
        """Raises NotRunning for a kubelet's."""
        if self.own is None:
            raise NotRunning(f"sandbox {self.status.id} is the kubelet's: delete pod {meta.key(self.pod)} instead")
        return self.own


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """A container. `own`: None for a kubelet's."""

    status: pb.ContainerStatus
    sandbox_id: str
    pod: Object
    run: ContainerRun | None
    own: OwnContainer | None

    def running(self) -> ContainerRun:
        """Its run while it runs. Raises NotRunning."""
        if self.run is None or self.status.state != pb.ContainerState.CONTAINER_RUNNING:
            raise NotRunning(f"container {self.status.id} does not run")
        return self.run

    def mine(self) -> OwnContainer:
        """Raises NotRunning for a kubelet's."""
        if self.own is None:
            raise NotRunning(f"container {self.status.id} is the kubelet's: change pod {meta.key(self.pod)} instead")
        return self.own


class Inventory:
    """Everything that there is, as it is at each call."""

    def __init__(self, pods: Callable[[], Iterable[KubeletPod]], own: OwnPods) -> None:
        self._pods = pods
        self._own = own

    @staticmethod
    def _sandbox(sandbox: OwnSandbox) -> SandboxEntry:
        ip = sandbox.place.ip if sandbox.place is not None else ""
        runs = {i: c.run for i, c in sandbox.containers.items() if c.run is not None and c.running}
        return SandboxEntry(sandbox.status, sandbox.pod, ip, runs, sandbox)

    @staticmethod
    def _container(container: OwnContainer) -> ContainerEntry:
        sandbox = container.sandbox
        return ContainerEntry(container.status, sandbox.status.id, sandbox.pod, container.run, container)

    def sandboxes(self) -> Iterator[SandboxEntry]:
        yield from map(self._sandbox, self._own.sandboxes.values())
        for found in self._pods():
            status = sandbox_status(found)
            if status is not None:
                yield SandboxEntry(status, found.pod, found.machine.ip, found.runs, None)

    def containers(self) -> Iterator[ContainerEntry]:
        yield from map(self._container, self._own.containers().values())
        for found in self._pods():
            ident = sandbox_id(found.pod)
            for status, run in container_statuses(found):
                yield ContainerEntry(status, ident, found.pod, run, None)

    def sandbox(self, ident: str) -> SandboxEntry:
        """By its id or the beginning of it. Raises NotHere, Malformed."""
        # A host may have thousands of pods, and clients ask for their own again and again.
        own = self._own.sandboxes.get(ident)
        if own is not None:
            return self._sandbox(own)
        return find("sandbox", ident, ((entry.status.id, entry) for entry in self.sandboxes()))

    def container(self, ident: str) -> ContainerEntry:
        own = self._own.containers().get(ident)
        if own is not None:
            return self._container(own)
        return find("container", ident, ((entry.status.id, entry) for entry in self.containers()))

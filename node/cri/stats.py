"""Statistics of CRI: what containers use, now and since they were first asked about."""

from collections.abc import AsyncIterator, Iterator

from rayplane.control_plane.rpc import Context
from rayplane.node.cri.inventory import ContainerEntry, SandboxEntry
from rayplane.node.cri.selection import has_labels
from rayplane.node.cri.service import RuntimeCalls
from rayplane.node.runtime import Usage
from rayplane.proto.cri import cri_pb2 as pb

_RUNNING = pb.ContainerState.CONTAINER_RUNNING


def _value(amount: int) -> pb.UInt64Value:
    return pb.UInt64Value(value=max(0, amount))


class CpuTime:
    """Processor time of containers, summed up from what they use at each look."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int]] = {}

    def add(self, ident: str, nanocores: int, now_ns: int) -> int:
        """Nanoseconds so far."""
        at, total = self._sums.get(ident, (now_ns, 0))
        total += nanocores * max(0, now_ns - at) // 1_000_000_000
        self._sums[ident] = (now_ns, total)
        return total

    def keep(self, idents: set[str]) -> None:
        """Forget all others."""
        self._sums = {ident: known for ident, known in self._sums.items() if ident in idents}


class RuntimeService(RuntimeCalls):
    """All handlers of `runtime.v1.RuntimeService`."""

    _cpu: CpuTime | None = None

    async def ContainerStats(self, request: pb.ContainerStatsRequest, context: Context) -> pb.ContainerStatsResponse:
        entry = self._parts.inventory.container(request.container_id)
        return pb.ContainerStatsResponse(stats=self._stats_of(entry, _used(entry)))

    async def ListContainerStats(
        self, request: pb.ListContainerStatsRequest, context: Context
    ) -> pb.ListContainerStatsResponse:
        return pb.ListContainerStatsResponse(stats=self._listed(request.filter))

    async def StreamContainerStats(
        self, request: pb.StreamContainerStatsRequest, context: Context
    ) -> AsyncIterator[pb.StreamContainerStatsResponse]:
        for stats in [*self._listed(request.filter)]:
            yield pb.StreamContainerStatsResponse(container_stats=[stats])

    async def PodSandboxStats(self, request: pb.PodSandboxStatsRequest, context: Context) -> pb.PodSandboxStatsResponse:
        entry = self._parts.inventory.sandbox(request.pod_sandbox_id)
        return pb.PodSandboxStatsResponse(stats=self._stats_of_sandbox(entry))

    async def ListPodSandboxStats(
        self, request: pb.ListPodSandboxStatsRequest, context: Context
    ) -> pb.ListPodSandboxStatsResponse:
        return pb.ListPodSandboxStatsResponse(stats=self._listed_sandboxes(request.filter))

    async def StreamPodSandboxStats(
        self, request: pb.StreamPodSandboxStatsRequest, context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
        for stats in [*self._listed_sandboxes(request.filter)]:
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=[stats])

    async def ListMetricDescriptors(
        self, request: pb.ListMetricDescriptorsRequest, context: Context
    ) -> pb.ListMetricDescriptorsResponse:
        """There are none: metrics of containers are on the node host's own page."""
        return pb.ListMetricDescriptorsResponse()

    async def ListPodSandboxMetrics(
        self, request: pb.ListPodSandboxMetricsRequest, context: Context
    ) -> pb.ListPodSandboxMetricsResponse:
        return pb.ListPodSandboxMetricsResponse()

    async def StreamPodSandboxMetrics(
        self, request: pb.StreamPodSandboxMetricsRequest, context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
        for _ in ():
            yield pb.StreamPodSandboxMetricsResponse()

    def _listed(self, asked: pb.ContainerStatsFilter) -> Iterator[pb.ContainerStats]:
        found = [*self._parts.inventory.containers()]
        if self._cpu is not None:
            self._cpu.keep({entry.status.id for entry in found})
        for entry in found:
            status = entry.status
            if status.state != _RUNNING or not status.id.startswith(asked.id):
                continue
            if entry.sandbox_id.startswith(asked.pod_sandbox_id) and has_labels(status.labels, asked.label_selector):
                yield self._stats_of(entry, _used(entry))

    def _stats_of(self, entry: ContainerEntry, usage: Usage | None) -> pb.ContainerStats:
        status, now = entry.status, self._parts.now()
        stats = pb.ContainerStats(
            attributes=pb.ContainerAttributes(
                id=status.id, metadata=status.metadata, labels=status.labels, annotations=status.annotations
            ),
            writable_layer=pb.FilesystemUsage(timestamp=now, used_bytes=_value(0), inodes_used=_value(0)),
        )
        if usage is None:
            return stats
        if self._cpu is None:
            self._cpu = CpuTime()
        stats.cpu.CopyFrom(
            pb.CpuUsage(
                timestamp=now,
                usage_nano_cores=_value(usage.cpu_nanocores),
                usage_core_nano_seconds=_value(self._cpu.add(status.id, usage.cpu_nanocores, now)),
            )
        )
        stats.memory.CopyFrom(_memory(now, usage.memory_bytes))
        return stats

    def _listed_sandboxes(self, asked: pb.PodSandboxStatsFilter) -> Iterator[pb.PodSandboxStats]:
        for entry in [*self._parts.inventory.sandboxes()]:
            status = entry.status
            ready = status.state == pb.PodSandboxState.SANDBOX_READY and status.id.startswith(asked.id)
            if ready and has_labels(status.labels, asked.label_selector):
                yield self._stats_of_sandbox(entry)

    def _stats_of_sandbox(self, entry: SandboxEntry) -> pb.PodSandboxStats:
        status, now = entry.status, self._parts.now()
        of = [c for c in self._parts.inventory.containers() if c.sandbox_id == status.id]
        running = [(c, _used(c)) for c in of if c.status.state == _RUNNING]
        containers = [self._stats_of(c, usage) for c, usage in running]
        # Of a simulated one nothing is known but that it runs.
        processes = sum(max(1, usage.processes) for _, usage in running if usage is not None)
        cpu = pb.CpuUsage(
            timestamp=now,
            usage_nano_cores=_value(sum(c.cpu.usage_nano_cores.value for c in containers)),
            usage_core_nano_seconds=_value(sum(c.cpu.usage_core_nano_seconds.value for c in containers)),
        )
        return pb.PodSandboxStats(
            attributes=pb.PodSandboxAttributes(
                id=status.id, metadata=status.metadata, labels=status.labels, annotations=status.annotations
            ),
            linux=pb.LinuxPodSandboxStats(
                cpu=cpu,
                memory=_memory(now, sum(c.memory.usage_bytes.value for c in containers)),
                process=pb.ProcessUsage(timestamp=now, process_count=_value(processes)),
                containers=containers,
            ),
        )


def _used(entry: ContainerEntry) -> Usage | None:
    """What a container uses now; None for one that does not run."""
    if entry.run is None or entry.status.state != _RUNNING:
        return None
    return entry.run.usage(entry.pod)


def _memory(now: int, used: int) -> pb.MemoryUsage:
    return pb.MemoryUsage(
        timestamp=now, working_set_bytes=_value(used), usage_bytes=_value(used), rss_bytes=_value(used)
    )

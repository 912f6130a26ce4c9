"""Statistics of a node and its pods, in the forms in which a kubelet tells them. Pure.

Source: k8s.io/kubelet/pkg/apis/stats/v1alpha1 (the summary); pkg/kubelet/metrics/collectors (resource metrics);
cAdvisor, "Monitoring cAdvisor with Prometheus" (names of its metrics).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import container_limits
from rayplane.control_plane.component_base.metrics import Family, counter, gauge
from rayplane.node.kubelet.metrics import PROBE_LABELS
from rayplane.node.runtime import Usage

_NS = 1e9
Disk = tuple[int, int]
"""Bytes that are free, and all of them."""


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """One container that runs. `started`: RFC 3339."""

    name: str
    id: str
    image: str
    started: str
    use: Usage
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodStats:
    """One pod with containers that run."""

    pod: Object
    containers: Sequence[ContainerStats]

    @property
    def use(self) -> Usage:
        return _sum(c.use for c in self.containers)


@dataclass(frozen=True, slots=True)
class NodeStats:
    """A node now. `memory` and `cores`: what it has; `disk`: of what its pods write to, if that can be told."""

    name: str
    now: str
    started: str
    pods: Sequence[PodStats]
    memory: int
    cores: float
    disk: Disk | None = None

    @property
    def use(self) -> Usage:
        return _sum(p.use for p in self.pods)


def _sum(uses: Iterable[Usage]) -> Usage:
    all_ = list(uses)
    return Usage(
        sum(u.cpu_nanocores for u in all_),
        sum(u.memory_bytes for u in all_),
        sum(u.processes for u in all_),
        sum(u.cpu_ns for u in all_),
    )


# --- the summary ----------------------------------------------------------------------------------


def summary(node: NodeStats) -> Object:
    """As `/stats/summary` has it."""
    own: dict[str, Any] = {"nodeName": node.name, "startTime": node.started, **_usage(node.use, node.now)}
    own["memory"]["availableBytes"] = max(0, node.memory - node.use.memory_bytes)
    if node.disk is not None:
        own["fs"] = _fs(node.disk, node.now)
        own["runtime"] = {"imageFs": _fs(node.disk, node.now)}
    return {"node": own, "pods": [_pod_summary(p, node.now) for p in node.pods]}


def _pod_summary(stats: PodStats, now: str) -> Object:
    pod = stats.pod
    return {
        "podRef": {"name": meta.name(pod), "namespace": meta.namespace(pod), "uid": meta.uid(pod)},
        "startTime": min(c.started for c in stats.containers),
        "containers": [{"name": c.name, "startTime": c.started, **_usage(c.use, now)} for c in stats.containers],
        **_usage(stats.use, now),
        "process_stats": {"process_count": stats.use.processes},
    }


def _usage(use: Usage, now: str) -> dict[str, Any]:
    cpu: dict[str, Any] = {"time": now, "usageNanoCores": use.cpu_nanocores}
    if use.cpu_ns:
        cpu["usageCoreNanoSeconds"] = use.cpu_ns
    size = use.memory_bytes
    return {"cpu": cpu, "memory": {"time": now, "usageBytes": size, "workingSetBytes": size, "rssBytes": size}}


def _fs(disk: Disk, now: str) -> dict[str, Any]:
    free, all_ = disk
    return {"time": now, "availableBytes": free, "capacityBytes": all_, "usedBytes": all_ - free}


# --- metrics --------------------------------------------------------------------------------------


def resource_metrics(node: NodeStats) -> Iterator[Family]:
    """As `/metrics/resource` has them."""
    containers = {_names(p, c): c for p in node.pods for c in p.containers}
    pods = {_pod_names(p): p.use for p in node.pods}
    named, of_pod = ("container", "namespace", "pod"), ("namespace", "pod")
    cpu, memory = "cumulative cpu time of the", "working set of the"
    yield counter("node_cpu_usage_seconds_total", f"{cpu} node in core-seconds", node.use.cpu_ns / _NS)
    yield gauge("node_memory_working_set_bytes", f"{memory} node in bytes", node.use.memory_bytes)
    seconds = {names: c.use.cpu_ns / _NS for names, c in containers.items()}
    yield counter("container_cpu_usage_seconds_total", f"{cpu} container in core-seconds", seconds, *named)
    sizes = {names: c.use.memory_bytes for names, c in containers.items()}
    yield gauge("container_memory_working_set_bytes", f"{memory} container in bytes", sizes, *named)
    started = {names: _epoch(c.started) for names, c in containers.items()}
    yield gauge("container_start_time_seconds", "start of the container in seconds since 1970", started, *named)
    of_pods = {names: use.cpu_ns / _NS for names, use in pods.items()}
    yield counter("pod_cpu_usage_seconds_total", f"{cpu} pod in core-seconds", of_pods, *of_pod)
    own = {names: use.memory_bytes for names, use in pods.items()}
    yield gauge("pod_memory_working_set_bytes", f"{memory} pod in bytes", own, *of_pod)
    yield gauge("resource_scrape_error", "1 if there was an error while getting metrics, 0 otherwise", 0)


def cadvisor_metrics(node: NodeStats) -> Iterator[Family]:
    """As `/metrics/cadvisor` has those that can be told here."""
    found = {(c.name, c.id, c.image, *_names(p, c)[1:]): c for p in node.pods for c in p.containers}
    names = ("container", "id", "image", "namespace", "pod")
    uses = {labels: c.use for labels, c in found.items()}
    yield gauge("machine_cpu_cores", "Number of logical CPU cores.", node.cores)
    yield gauge("machine_memory_bytes", "Amount of memory installed on the machine.", node.memory)
    seconds = {labels: use.cpu_ns / _NS for labels, use in uses.items()}
    yield counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", seconds, *names)
    for name, about in (
        ("container_memory_usage_bytes", "Current memory usage in bytes."),
        ("container_memory_working_set_bytes", "Current working set in bytes."),
        ("container_memory_rss", "Size of RSS in bytes."),
    ):
        yield gauge(name, about, {labels: use.memory_bytes for labels, use in uses.items()}, *names)
    counts = {labels: use.processes for labels, use in uses.items()}
    yield gauge("container_processes", "Number of processes running inside the container.", counts, *names)
    started = {labels: _epoch(c.started) for labels, c in found.items()}
    yield gauge("container_start_time_seconds", "Start time of the container since unix epoch.", started, *names)
    seen = {labels: _epoch(node.now) for labels in found}
    yield gauge("container_last_seen", "Last time a container was seen by the exporter.", seen, *names)
    limits = {labels: container_limits(c.spec) for labels, c in found.items()}
    memory = {labels: quantity.value(limit["memory"]) for labels, limit in limits.items() if limit.get("memory")}
    yield gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", memory, *names)
    quota = {labels: 100 * quantity.milli(limit["cpu"]) for labels, limit in limits.items() if limit.get("cpu")}
    yield gauge("container_spec_cpu_quota", "CPU quota of the container.", quota, *names)
    yield gauge("container_spec_cpu_period", "CPU period of the container.", dict.fromkeys(quota, 100_000), *names)


def probe_metrics(probes: Mapping[tuple[str, ...], int]) -> Iterator[Family]:
    """As `/metrics/probes` has them. `probes`: how many there were, by PROBE_LABELS."""
    about = "Cumulative number of a liveness, readiness or startup probe for a container by result."
    yield counter("prober_probe_total", about, probes, *PROBE_LABELS)


def _names(stats: PodStats, container: ContainerStats) -> tuple[str, str, str]:
    return container.name, meta.namespace(stats.pod), meta.name(stats.pod)


def _pod_names(stats: PodStats) -> tuple[str, str]:
    return meta.namespace(stats.pod), meta.name(stats.pod)


def _epoch(stamp: str) -> float:
    return meta.parse_time(stamp).timestamp()

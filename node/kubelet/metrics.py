"""Counts of the kubelets of one host, under Kubernetes' names; nodes are told apart by a label. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.component_base.metrics import Family, Histogram, counter, gauge, histogram
from rayplane.control_plane.component_base.zpages import Health

_START_S = (
    0.5,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    20,
    30,
    45,
    60,
    120,
    180,
    240,
    300,
    360,
    480,
    600,
    900,
    1200,
    1800,
    2700,
    3600,
)


PROBE_LABELS = ("container", "namespace", "pod", "pod_uid", "probe_type", "result")


class KubeletMetrics:
    """Counts of one node, kept as things happen."""

    __slots__ = ("health", "pod_start", "preemptions", "probes", "started_containers", "started_pods")

    def __init__(self) -> None:
        self.started_pods = self.started_containers = 0
        self.preemptions = 0
        """Pods ended to make room for critical ones."""
        self.pod_start = Histogram(_START_S)
        """Seconds from when a pod was first seen until its first container was started."""
        self.probes: Counter[tuple[str, ...]] = Counter()
        """Probes of the pods that are here, by PROBE_LABELS."""
        self.health = Health()

    def probed(self, container: str, pod: Object, probe: str, *, ok: bool) -> None:
        own = (container, meta.namespace(pod), meta.name(pod), meta.uid(pod))
        self.probes[(*own, probe.capitalize(), "successful" if ok else "failed")] += 1

    def forget(self, uid: str) -> None:
        """A pod is here no more."""
        for labels in [labels for labels in self.probes if labels[3] == uid]:
            del self.probes[labels]


def collect(
    nodes: dict[str, KubeletMetrics],
    pods: dict[str, int],
    containers: dict[tuple[str, str], int],
    *,
    evictions: dict[tuple[str, str], int],
    space: dict[str, tuple[int, int]],
) -> Iterable[Family]:
    """By node; `containers` by node and state, `evictions` by node and signal, `space`: of volumes, all and free."""
    running = {(node,): count for node, count in pods.items()}
    yield gauge("kubelet_running_pods", "Pods that run.", running, "node")
    yield gauge("kubelet_running_containers", "Containers by state.", containers, "node", "container_state")
    started = {(node,): m.started_pods for node, m in nodes.items()}
    yield counter("kubelet_started_pods_total", "Pods started.", started, "node")
    started = {(node,): m.started_containers for node, m in nodes.items()}
    yield counter("kubelet_started_containers_total", "Containers started.", started, "node")
    preempted = {(node,): m.preemptions for node, m in nodes.items()}
    yield counter("kubelet_preemptions", "Pods ended to make room for critical ones.", preempted, "node")
    starts = {(node,): m.pod_start for node, m in nodes.items()}
    yield histogram("kubelet_pod_start_duration_seconds", "Time until the first container starts.", starts, "node")
    yield counter("kubelet_evictions", "Pods evicted, by signal.", evictions, "node", "eviction_signal")
    capacity = {(node,): total for node, (total, _) in space.items()}
    free = {(node,): left for node, (_, left) in space.items()}
    yield gauge("kubelet_volume_stats_capacity_bytes", "Bytes that volumes may hold.", capacity, "node")
    yield gauge("kubelet_volume_stats_available_bytes", "Bytes that no volume has reserved.", free, "node")


def of_node(node: str, families: Iterable[Family]) -> Iterable[Family]:
    """Those of one node out of a host's, without the label that says so: as a kubelet of Kubernetes tells them."""
    for family in families:
        own = {values[1:]: sample for values, sample in family.samples.items() if values[0] == node}
        yield replace(family, labels=family.labels[1:], samples=own)

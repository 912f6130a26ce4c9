"""Pages of a node's kubelet: what it answers on its port and through the API server's node proxy."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Protocol

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.component_base import healthz, zpages
from rayplane.control_plane.component_base.flags import flags_of
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.component_base.zpages import Component, Page
from rayplane.node.config import NodeConfig, NodeHostConfig
from rayplane.node.kubelet.metrics import KubeletMetrics
from rayplane.node.kubelet.pressure import NODE_FS
from rayplane.node.kubelet.stats import (
    ContainerStats,
    NodeStats,
    PodStats,
    cadvisor_metrics,
    probe_metrics,
    resource_metrics,
    summary,
)

_CHECKS = ("ping", "log", "syncloop")
_HEALTHY = ("healthz", *(f"healthz/{check}" for check in _CHECKS))


NOT_FOUND = Page(b"404 page not found\n", status=404)
_NO_CHECKPOINT = Page(b"checkpoints of containers are not supported by this node's runtime\n", status=501)


class PagedNode(Protocol):
    """A node whose pages are asked for."""

    config: NodeConfig
    metrics: KubeletMetrics
    started: str

    @property
    def workers(self) -> list[Any]:
        """Its pods; see PodWorker."""

    @property
    def vitals(self) -> Any:
        """What it and its machine have left; None where that cannot be told."""


class Asked(NamedTuple):
    """A question to a node. `query`: what stands behind its `?`; `accept`: formats that the client takes; `own`: the
    node's own metrics."""

    node: PagedNode
    query: str
    accept: str
    host: NodeHostConfig
    now: str
    own: Callable[[], Iterable[Family]]

    async def stats(self) -> NodeStats:
        return await _stats(self.node, self.now)


async def page(path: str, asked: Asked) -> Page:
    """The page at a path; one that says so where there is none."""
    path = path.strip("/")
    if path in _HEALTHY:
        outcomes, problems = asked.node.metrics.health, dict.fromkeys(_CHECKS, "")
        return healthz.answer(path, asked.query, problems, outcomes) or NOT_FOUND
    if path.startswith("checkpoint/"):
        return _NO_CHECKPOINT
    known = _PAGES.get(path)
    if known is not None:
        return await known(asked)
    return zpages.page(f"/{path}", asked.accept, _component(asked), meta.parse_time(asked.now)) or NOT_FOUND


def _component(asked: Asked) -> Component:
    """The kubelet of a node; what it shares with the others of its host is the host's."""
    node, flags = asked.node, {**flags_of(asked.host), **flags_of(asked.node.config)}
    return Component(
        "kubelet",
        meta.parse_time(node.started),
        flags,
        tuple(f"/{path}" for path in (*_HEALTHY, *_PAGES)),
        node.metrics.health,
    )


async def _metrics(asked: Asked) -> Page:
    return _exposed(asked.own(), asked.accept, process=True)


async def _resource(asked: Asked) -> Page:
    return _exposed(resource_metrics(await asked.stats()), asked.accept)


async def _cadvisor(asked: Asked) -> Page:
    return _exposed(cadvisor_metrics(await asked.stats()), asked.accept)


async def _probes(asked: Asked) -> Page:
    return _exposed(probe_metrics(asked.node.metrics.probes), asked.accept)


async def _summary(asked: Asked) -> Page:
    return _json(summary(await asked.stats()))


async def _all_pods(asked: Asked) -> Page:
    return _json(_pods([{**w.pod, "status": w.status()} for w in asked.node.workers]))


async def _running_pods(asked: Asked) -> Page:
    return _json(_pods([_running(stats) for stats in (await asked.stats()).pods]))


async def _configz(asked: Asked) -> Page:
    return _json({"kubeletconfig": configuration(asked.node.config, asked.host)})


_PAGES: dict[str, Callable[[Asked], Awaitable[Page]]] = {
    "metrics": _metrics,
    "metrics/resource": _resource,
    "metrics/cadvisor": _cadvisor,
    "metrics/probes": _probes,
    "stats/summary": _summary,
    "pods": _all_pods,
    "runningpods": _running_pods,
    "configz": _configz,
}


def _json(value: Object) -> Page:
    return Page(orjson.dumps(value), "application/json")


def _exposed(families: Iterable[Family], accept: str, *, process: bool = False) -> Page:
    from rayplane.control_plane.component_base.exposition import page as exposed

    return Page(*exposed(families, accept, process=process))


async def _stats(node: PagedNode, now: str) -> NodeStats:
    seen = (await node.vitals.observe()).get(NODE_FS) if node.vitals is not None else None
    return NodeStats(
        node.config.name,
        now,
        node.started,
        [stats for worker in node.workers if (stats := _stats_of(worker)).containers],
        memory=quantity.value(node.config.memory),
        cores=quantity.milli(node.config.cpu) / 1000,
        disk=(seen.available, seen.capacity) if seen is not None else None,
    )


def _stats_of(worker: Any) -> PodStats:
    found = []
    for name, run in worker.runs.items():
        container = worker.machine.by_name[name]
        if container.started_stamp:
            image, use = container.spec.get("image") or "", run.usage(worker.pod)
            one = ContainerStats(name, container.container_id, image, container.started_stamp, use, container.spec)
            found.append(one)
    return PodStats(worker.pod, found)


def _pods(pods: list[Object]) -> Object:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}


def _running(stats: PodStats) -> Object:
    """What a runtime knows of a pod."""
    pod = stats.pod
    containers = [{"name": c.name, "image": c.image, "resources": {}} for c in stats.containers]
    own = {"name": meta.name(pod), "namespace": meta.namespace(pod), "uid": meta.uid(pod)}
    return {"metadata": own, "spec": {"containers": containers}, "status": {}}


def configuration(node: NodeConfig, host: NodeHostConfig) -> Object:
    """What is in force of a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    timing, limits = host.timing, node.eviction
    return {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "staticPodPath": node.static_pods,
        "fileCheckFrequency": f"{timing.manifests_every_s:g}s",
        "nodeStatusReportFrequency": f"{timing.status_every_s:g}s",
        "nodeLeaseDurationSeconds": timing.lease_duration_s,
        "maxPods": node.max_pods,
        "clusterDNS": [host.dns] if host.dns else [],
        "clusterDomain": "cluster.local",
        "evictionHard": {**limits.hard},
        "evictionSoft": {**limits.soft},
        "evictionSoftGracePeriod": {**limits.soft_grace},
        "evictionMinimumReclaim": {**limits.minimum_reclaim},
        "evictionMaxPodGracePeriod": int(limits.soft_pod_grace_s),
        "evictionPressureTransitionPeriod": f"{timing.pressure_transition_s:g}s",
        "containerLogMaxSize": str(host.log_file_bytes),
        "containerLogMaxFiles": host.log_files,
        "shutdownGracePeriod": f"{host.shutdown_grace_s:g}s",
        "shutdownGracePeriodCriticalPods": f"{host.shutdown_grace_critical_s:g}s",
        "shutdownGracePeriodByPodPriority": [
            {"priority": priority, "shutdownGracePeriodSeconds": int(seconds)}
            for priority, seconds in host.shutdown_by_priority
        ],
        "podPidsLimit": host.pod_pids_limit,
        "imageGCHighThresholdPercent": host.image_gc_high_percent,
        "imageGCLowThresholdPercent": host.image_gc_low_percent,
        "imageMinimumGCAge": f"{host.image_gc_min_age_s:g}s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": f"{timing.restarts.backoff.max_s:g}s"},
        "enableServer": True,
        "authentication": {"anonymous": {"enabled": False}, "x509": {}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        "memorySwap": {},
        "failSwapOn": False,
    }

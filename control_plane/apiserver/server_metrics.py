"""Metrics of an API server for Prometheus, under Kubernetes' names."""

from collections.abc import Iterable

from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.component_base.metrics import Family, counter, gauge, histogram
from rayplane.control_plane.rpc import Traffic


def collect(registry: ObjectRegistry, grpc: Traffic) -> Iterable[Family]:
    """Everything; what is not counted as it happens is looked at now. `grpc`: of the gRPC API."""
    yield from registry.requests.collect()
    yield counter("rayplane_grpc_received_bytes_total", "Bytes from clients over gRPC.", grpc.received)
    yield counter("rayplane_grpc_sent_bytes_total", "Bytes to clients over gRPC.", grpc.sent)
    running = {(kind,): count for kind, count in registry.fairness.in_flight.items()}
    yield gauge("apiserver_current_inflight_requests", "Requests under way.", running, "request_kind")
    yield from registry.fairness.collect()
    durations = registry.etcd.durations.by_labels
    yield histogram("etcd_request_duration_seconds", "Time of calls to etcd.", durations, "operation")
    caches = [cache for cache in registry.hub.loaded() if cache.ready]
    # Definitions that were removed have no cache: these labels are bounded by what is served.
    objects = {(cache.info.name,): len(cache) for cache in caches}
    watchers = {(cache.info.name,): cache.watcher_count for cache in caches}
    yield gauge("apiserver_storage_objects", "Objects in the store.", objects, "resource")
    yield gauge("apiserver_registered_watchers", "Watches that are open.", watchers, "resource")
    yield gauge("apiserver_cache_revision", "Revision of the caches.", registry.hub.revision)
    yield from registry.files.collect()
    yield from registry.chain.collect()
    yield from registry.forms.measured.collect()
    if registry.auditor is not None:
        yield from _of_audit(registry)


def _of_audit(registry: ObjectRegistry) -> Iterable[Family]:
    assert registry.auditor is not None
    levels, lost = registry.auditor.levels, registry.auditor.lost
    yield counter("apiserver_audit_event_total", "Audit events.", levels.total())
    by_level = {(level.text,): count for level, count in sorted(levels.items())}
    yield counter("apiserver_audit_level_total", "Audit events by level.", by_level, "level")
    yield counter("apiserver_audit_error_total", "Audit events that were lost.", lost, "plugin")

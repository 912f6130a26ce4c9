"""What the parts of a cluster do for each pod: writes, requests, events and bytes, by their own metrics."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rayplane.control_plane.cli.components import asked
from rayplane.control_plane.cluster.access import current_topology
from rayplane.control_plane.cluster.topology import Role
from scripts.benchmarks.clusters import Running

#: Measure of a role -> the samples that are added up for it.
MEASURES: Mapping[Role, Mapping[str, tuple[str, ...]]] = {
    Role.MEMBER: {
        "keys written, in each member": ("etcd_mvcc_put_total",),
        "proposals, to each member": ("etcd_server_proposals_applied_total",),
        "syncs of logs": ("etcd_disk_wal_fsync_duration_seconds_count",),
        "bytes of logs": ("etcd_disk_wal_write_bytes_total",),
        "bytes between members": ("etcd_network_peer_sent_bytes_total",),
        "bytes from API servers": ("etcd_network_client_grpc_received_bytes_total",),
        "bytes to API servers": ("etcd_network_client_grpc_sent_bytes_total",),
        "events to API servers": ("etcd_debugging_mvcc_events_total",),
    },
    Role.APISERVER: {
        "calls to members": ("etcd_request_duration_seconds_count",),
        "events to watchers": ("apiserver_watch_events_total",),
        "bytes from clients": ("rayplane_grpc_received_bytes_total",),
        "bytes to clients": ("rayplane_grpc_sent_bytes_total",),
    },
}
EACH = "each member"
READS = {"GET", "LIST", "WATCH"}
SHOWN_LEAST = 0.005
"""What is done less than once for 200 pods is not done for pods."""


Counts = dict[tuple[str, str], float]
"""By part and measure."""


async def counts(running: Running) -> Counts:
    """What each part has done so far."""
    topology = await current_topology(running.admin)
    found: Counts = defaultdict(float)

    async def read(instance: Any) -> None:
        async with asked(running.admin, instance, "GET", "/metrics") as answer:
            for family in text_string_to_metric_families(await answer.text()):
                for sample in family.samples:
                    for measure in _measures(instance.role, sample.name, sample.labels):
                        found[instance.role.value, measure] += sample.value

    await asyncio.gather(*(read(i) for i in topology.instances if i.role in MEASURES))
    members = len(topology.of(Role.MEMBER))
    return {key: count / members if EACH in key[1] else count for key, count in found.items()}


def _measures(role: Role, name: str, labels: Mapping[str, str]) -> list[str]:
    found = [measure for measure, names in MEASURES[role].items() if name in names]
    if name == "apiserver_request_total":
        resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
        verb = labels["verb"]
        found.append(f"{'reads' if verb in READS else 'writes'}: {verb} {resource}")
    return found


def rows_of(before: Counts, after: Counts, pods: int) -> list[dict[str, Any]]:
    """The lines of a table: what was done in between for each of the pods."""
    each = {key: (after[key] - before.get(key, 0)) / pods for key in sorted(after)}
    return [
        {"part": part, "measure": measure, "for_each_pod": round(n, 2)}
        for (part, measure), n in each.items()
        if n >= SHOWN_LEAST
    ]

"""How long writes stand still when the leader of the members is killed."""

import asyncio
import time
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from scripts.benchmarks.clusters import WHOLE_TIMEOUT_S, Running, cluster, kill_leader, say, whole
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Hosts, Json, hosts, percentile, show

SETTLE_S = 1.0
PUT_TIMEOUT_S = 5.0
PAUSE_S = 0.005


def failover(
    kills: Annotated[int, typer.Option(help="How often the leader is killed.")] = 20,
    host: Hosts = "ray,process",
    json: Json = "",
) -> None:
    """Milliseconds without an acknowledged write when the leader is killed."""
    machine = description()
    chosen = hosts(host)

    async def measure() -> list[dict[str, Any]]:
        rows = []
        for one in chosen:
            async with cluster(one) as running:
                rows.append({"host": one, "kills": kills} | await _kills(running, kills, one))
        return rows

    notes = [
        "One writer for each member, moving on to another when its own fails. A gap is the longest time between two",
        "acknowledgements to any of them, from the kill (SIGKILL on Ray) until all members are back.",
    ]
    show("failover", run(measure()), machine, target=json, notes=notes)


class Acknowledgements:
    """When a write was last acknowledged, and the longest time between two."""

    def __init__(self) -> None:
        self.count = 0
        self._last = time.monotonic()
        self._longest = 0.0

    def add(self) -> None:
        now = time.monotonic()
        self.count += 1
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def reset(self) -> None:
        self._longest = 0.0

    def longest(self) -> float:
        """Seconds since `reset`, a gap that has not ended yet included."""
        return max(self._longest, time.monotonic() - self._last)


async def _kills(running: Running, kills: int, host: str) -> dict[str, Any]:
    acknowledged = Acknowledgements()
    endpoints = running.admin.etcd.endpoints.addresses
    writers = [
        asyncio.ensure_future(_write(running.admin, endpoints[n:] + endpoints[:n], n, acknowledged))
        for n in range(len(endpoints))
    ]
    gaps, normal = [], []
    try:
        for n in range(kills):
            acknowledged.reset()
            await asyncio.sleep(SETTLE_S)
            normal.append(acknowledged.longest() * 1000)
            with say.status(f"{host}: kill {n + 1} of {kills}"):
                acknowledged.reset()
                count = acknowledged.count
                await kill_leader(running.admin)
                await _acknowledged(running, acknowledged, count)
            gaps.append(round(acknowledged.longest() * 1000, 1))
    finally:
        await cancel_and_wait(*writers)
    return {
        "p50_ms": percentile(gaps, 50),
        "p90_ms": percentile(gaps, 90),
        "p95_ms": percentile(gaps, 95),
        "max_ms": max(gaps),
        "before_kill_ms": round(percentile(normal, 50), 1),
        "gaps_ms": gaps,
    }


async def _write(admin: Access, endpoints: tuple[str, ...], number: int, acknowledged: Acknowledgements) -> None:
    etcd = EtcdClient(admin.network, endpoints)
    turn = 0
    while True:
        try:
            await etcd.put(b"/bench/%d" % number, b"%d" % turn, timeout=PUT_TIMEOUT_S)
            acknowledged.add()
        except RpcError:
            # Unknown whether it was written: as any client, try the next one.
            pass
        turn += 1
        await asyncio.sleep(PAUSE_S)


async def _acknowledged(running: Running, acknowledged: Acknowledgements, count: int) -> None:
    """Return when all members are back, and writes were acknowledged since the kill."""
    async with asyncio.timeout(WHOLE_TIMEOUT_S):
        while True:
            await whole(running.admin)
            if acknowledged.count > count:
                return
            await asyncio.sleep(0.1)

"""A cluster for one measurement: brought up under a name of its own, always taken down."""

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster import launch
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.vocabulary import LEADER, Kill, Target
from rayplane.control_plane.rpc import RpcError
from scripts.benchmarks.machine import Usage, usage

WHOLE_TIMEOUT_S = 60.0

say = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that is up."""

    admin: Access
    directory: StateDir
    state: ClusterState
    up_s: float

    @property
    def sessions(self) -> tuple[int, ...]:
        """Where its processes are found."""
        return (int(self.state.host["pid"]),)

    def usage(self, *, memory: bool = False) -> dict[int, Usage]:
        """Every process of the cluster on this machine, Ray's own included."""
        return usage(self.sessions, memory=memory, logs=self.directory.logs)


@contextlib.asynccontextmanager
async def cluster(host: str, **settings: Any) -> AsyncIterator[Running]:
    """`settings`: other fields of ClusterConfig. Taken down with all its data, however the body ends."""
    root = Path(tempfile.mkdtemp(prefix="rp-bench-"))
    config = ClusterConfig(name=f"bench-{os.getpid()}", host=host, **settings)
    directory = StateDir.of(config.name, str(root / "state"))
    try:
        with say.status(f"bringing up a cluster ({host})"):
            start = time.monotonic()
            state = await launch.up(config, directory, lambda text: None)
            up_s = time.monotonic() - start
        async with access(directory) as admin:
            yield Running(admin, directory, state, up_s)
    finally:
        with say.status("taking the cluster down"):
            await launch.down(directory, lambda text: None, purge=True)
        shutil.rmtree(root, ignore_errors=True)


async def leader_of(etcd: EtcdClient, endpoints: Sequence[str]) -> str:
    """The endpoint of the member that leads."""
    for endpoint in endpoints:
        status = await etcd.status(endpoint)
        if status.leader == status.header.member_id:
            return endpoint
    raise RuntimeError("no member leads; try again")


async def kill_leader(admin: Access) -> None:
    """Kill the member that leads; the leader may be changing just now: ask again."""
    injector = LiveInjector(admin, random.Random())
    async with asyncio.timeout(WHOLE_TIMEOUT_S):
        while True:
            try:
                await injector.begin(Kill(Target(LEADER)))
                return
            except (ClusterError, RpcError):
                await asyncio.sleep(0.1)


async def whole(admin: Access) -> None:
    """Return when every member answers and all agree on a leader."""
    members = admin.state.topology.endpoints(Role.MEMBER, "client")
    async with asyncio.timeout(WHOLE_TIMEOUT_S):
        while True:
            await asyncio.sleep(0.1)
            try:
                found = [await admin.etcd.status(m, timeout=1.0) for m in members]
            except RpcError:
                continue
            leaders = {s.leader for s in found}
            if len(leaders) == 1 and leaders != {0}:
                return

"""Nodes with volume backends, joined by calls that a test can cut."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayplane.control_plane.api.authorization.node_identity import host_identity
from rayplane.control_plane.rpc import Context, Identity
from rayplane.node.volumes import (
    MemoryDirectory,
    PeerError,
    ReplicaService,
    ReplicaStore,
    ReplicatedBackend,
    ReplicatedConfig,
    ReplicationTiming,
    Reservations,
)
from rayplane.node.volumes.drivers.replicated.upkeep import Upkeep
from rayplane.storage.env import Disk, LocalDisk, SystemClock
from rayplane.storage.errors import Code

GIB = 1024**3
FAST = ReplicationTiming(
    scan_interval_s=0.02,
    call_timeout_s=1.0,
    barrier_timeout_s=5.0,
    repair_after_s=0.1,
    spread_every_s=0.1,
    retry_min_s=0.01,
    retry_max_s=0.05,
)
PATIENT = ReplicationTiming(
    scan_interval_s=0.02,
    call_timeout_s=10.0,
    barrier_timeout_s=20.0,
    repair_after_s=60.0,
    spread_every_s=60.0,
    retry_min_s=0.01,
    retry_max_s=0.05,
)


class FixedClock:
    """A clock for disks without files."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


class Cluster:
    def __init__(
        self, root: Path, *, timing: ReplicationTiming = PATIENT, replicas: int = 3, sockets: str | None = None
    ) -> None:
        self.root = root
        self.directory = MemoryDirectory()
        self.backends: dict[str, ReplicatedBackend] = {}
        self.services: dict[str, ReplicaService] = {}
        self.upkeeps: dict[str, Upkeep] = {}
        self.cut: set[tuple[str, str]] = set()
        self.dead: set[str] = set()
        self.mute: set[tuple[str, str]] = set()
        """Nodes and the calls that do not come through to them."""
        self.wanted: set[tuple[str, str]] = set()
        """Nodes and the volumes that pods there are to use."""
        self.fenced: list[tuple[str, str]] = []
        self.calls: list[tuple[str, str]] = []
        self._config = ReplicatedConfig(
            replicas=replicas, socket_directory=str(root / "s") if sockets is None else sockets, timing=timing
        )

    def barrier_timeout(self, volume: str, node: str, seconds: float) -> None:
        """How long barriers of a published volume wait from now on."""
        publication = self.backends[node].publication(volume)
        publication._timing = replace(publication._timing, barrier_timeout_s=seconds)

    def disk(self, node: str) -> Disk:
        return LocalDisk(self.root / node)

    async def add(self, node: str, *, capacity: int = 50 * GIB, machine: str = "") -> ReplicatedBackend:
        """Each is on a machine of its own unless one is named."""
        disk = self.disk(node)
        store = ReplicaStore(node, disk, Reservations(disk, node, capacity))
        self.services[node] = ReplicaService({node: store})
        self.directory.addresses[node] = f"{machine or node}:{node}"
        self.backends[node] = ReplicatedBackend(
            store,
            disk,
            SystemClock() if disk.local_path() else FixedClock(),
            directory=self.directory,
            stubs=self._stubs(node),
            config=self._config,
            on_fenced=lambda volume: self.fenced.append((node, volume)),
            is_wanted=lambda volume: (node, volume) in self.wanted,
        )
        await self.backends[node].start()
        return self.backends[node]

    async def look_after(self, *nodes: str) -> None:
        """From here on each of these looks after volumes that nobody uses."""
        for node in nodes:
            (store,) = self.services[node].stores.values()
            self.upkeeps[node] = Upkeep(
                lambda store=store: [store],  # type: ignore[misc]
                directory=self.directory,
                stubs=self._stubs(node),
                timing=self._config.timing,
            )
            await self.upkeeps[node].start()

    def _stubs(self, node: str) -> Callable[[str], "Stub"]:
        return lambda address: Stub(self, node, address.rpartition(":")[2])

    def isolate(self, node: str) -> None:
        """Cut a node off from all others, both ways."""
        self.cut |= {(node, other) for other in self.services if other != node}
        self.cut |= {(other, node) for other in self.services if other != node}

    async def kill(self, node: str, *, wipe: bool = False) -> None:
        """The process of a node dies; its files stay unless wiped."""
        self.dead.add(node)
        self.directory.unready.add(node)
        if node in self.upkeeps:
            await self.upkeeps.pop(node).stop()
        await self.backends.pop(node).stop()
        if wipe:
            shutil.rmtree(self.root / node)

    async def restart(self, node: str, *, machine: str = "") -> ReplicatedBackend:
        self.dead.discard(node)
        self.directory.unready.discard(node)
        return await self.add(node, machine=machine)

    async def stop(self) -> None:
        for node in sorted(self.upkeeps):
            await self.upkeeps[node].stop()
        for node in sorted(self.backends):
            await self.backends[node].stop()


def caller(*nodes: str) -> Context:
    """A call by the host of these nodes."""
    return Context(identity=Identity(*host_identity(nodes, fallback="")))


class Stub:
    """A stub that calls a node's handlers, unless the way is cut."""

    def __init__(self, cluster: Cluster, source: str, target: str) -> None:
        self._cluster, self._source, self._target = cluster, source, target

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float) -> Any:
            cluster = self._cluster
            cluster.calls.append((self._target, name))
            await asyncio.sleep(0)
            mute = (self._target, name) in cluster.mute
            if mute or (self._source, self._target) in cluster.cut or self._target in cluster.dead:
                raise PeerError(Code.UNAVAILABLE, f"no way from {self._source} to {self._target}")
            copy = type(request).FromString(request.SerializeToString())
            return await getattr(cluster.services[self._target], name)(copy, caller(self._source))

        return call


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens by itself; the test's timeout is the limit."""
    while not condition():
        await asyncio.sleep(0.005)


def tree(root: str) -> dict[str, object]:
    """Everything below a directory: content of files, targets of links, None for directories."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            key = os.path.relpath(path, root)
            if os.path.islink(path):
                found[key] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[key] = None
            elif os.path.isfile(path):
                found[key] = Path(path).read_bytes()
    return found


def write(root: str, name: str, data: bytes, *, offset: int | None = None) -> None:
    """A file's content, or a part of it."""
    with open(os.path.join(root, name), "wb" if offset is None else "r+b") as file:
        file.seek(offset or 0)
        file.write(data)

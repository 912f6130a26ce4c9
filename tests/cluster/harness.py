"""A whole cluster in the test's process, reached over its real ports like any other.

    async with cluster(runtime="process") as c:
        await c.api.create("pods", pod)
        await c.until(lambda: c.phase("web"), "Running")

State lives in a directory of its own, addresses in a free slot of 127/8. On the way out everything is stopped, and
no task may be left.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster import outside
from rayplane.control_plane.cluster.access import Access, access, current_topology
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.launch import _write_access
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import share, with_ports
from rayplane.control_plane.cluster.process_host import ProcessHost
from rayplane.control_plane.cluster.readiness import await_ready
from rayplane.control_plane.cluster.slots import in_order, reserved
from rayplane.control_plane.cluster.specs import founding_specs
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, Topology, founding
from rayplane.control_plane.rpc import Network, RpcError

# Bounds that end what hangs; on a busy machine all takes several times as long.
READY_S = 120.0
UNTIL_S = 120.0
POLL_S = 0.05


@dataclass
class Cluster:
    """A running cluster, as its administrator sees it."""

    access: Access
    host: ProcessHost
    directory: StateDir
    state: ClusterState
    secrets: Secrets

    @property
    def api(self) -> ApiClient:
        return self.access.api

    @property
    def etcd(self) -> EtcdClient:
        return self.access.etcd

    @property
    def supervisor(self) -> Any:
        return self.access.supervisor

    @property
    def network(self) -> Network:
        return self.access.network

    @property
    def topology(self) -> Topology:
        """As founded."""
        return self.state.topology

    @property
    def state_dir(self) -> Path:
        return self.directory.path

    @property
    def kubeconfig(self) -> Path:
        return self.directory.kubeconfig

    async def current(self) -> Topology:
        """The topology as it is wanted now."""
        return await current_topology(self.access)

    async def until(
        self, ask: Callable[[], Awaitable[Any]], what: str, *, wanted: Any = None, within: float = UNTIL_S
    ) -> Any:
        """Ask until the answer is `wanted` (or true); the answer. Errors count as a no."""
        last: Any = None
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        last = await ask()
                    except (ApiError, RpcError, ClusterError) as e:
                        last = e
                    else:
                        if last == wanted if wanted is not None else last:
                            return last
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {within:.0f} s; last: {last!r}") from None

    async def pods(self, selector: str = "", namespace: str = "default") -> list[Object]:
        return (await self.api.list("pods", namespace, label_selector=selector)).items

    async def pods_ready(self, count: int, selector: str = "", namespace: str = "default") -> list[Object]:
        """Wait until exactly `count` pods are there, and Ready."""

        async def ready() -> list[Object] | None:
            pods = await self.pods(selector, namespace)
            return pods if len(pods) == count and all(pod_is_ready(p) for p in pods) else None

        if count == 0:
            await self.until(lambda: self._none(selector, namespace), f"no pods of {selector!r}")
            return []
        found: list[Object] = await self.until(ready, f"{count} ready pods of {selector!r}")
        return found

    async def rolled_out(self, name: str, replicas: int, namespace: str = "default") -> None:
        """Wait until a Deployment says that all its replicas are available."""

        async def available() -> int:
            found = meta.status(await self.api.get("deployments.apps", name, namespace))
            return int(found.get("availableReplicas", 0))

        await self.until(available, f"deployment {name} of {replicas}", wanted=replicas)

    async def nodes_ready(self, names: set[str]) -> None:
        """Wait until just these nodes are Ready."""

        async def ready() -> set[str]:
            nodes = (await self.api.list("nodes")).items
            return {meta.name(n) for n in nodes if meta.condition_is(n, "Ready")}

        await self.until(ready, f"nodes {sorted(names)} ready", wanted=names)

    async def gone(self, resource: str, name: str, namespace: str = "") -> None:
        """Wait until an object is no more."""

        async def missing() -> bool:
            try:
                await self.api.get(resource, name, namespace)
            except NotFound:
                return True
            return False

        await self.until(missing, f"{resource} {name} gone")

    async def _none(self, selector: str, namespace: str) -> bool:
        return not await self.pods(selector, namespace)


def deployment(name: str, replicas: int, **spec: Any) -> Object:
    """A Deployment of one container; `spec` goes into the container."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "app:1", **spec}]},
            },
        },
    }


@contextlib.asynccontextmanager
async def cluster(**flags: Any) -> AsyncIterator[Cluster]:
    """A ready cluster; `flags` are those of ClusterConfig."""
    before = asyncio.all_tasks()
    config = ClusterConfig(**{"name": "test", "host": PROCESS} | flags)
    config.validate()
    directory = StateDir(Path(tempfile.mkdtemp(prefix="rayplane-test-")))
    try:
        # The process's log is the test's own.
        with mock.patch.object(outside, "log_to"):
            async with _running(config, directory) as running:
                yield running
    finally:
        shutil.rmtree(directory.path, ignore_errors=True)
    await _no_tasks_but(before)


@contextlib.asynccontextmanager
async def _running(config: ClusterConfig, directory: StateDir) -> AsyncIterator[Cluster]:
    secrets = Secrets.create(config.name)
    directory.create()
    secrets.write(directory.pki)
    rng = random.Random()
    host = ProcessHost()
    try:
        async with reserved(in_order(rng)) as plan:
            topology = with_ports(founding(config, (Machine(),)), rng, share(plan))
            state = ClusterState(config=config, plan=plan, topology=topology, running=True, host={"pid": 0})
            _write_access(directory, state, secrets)
            # The supervisor claims the addresses; it finds the others already there or being started.
            await asyncio.gather(*(host.start(s) for s in founding_specs(state, secrets, directory.path)))
        async with access(directory) as admin:
            await await_ready(admin, directory, timeout=READY_S, ended=str, progress=lambda _: None)
            yield Cluster(admin, host, directory, state, secrets)
    finally:
        await host.stop_all()


async def _no_tasks_but(before: set[asyncio.Task[Any]]) -> None:
    """Fail when a task is left that was not there before. What is cancelled gets a chance to end."""
    for _ in range(20):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    raise AssertionError("tasks are left: " + "; ".join(sorted(f"{t.get_name()} {t.get_coro()}" for t in left)))

"""Static pods of one node: a directory of manifests, and their mirrors at the API.

The directory is looked at now and then, the mirrors when they change: who deletes a mirror gets it back, who removes a
manifest ends its pod. Bounded: of a directory so many files are looked at.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeConfig, NodeTiming
from rayplane.node.kubelet.manifests import BYTES_MAX, NoManifest, mirror_of, shows, static_pod

log = logging.getLogger(__name__)

FILES_MAX = 256


class StaticHost(Protocol):
    """The node that runs static pods."""

    name: str
    config: NodeConfig
    node: Object | None

    def add_static(self, pod: Object) -> None: ...

    def end_static(self, uid: str) -> None: ...

    def mirrored(self, uid: str, mirror: str) -> None:
        """The mirror of a static pod has this uid; empty: it has none."""


class StaticPods:
    """The task that looks after a node's static pods. Without a directory it has none, and old mirrors go."""

    def __init__(self, client: ApiClient, host: StaticHost, stamp: Callable[[], str], timing: NodeTiming) -> None:
        self._client, self._directory, self._host, self._stamp = client, host.config.static_pods, host, stamp
        self._every_s = timing.manifests_every_s
        self._pods: dict[str, Object] = {}  # by uid
        self._mirrors: dict[str, Object] = {}  # by key
        self._refused: dict[str, str] = {}  # names of files to why
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run what is there, and go on looking."""
        if self._directory:
            await self._read()
            self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"static pods of {self._host.name}")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    def mirror_event(self, kind: str, pod: Object) -> None:
        """A mirror came, changed or went."""
        key = meta.key(pod)
        if kind != "DELETED":
            self._mirrors[key] = pod
        elif key in self._mirrors and meta.uid(self._mirrors[key]) == meta.uid(pod):
            del self._mirrors[key]
        self._wake.set()
        self._begin()  # one of many nodes that have no such pods costs no task

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_s if self._directory else None):
                    await self._wake.wait()
            except TimeoutError:
                await self._read()
            self._wake.clear()
            try:
                await self._reflect()
            except ApiError as e:
                log.info("mirrors of static pods are late: %s", e.message)
            except Exception:
                log.exception("mirrors of static pods are late")

    # --- manifests --------------------------------------------------------------------------------

    async def _read(self) -> None:
        if not self._directory:
            return
        files = await asyncio.get_running_loop().run_in_executor(None, _contents, self._directory)
        if files is None:
            return  # as it is, until it can be read again
        found: dict[str, Object] = {}
        for name, data in files.items():
            try:
                pod = static_pod(data, self._host.name, self._stamp())
            except NoManifest as e:
                if self._refused.get(name) != str(e):
                    self._refused[name] = str(e)
                    log.warning("%s/%s is no static pod: %s", self._directory, name, e)
            else:
                self._refused.pop(name, None)
                if meta.key(pod) not in {meta.key(other) for other in found.values()}:
                    found[meta.uid(pod)] = pod
        for uid in self._pods.keys() - found.keys():
            del self._pods[uid]
            self._host.end_static(uid)
        for uid, pod in found.items():
            if uid not in self._pods:
                self._pods[uid] = pod
                self._host.add_static(pod)
                self._wake.set()

    # --- mirrors ----------------------------------------------------------------------------------

    async def _reflect(self) -> None:
        """Have a mirror for each static pod, and no others."""
        if self._host.node is None:
            return
        by_key = {meta.key(pod): pod for pod in self._pods.values()}
        operations: list[Any] = []
        for key, mirror in self._mirrors.items():
            pod = by_key.get(key)
            if pod is None or not shows(mirror, pod):
                name, namespace, uid = meta.name(mirror), meta.namespace(mirror), meta.uid(mirror)
                operations.append(ops.delete("pods", name, namespace, uid=uid, grace_period_s=0))
        for key, pod in by_key.items():
            known = self._mirrors.get(key)
            if known is None:
                operations.append(ops.create("pods", mirror_of(pod, self._host.node)))
            self._host.mirrored(meta.uid(pod), meta.uid(known) if known is not None and shows(known, pod) else "")
        for answer in await self._client.batch(operations) if operations else ():
            if isinstance(answer, ApiError):
                log.info("a mirror of node %s: %s", self._host.name, answer.message)


def _contents(directory: str) -> dict[str, bytes] | None:
    """Names of the files to what they hold; None when the directory cannot be read."""
    found: dict[str, bytes] = {}
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))[:FILES_MAX]
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[name] = file.read(BYTES_MAX + 1)
    except OSError as e:
        log.warning("the manifests of static pods cannot be read: %s", e)
        return None
    return found

"""Sandboxes and containers that clients of CRI made: beside the kubelets' pods, on the same runtimes.

They live as long as the node host: a client that makes them watches them, as a kubelet does. What a call changes it
changes before it waits, so that calls at the same time see each other. Bounds: sandboxes and containers of a host.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.node.config import SIMULATED
from rayplane.node.cri.container_log import ContainerLog
from rayplane.node.cri.orders import (
    container_of,
    image_mounts_of,
    is_host_network,
    mounts_of,
    pod_around,
    pod_of,
    resources_of,
)
from rayplane.node.cri.selection import ID_BYTES, find
from rayplane.node.cri.stored_images import Manager
from rayplane.node.cri.views import nanoseconds
from rayplane.node.errors import Malformed, NodeError, NotRunning, RuntimeFailed, TimedOut, TooMany
from rayplane.node.images.containers import ContainerImage, own_command
from rayplane.node.kubelet.etc_files import KERNEL_NAME_MAX
from rayplane.node.lifecycle.model import START_ERROR, ContainerUser
from rayplane.node.runtime import ContainerRun, Mount, PodPlace, Runtime, StartOrder
from rayplane.node.tasks import Tasks
from rayplane.proto.cri import cri_pb2 as pb
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

SANDBOXES_MAX = 256
CONTAINERS_MAX = 512
START_S = 60.0
#: How long the rest of a log may take, once its container has ended.
LOG_S = 5.0
#: Beyond its grace, until a container that was killed has to be gone.
KILLED_S = 20.0
_READY, _NOT_READY = pb.PodSandboxState.SANDBOX_READY, pb.PodSandboxState.SANDBOX_NOTREADY
_CREATED, _RUNNING = pb.ContainerState.CONTAINER_CREATED, pb.ContainerState.CONTAINER_RUNNING
_EXITED = pb.ContainerState.CONTAINER_EXITED
_START_ERROR_CODE = 128


class Addresses(Protocol):
    """Addresses of a node's pods; see NodeAddresses."""

    @property
    def node_ip(self) -> str: ...

    @property
    def known(self) -> bool: ...

    def take(self) -> str: ...

    def give_back(self, address: str) -> None: ...


class Images(Protocol):
    """Images of containers by what a client calls them; see StoredImages."""

    async def of_container(self, holder: str, name: str) -> ContainerImage | None: ...

    def release(self, holder: str) -> None: ...


class Directories(Protocol):
    """Directories of real pods; see PodFiles."""

    def create(self, uid: str) -> str: ...

    async def remove(self, uid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Ground:
    """The things that a node lends to pods which its kubelet does not know. `files`: None where containers are data."""

    runtimes: Mapping[str, Runtime]
    """By the name that a client gives as the runtime handler; the first one is that of clients who give none."""
    addresses: Addresses
    files: Directories | None
    etc_files: Callable[[Object, str], Mapping[str, bytes]]
    """The files of /etc of a pod that has an address."""
    images: Manager | None
    """None where containers have no images."""
    env: Env
    tasks: Tasks


@dataclass(slots=True)
class OwnSandbox:
    """A sandbox and its containers by id."""

    config: pb.PodSandboxConfig
    status: pb.PodSandboxStatus
    runtime: Runtime
    pod: Object
    place: PodPlace | None = None
    containers: "dict[str, OwnContainer]" = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.status.state == _READY


class OwnContainer:
    """A container, and the listener of its run."""

    def __init__(self, sandbox: OwnSandbox, config: pb.ContainerConfig, status: pb.ContainerStatus) -> None:
        self.sandbox = sandbox
        self.config = config
        self.status = status
        self.spec: dict[str, Any] = container_of(config)
        self.mounts = mounts_of(config)
        self.image_mounts = image_mounts_of(config)
        self.begins = self.unwanted = False
        self.run: ContainerRun | None = None
        self.log: ContainerLog | None = None
        self.logging: asyncio.Task[None] | None = None
        self.stamp: Callable[[], str] = str
        self.changed: Callable[[], None] = lambda: None
        self.begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when it runs (""), or cannot run (why)."""
        self.over = asyncio.Event()

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        self.status.state = _RUNNING
        self.status.started_at = nanoseconds(self.stamp())
        self._begin("")

    def failed(self, reason: str, message: str) -> None:
        self._end(_START_ERROR_CODE, reason, message)
        self._begin(message or reason)

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        reason = reason or ("Completed" if exit_code == 0 else "Error")
        if self.logging is None or self.logging.done():
            self._end(exit_code, reason, message)
            return
        # Who sees that it has ended finds all that it wrote.
        late = asyncio.get_running_loop().call_later(LOG_S, self.logging.cancel)

        def whole(_: asyncio.Task[None]) -> None:
            late.cancel()
            self._end(exit_code, reason, message)

        self.logging.add_done_callback(whole)

    def _begin(self, why: str) -> None:
        if not self.begun.done():
            self.begun.set_result(why)
        self.changed()

    def _end(self, exit_code: int, reason: str, message: str) -> None:
        status = self.status
        status.state, status.finished_at = _EXITED, nanoseconds(self.stamp())
        status.exit_code, status.reason, status.message = exit_code, reason, message
        self.over.set()
        self.changed()

    @property
    def running(self) -> bool:
        return self.status.state == _RUNNING


class OwnPods:
    """All that clients made here. `changed` is called after every change of a state; `images`: None where containers
    have none.
    """

    def __init__(self, ground: Ground, changed: Callable[[], None], images: Images | None = None) -> None:
        self._ground = ground
        self._changed = changed
        self._images = images
        self.sandboxes: dict[str, OwnSandbox] = {}

    def containers(self) -> "dict[str, OwnContainer]":
        return {ident: c for sandbox in self.sandboxes.values() for ident, c in sandbox.containers.items()}

    def _new_id(self) -> str:
        return f"{self._ground.env.rng.getrandbits(8 * ID_BYTES):0{2 * ID_BYTES}x}"

    def _now(self) -> int:
        return nanoseconds(self._ground.env.timestamp())

    # --- sandboxes --------------------------------------------------------------------------------

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str) -> str:
        """A new sandbox's id, when it is ready. Raises NodeError."""
        sandbox = self._reserve(config, handler)
        self.sandboxes[sandbox.status.id] = sandbox
        try:
            await self._make(sandbox)
        except BaseException as e:
            await self._unmake(sandbox)
            del self.sandboxes[sandbox.status.id]
            if isinstance(e, OSError):
                raise RuntimeFailed(f"the sandbox cannot be made: {e}") from e
            raise
        sandbox.status.state = _READY
        self._changed()
        return sandbox.status.id

    def _reserve(self, config: pb.PodSandboxConfig, handler: str) -> OwnSandbox:
        metadata, runtimes = config.metadata, self._ground.runtimes
        if not (metadata.name and metadata.namespace and metadata.uid):
            raise Malformed("config.metadata: give name, namespace and uid")
        runtime = runtimes.get(handler or next(iter(runtimes)))
        if runtime is None:
            raise Malformed(f"runtime_handler {handler!r} is none of {', '.join(runtimes)}")
        if len(self.sandboxes) >= SANDBOXES_MAX:
            raise TooMany(f"{SANDBOXES_MAX} sandboxes were made here: remove some first")
        for other in self.sandboxes.values():
            if other.status.metadata == metadata:
                raise Malformed(f"sandbox {other.status.id} has this name, namespace, uid and attempt: remove it first")
        ident = self._new_id()
        status = pb.PodSandboxStatus(
            id=ident,
            metadata=metadata,
            state=_NOT_READY,
            created_at=self._now(),
            linux=pb.LinuxPodSandboxStatus(
                namespaces=pb.Namespace(options=config.linux.security_context.namespace_options)
            ),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=handler,
        )
        return OwnSandbox(config, status, runtime, pod_of(config, uid=f"cri-{ident[:32]}"))

    async def _make(self, sandbox: OwnSandbox) -> None:
        ground, host_network = self._ground, is_host_network(sandbox.config)
        if not ground.addresses.known:
            raise NotRunning("the node has no addresses for pods yet: try again when it is registered")
        ip = ground.addresses.node_ip if host_network else ground.addresses.take()
        sandbox.status.network.ip = "" if host_network else ip
        uid = sandbox.pod["metadata"]["uid"]
        directory = ground.files.create(uid) if ground.files is not None else ""
        sandbox.place = PodPlace(
            uid=uid,
            ip=ip,
            gateway=ground.addresses.node_ip,
            host_name=(sandbox.config.hostname or sandbox.config.metadata.name)[:KERNEL_NAME_MAX],
            directory=directory,
            host_network=host_network,
            pod=sandbox.pod,
            files=ground.etc_files(sandbox.pod, ip) if directory else {},
        )
        if directory:
            await sandbox.runtime.add_pod(sandbox.place)

    async def _unmake(self, sandbox: OwnSandbox) -> None:
        """Give back what it has, once."""
        ground, place = self._ground, sandbox.place
        if sandbox.status.network.ip:
            ground.addresses.give_back(sandbox.status.network.ip)
            sandbox.status.network.ip = ""
        if place is None:
            return
        sandbox.place = None
        if place.directory:
            sandbox.runtime.remove_pod(place.uid)

    async def stop_sandbox(self, sandbox: OwnSandbox) -> None:
        """End its containers and give its address back. Raises TimedOut."""
        sandbox.status.state = _NOT_READY
        self._changed()
        await asyncio.gather(*(self.stop(c, 0.0) for c in sandbox.containers.values()))
        await self._unmake(sandbox)

    async def remove_sandbox(self, sandbox: OwnSandbox) -> None:
        """Raises TimedOut; then it is still there."""
        await self.stop_sandbox(sandbox)
        for container in [*sandbox.containers.values()]:
            await self.remove(container)
        if self.sandboxes.pop(sandbox.status.id, None) is not None and self._ground.files is not None:
            await self._ground.files.remove(sandbox.pod["metadata"]["uid"])
        self._changed()

    # --- containers -------------------------------------------------------------------------------

    def create(self, sandbox: OwnSandbox, config: pb.ContainerConfig, image_ref: str) -> str:
        """A new container's id. Raises NodeError."""
        if not sandbox.ready:
            raise NotRunning(f"sandbox {sandbox.status.id} is not ready: containers are made in those that are")
        if not config.metadata.name:
            raise Malformed("config.metadata: give a name")
        if len(self.containers()) >= CONTAINERS_MAX:
            raise TooMany(f"{CONTAINERS_MAX} containers were made here: remove some first")
        for other in sandbox.containers.values():
            if other.status.metadata == config.metadata:
                raise Malformed(f"container {other.status.id} has this name and attempt: remove it first")
        ident, directory = self._new_id(), sandbox.config.log_directory
        status = pb.ContainerStatus(
            id=ident,
            metadata=config.metadata,
            state=_CREATED,
            created_at=self._now(),
            image=config.image,
            image_ref=image_ref,
            image_id=image_ref,
            labels=config.labels,
            annotations=config.annotations,
            mounts=config.mounts,
            log_path=f"{directory}/{config.log_path}" if directory and config.log_path else "",
            resources=pb.ContainerResources(linux=config.linux.resources),
            stop_signal=config.stop_signal,
        )
        container = OwnContainer(sandbox, config, status)
        container.stamp, container.changed = self._ground.env.timestamp, partial(self._container_changed, container)
        sandbox.containers[ident] = container
        self._changed()
        return ident

    def _container_changed(self, container: OwnContainer) -> None:
        if self._images is not None and container.over.is_set():
            self._images.release(container.status.id)
        self._changed()

    async def start(self, container: OwnContainer) -> None:
        """Raises NodeError."""
        sandbox = container.sandbox
        if container.begins or container.status.state != _CREATED:
            raise NotRunning(f"container {container.status.id} was started before: each runs once")
        container.begins = True
        try:
            image, mounts = await self._image(container), await self._mounts(container)
            place = sandbox.place
            if not sandbox.ready or place is None or container.unwanted:
                raise NotRunning(f"sandbox {sandbox.status.id} is not ready, or the container was stopped")
        except (NodeError, OSError) as e:
            container.failed(START_ERROR, str(e))
            raise e if isinstance(e, NodeError) else RuntimeFailed(str(e)) from e
        order = StartOrder(
            pod=pod_around(sandbox.pod, container.config),
            container=container.spec,
            image=image,
            attempt=container.status.metadata.attempt,
            container_id=f"rayplane://{container.status.id}",
            pod_ip=place.ip,
            host_name=place.host_name,
            env={pair.key: os.fsdecode(pair.value) for pair in container.config.envs},
            mounts=mounts,
            directory=place.directory,
            stamp=self._ground.env.timestamp(),
        )
        run = container.run = sandbox.runtime.start(order, container)
        if container.status.log_path:
            container.log = ContainerLog(container.status.log_path)
            work = _log(container.log, run, container.begun)
            container.logging = self._ground.tasks.spawn(work, f"log of {container.status.id}")
        try:
            async with asyncio.timeout(START_S):
                why = await asyncio.shield(container.begun)
        except TimeoutError:
            run.stop(0.0)
            raise TimedOut(f"container {container.status.id} did not start within {START_S:g} s") from None
        if why:
            raise RuntimeFailed(f"container {container.status.id} cannot be started: {why}")

    async def resize(self, container: OwnContainer, asked: pb.LinuxContainerResources) -> None:
        """Hold a container to other resources from now on; what is not said stays. Raises NodeError."""
        if container.over.is_set():
            raise NotRunning(f"container {container.status.id} has ended")
        whole = pb.LinuxContainerResources()
        whole.CopyFrom(container.status.resources.linux)
        whole.MergeFrom(asked)
        spec = {**container.spec, "resources": resources_of(whole)}
        if container.run is not None:
            await container.run.resize(container.sandbox.pod, spec)
        container.spec = spec
        container.status.resources.linux.CopyFrom(whole)

    def resize_sandbox(self, sandbox: OwnSandbox, asked: pb.LinuxContainerResources) -> None:
        """Hold all containers of a sandbox together to resources. Raises NodeError."""
        pod = {**sandbox.pod, "spec": {**sandbox.pod["spec"], "resources": resources_of(asked)}}
        sandbox.runtime.resize_pod(pod)
        sandbox.pod = pod
        sandbox.config.linux.resources.CopyFrom(asked)

    async def _image(self, container: OwnContainer) -> ContainerImage | None:
        """What a container runs from. Raises NodeError, OSError."""
        if self._images is None or container.sandbox.runtime is self._ground.runtimes.get(SIMULATED):
            return None
        name, user = container.config.image.image, container.config.linux.security_context.run_as_username
        image = await self._images.of_container(container.status.id, name)
        if image is None and not own_command(container.spec):
            raise RuntimeFailed(f"no command specified, and image {name} is not here, or not run from: load or pull it")
        if user and (image is None or image.layers is None):
            raise Malformed("run_as_username: there is no image that could tell who that is: use run_as_user")
        return replace(image, user=user) if image is not None and user else image

    async def _mounts(self, container: OwnContainer) -> tuple[Mount, ...]:
        """Its mounts, with the layers of those that are images. Raises NodeError, OSError."""
        found = [*container.mounts]
        for mount, name in container.image_mounts:
            known = self._images is not None and await self._images.of_container(container.status.id, name)
            if not known or not known.layers:
                raise RuntimeFailed(f"mount {mount.mount_path}: image {name} is not in the store, or has no files")
            found.append(replace(mount, layers=known.layers))
        return tuple(found)

    async def stop(self, container: OwnContainer, grace_s: float) -> None:
        """Return when it has ended. Raises TimedOut."""
        if container.run is None or container.over.is_set():
            container.unwanted = container.run is None
            return
        container.run.stop(grace_s)
        try:
            async with asyncio.timeout(grace_s + KILLED_S):
                await container.over.wait()
        except TimeoutError:
            raise TimedOut(f"container {container.status.id} is not gone {KILLED_S:g} s after it was killed") from None

    async def remove(self, container: OwnContainer) -> None:
        """Raises TimedOut; then it is still there."""
        await self.stop(container, 0.0)
        container.sandbox.containers.pop(container.status.id, None)
        self._changed()

    def sandbox(self, ident: str) -> OwnSandbox:
        """By its id or the beginning of it. Raises NodeError."""
        return find("sandbox", ident, self.sandboxes.items())

    async def close(self) -> None:
        """End all of them, as the host ends."""
        for sandbox in [*self.sandboxes.values()]:
            try:
                await self.stop_sandbox(sandbox)
            except NodeError as e:
                log.warning("sandbox %s is left to the runtime: %s", sandbox.status.id, e)


async def _log(to: ContainerLog, run: ContainerRun, begun: asyncio.Future[str]) -> None:
    """Write the log of a run that runs: before that there is none to be read."""
    if not await asyncio.shield(begun):
        await to.follow(run)

"""One run of a container in another runtime."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import ContainerConfigError, NodeError, NotHere, NotRunning, RuntimeAway, RuntimeFailed
from rayplane.node.lifecycle.model import START_ERROR, ContainerUser
from rayplane.node.runtime import ExecSession, Features, Listener, LogOptions, Mount, StartOrder, Usage
from rayplane.node.runtime.cri.client import CALL_S, SANDBOX_S, CriClient
from rayplane.node.runtime.cri.configs import TERMINATION_LOG, Node, Prepared, container_config, propagation_of
from rayplane.node.runtime.cri.images import Images, check_user, name_and_id
from rayplane.node.runtime.cri.observer import Observer
from rayplane.node.runtime.cri.pods import CriPod
from rayplane.node.runtime.cri.resources import container_resources
from rayplane.node.runtime.cri.rotation import rotate
from rayplane.node.runtime.cri.streams import FinishedCommand, Forwarder, open_command
from rayplane.node.runtime.logfile import LogFile, LogLimits
from rayplane.node.runtime.pod_network import DIRECT
from rayplane.node.runtime.termination import termination_message
from rayplane.node.runtime.tree import TERMINATION_LOG as MESSAGE_FILE
from rayplane.node.runtime.tree import ContainerTree
from rayplane.node.shim.child import OOM_KILLED
from rayplane.proto.cri import cri_pb2 as pb
from rayplane.storage.beneath import Beneath

log = logging.getLogger(__name__)

CREATE_ERROR, RUN_ERROR = "CreateContainerError", "RunContainerError"
#: What a container that is nowhere to be found has exited with, as in Kubernetes.
LOST_CODE = 137
_LOST = "The container could not be located: the runtime does not know it any more"
#: Beyond its grace, until the runtime is told again.
LATE_S = 10.0
EXEC_SYNC_S = 60.0


class Whole(Protocol):
    """A runtime as a whole; see CriRuntime."""

    client: CriClient
    node: Node
    version: str
    features: Features
    images: Images
    observer: Observer
    forwarder: Forwarder
    logs: LogLimits
    pods: dict[str, CriPod]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]: ...

    async def renew_sandbox(self, pod: CriPod) -> bool: ...


class CriRun:
    """The run of one container; `begin` once."""

    real = True

    def __init__(self, runtime: Whole, order: StartOrder, listener: Listener) -> None:
        self._runtime = runtime
        self._order = order
        self._listener = listener
        self.id = ""
        self._image = ("", "")
        self._over = False
        self._begun = False
        self._late_at = float("inf")
        self._grace_s: float | None = None  # since it is to end
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        name = order.container["name"]
        self._log_name = f"{name}/{order.attempt}.log"
        self._tree = ContainerTree(order.directory, name)
        logs = os.path.join(order.directory, "logs")
        self.log_path = os.path.join(logs, self._log_name)
        self._log = LogFile(Beneath(logs), self._log_name, lambda: self._over, lags=True)

    # --- start ------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._starting = self._runtime.spawn(self._start(), f"start of {self._order.container['name']}")

    async def _start(self) -> None:
        reason = CREATE_ERROR
        try:
            pod = self._runtime.pods.get(self._order.pod["metadata"]["uid"])
            if pod is None:
                raise RuntimeFailed("the pod has no sandbox")
            if self._order.survivor:
                self._take_over(pod)
                return
            self.id = await self._create(pod)
            pod.running[self._order.container["name"]] = self.id
            if self._grace_s is not None:
                raise RuntimeFailed("it was to end before it ran")
            # From here on it may run, and end, whatever the answer is.
            reason = START_ERROR
            asked = pb.StartContainerRequest(container_id=self.id)
            await self._runtime.client.call("StartContainer", asked, timeout=SANDBOX_S)
        except ContainerConfigError as e:
            self._failed(e.reason, str(e))
        except RuntimeAway as e:
            self._failed(RUN_ERROR if reason == START_ERROR else reason, str(e))
        except (NodeError, OSError) as e:
            self._failed(reason, str(e))
        else:
            self._begun = True
            self._runtime.observer.add(self.id, self)
            name = f"{self._runtime.version.partition(':')[0] or 'cri'}://{self.id}"
            self._listener.started(name, self._image, await self._user())
            self._runtime.observer.hint(self.id)
            if self._grace_s is not None:
                self.stop(self._grace_s)

    async def _user(self) -> ContainerUser | None:
        """As whom it began, where the runtime tells."""
        if not self._runtime.features.groups_policy:
            return None
        try:
            asked = pb.ContainerStatusRequest(container_id=self.id)
            answer = await self._runtime.client.call("ContainerStatus", asked)
        except NodeError as e:
            log.info("the user of container %s is not known: %s", self.id, e)
            return None
        user = answer.status.user
        if not user.HasField("linux"):
            return None
        return ContainerUser(user.linux.uid, user.linux.gid, tuple(user.linux.supplemental_groups))

    def _take_over(self, pod: CriPod) -> None:
        """Go on with the container that there is; where it went with its sandbox, it has ended."""
        self.id = self._order.survivor.rpartition("/")[2]
        self._begun = True
        self._listener.started(self._order.survivor)
        if self.id not in pod.left:
            self.lost()
            return
        pod.left.discard(self.id)
        pod.running[self._order.container["name"]] = self.id
        self._runtime.observer.add(self.id, self)
        self._runtime.observer.hint(self.id)
        if self._grace_s is not None:
            self.stop(self._grace_s)

    def _failed(self, reason: str, message: str) -> None:
        self._over = True
        if self.id:
            self._runtime.spawn(self._remove(self.id), f"removal of container {self.id}")
        self._listener.failed(reason, message)

    async def _create(self, pod: CriPod) -> str:
        """The new container's id. Raises NodeError, OSError."""
        client = self._runtime.client
        image = await self._ensure_image(pod)
        await self._remove_dead(pod)
        prepared = self._prepare(pod, image)
        for again in (False, True):
            request = pb.CreateContainerRequest(
                pod_sandbox_id=pod.sandbox_id,
                config=container_config(self._order, prepared, self._runtime.node),
                sandbox_config=pod.config,
            )
            try:
                answer = await client.call("CreateContainer", request, timeout=SANDBOX_S)
            except RuntimeAway:
                raise
            except NodeError:
                # The sandbox may be what is missing, or the image: it was removed just when this pod came.
                if again:
                    raise
                is_gone = not await self._runtime.images.has(image)
                if not await self._runtime.renew_sandbox(pod) and not is_gone:
                    raise
                if is_gone:
                    prepared = replace(prepared, image=await self._ensure_image(pod))
            else:
                if not answer.container_id:
                    raise RuntimeFailed("the runtime made a container and gave it no id")
                return str(answer.container_id)
        raise RuntimeFailed("the pod's sandbox goes as soon as it is made")

    async def _ensure_image(self, pod: CriPod) -> pb.Image:
        """The container's image, held for it from now on. Raises NodeError."""
        container = self._order.container
        pod.images.add(container.get("image") or "")
        image = await self._runtime.images.ensure(self._order.pod, container, pod.config)
        pod.images.add(image.id)
        check_user(self._order.pod, container, image)
        self._image = name_and_id(container["image"], image)
        return image

    async def _remove_dead(self, pod: CriPod) -> None:
        """Remove the runs before, but for the last one."""
        name = self._order.container["name"]
        last, before = pod.running.pop(name, ""), pod.dead.pop(name, "")
        if last:
            pod.dead[name] = last
        if before:
            await self._remove(before)

    async def _remove(self, ident: str) -> None:
        try:
            await self._runtime.client.call("RemoveContainer", pb.RemoveContainerRequest(container_id=ident))
        except NodeError as e:
            log.info("container %s goes with its sandbox: %s", ident, e)

    def _prepare(self, pod: CriPod, image: pb.Image) -> Prepared:
        """Make the container's files on the machine. Raises ContainerConfigError, OSError."""
        container = self._order.container
        os.makedirs(os.path.dirname(self.log_path), exist_ok=True)
        self._tree.prepare((), log="")
        message = os.path.join(self._tree.files.root, MESSAGE_FILE)
        with open(message, "wb"):
            os.chmod(message, 0o666)
        path = container.get("terminationMessagePath") or TERMINATION_LOG
        mounts = [self._mount(mount) for mount in self._order.mounts]
        mounts.append(pb.Mount(container_path=path, host_path=message))
        if pod.place.hosts is not None and not any(m.container_path == "/etc/hosts" for m in mounts):
            hosts = os.path.join(self._order.directory, "etc-hosts")
            with open(hosts, "wb") as file:
                file.write(pod.place.hosts(pod.ip))
            os.chmod(hosts, 0o644)
            mounts.append(pb.Mount(container_path="/etc/hosts", host_path=hosts))
        target = container.get("targetContainerName") or ""
        return Prepared(image, self._log_name, tuple(mounts), pod.running.get(target, ""))

    def _mount(self, mount: Mount) -> pb.Mount:
        return pb.Mount(
            container_path=mount.mount_path,
            host_path=self._tree.source(mount),
            readonly=mount.read_only,
            recursive_read_only=mount.recursive,
            propagation=propagation_of(self._order.container, mount.mount_path),  # type: ignore[arg-type]
        )

    # --- end --------------------------------------------------------------------------------------

    @property
    def is_late(self) -> bool:
        """Whether it should have ended by now."""
        return asyncio.get_running_loop().time() > self._late_at

    def stop_again(self) -> None:
        self.stop(0.0)

    def stop(self, grace_s: float) -> None:
        if self._over:
            return
        self._grace_s = grace_s
        if not self._begun:
            return  # its start will see it
        self._late_at = asyncio.get_running_loop().time() + grace_s + LATE_S
        if self._stopping is not None:
            self._stopping.cancel()
        self._stopping = self._runtime.spawn(self._stop(grace_s), f"end of container {self.id}")

    async def _stop(self, grace_s: float) -> None:
        asked = pb.StopContainerRequest(container_id=self.id, timeout=int(grace_s + 0.999))
        try:
            await self._runtime.client.call("StopContainer", asked, timeout=grace_s + CALL_S)
        except NotHere:
            self.lost()
        except NodeError as e:
            log.info("container %s does not end yet: %s", self.id, e)
        else:
            self._runtime.observer.hint(self.id)

    def ended(self, status: pb.ContainerStatus) -> None:
        """The runtime says that it has exited."""
        if self._over:
            return
        self._end()
        message = termination_message(self._tree.files, self._log, self._order.container, status.exit_code)
        reason = status.reason if status.reason == OOM_KILLED else ""
        self._listener.exited(status.exit_code, 0, message or status.message, reason)

    def lost(self) -> None:
        """The runtime does not know it any more."""
        if self._over:
            return
        self._end()
        self._listener.exited(LOST_CODE, 0, _LOST)

    def _end(self) -> None:
        self._over = True
        self._runtime.observer.drop(self.id)
        if self._stopping is not None and self._stopping is not asyncio.current_task():
            self._stopping.cancel()

    # --- while it runs ----------------------------------------------------------------------------

    def logs(self, options: LogOptions) -> AsyncIterator[bytes]:
        return self._log.read(options)

    async def rotate_log(self) -> None:
        await rotate(self._runtime.client, self.id, self.log_path, self._runtime.logs)

    def _check_runs(self) -> None:
        if self._over or not self._begun:
            raise NotRunning(f"container {self._order.container['name']} does not run")

    async def exec(self, command: list[str], *, tty: bool, stdin: bool, size: tuple[int, int] = (0, 0)) -> ExecSession:
        self._check_runs()
        asked = pb.ExecRequest(container_id=self.id, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
        answer = await self._runtime.client.call("Exec", asked)
        try:
            session = await open_command(answer.url, tty=tty, stdin=stdin)
        except RuntimeAway:
            if tty or stdin:
                raise
            # Its streams cannot be reached from here, as in another network: the call itself can.
            return await self._exec_sync(command)
        if all(size):
            session.resize(*size)
        return session

    async def _exec_sync(self, command: list[str]) -> ExecSession:
        asked = pb.ExecSyncRequest(container_id=self.id, cmd=command, timeout=int(EXEC_SYNC_S))
        answer = await self._runtime.client.call("ExecSync", asked, timeout=EXEC_SYNC_S + CALL_S)
        return FinishedCommand(answer.stdout, answer.stderr, answer.exit_code)

    async def attach(self, *, stdin: bool) -> ExecSession:
        self._check_runs()
        tty = bool(self._order.container.get("tty"))
        stdin = stdin and bool(self._order.container.get("stdin"))
        asked = pb.AttachRequest(container_id=self.id, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
        answer = await self._runtime.client.call("Attach", asked)
        return await open_command(answer.url, tty=tty, stdin=stdin)

    async def connect(self, host: str, port: int) -> socket.socket:
        return await DIRECT.connect(host, port)

    async def forward(self, ip: str, port: int) -> socket.socket:
        """A connection to a port of the pod from within, where its programs may listen on their own addresses alone."""
        pod = self._runtime.pods.get(self._order.pod["metadata"]["uid"])
        if pod is None or not pod.sandbox_id:
            raise NotRunning("the pod has no sandbox")
        asked = pb.PortForwardRequest(pod_sandbox_id=pod.sandbox_id, port=[port])
        answer = await self._runtime.client.call("PortForward", asked)
        return await self._runtime.forwarder.connect(answer.url, port)

    def stress(self, pod: Object) -> None:
        """Do nothing: another's containers are not ours to work in, and experiments on them are refused."""

    async def resize(self, pod: Object, container: dict[str, Any]) -> None:
        if self._starting is not None:
            # It is made with what it was to have before.
            await asyncio.wait([self._starting])
        if self._begun and not self._over:
            resources = container_resources(pod, container, node_memory=self._runtime.node.memory)
            asked = pb.UpdateContainerResourcesRequest(container_id=self.id, linux=resources)
            await self._runtime.client.call("UpdateContainerResources", asked)

    def usage(self, pod: Object) -> Usage:
        return self._runtime.observer.usage(self.id) if self._begun and not self._over else Usage()

    def probe_delay(self, probe: str) -> tuple[float, bool] | None:
        return None

"""A runtime of another project as a node's: what it runs, driven and watched over CRI.

Sandboxes and containers carry the label of the node host that made them. What bears it and is not known any more is
removed: of an earlier life of the host, or of a call whose answer never came. Others' are never touched. The runtime
may hang, die, lie, or come back without memory: calls end in time, containers that are gone have ended, and sandboxes
that are gone are made anew. While it does not answer the node says so.

All on the event loop; the calls of one pod follow each other. Bounds: time of each call, size of its answer, pods that
are removed at a time.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import NO_RULES
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import RUNTIME_CLASSES, NodeConfig
from rayplane.node.environment import Found, Reference
from rayplane.node.errors import NodeError, NotHere, RuntimeAway, RuntimeFailed, SandboxError
from rayplane.node.images.collection import Thresholds
from rayplane.node.runtime import ContainerRun, Features, Listener, PodPlace, StartOrder
from rayplane.node.runtime.cri.client import SANDBOX_S, CriClient
from rayplane.node.runtime.cri.configs import OWNER, Node, sandbox_config
from rayplane.node.runtime.cri.credentials import credentials_for
from rayplane.node.runtime.cri.gateway import ServiceGateway, network_namespace
from rayplane.node.runtime.cri.groups import remove_groups
from rayplane.node.runtime.cri.images import Images, Keyring, Record, no_keys, unwritten
from rayplane.node.runtime.cri.left import left_behind
from rayplane.node.runtime.cri.observer import Observer
from rayplane.node.runtime.cri.pods import CriPod
from rayplane.node.runtime.cri.run import CriRun
from rayplane.node.runtime.cri.stock import CriStock
from rayplane.node.runtime.cri.streams import Forwarder
from rayplane.node.runtime.cri.volumes import give_volumes
from rayplane.node.runtime.logfile import LogLimits
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.runtime.survivors import Left, Survivors
from rayplane.proto.cri import cri_pb2 as pb

log = logging.getLogger(__name__)

LOGS = "logs"
REMOVALS_MAX = 16
REMOVE_TRIES = 5
REMOVE_PAUSE_S = 1.0
CLOSE_S = 20.0
_READY = pb.PodSandboxState.SANDBOX_READY


FindObjects = Callable[[str, list[Reference]], Awaitable[Found]]
"""Objects of a namespace, None for one that is not there. Raises SourceUnavailable."""


Handler = Callable[[Object], Awaitable[str]]
"""The name by which the runtime knows how to run a pod; empty: as it runs all. Raises NodeError."""


async def usual(pod: Object) -> str:
    return ""


class CriRuntime:
    """The runtime at a socket. `node`: whose it is here; `gateway`: how pods come to services, None where they do not;
    `record`: says so on those; `volumes`: directories of volumes that pods get as theirs; `unused`:
    when images go; `watchers` are told when `trouble` has changed.
    """

    network_id = ""
    isolation = f"its runtime's{NO_RULES}"

    def __init__(
        self,
        client: CriClient,
        node: Node,
        *,
        keyring: Keyring = no_keys,
        handler: Handler = usual,
        gateway: ServiceGateway | None = None,
        record: Record = unwritten,
        volumes: Sequence[str] = (),
        logs: LogLimits | None = None,
        unused: Thresholds | None = None,
    ) -> None:
        self._gateway = gateway
        self._volumes = [os.path.realpath(directory) for directory in volumes]
        self.network: PodNetwork = gateway or DIRECT
        self.client = client
        self.node = node
        self.trouble = ""
        self.no_services = ""
        self.features = Features()
        self.version = ""
        self.watchers: list[Callable[[], None]] = []
        self.images = Images(client, keyring, record)
        self.stock = CriStock(client, self._held_images, unused or Thresholds())
        self.images.pulled = self.stock.changed
        self._handler = handler
        self._record = record
        self.forwarder = Forwarder()
        self.logs = logs or LogLimits()
        self.observer = Observer(self)
        self.pods: dict[str, CriPod] = {}
        self.survivors = Survivors(settled=self._tidy_up)
        self._cidr = ""
        self._removals = asyncio.Semaphore(REMOVALS_MAX)
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    # --- life -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look at the runtime; where it cannot be used there is `trouble`, and it is looked at again."""
        if self._gateway is not None:
            try:
                await self._gateway.open()
            except OSError as e:
                log.warning("services are not there for pods of the runtime at %s: %s", self.client.path, e)
                self.no_services = f"the gateway of this runtime's pods to them cannot be opened: {e}"
                self._gateway, self.network = None, DIRECT
        try:
            self.survivors.found(await left_behind(self.client, self.node.owner))
        except NodeError as e:
            log.info("what an earlier life left in the runtime is not taken over: %s", e)
        await self.meet()
        self.observer.start()

    async def meet(self) -> bool:
        """Whether the runtime can be used. It may be another one than before, or have forgotten what it was told."""
        try:
            found, features = await self.client.check()
            driver = await self.client.cgroup_driver()
        except NodeError as e:
            self.tell(str(e))
            return False
        self.node = replace(self.node, driver=driver)
        self.features = features
        self.version = f"{found.runtime_name}://{found.runtime_version}"
        if self._cidr:
            await self._tell_cidr(self._cidr)
        await self._remove_left()
        self.tell("")
        return True

    def tell(self, trouble: str) -> None:
        """There is this trouble, or none."""
        if trouble == self.trouble:
            return
        log.warning("the runtime at %s: %s", self.client.path, trouble or "it can be used again")
        self.trouble = trouble
        for watcher in self.watchers:
            watcher()

    async def close(self) -> None:
        """Remove what this host made. What the runtime does not remove in time is left to the host's next life."""
        await self.observer.stop()
        self.survivors.forget()
        for pod in self.pods.values():
            pod.gone = True
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.remove_strangers()
        except (NodeError, TimeoutError) as e:
            log.warning("what runs at %s is left there: %s", self.client.path, e or "it takes too long to remove")
        await cancel_and_wait(*self._tasks, *self._removing.values())
        await self.forwarder.close()
        if self._gateway is not None:
            self._gateway.close()
        await self.client.close()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

    def keep_alive(self, seconds: float) -> None:
        """Containers of another runtime have no watchdog of ours: they end when this host says so, or comes back."""

    def add_node(self, address: str, cidr: str) -> None:
        if not self._cidr:
            self._cidr = cidr
            self.spawn(self._tell_cidr(cidr), "pod CIDR for the runtime")

    async def _tell_cidr(self, cidr: str) -> None:
        config = pb.RuntimeConfig(network_config=pb.NetworkConfig(pod_cidr=cidr))
        try:
            await self.client.call("UpdateRuntimeConfig", pb.UpdateRuntimeConfigRequest(runtime_config=config))
        except NodeError as e:
            log.info("the runtime at %s takes no pod CIDR: %s", self.client.path, e)

    # --- pods -------------------------------------------------------------------------------------

    async def add_pod(self, place: PodPlace) -> str:
        pod = self.pods.get(place.uid)
        if pod is None or pod.gone:
            pod = self.pods[place.uid] = CriPod(place)
        pod.place = place
        try:
            async with pod.lock:
                # In a thread: a volume may have many files.
                await asyncio.to_thread(give_volumes, place, self._volumes)
                await self._make_sandbox(pod)
        except NodeError as e:
            raise SandboxError(f"failed to create pod sandbox: {e}") from e
        return pod.ip

    async def _make_sandbox(self, pod: CriPod) -> None:
        """Each try has a name of its own: of the one before nobody may know whether it came to be."""
        if pod.sandbox_id:
            return
        kept = self.survivors.kept(pod.place.uid)
        if kept is not None:
            pod.attempts = kept[0].attempt
            pod.handler = kept[0].handler
            # While the runtime is away it stays kept: the pod comes again.
            taken_over = await self._take_over(pod, *kept)
            self.survivors.take(pod.place.uid)
            if taken_over:
                return
        config = self._next_config(pod)
        pod.handler = await self._handler(pod.place.pod)
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=pod.handler)
        answer = await self.client.call("RunPodSandbox", request, timeout=SANDBOX_S)
        if not answer.pod_sandbox_id:
            raise RuntimeFailed("the runtime made a sandbox and gave it no id")
        await self._settle_in(pod, answer.pod_sandbox_id, config)

    def _next_config(self, pod: CriPod) -> pb.PodSandboxConfig:
        logs = os.path.join(pod.place.directory, LOGS)
        os.makedirs(logs, exist_ok=True)
        pod.attempts += 1
        return sandbox_config(pod.place, self.node, attempt=pod.attempts - 1, log_directory=logs)

    async def _settle_in(self, pod: CriPod, ident: str, config: pb.PodSandboxConfig) -> None:
        """The pod has this sandbox. Raises NodeError."""
        ip = pod.place.ip
        if not pod.place.host_network:
            found = await self._ask_about(ident, verbose=self._gateway is not None)
            ip = found.status.network.ip
            if found.status.state != _READY or not ip:
                raise RuntimeFailed(f"sandbox {ident} has no address, or is not ready")
            await self._lead_to_services(pod.place.pod, ident, ip, found.info)
        pod.config, pod.sandbox_id, pod.ip = config, ident, ip

    async def _take_over(self, pod: CriPod, left: Left, containers: Collection[str]) -> bool:
        """Have the pod go on in the sandbox that it had; whether it can. What nobody takes over there ends."""
        goes_on = {left.runs[name].container_id.rpartition("/")[2] for name in containers}
        try:
            for ident in left.unfinished:
                if ident not in goes_on:
                    await self.client.call("RemoveContainer", pb.RemoveContainerRequest(container_id=ident))
            await self._settle_in(pod, left.sandbox_id, self._next_config(pod))
        except RuntimeAway:
            raise
        except NodeError as e:
            log.info("sandbox %s is made anew: %s", left.sandbox_id, e)
            return False
        pod.left = goes_on
        return True

    async def sandbox_status(self, ident: str) -> pb.PodSandboxStatus:
        """Raises NotHere, NodeError."""
        return (await self._ask_about(ident)).status

    async def _ask_about(self, ident: str, *, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=ident, verbose=verbose)
        answer: pb.PodSandboxStatusResponse = await self.client.call("PodSandboxStatus", request)
        if answer.status.id != ident:
            raise RuntimeFailed(f"the runtime was asked for sandbox {ident} and told of {answer.status.id!r}")
        return answer

    async def _lead_to_services(self, pod: Object, ident: str, ip: str, info: Mapping[str, str]) -> None:
        """Give a sandbox its way to services. It runs without one where it cannot have one, and its pod says so."""
        if self._gateway is None:
            return
        try:
            await self._gateway.add_sandbox(ident, ip, network_namespace(info))
        except OSError as e:
            log.warning("services are not there in sandbox %s: %s", ident, e)
            self._record(pod, "Warning", "NoServices", f"it does not find services: {e}")

    async def renew_sandbox(self, pod: CriPod) -> bool:
        """Make a pod's sandbox anew if it is gone, with the address that it gets; whether it was. Raises NodeError."""
        async with pod.lock:
            before = pod.sandbox_id
            try:
                if before and (await self.sandbox_status(before)).state == _READY:
                    return False
            except NotHere:
                pass
            pod.sandbox_id = ""
            await self._make_sandbox(pod)
        if pod.place.moved is not None:
            pod.place.moved(pod.ip)
        return True

    def _held_images(self) -> set[str]:
        """Names and ids of the images of pods that are here, or come."""
        pods = [pod for pod in self.pods.values() if not pod.gone]
        said = {container.get("image") or "" for pod in pods for container in every(meta.spec(pod.place.pod))}
        return said.union(*(pod.images for pod in pods))

    def handler_of(self, uid: str) -> str:
        pod = self.pods.get(uid)
        return pod.handler if pod is not None else ""

    def resize_pod(self, pod: Object) -> None:
        """Do nothing: another runtime's pods are held to limits by their containers alone."""

    def remove_pod(self, uid: str) -> None:
        if self.survivors.take(uid) is not None:
            self._tidy_up()  # it ended before it was taken over
        pod = self.pods.pop(uid, None)
        if pod is not None:
            pod.gone = True
            self.spawn(self._remove(pod), f"removal of the sandbox of {uid}")

    async def _remove(self, pod: CriPod) -> None:
        """Try now and then; what cannot be removed is found again as a stranger."""
        for _ in range(REMOVE_TRIES):
            try:
                async with pod.lock, self._removals:
                    if pod.sandbox_id:
                        await self._remove_sandbox(pod.sandbox_id, pod.place.uid)
                return
            except NodeError as e:
                log.info("sandbox %s is not removed yet: %s", pod.sandbox_id, e)
            await asyncio.sleep(REMOVE_PAUSE_S)

    async def _remove_sandbox(self, ident: str, uid: str) -> None:
        """Raises NodeError. Once at a time: two who take away its network would be in each other's way."""
        removal = self._removing.get(ident)
        if removal is None:
            removal = self._removing[ident] = asyncio.create_task(self._removed(ident, uid), name=f"end of {ident}")
            removal.add_done_callback(lambda _: self._removing.pop(ident, None))
        await asyncio.shield(removal)

    async def _removed(self, ident: str, uid: str) -> None:
        await self.client.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=ident), timeout=SANDBOX_S)
        await self.client.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=ident), timeout=SANDBOX_S)
        remove_groups(uid)
        if self._gateway is not None:
            await self._gateway.remove_sandbox(ident)

    def _tidy_up(self) -> None:
        self.spawn(self._remove_left(), "removal of what an earlier life left")

    async def _remove_left(self) -> None:
        try:
            await self.remove_strangers()
        except NodeError as e:
            log.warning("what an earlier life left in the runtime stays for now: %s", e)

    async def remove_strangers(self) -> None:
        """Remove what this host's label is on and no pod of this host is in. Raises NodeError."""
        asked = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector={OWNER: self.node.owner}))
        answer = await self.client.call("ListPodSandbox", asked)
        known = {pod.sandbox_id for pod in self.pods.values() if not pod.gone} | self.survivors.sandboxes
        busy = {pod.place.uid for pod in self.pods.values() if pod.lock.locked() and not pod.gone}
        strangers = [
            (item.id, item.metadata.uid)
            for item in answer.items
            # A runtime that filters badly must not cost others their pods.
            if item.labels.get(OWNER) == self.node.owner and item.id not in known and item.metadata.uid not in busy
        ]
        for at in range(0, len(strangers), REMOVALS_MAX):
            part = strangers[at : at + REMOVALS_MAX]
            results = await asyncio.gather(*(self._remove_sandbox(*one) for one in part), return_exceptions=True)
            for error in results:
                if isinstance(error, RuntimeAway):
                    raise error
                if isinstance(error, BaseException):
                    log.warning("a sandbox of an earlier life cannot be removed: %s", error)

    # --- containers -------------------------------------------------------------------------------

    def start(self, order: StartOrder, listener: Listener) -> ContainerRun:
        run = CriRun(self, order, listener)
        run.begin()
        return run


def runtime_at(
    path: str,
    node: NodeConfig,
    *,
    own: tuple[str, str, str],
    find: FindObjects,
    lead: Sequence[str] = (),
    record: Record = unwritten,
    logs: LogLimits | None = None,
    unused: Thresholds | None = None,
) -> CriRuntime:
    """The runtime at a socket, for a host whose first node this is. `own`: where the host has its pods' directories,
    other volumes of theirs, and filters of system calls; `find`: looks up what pods refer to; `lead`: networks that
    pods find by this host, where its user is root; `record`: writes events; `unused`: when images go that nobody uses.
    """

    async def keys(pod: Object, image: str) -> list[pb.AuthConfig]:
        names = [secret["name"] for secret in meta.spec(pod).get("imagePullSecrets") or ()]
        found = await find(meta.namespace(pod), [Reference("secrets", name) for name in names])
        return credentials_for(image, found.values())

    # The host's own directory tells it from every other that uses this runtime, also in its next life.
    owner = hashlib.sha256(os.path.realpath(own[0]).encode()).hexdigest()[:32]
    here = Node(owner, node.name, quantity.value(node.memory), profiles=own[2])
    gateway = ServiceGateway(lead) if lead and os.geteuid() == 0 else None
    handler = partial(handler_of_class, find)
    return CriRuntime(
        CriClient(path),
        here,
        keyring=keys,
        handler=handler,
        gateway=gateway,
        record=record,
        volumes=own[:2],
        logs=logs,
        unused=unused,
    )


async def handler_of_class(find: FindObjects, pod: Object) -> str:
    """The handler that the pod's RuntimeClass names. Raises SandboxError, SourceUnavailable."""
    name = meta.spec(pod).get("runtimeClassName")
    if not name:
        return ""
    (found,) = (await find("", [Reference(RUNTIME_CLASSES, name)])).values()
    if found is None:
        raise SandboxError(f'runtimeclass.node.k8s.io "{name}" not found')
    return str(found.get("handler") or "")

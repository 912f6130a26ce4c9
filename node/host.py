"""A node host: the nodes of one process and what they share."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, Informer
from rayplane.control_plane.rpc import Network, Service
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node import callers
from rayplane.node.config import PROCESS, NodeHostConfig
from rayplane.node.errors import ConfigError, NotHere
from rayplane.node.ingress.status import IngressStatus
from rayplane.node.kubelet.heartbeats import Heartbeats
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.node.kubelet.prober import Prober
from rayplane.node.kubelet.sources import Sources
from rayplane.node.kubelet.status_manager import StatusManager
from rayplane.node.runtime import Runtime
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.streaming.service import NodeService
from rayplane.node.streaming.sessions import Sessions
from rayplane.node.volumes.pod_files import PodFiles
from rayplane.node.volumes.volume_manager import VolumeManager
from rayplane.proto.rayplane.v1 import node_pb2
from rayplane.storage.env import Env

if TYPE_CHECKING:
    from rayplane.node.proxy.proxy import ServiceProxy

log = logging.getLogger(__name__)

EVENT_BURST_S = 5.0
RETRY_S = 1.0


class NodeHost:
    """`start` registers the nodes and returns once their pods are being looked after; `stop` ends all pods.

    `client`: how to reach the API; made from `config.apiservers` when not given.
    """

    def __init__(self, config: NodeHostConfig, env: Env, network: Network, *, client: ApiClient | None = None) -> None:
        config.validate()
        self.config = config
        self.env = env
        self.network = network
        self.client = client or ApiClient(network, config.apiservers)
        self.recorder = EventRecorder(self.client, env, component="kubelet", host=config.nodes[0].name)
        self.writer = StatusManager(self.client, window_s=config.batch_window_s)
        self.sources = Sources(self.client)
        self.prober = Prober()
        self.sessions = Sessions()
        self.advertised = ""
        self.pod_files: PodFiles | None = None
        self.volumes: VolumeManager | None = None
        self.proxy: ServiceProxy | None = None
        self._runtimes: dict[str, Runtime] = {}
        self.kubelets: dict[str, Kubelet] = {}
        self.nodes = Informer(self.client, "nodes")
        self._pods: list[Informer] = []
        self._heartbeats: Heartbeats | None = None
        self._stack = contextlib.AsyncExitStack()
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._event_tokens = config.events_per_s * EVENT_BURST_S
        self._event_time = 0.0

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError when an address cannot be had; call `stop` then too."""
        # What is pushed last is stopped first: traffic, then pods, then what they need.
        stack = self._stack
        self._make_runtimes()
        self.recorder.start()
        stack.push_async_callback(self.recorder.stop)
        self.nodes.start()
        stack.push_async_callback(self.nodes.stop)
        self.volumes = VolumeManager(self)
        services = [
            Service(node_pb2.DESCRIPTOR.services_by_name["Node"], NodeService(self), callers=callers.NODE),
            *self.volumes.services(),
        ]
        server = await self.network.serve(self.config.address, services)
        stack.push_async_callback(server.stop)
        self.advertised = self._advertised(server.address)
        stack.push_async_callback(self.volumes.stop)
        await self.volumes.start()
        for runtime in self._runtimes.values():
            stack.push_async_callback(runtime.close)
            await runtime.open()
        stack.push_async_callback(self.prober.close)
        stack.push_async_callback(self.sources.stop)
        stack.push_async_callback(self._cancel_tasks)
        await self._start_kubelets()
        self.spawn(self._release_volumes(), "release of volumes")
        await self._start_traffic()

    async def _start_kubelets(self) -> None:
        for node in self.config.nodes:
            self.kubelets[node.name] = Kubelet(self, node, self._runtimes[node.runtime])
        kubelets = [*self.kubelets.values()]
        self._stack.callback(self._close_kubelets)
        self.writer.start()
        self._stack.push_async_callback(self.writer.stop)
        await asyncio.gather(*(k.register() for k in kubelets))
        self._heartbeats = Heartbeats(self.client, self.env, self.config.timing, kubelets)
        self._heartbeats.start()
        self._stack.push_async_callback(self._heartbeats.stop)
        self.nodes.add_handler(self._node_event)
        await self._watch_pods()

    def _close_kubelets(self) -> None:
        for kubelet in self.kubelets.values():
            kubelet.close()

    async def _cancel_tasks(self) -> None:
        tasks = [*self._tasks]
        await cancel_and_wait(*tasks)

    async def stop(self) -> None:
        """May be called again."""
        await self._stack.aclose()

    async def _release_volumes(self) -> None:
        assert self.volumes is not None
        while True:
            try:
                await self.volumes.release_unused()
                return
            except ApiError as e:
                log.info("volumes of an earlier life are not released yet: %s", e.message)
                await asyncio.sleep(RETRY_S)

    async def _start_traffic(self) -> None:
        config = self.config
        if config.ingress_address:
            status = IngressStatus(self.client, self.env, self._external_addresses())
            status.start()
            self._stack.push_async_callback(status.stop)
        wanted = config.runs_processes if config.proxy is None else config.proxy
        if not wanted:
            return
        # Imported here so that a simulation never loads what opens sockets.
        from rayplane.node.ingress.ingress import Ingress
        from rayplane.node.proxy.proxy import ServiceProxy

        await self.nodes.synced()
        self.proxy = ServiceProxy(self)
        self._stack.push_async_callback(self.proxy.stop)
        await self.proxy.start()
        if config.ingress_address:
            ingress = Ingress(self, self.proxy, config.ingress_address)
            self._stack.push_async_callback(ingress.stop)
            await ingress.start()

    def _external_addresses(self) -> list[str]:
        return [*(self.config.external_addresses or (self.config.ingress_address.rpartition(":")[0],))]

    def _make_runtimes(self) -> None:
        simulated = SimulatedRuntime(self.env.rng, self.env.timestamp)
        for name in dict.fromkeys(n.runtime for n in self.config.nodes):
            if name != PROCESS:
                self._runtimes[name] = simulated
                continue
            # Imported here so that a simulation never loads what forks.
            from rayplane.node.runtime.process import ProcessRuntime

            root = self.env.disk.local_path(self.config.pod_dir)
            if root is None:
                raise ConfigError("nodes: the process runtime needs a real disk")
            self.pod_files = PodFiles(root)
            self._runtimes[name] = ProcessRuntime(simulated)

    def _advertised(self, bound: str) -> str:
        host, _, port = bound.rpartition(":")
        return f"{self.config.advertise_host or host}:{port}"

    async def _watch_pods(self) -> None:
        names = [*self.kubelets]
        if len(names) >= self.config.shared_informer_from:
            selectors = [f"spec.nodeName in ({','.join(names)})"]
        else:
            selectors = [f"spec.nodeName={name}" for name in names]
        for selector in selectors:
            informer = Informer(self.client, "pods", field_selector=selector)
            informer.add_handler(self._pod_event)
            self._pods.append(informer)
            informer.start()
            self._stack.push_async_callback(informer.stop)
        for informer in self._pods:
            await informer.synced()
        if self.pod_files is not None:
            await self.pod_files.keep_only(meta.uid(w.pod) for k in self.kubelets.values() for w in k.workers)

    # --- events -----------------------------------------------------------------------------------

    def _pod_event(self, kind: str, _old: Object | None, pod: Object) -> None:
        kubelet = self.kubelets.get(meta.node_name(pod))
        if kubelet is None:
            return
        try:
            kubelet.pod_event(kind, pod)
        except Exception:
            # One pod that trips over a bug must not end the watch that all others depend on.
            log.exception("pod %s: its change was lost", meta.key(pod))

    def _node_event(self, kind: str, _old: Object | None, node: Object) -> None:
        kubelet = self.kubelets.get(meta.name(node))
        if kubelet is not None and kind != "DELETED":
            kubelet.node_event(node)

    # --- for kubelets -----------------------------------------------------------------------------

    def kubelet(self, name: str) -> Kubelet:
        """Raises NotHere."""
        kubelet = self.kubelets.get(name)
        if kubelet is None:
            raise NotHere(f"node {name} is not on this host")
        return kubelet

    def publish_status(self, kubelet: Kubelet) -> None:
        if self._heartbeats is not None:
            self._heartbeats.mark_status(kubelet)

    def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Write an Event; Normal ones only as fast as the configuration allows, as they are but a courtesy."""
        if kind == "Normal":
            rate = self.config.events_per_s
            now = asyncio.get_running_loop().time()
            refilled = self._event_tokens + (now - self._event_time) * rate
            self._event_tokens, self._event_time = min(rate * EVENT_BURST_S, refilled), now
            if self._event_tokens < 1:
                return
            self._event_tokens -= 1
        self.recorder.event(about, kind, reason, message)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run as a task of this host, cancelled when the host stops."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

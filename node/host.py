"""A node host: the nodes of one process and what they share."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, Informer
from rayplane.control_plane.component_base.debugging import Debugging
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.rpc import Network, Service
from rayplane.node import callers
from rayplane.node.config import PROCESS, SIMULATED, NodeConfig, NodeHostConfig, cri_path
from rayplane.node.errors import ConfigError
from rayplane.node.events import Events
from rayplane.node.images.service import images_service
from rayplane.node.ingress.status import IngressStatus
from rayplane.node.kubelet import metrics
from rayplane.node.kubelet.account_writes import AccountWrites
from rayplane.node.kubelet.host_pods import HostPods
from rayplane.node.kubelet.image_manager import ImageManager, images_of, thresholds_of
from rayplane.node.kubelet.image_watch import ImageStock, watch
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.node.kubelet.node_lease import NodeLeases, stand_in
from rayplane.node.kubelet.node_status import NodeStatuses
from rayplane.node.kubelet.pages import Asked, Page, page
from rayplane.node.kubelet.pod_certificates import PodCertificates
from rayplane.node.kubelet.prober import Prober
from rayplane.node.kubelet.referenced_objects import ReferencedObjects
from rayplane.node.kubelet.registrar import registered
from rayplane.node.kubelet.shared import Shared
from rayplane.node.kubelet.shutdown import SETTLE_S, periods_for, span_of
from rayplane.node.kubelet.stage_catalog import StageCatalog
from rayplane.node.kubelet.stage_player import PlayerParts
from rayplane.node.kubelet.status_manager import StatusManager
from rayplane.node.kubelet.token_manager import TokenManager
from rayplane.node.runtime import Runtime
from rayplane.node.runtime.answers import Answers
from rayplane.node.runtime.logfile import LogLimits
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.streaming.service import NodeService
from rayplane.node.streaming.sessions import Sessions
from rayplane.node.streaming.web import KubeletWeb, reviewer, token_owner
from rayplane.node.tasks import Tasks
from rayplane.node.volumes.attachments import Attachments
from rayplane.node.volumes.drivers.replicated.barrier import socket_directory
from rayplane.node.volumes.drivers.replicated.lease_directory import LeaseDirectory
from rayplane.node.volumes.pod_files import PodFiles, state_of
from rayplane.node.volumes.volume_manager import VolumeManager
from rayplane.proto.rayplane.v1 import node_pb2
from rayplane.storage.env import Env, SubDisk

if TYPE_CHECKING:
    from rayplane.node.cri.server import CriServer
    from rayplane.node.dns.cluster_dns import ClusterDns
    from rayplane.node.kubelet.eviction_manager import Vitals
    from rayplane.node.kubelet.shared import RunsOfPods
    from rayplane.node.overlay.carrier import Carrier
    from rayplane.node.pod_rules import PodRules
    from rayplane.node.proxy.proxy import ServiceProxy
    from rayplane.node.runtime.isolation.runtime import IsolatedRuntime
    from rayplane.node.runtime.pod_network import PodNetwork

log = logging.getLogger(__name__)

RETRY_S = 1.0
SECCOMP_PROFILES = "seccomp"
"""Directory of filters that pods name as `localhostProfile`, below the host's own."""


class NodeHost:
    """A host that composes the parts of a node host; none of them knows it.

    `start` registers the nodes and returns once their pods are being looked after; `stop` ends all pods. `client`: how
    to reach the API; made from `config.apiservers` when not given.
    """

    def __init__(self, config: NodeHostConfig, env: Env, network: Network, *, client: ApiClient | None = None) -> None:
        config.validate()
        self.config, self.env, self.network = config, env, network
        self.client = client or ApiClient(network, config.apiservers, discovery=config.discovery)
        self.advertised = ""
        self.kubelets: dict[str, Kubelet] = {}
        self.sessions = Sessions()
        self.pod_files: PodFiles | None = None
        self.proxy: ServiceProxy | None = None
        self.dns: ClusterDns | None = None
        self.carrier: Carrier | None = None
        self.cri: CriServer | None = None
        self.rules: PodRules | None = None
        self._isolating: IsolatedRuntime | None = None
        self.images: ImageManager | None = None
        self._stocks: dict[str, ImageStock] = {}
        self._recorder = EventRecorder(self.client, env, component="kubelet", host=config.nodes[0].name)
        self._events = Events(self._recorder, per_s=config.events_per_s)
        self._tasks = Tasks()
        self._nodes = Informer(self.client, "nodes")
        self._objects = ReferencedObjects(self.client)
        self._statuses = StatusManager(self.client, window_s=config.batch_window_s)
        self._node_statuses = NodeStatuses(self.client, config.timing)
        self._leases = NodeLeases(self.client, env, config.timing)
        self._prober = Prober()
        self._pods = HostPods(self.kubelets, self._events)
        self._stages = StageCatalog(self.client)
        self._answers = Answers(self.client, env, env.disk.local_path(config.answer_dir))
        self._simulated = SimulatedRuntime(env.rng, env.timestamp, self._answers)
        simulated = {n.name for n in config.nodes if not n.takes_processes}
        self._attachments = Attachments(self.client, self._nodes, self._tell_in_use, simulated=simulated)
        self._volumes = VolumeManager(
            [n.name for n in config.nodes],
            SubDisk(env.disk, config.volume_dir),
            env.clock,
            client=self.client,
            directory=LeaseDirectory(self.client, self._nodes),
            channel=network.channel,
            pods=self._pods,
            attachments=self._attachments,
            capacity_bytes=quantity.value(config.volume_capacity),
        )
        self._runtimes: dict[str, Runtime] = {}
        self._pod_informers: list[Informer] = []
        self._left = False
        self._stack = contextlib.AsyncExitStack()

    def kubelet(self, name: str) -> Kubelet:
        """Return the kubelet of a node. Raises NotHere."""
        return self._pods.kubelet(name)

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        kubelets = self.kubelets
        pods = {name: sum(w.takes_room and bool(w.runs) for w in k.workers) for name, k in kubelets.items()}
        states = {(name, state): n for name, k in kubelets.items() for state, n in k.containers().items()}
        gone = {(name, s): n for name, k in kubelets.items() if k.eviction for s, n in k.eviction.evictions.items()}
        own = {name: k.metrics for name, k in kubelets.items()}
        return metrics.collect(own, pods, states, evictions=gone, space=self._volumes.space())

    async def _page(self, node: str, path: str, query: str, accept: str) -> Page:
        """Raises NotHere."""
        own = lambda: metrics.of_node(node, self.collect())  # noqa: E731
        return await page(path, Asked(self.kubelet(node), query, accept, self.config, self.env.timestamp(), own))

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve and run the nodes. Raises OSError when an address cannot be had; call `stop` then too."""
        # What is pushed last is stopped first: traffic, then pods, then what they need.
        stack = self._stack
        self._make_runtimes()
        self._recorder.start()
        stack.push_async_callback(self._recorder.stop)
        self._nodes.start()
        stack.push_async_callback(self._nodes.stop)
        await self._serve()
        stack.push_async_callback(self._volumes.stop)
        await self._volumes.start()
        for runtime in self._runtimes.values():
            stack.push_async_callback(runtime.close)
            await runtime.open()
        if self.carrier is not None and not self._runtimes[PROCESS].trouble:
            self.carrier.start()
            stack.push_async_callback(self.carrier.stop)
        if self.rules is not None:
            stack.push_async_callback(self.rules.stop)
        stack.push_async_callback(self._objects.stop)
        stack.push_async_callback(self._tasks.cancel)
        stack.push_async_callback(self._stages.stop)
        await self._stages.start()
        if self.rules is not None:
            await self.rules.start(self.client, self._events)
        await self._start_kubelets()
        self._tasks.spawn(self._release_volumes(), "release of volumes")
        await self._start_traffic()
        if self.config.cri_socket:
            await self._start_cri()

    def leave_s(self, *, for_good: bool) -> float:
        """How long `leave` takes at most."""
        return span_of(periods_for(self.config, for_good=for_good))

    async def leave(self, *, for_good: bool) -> None:
        """Take no pods any more, and end those that are here in their order and time, where that is asked for.

        `for_good`: the nodes do not come back.
        """
        periods = periods_for(self.config, for_good=for_good)
        if periods and not self._left:
            self._left = True
            await asyncio.gather(*(kubelet.leave(periods) for kubelet in self.kubelets.values()))
            await self._statuses.settle(SETTLE_S)

    async def stop(self) -> None:
        """End all pods at once and give everything back. May be called again."""
        await self._stack.aclose()

    async def _serve(self) -> None:
        handler = NodeService(self._pods, self.sessions, self.env.clock, self._page, self._answers.prepare)
        own = Service(node_pb2.DESCRIPTOR.services_by_name["Node"], handler, callers=callers.node(self.config.isolates))
        served = [own, images_service(self.images, unpacks=self.config.isolates), *self._volumes.services()]
        if self.carrier is not None:
            overlay = node_pb2.DESCRIPTOR.services_by_name["Overlay"]
            served.append(Service(overlay, self.carrier, callers=callers.OVERLAY))
        server = await self.network.serve(self.config.address, served, web=self._web(), strangers=True)
        self._stack.push_async_callback(server.stop)
        host, _, port = server.address.rpartition(":")
        self.advertised = f"{self.config.advertise_host or host}:{port}"

    def _web(self) -> KubeletWeb:
        first = self.config.nodes[0].name
        own, review, owner = Debugging(self.collect), reviewer(self.client), token_owner(self.client)
        return KubeletWeb(own, self._page, review, owner, trusted=callers.PAGES, node=first)

    async def _start_kubelets(self) -> None:
        shared, statuses = self._shared(), self._node_statuses
        for node in self.config.nodes:
            kubelet = Kubelet(node, self._runtimes, shared, status_changed=statuses.mark, disputed=statuses.dispute)
            self.kubelets[node.name] = kubelet
            self._stages.watchers.append(kubelet.stages_changed)
            self._stack.callback(kubelet.close)
        kubelets = [*self.kubelets.values()]
        self._statuses.start()
        self._stack.push_async_callback(self._statuses.stop)
        self._leases.start(len(kubelets))
        self._stack.push_async_callback(self._leases.stop)
        async for there in registered(self.client, kubelets):
            self._leases.add(there)
        self._node_statuses.start([*kubelets])
        self._stack.push_async_callback(self._node_statuses.stop)
        self._nodes.add_handler(self._node_event)
        for kubelet in kubelets:
            if kubelet.eviction is not None:
                kubelet.eviction.start()
                self._stack.push_async_callback(kubelet.eviction.stop)
            await kubelet.static.start()
            self._stack.push_async_callback(kubelet.static.stop)
        for name, stock in self._stocks.items():
            self._tasks.spawn(watch(stock, self.kubelets, self._node_statuses.mark, self._events), f"images of {name}")
        await self._watch_pods()

    def _shared(self) -> Shared:
        tokens = TokenManager(self.client, self.env.rng)
        return Shared(
            client=self.client,
            env=self.env,
            timing=self.config.timing,
            address=f"{self.config.server_name}@{self.advertised}" if self.config.server_name else self.advertised,
            volume_capacity=self.config.volume_capacity,
            heartbeat=stand_in([n.name for n in self.config.nodes]),
            tasks=self._tasks,
            events=self._events,
            statuses=self._statuses,
            prober=self._prober,
            objects=self._objects,
            tokens=tokens,
            certificates=PodCertificates(self.client, self.env.clock, self.env.rng),
            stages=PlayerParts(self._stages, AccountWrites(self.client, tokens), self.env, self._events, self._tasks),
            simulated=self._simulated,
            volumes=self._volumes,
            files=self.pod_files,
            images=self.images,
            stocks=self._stocks,
            dns=self.config.dns if self.config.isolates else "",
            foreign_dns=self.config.foreign_dns,
            vitals=self._vitals,
            undisturbed=lambda uid: self.rules.undisturbed(uid) if self.rules is not None else "",
        )

    def _vitals(self, node: NodeConfig, runs: "RunsOfPods", images: Callable[[], str]) -> "Vitals":
        from rayplane.node.kubelet.vitals import MachineVitals

        assert self.pod_files is not None
        return MachineVitals(node, runs, self.pod_files.root, images)

    async def _release_volumes(self) -> None:
        while self.config.keeps_volumes:
            try:
                await self._volumes.release_unused()
                return
            except ApiError as e:
                log.info("volumes of an earlier life are not released yet: %s", e.message)
                await asyncio.sleep(RETRY_S)

    async def _start_traffic(self) -> None:
        config = self.config
        if config.ingress_address:
            external = config.external_addresses or (config.ingress_address.rpartition(":")[0],)
            status = IngressStatus(self.client, self.env, [*external])
            status.start()
            self._stack.push_async_callback(status.stop)
        wanted = config.runs_processes if config.proxy is None else config.proxy
        if not wanted:
            return
        # Imported here so that a simulation never loads what opens sockets.
        from rayplane.node.ingress.ingress import Ingress, IngressAddresses
        from rayplane.node.pod_rules import proxy_config
        from rayplane.node.proxy.proxy import ServiceProxy
        from rayplane.node.proxy.rules import SLICES, SLICES_BY_SERVICE, services_of

        await self._nodes.synced()
        services = await self._objects.informer("services")
        slices = Informer(self.client, SLICES, indexers={SLICES_BY_SERVICE: services_of})
        slices.start()
        self._stack.push_async_callback(slices.stop)
        await slices.synced()
        if config.dns and config.runs_processes:
            await self._start_dns(services, slices)
        self.proxy = ServiceProxy(
            proxy_config(config, self.advertised, self._pod_network(), self.rules),
            services=services,
            slices=slices,
            nodes=self._nodes,
            node_ips=lambda: {name: kubelet.node_ip for name, kubelet in self.kubelets.items()},
            channel=self.network.channel,
            events=self._events,
            tasks=self._tasks,
            rng=self.env.rng,
        )
        self._stack.push_async_callback(self.proxy.stop)
        await self.proxy.start()
        for pods in self._pod_informers:
            pods.add_handler(self.proxy.pod_event)
        if self.rules is not None:
            self.rules.open_way_out(self._tasks)
        if config.ingress_address:
            addresses = IngressAddresses(config.ingress_address, config.ingress_tls_address)
            ingress = Ingress(addresses, self.client, services, self.proxy, self._objects, self._events)
            self._stack.push_async_callback(ingress.stop)
            await ingress.start()

    async def _start_cri(self) -> None:
        from rayplane.node.cri.ground import ground_of
        from rayplane.node.cri.server import CriServer

        lent = self.pod_files, self.env, self._tasks, self.images
        ground = ground_of(self.kubelets.values(), self._runtimes, *lent, isolates=self.config.isolates)
        self.cri = CriServer(self.config.cri_socket, ground, self._pods.all_workers, self.sessions)
        try:
            await self.cri.start()
        except OSError as e:
            # Who asks for it is told that nobody listens; the nodes are none the worse.
            log.warning("CRI is not served: %s", e)
        self._stack.push_async_callback(self.cri.stop)

    async def _start_dns(self, services: Informer, slices: Informer) -> None:
        from rayplane.node.dns.cluster_dns import ClusterDns, DnsConfig

        self.dns = ClusterDns(
            DnsConfig(self.config.dns, self.config.loopback_networks, self._pod_network(), self.config.foreign_dns),
            self.client,
            services=services,
            slices=slices,
            nodes=self._nodes,
            node_ips=lambda: [kubelet.node_ip for kubelet in self.kubelets.values()],
            foreign=self._pods.foreign_ips,
        )
        self._stack.push_async_callback(self.dns.stop)
        await self.dns.start()

    def _pod_network(self) -> "PodNetwork":
        from rayplane.node.runtime.pod_network import DIRECT

        return next((one.network for one in self._runtimes.values() if one.network is not DIRECT), DIRECT)

    def _make_runtimes(self) -> None:
        self._runtimes[SIMULATED] = self._simulated
        if not self.config.runs_processes:
            return
        root = self.env.disk.local_path(self.config.pod_dir)
        if root is None:
            raise ConfigError("nodes: runtimes of real containers need a real disk")
        for name in dict.fromkeys(n.runtime if n.cri_path else PROCESS for n in self.config.nodes if n.takes_processes):
            self._runtimes[name] = self._real(name, root)
        if self.pod_files is not None and any(n.cri_path for n in self.config.nodes):
            self._stack.callback(self.pod_files.unmount_all)
        from rayplane.node.pod_rules import PodRules

        self.rules = PodRules(self.config, self._isolating, self.kubelets, self._nodes)

    def _real(self, name: str, root: str) -> Runtime:
        """The runtime of real containers that has this name. `root`: where pods have their directories."""
        # Imported here so that a simulation never loads what forks.
        from rayplane.node.runtime.cri.volumes import give
        from rayplane.node.runtime.process import ProcessRuntime

        if name == PROCESS and self.config.image_dir:
            self.images = self._stocks[PROCESS] = images_of(self.config, self.env, self._events, self._objects)
        if name == PROCESS and self.config.isolates:
            return self._isolated(self._simulated, root)
        self.pod_files = self.pod_files or PodFiles(root, give if cri_path(name) else None)
        if path := cri_path(name):
            from rayplane.node.runtime.cri.runtime import runtime_at

            node, lead, record = self.config.nodes[0], self.config.led_out(name), self._events.record
            local, find = self.env.disk.local_path, self._objects.find
            own = (root, local(self.config.volume_dir) or root, local(SECCOMP_PROFILES) or root)
            logs, unused = self._log_limits(), thresholds_of(self.config)
            runtime = runtime_at(path, node, own=own, find=find, lead=lead, record=record, logs=logs, unused=unused)
            self._stocks[name] = runtime.stock
            runtime.watchers.append(self._mark_nodes)
            return runtime
        return ProcessRuntime(self._simulated, None, self._log_limits(), root, self.config.pod_processes)

    def _mark_nodes(self) -> None:
        for kubelet in self.kubelets.values():
            self._node_statuses.mark(kubelet)

    def _isolated(self, simulated: SimulatedRuntime, pods: str) -> Runtime:
        from rayplane.node.overlay.carrier import Carrier
        from rayplane.node.runtime.isolation.rootfs import STAGE
        from rayplane.node.runtime.isolation.runtime import IsolatedRuntime
        from rayplane.node.runtime.isolation.users import give

        config, volumes = self.config, self.env.disk.local_path(self.config.volume_dir)
        assert volumes is not None
        kept = [state_of(config.machine_file), os.path.dirname(os.path.realpath(pods))]
        self.pod_files = PodFiles(pods, give, kept=[*kept, STAGE])
        programs = dict.fromkeys((sys.prefix, sys.base_prefix))
        runtime = IsolatedRuntime(
            simulated,
            (pods, volumes, socket_directory(), *([config.image_dir] if config.image_dir else [])),
            (*programs,),
            kept=kept,
            members=config.machine_file,
            services=config.services,
            profiles=self.env.disk.local_path(SECCOMP_PROFILES) or "",
            node_memory=max(quantity.value(node.memory) for node in config.nodes),
            pod_processes=config.pod_processes,
        )
        runtime.logs, runtime.outer = self._log_limits(), config.outer_networks
        self._isolating = runtime
        names = [node.name for node in config.nodes]
        self.carrier = Carrier(
            runtime,
            self._nodes,
            names,
            lead_file=f"{config.machine_file}.lead",
            channel=self.network.channel,
            tasks=self._tasks,
        )
        runtime.watchers += [self.carrier.reopen, self._reopen_traffic]
        return runtime

    def _log_limits(self) -> LogLimits:
        return LogLimits(self.config.log_file_bytes, self.config.log_files)

    def _reopen_traffic(self) -> None:
        if self.rules is not None:
            self.rules.reopen()
        if self.dns is not None:
            self.dns.server.reopen()
        if self.proxy is not None:
            self.proxy.reopen()

    async def _watch_pods(self) -> None:
        names = [*self.kubelets]
        shared = len(names) >= self.config.shared_informer_from
        selectors = [f"spec.nodeName in ({','.join(names)})"] if shared else [f"spec.nodeName={name}" for name in names]
        informers = self._pod_informers
        informers += [Informer(self.client, "pods", field_selector=selector) for selector in selectors]
        for informer in informers:
            informer.add_handler(self._pod_event)
            if self.rules is not None:
                informer.add_handler(self.rules.pod_event)
            informer.start()
            self._stack.push_async_callback(informer.stop)
        await asyncio.gather(*(informer.synced() for informer in informers))
        for runtime in self._runtimes.values():
            runtime.survivors.settle()
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

    def _tell_in_use(self, node: str) -> None:
        self._node_statuses.mark(self.kubelets[node])

    def _node_event(self, kind: str, _old: Object | None, node: Object) -> None:
        kubelet = self.kubelets.get(meta.name(node))
        if kubelet is not None and kind != "DELETED":
            kubelet.node_event(node)
            self._attachments.node_changed(kubelet.name)

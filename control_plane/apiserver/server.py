"""One API server: storage, caches, registry and both faces, started and stopped together."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.apiserver import bootstrap, callers
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.endpoints import EndpointKeeper, ServerEntry
from rayplane.control_plane.apiserver.grpc.aggregation import AggregationService
from rayplane.control_plane.apiserver.grpc.calls import Calls
from rayplane.control_plane.apiserver.grpc.chaos import ChaosService
from rayplane.control_plane.apiserver.grpc.objects import DiscoveryService, ObjectsService
from rayplane.control_plane.apiserver.grpc.pods import PodsService
from rayplane.control_plane.apiserver.outgoing.supervisors import Supervisors
from rayplane.control_plane.apiserver.registry.pod_streams import PodStreams
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.storage.compaction import Compactor
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import Network, Service, Traffic
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.tasks import end_each
from rayplane.proto.rayplane.v1 import aggregation_pb2, chaos_pb2, objects_pb2, pods_pb2
from rayplane.storage.env import Env

if TYPE_CHECKING:
    from rayplane.control_plane.apiserver.rest.server import RestServer

log = logging.getLogger(__name__)

_SERVICES = objects_pb2.DESCRIPTOR.services_by_name
_PODS = pods_pb2.DESCRIPTOR.services_by_name["Pods"]
_AGGREGATION = aggregation_pb2.DESCRIPTOR.services_by_name["Aggregation"]
_CHAOS = chaos_pb2.DESCRIPTOR.services_by_name["Chaos"]
_CHAOS_BYTES_MAX = 256 * 1024
_START_PAUSE_S = 0.2
_GRACE_S = 0.1


class ApiServer:
    """A replica. In place of a client of `config.etcd_endpoints` and the system's sockets others may be given."""

    def __init__(
        self,
        config: ApiServerConfig,
        env: Env,
        network: Network,
        *,
        etcd: EtcdClient | None = None,
        sockets: Sockets | None = None,
    ) -> None:
        if etcd is None:
            config.validate()
        self.config = config
        self.etcd = etcd or EtcdClient(network, config.etcd_endpoints)
        self.registry = ObjectRegistry(config, env, self.etcd, network)
        self.ready = False
        self.grpc_traffic = Traffic()
        self.grpc_address = ""
        """host:port as bound; empty before `start`."""
        self.https_address = ""
        self._env = env
        self._network = network
        self._sockets = sockets
        self._keeper = EndpointKeeper(config, self.registry, self.etcd)
        self.supervisors = Supervisors(network, lambda: self._keeper.supervisors or config.supervisors)
        timing = config.timing
        self._compactor = Compactor(
            self.etcd,
            env.clock,
            timing.compaction_interval_s,
            history_s=timing.history_s,
            clock_s=timing.clock_interval_s,
            deletions=self.registry.storage.deletions,
        )
        self._bootstrap = bootstrap.Keeper(self.registry)
        self._faces = AsyncExitStack()
        self._rest: RestServer | None = None

    async def start(self) -> None:
        """Return when requests are answered, however long etcd is away. ApiError when etcd refuses, OSError when a port
        is taken.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        if self.registry.auditor is not None:
            self.registry.auditor.start()
        await self._reach_etcd()
        calls = Calls(self.registry, timeout_s=self.config.timing.request_timeout_s)
        objects = ObjectsService(calls, body_bytes=self.config.limits.body_bytes)
        services = [
            Service(_SERVICES["Objects"], objects, callers=callers.OBJECTS),
            Service(_PODS, PodsService(calls, PodStreams(self.registry, self._network)), callers=callers.PODS),
            Service(_SERVICES["Discovery"], DiscoveryService(calls, self.endpoints), callers=callers.DISCOVERY),
            Service(_AGGREGATION, AggregationService(calls), callers=callers.AGGREGATION),
            Service(
                _CHAOS,
                ChaosService(calls, self.supervisors),
                callers=callers.CHAOS,
                request_bytes_max=_CHAOS_BYTES_MAX,
            ),
        ]
        # Who has no certificate may have a token.
        server = await self._network.serve(self.config.grpc_address, services, strangers=True)
        self._faces.push_async_callback(server.stop, _GRACE_S)
        self.grpc_traffic = server.traffic
        self.grpc_address = self._advertised(server.address)
        if self.config.https_address is not None:
            await self._start_rest()
        await self._keeper.start(ServerEntry(self.config.name, self.grpc_address, self.https_address))
        self._compactor.start()
        self._bootstrap.start()
        self.ready = True

    async def _start_rest(self) -> None:
        # Imported here: a server of gRPC alone needs none of it.
        from rayplane.control_plane.apiserver.rest.server import RestServer

        rest = RestServer(self.config, self._env, self._network, self, sockets=self._sockets)
        self._rest = rest
        self._faces.push_async_callback(rest.stop)
        bound = await rest.start()
        self.https_address = self._advertised(bound)

    async def stop(self) -> None:
        """Say goodbye, then close both faces and everything behind them."""
        self.ready = False
        # Watches end before the faces, which they would hold open; the audit last, with what was answered last.
        audit = [self.registry.auditor.stop] if self.registry.auditor is not None else []
        await end_each(
            self._compactor.stop,
            self._bootstrap.stop,
            self._keeper.stop,
            self.registry.stop,
            self._faces.aclose,
            *audit,
        )

    async def _reach_etcd(self) -> None:
        """For as long as it takes: whoever started this server knows how long that may be on this machine."""
        while True:
            try:
                await self.registry.hub.start()
                break
            except ApiError as e:
                log.info("waiting for etcd: %s", e.message)
                await asyncio.sleep(_START_PAUSE_S)
        while True:
            try:
                await self._load_caches()
                await self.registry.hub.fresh()
                await self.registry.authorizer.load()
                await self.registry.start()
                await bootstrap.ensure(self.registry, self.config)
                await self._load_caches()  # those of custom resources, too, which are known now
                return
            except ApiError as e:
                if not e.retryable:
                    raise
                log.info("waiting for etcd: %s", e.message)
                await asyncio.sleep(_START_PAUSE_S)

    async def _load_caches(self) -> None:
        """So that no request waits for one. Events are many and seldom asked for: theirs is loaded when it is used."""
        stored = [info for info in self.registry.kinds.registry.stored() if info.name != "events"]
        await asyncio.gather(*(self.registry.hub.cache(info) for info in stored))

    def _advertised(self, bound: str) -> str:
        host, _, port = bound.rpartition(":")
        return f"{self.config.advertise_host or host}:{port}"

    def endpoints(self) -> objects_pb2.EndpointsResponse:
        """Where all are, as this server saw them last."""
        servers = self._keeper.servers()
        return objects_pb2.EndpointsResponse(
            grpc=[s.grpc for s in servers],
            https=[s.https for s in servers if s.https],
            etcd=self.etcd.endpoints.addresses,
            **self._keeper.places,
        )

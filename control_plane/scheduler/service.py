"""The scheduler's shell: one replica that is elected, or waits to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rayplane.control_plane.client import ApiClient, LeaderElector
from rayplane.control_plane.component_base import healthz
from rayplane.control_plane.component_base.debugging import serve, told
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.rpc import Network, Server, Service
from rayplane.control_plane.scheduler.callers import SCHEDULER
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.explaining import ExplainService
from rayplane.control_plane.scheduler.extensions import Extensions
from rayplane.control_plane.scheduler.framework import PodPlugin
from rayplane.control_plane.scheduler.installed import installed
from rayplane.control_plane.scheduler.metrics import SchedulerMetrics
from rayplane.control_plane.scheduler.queue import Place
from rayplane.control_plane.scheduler.term import Term
from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb
from rayplane.storage.env import Env

LEASE_NAME = "kube-scheduler"


class Scheduler:
    """One replica. `start` returns at once; pods are scheduled from the time this replica leads."""

    def __init__(
        self,
        config: SchedulerConfig,
        env: Env,
        network: Network,
        *,
        client: ApiClient | None = None,
        plugins: Mapping[str, type[PodPlugin]] | None = None,
    ) -> None:
        """`plugins`: classes by name, in place of those that packages offer. ValueError when one is missing."""
        self.config = config
        self._extensions = Extensions(config.profiles, installed() if plugins is None else plugins)
        self._env = env
        self._client = client or ApiClient(network, config.api_endpoints, discovery=config.discovery)
        self._elector = LeaderElector(
            self._client, env, name=LEASE_NAME, identity=config.identity, timing=config.election
        )
        self._term: Term | None = None
        self._network = network
        self._metrics = SchedulerMetrics(config.profiles)
        self._server: Server | None = None
        self._ending = False

    @property
    def is_leader(self) -> bool:
        return self._elector.is_leader

    def pending(self) -> dict[Place, int]:
        """How many pods wait, and where; empty on a replica that does not lead."""
        return self._term.queue.places() if self._term else {}

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        yield from self._elector.collect()
        yield from self._extensions.watch.collect()
        yield from self._metrics.collect(self.pending(), self._term.queue.refused() if self._term else {})

    def checks(self, kind: str) -> healthz.Problems:
        """What is wrong here, for `healthz`; one that does not lead has nothing to see."""
        synced = self._term is None or self._term.synced
        return healthz.of_elected(
            kind, self._elector.problem(), ending=self._ending, sync="sched-handler-sync", synced=synced
        )

    async def start(self) -> None:
        explains = ExplainService(lambda: self._term.explainer if self._term else None)
        own = told("kube-scheduler", self.config, self._env.clock.now, self.checks)
        service = Service(pb.DESCRIPTOR.services_by_name["Scheduler"], explains, callers=SCHEDULER)
        self._server = await serve(self._network, self.config.address, self.collect, [service], own)
        self._elector.start(self._lead)

    async def stop(self) -> None:
        """Stop scheduling, then give the Lease back."""
        self._ending = True
        await self._elector.stop()
        if self._server is not None:
            await self._server.stop()

    async def _lead(self) -> None:
        self._term = term = Term(
            self.config, self._env, self._elector.fenced(self._client), self._metrics, self._extensions
        )
        try:
            await term.run()
        finally:
            self._term = None
            await term.stop()

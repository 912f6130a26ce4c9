"""The controller manager: leads by Lease, and while it leads runs every controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.controller_policy import user_of
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, LeaderElector, QueueMetrics, workqueue
from rayplane.control_plane.component_base import healthz
from rayplane.control_plane.component_base.debugging import serve, told
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.controllers.accounts import ACCOUNTS
from rayplane.control_plane.controllers.actions import (
    ApproveCertificate,
    CollectAggregated,
    DeleteSnapshot,
    DeleteVolume,
    Expand,
    IfUnclaimed,
    IfUnused,
    Migrate,
    Provision,
    PurgeNamespace,
    Recount,
    Rescale,
    SignCertificate,
    TakeSnapshot,
)
from rayplane.control_plane.controllers.autoscaling.horizontal import HorizontalController
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import LEASE_NAME, ControllersConfig
from rayplane.control_plane.controllers.core import Controller, CustomController, View
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector, followed_as
from rayplane.control_plane.controllers.manager.autoscaler import Metrics, Rescaler
from rayplane.control_plane.controllers.manager.caches import Caches
from rayplane.control_plane.controllers.manager.certificates import Certificates
from rayplane.control_plane.controllers.manager.executor import Executor, Handler
from rayplane.control_plane.controllers.manager.live_reads import LiveReads
from rayplane.control_plane.controllers.manager.migrator import Migrator
from rayplane.control_plane.controllers.manager.namespace_purger import NamespacePurger
from rayplane.control_plane.controllers.manager.provisioner import Provisioner
from rayplane.control_plane.controllers.manager.quotas import QuotaCounter
from rayplane.control_plane.controllers.manager.runner import ControllerRunner
from rayplane.control_plane.controllers.manager.snapshotter import Snapshotter
from rayplane.control_plane.controllers.manager.stories import Stories
from rayplane.control_plane.controllers.resourcequota import ResourceQuotaController
from rayplane.control_plane.controllers.story import Story
from rayplane.control_plane.rpc import Network, Server
from rayplane.control_plane.tasks import end_each
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
LOOKS = 3
"""So often it is looked for writes that do not show, in the time that they have."""


class ControllerManager:
    """One replica. `start` returns at once; the controllers run from the time this replica leads."""

    def __init__(self, config: ControllersConfig, env: Env, network: Network) -> None:
        self._config = config
        self._env = env
        self._network = network
        self._client = ApiClient(network, config.api_endpoints, discovery=config.discovery)
        timing = config.timing
        self._elector = LeaderElector(
            self._client,
            env,
            name=LEASE_NAME,
            identity=config.identity,
            timing=timing.election,
        )
        self._queues: dict[str, QueueMetrics] = {}
        self._story = Story()
        self._stories = Stories(config.identity, self._story, is_leader=lambda: self.is_leader)
        self._server: Server | None = None
        self._term: Term | None = None
        self._ending = False

    @property
    def is_leader(self) -> bool:
        return self._elector.is_leader

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        yield from self._elector.collect()
        yield from workqueue.collect(self._queues)

    def checks(self, kind: str) -> healthz.Problems:
        """What is wrong here, for `healthz`; one that does not lead has nothing to see."""
        synced = self._term is None or self._term.synced
        return healthz.of_elected(
            kind, self._elector.problem(), ending=self._ending, sync="informer-sync", synced=synced
        )

    async def start(self) -> None:
        own = told("kube-controller-manager", self._config, self._env.clock.now, self.checks)
        services = [self._stories.service()]
        self._server = await serve(self._network, self._config.address, self.collect, services, own)
        self._elector.start(self._lead)

    async def stop(self) -> None:
        """Stop all controllers, then give the Lease back."""
        self._ending = True
        await end_each(self._elector.stop, *([self._server.stop] if self._server is not None else []))

    async def _lead(self) -> None:
        client = self._elector.fenced(self._client)
        self._term = term = Term(
            self._config, self._env, self._network, client=client, queues=self._queues, story=self._story
        )
        self._stories.begin(term.view, term.runners, self._env.clock.now())
        try:
            await term.run()
        finally:
            self._stories.end()
            self._term = None
            await term.stop()


class Term:
    """One term of leadership: the caches, recorders and runners that this replica has while it leads."""

    def __init__(
        self,
        config: ControllersConfig,
        env: Env,
        network: Network,
        *,
        client: ApiClient,
        queues: dict[str, QueueMetrics] | None = None,
        story: Story | None = None,
    ) -> None:
        self._config, self._env, self._root = config, env, client
        self._story = Story() if story is None else story
        self._queues = {} if queues is None else queues
        self._caches = Caches(client)
        self.synced = False
        """Whether all that there is has been seen."""
        self._recorders: list[EventRecorder] = []
        self._provisioner = Provisioner(network, timeout_s=config.csi_timeout_s)
        self._snapshotter = Snapshotter(self._provisioner)
        self._clients: dict[str, ApiClient] = {"": client}
        """By account; the manager's own."""
        self._certificates = Certificates(self._of("csrsigning"), network)
        self._controllers: Sequence[Controller] = build_controllers(config)
        self._runners = [self._runner(c) for c in self._controllers]
        # What became last of each definition, by its uid: as many as there are definitions, however often they change.
        self._crds: dict[str, tuple[str, Object]] = {}
        self._crds_changed = asyncio.Event()

    def _of(self, controller: str) -> ApiClient:
        """The client of a controller, who writes under a name of its own; under the manager's where none is known."""
        account = ACCOUNTS.get(controller, "")
        if account not in self._clients:
            self._clients[account] = self._root.acting(user_of(account))
        return self._clients[account]

    def _specials(self, client: ApiClient) -> dict[type, Handler]:
        """The outside parts of actions, of who asks for them."""
        live, now = LiveReads(client), self._env.clock.now
        return {
            Provision: self._provisioner.provision,
            DeleteVolume: self._provisioner.delete_volume,
            Expand: self._provisioner.expand,
            CollectAggregated: live.collect,
            IfUnclaimed: live.unclaimed,
            IfUnused: live.unused,
            TakeSnapshot: self._snapshotter.take,
            DeleteSnapshot: self._snapshotter.delete,
            PurgeNamespace: NamespacePurger(client, now).purge,
            Recount: QuotaCounter(client, now).recount,
            ApproveCertificate: self._certificates.approve,
            SignCertificate: self._certificates.sign,
            Migrate: Migrator(client).migrate,
            Rescale: Rescaler(client).rescale,
        }

    def _runner(self, controller: Controller) -> ControllerRunner:
        client = self._of(controller.name)
        recorder = EventRecorder(client, self._env, component=controller.component)
        self._recorders.append(recorder)
        executor = Executor(
            client,
            recorder,
            self._caches.view,
            batch_size=self._config.batch_size,
            specials=self._specials(client),
        )
        observe = None
        if isinstance(controller, HorizontalController):
            observe = Metrics(client, controller, self._caches.view).observe
        return ControllerRunner(
            controller,
            self._caches,
            executor,
            env=self._env,
            workers=self._config.workers,
            barrier_timeout_s=self._config.barrier_timeout_s,
            story=self._story,
            metrics=self._queues.setdefault(controller.name, QueueMetrics()),
            observe=observe,
        )

    @property
    def view(self) -> View:
        return self._caches.view

    @property
    def runners(self) -> Sequence[ControllerRunner]:
        return self._runners

    async def run(self) -> None:
        for recorder in self._recorders:
            recorder.start()
        for controller in self._controllers:
            for watch in controller.watches:
                self._caches.informer(watch.resource)
        await self._caches.start([CRDS])
        self.synced = True
        for runner in self._runners:
            runner.attach()
            runner.start()
            # Each is told of all objects: with many of them the Lease would run out meanwhile.
            await self._caches.turn.give()
        log.info("%s runs %d controllers", self._config.identity, len(self._runners))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refresh_caches())
            tasks.create_task(self._follow_custom_resources())

    async def _refresh_caches(self) -> None:
        """Find what no watch tells of the controllers' own writes."""
        while True:
            await asyncio.sleep(self._config.barrier_timeout_s / LOOKS)
            for runner in self._runners:
                runner.refresh_caches()

    async def _follow_custom_resources(self) -> None:
        """Have garbage collector and quotas watch custom resources as they are defined and removed."""
        self._caches.informer(CRDS).add_handler(self._crd_changed)
        pairs = list(zip(self._controllers, self._runners, strict=True))
        collector, collecting = next((c, r) for c, r in pairs if isinstance(c, GarbageCollector))
        quotas, counting = next((c, r) for c, r in pairs if isinstance(c, ResourceQuotaController))
        while True:
            while not self._crds:
                self._crds_changed.clear()
                await self._crds_changed.wait()
            kind, crd = self._crds.pop(next(iter(self._crds)))
            try:
                if kind == "DELETED":
                    gone = collector.remove_custom(crd)
                else:
                    gone = collector.add_custom(crd)
                quotas.follow(collector.resources)
                if gone:
                    await self._caches.drop(gone)
                collecting.attach()
                counting.attach()
                await self._tell(crd, served=kind != "DELETED" and meta.condition_is(crd, "Established"))
            except Exception:
                # A definition that nobody can make sense of must not end the term, again and again.
                log.exception("objects of %s are not garbage-collected", meta.name(crd))

    async def _tell(self, crd: Object, *, served: bool) -> None:
        """Have controllers that know this custom resource watch it, or watch it no more."""
        resource = f"{meta.spec(crd)['names']['plural']}.{meta.spec(crd)['group']}"
        # Whatever a webhook converts is followed as it is stored, in a form that they do not know.
        served = served and followed_as(crd) == resource
        for controller, runner in zip(self._controllers, self._runners, strict=True):
            if isinstance(controller, CustomController) and controller.follow(resource, served=served):
                runner.attach()

    def _crd_changed(self, kind: str, _: Object | None, crd: Object) -> None:
        self._crds[meta.uid(crd)] = (kind, crd)
        self._crds_changed.set()

    async def stop(self) -> None:
        await end_each(
            lambda: asyncio.gather(*(runner.stop() for runner in self._runners)),
            self._caches.stop,
            lambda: asyncio.gather(*(recorder.stop() for recorder in self._recorders)),
        )

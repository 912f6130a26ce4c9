"""An onlooker: sees all that the scheduler sees, with the scheduler's own core, and decides nothing.

For those who must know what the scheduler would do if there were other nodes.
"""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.cycle import Cycle
from rayplane.control_plane.scheduler.extensions import Extensions
from rayplane.control_plane.scheduler.hints import Hints
from rayplane.control_plane.scheduler.installed import installed
from rayplane.control_plane.scheduler.observer import Observer
from rayplane.control_plane.scheduler.plugins import Cluster
from rayplane.control_plane.scheduler.pods import PodInfo, unbound
from rayplane.control_plane.scheduler.queue import SchedulingQueue


class Onlooker:
    """An observer of the cluster and a cycle over it. Between two turns of the loop its owner may try things on the
    cycle, if all is taken back before the next.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        extensions = Extensions(config.profiles, installed())
        self.cycle = Cycle(replace(config, profiles=extensions.profiles), Cluster(), extensions.registry)
        hints = Hints(self.cycle.snapshot, extensions.hints())
        self._queue = SchedulingQueue(hints, backoff=config.backoff, retry_after_s=config.unschedulable_retry_s)
        self._observer = Observer(
            self.cycle,
            self._queue,
            resources=hints.resources({*self.cycle.plugins, *self.cycle.groups_plugins, *extensions.hints()}),
            settle=lambda _resource, _key: None,
            withdrawn=lambda _key: None,
            wake=lambda: None,
        )

    async def start(self, client: ApiClient) -> None:
        """Begin to watch; returns when all that there is has been seen."""
        await self._observer.start(client)

    async def stop(self) -> None:
        await self._observer.stop()

    def nodes(self) -> dict[str, Object]:
        """The Nodes that there are, by name; not to be changed."""
        return {name: dict(node) for name, node in self.cycle.cluster.node_objects.items()}

    def pending(self) -> list[PodInfo]:
        """The pods without a node that a profile is for."""
        return self._queue.pods()

    def read(self, pod: Object) -> PodInfo | None:
        """A pod as the scheduler would see it; None for one that cannot be read."""
        return self._observer.parse(pod)

    def unbound(self, pod: PodInfo) -> PodInfo | None:
        """A pod as it was before it had a node; None for one that cannot be read."""
        return self._observer.parse(unbound(pod.obj))

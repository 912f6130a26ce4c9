"""The weather that a supervisor has been told: actors hear of it again and again, and it ends with who told it.

Standing faults are the supervisor's own, and hold until it is told otherwise; what commands tell holds for as long as
they say, so that one that was killed leaves nothing broken.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.host import Disturbance, Host
from rayplane.control_plane.cluster.topology import Topology
from rayplane.control_plane.cluster.weather import read, told_of
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env.troubled import Trouble

log = logging.getLogger(__name__)

AGAIN_S = 5.0
HOLDS_S = 6 * AGAIN_S
"""An actor that has heard nothing for so long takes it that nobody is there any more."""


class Weathering:
    """The weather of standing faults and that of commands; both hold.

    `names`: of actors, by address; `issue`: a certificate for an actor that lasts so many seconds from now on.
    """

    def __init__(
        self, host: Host, names: Callable[[], Mapping[str, str]], issue: Callable[[str, float], Credentials]
    ) -> None:
        self._host = host
        self._names = names
        self._issue = issue
        self._issued: dict[str, tuple[float, Credentials]] = {}
        """What is shown now, by name, with how long it was to last."""
        self._told: dict[bool, pb.DisturbRequest] = {}
        self._until: dict[bool, float] = {}
        self._saying = asyncio.Lock()
        self._is_news = False  # something was told since the last round began
        self._task: asyncio.Task[None] | None = None

    async def tell(self, request: pb.DisturbRequest) -> None:
        """Raises ClusterError when whom it names cannot be told."""
        self._told[request.standing] = request
        self._until.pop(request.standing, None)
        if request.holds_s:
            self._until[request.standing] = asyncio.get_running_loop().time() + request.holds_s
        self._is_news = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="weather")
        await self._say([*request.reset])

    async def stop(self) -> None:
        """What was told ends by itself."""
        await cancel_and_wait(self._task)

    async def _say(self, reset: list[str]) -> bool:
        """Whether it is calm now."""
        async with self._saying:
            whole = told_of(tuple(fault for told in self._told.values() for fault in read(told)), reset)
            weather = replace(_disturbance(whole, self._names()), certificates=self._certificates(whole))
            await self._host.disturb(weather, HOLDS_S)
            return weather.is_calm

    def _certificates(self, told: pb.DisturbRequest) -> dict[str, Credentials]:
        """Each is issued once, and expires at its time however often it is told. Who has left the cluster has none."""
        here = {*self._names().values()}
        wanted = {one.name: one.expires_in_s for one in told.troubles if one.expires and one.name in here}
        known = {name: self._issued[name] for name in wanted.keys() & self._issued.keys()}
        for name, lasts_s in wanted.items():
            if name not in known or known[name][0] != lasts_s:
                known[name] = (lasts_s, self._issue(name, lasts_s))
        self._issued = known
        return {name: shown for name, (_, shown) in known.items()}

    async def _keep(self) -> None:
        calm = False
        while not calm:
            await asyncio.sleep(AGAIN_S)
            now = asyncio.get_running_loop().time()
            for standing in [standing for standing, at in self._until.items() if at <= now]:
                log.warning("whoever told of faults of commands is gone: they are over")
                del self._told[standing], self._until[standing]
            self._is_news = False
            try:
                calm = await self._say([]) and not self._is_news
            except ClusterError as e:
                log.warning("not everybody heard of the weather: %s", e)


def names(topology: Topology) -> dict[str, str]:
    """Names of actors, by each of their addresses."""
    return {one.endpoint(port): one.name for one in topology.instances for port in one.ports}


def _disturbance(told: pb.DisturbRequest, names: Mapping[str, str]) -> Disturbance:
    return Disturbance(
        groups=tuple(tuple(group.hosts) for group in told.groups),
        cuts=tuple((tuple(cut.sources), tuple(cut.sinks)) for cut in told.cuts),
        slow_s=told.slow_s,
        reset=tuple(told.reset),
        troubles={
            one.name: Trouble(
                clock_ahead_s=one.clock_ahead_s,
                sync_least_s=one.sync_least_s,
                stalled=one.stalled,
                full=one.full,
            )
            for one in told.troubles
        },
        names=names,
    )

"""The weather of an actor that has a process of its own, and the trouble of its machine.

What it is told holds for a while, and is told again in time: when nobody is left who could end it, it ends by itself.
"""

import asyncio
import logging
import random
from dataclasses import replace

from rayplane.control_plane.cluster.host import Disturbance, prevail
from rayplane.control_plane.cluster.renewal import Renewal
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.rpc.weather import Weather
from rayplane.storage.env.troubled import Trouble, Troubled

log = logging.getLogger(__name__)


class OwnWeather:
    """The weather of one actor: `link` on the network, `troubled` on its machine. All is called in the actor's loop."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.troubled = Troubled()
        self._name = name
        self._names: dict[str, str] = {}
        self.link = Weather(rng, None, self._names)
        self._told = Disturbance()
        self._renewal: Renewal | None = None
        self._end: asyncio.TimerHandle | None = None

    def network(self, network: GrpcNetwork) -> None:
        """The actor's own, whose connections break."""
        self.link.sever = network.sever

    def renewal(self, renewal: Renewal | None) -> None:
        """That of the certificate which the actor shows."""
        self._renewal = renewal

    def hold(self, told: Disturbance, for_s: float) -> None:
        """It is so from now on, and calm in so many seconds unless this is called again."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if told.reset:
            self._names.update(told.names)
            self.link.sever(lambda a, b: bool({self._called(a), self._called(b)} & {*told.reset}))
        lasting = replace(told, reset=())
        if lasting != self._told:
            show(self._renewal, self._told.certificates.get(self._name), lasting.certificates.get(self._name))
            self._told = lasting
            self._names.update(told.names)
            prevail(self.link, lasting)
            self.troubled.now = lasting.troubles.get(self._name, Trouble())
        if not lasting.is_calm:
            self._end = asyncio.get_running_loop().call_later(for_s, self._calm)

    def _called(self, host: str) -> str:
        return self._names.get(host, host)

    def _calm(self) -> None:
        log.warning("nobody says any more that the weather holds: it is calm")
        self.hold(Disturbance(), 0.0)


def show(renewal: Renewal | None, before: Credentials | None, now: Credentials | None) -> None:
    """Have an actor show another certificate, or its own again."""
    if renewal is not None and now != before:
        if now is not None:
            renewal.show(now)
        else:
            renewal.show_own()

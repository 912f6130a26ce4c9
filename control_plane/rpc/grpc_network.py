"""Real gRPC over TCP, with mutual TLS when credentials are given."""

import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from rayplane.control_plane.rpc.connection_io import SILENT_CHECKS, SILENT_CHECKS_PATIENT, Peer
from rayplane.control_plane.rpc.grpc_client import GrpcChannel
from rayplane.control_plane.rpc.line import Line
from rayplane.control_plane.rpc.network import Channel, Server, WebHandler
from rayplane.control_plane.rpc.passages import Link
from rayplane.control_plane.rpc.service import Service
from rayplane.control_plane.rpc.tls import Credentials, client_context

#: More than a cluster has actors: addresses come from what others write too, and may be new ones each time.
CHANNELS_KEPT = 4096


class GrpcNetwork:
    """A network that listens and calls over gRPC. One for each process; identity and trust come from `credentials`.

    `serving`: what is shown to callers, where that is another certificate. Who has none to show, and only calls, trusts
    the authority `ca` (PEM).

    An address may be `NAME@host:port`: the server there shows a certificate of that name in place of a
    component's.

    What it calls travels through the weather of `link`, as from the host `here`.

    Keeps the `CHANNELS_KEPT` channels that were asked for last, and those that are connected or that somebody holds.
    """

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        ca: bytes = b"",
        serving: Credentials | None = None,
        link: Link | None = None,
        here: str = "",
        patient: bool = False,
    ) -> None:
        """`patient`: whoever is called may be busy for long, and nobody else could be asked."""
        self._silent_checks = SILENT_CHECKS_PATIENT if patient else SILENT_CHECKS
        self._link, self._here = link, here
        self._servers_tls: dict[tuple[bool, bool], ssl.SSLContext] = {}  # whether HTTP/1.1 too, whether for strangers
        self._serves_apart = serving is not None
        self._client_tls: ssl.SSLContext | None = client_context(ca) if ca else None
        if credentials is not None:
            *servers, self._client_tls = credentials.contexts(serving)
            kinds = [(web, strangers) for strangers in (False, True) for web in (False, True)]
            self._servers_tls = dict(zip(kinds, servers, strict=True))
        self._channels: WeakValueDictionary[str, GrpcChannel] = WeakValueDictionary()
        self._kept: OrderedDict[str, GrpcChannel] = OrderedDict()

    async def serve(
        self, address: str, services: Sequence[Service], *, web: WebHandler | None = None, strangers: bool = False
    ) -> Server:
        # A third of what is loaded for gRPC, and who only calls has no use for it.
        from rayplane.control_plane.rpc.listener import GrpcListener

        listener = GrpcListener(services, web)
        await listener.start(address, self._servers_tls.get((web is not None, strangers)))
        return listener

    def channel(self, address: str) -> Channel:
        channel = self._channels.get(address)
        if channel is None:
            name, _, place = address.rpartition("@")
            line = Line(self._link, self._here, place) if self._link is not None else None
            peer = Peer(server_name=name, silent_checks=self._silent_checks)
            channel = GrpcChannel(place, self._client_tls, peer=peer, line=line)
            self._channels[address] = channel
        if address not in self._kept and len(self._kept) >= CHANNELS_KEPT:
            self._forget_idle()
        self._kept[address] = channel
        self._kept.move_to_end(address)
        return channel

    def _forget_idle(self) -> None:
        """Make room: a tenth of what is kept, the longest unused first. Without calls a connection soon ends."""
        idle = [address for address, channel in self._kept.items() if channel.idle]
        for address in idle[: max(1, CHANNELS_KEPT // 10)]:
            del self._kept[address]

    def renew(self, credentials: Credentials) -> None:
        """Show this certificate from now on, to who connects and to whom we connect; calls under way go on."""
        if not self._serves_apart:
            self.renew_serving(credentials)
        if self._client_tls is not None:
            credentials.load(self._client_tls)
        for channel in list(self._channels.values()):
            channel.reconnect()

    def renew_serving(self, credentials: Credentials) -> None:
        """Show this certificate from now on to who connects."""
        for context in self._servers_tls.values():
            credentials.load(context)

    def sever(self, parted: Callable[[str, str], bool]) -> None:
        """Break the connections to addresses for which `parted(here, address)` holds."""
        for address, channel in list(self._channels.items()):
            if parted(self._here, address.rpartition("@")[2]):
                channel.sever()

    async def close(self) -> None:
        for channel in list(self._channels.values()):
            await channel.close()
        self._kept.clear()
        self._channels.clear()

"""The sockets of a cluster's DNS server, and who answers what comes by them."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

from dnslib import QTYPE, RCODE

from rayplane.control_plane.rpc.sockets import serving, stop_listening
from rayplane.control_plane.tasks import cancel_and_wait, end_each
from rayplane.node.dns.answers import Answer, answer
from rayplane.node.dns.cache import OwnAnswers
from rayplane.node.dns.feed import Feed
from rayplane.node.dns.messages import QUESTION_MAX, TCP_MAX, Question, Refused, read, write
from rayplane.node.dns.upstream import Upstream
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.node.tasks import Tasks

log = logging.getLogger(__name__)

PORT = 53
OTHER_PORT = 5353
"""Where the machine gives 53 to nobody but root."""
ASKED_MAX, ASKED_BY_ONE_MAX = 1000, 100
"""Questions under way to other servers: of all clients, and of one."""
CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX = 256, 32
IDLE_S = 10.0
BACKLOG = 128
RETRY_S = 2.0
_COMPLAIN_S = 60.0

Receive = Callable[[bytes, str, Callable[[bytes], None]], None]
"""Takes a datagram, its sender and what answers it."""
Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


def _everybody(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to listen. `ports`: the first that can be had; `admits`: who is answered there."""

    network: PodNetwork
    ip: str
    ports: tuple[int, ...] = (PORT,)
    admits: Callable[[str], bool] = _everybody


class DnsServer:
    """A server of one host. `places`: where to listen; asked again whenever `check` is called."""

    def __init__(self, feed: Feed, upstream: Upstream, places: Callable[[], Iterable[Place]]) -> None:
        self._feed = feed
        self._upstream = upstream
        self._places = places
        self._open: dict[Place, _Port] = {}
        self._tasks = Tasks()
        self._turn = 0
        self._own = OwnAnswers()
        self._asked: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._complained: dict[str, float] = {}
        self._refused: set[Place] = set()
        self._stale: set[Place] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen wherever that is possible now, and go on trying elsewhere."""
        await self._listen()
        self._task = asyncio.get_running_loop().create_task(self._keep_listening(), name="cluster DNS")

    async def stop(self) -> None:
        await end_each(partial(cancel_and_wait, self._task), self._close_ports, self._tasks.cancel, self._upstream.stop)

    async def _close_ports(self) -> None:
        await end_each(*(port.close for port in self._open.values()))

    def check(self) -> None:
        """The places may have changed."""
        self._wake.set()

    def reopen(self) -> None:
        """Listen anew: a network that it listened in is gone."""
        self._stale.update(self._open)
        self._wake.set()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens now."""
        return [(place.ip, port.number) for place, port in self._open.items()]

    # --- answers ----------------------------------------------------------------------------------

    def receive(self, packet: bytes, client: str, send: Callable[[bytes], None]) -> None:
        """Answer a datagram, at once or later. Never raises: whatever comes, the next is to be answered too."""
        try:
            found = self._at_once(packet, client, None)
            if isinstance(found, _Later):
                self._tasks.spawn(self._send_later(found, send), "question to other servers")
            elif found is not None:
                send(found)
        except Exception:
            self._complain("datagram", "a datagram of %s was not answered", client)

    def _at_once(self, packet: bytes, client: str, limit: int | None) -> "bytes | _Later | None":
        """The answer, or what others are to be asked; None where none is due. `limit`: None is what the client says."""
        zone = self._feed.zone()
        known = self._own.get(zone.serial, packet) if limit is None else None
        if known is not None:
            return known
        try:
            asked = read(packet)
        except Refused as e:
            return e.answer
        if asked is None:
            return None
        self._turn += 1
        found = answer(zone, asked.question.qname, asked.question.qtype, self._turn)
        if found is not None and found.follow is None:
            packed = _write(asked, found, limit or asked.size)
            # Several records take turns to be the first.
            if limit is None and len(found.records) < 2:
                self._own.put(packet, packed)
            return packed
        limit = limit or asked.size
        if self._asked.total() >= ASKED_MAX or self._asked[client] >= ASKED_BY_ONE_MAX:
            return write(asked, RCODE.REFUSED, limit=limit)
        self._asked[client] += 1
        return _Later(asked, found, client, limit)

    async def _send_later(self, later: "_Later", send: Callable[[bytes], None]) -> None:
        try:
            send(await self._ask_others(later))
        except Exception:
            self._complain("later", "a question of %s was not answered", later.client)

    async def _ask_others(self, later: "_Later") -> bytes:
        asked, found = later.asked, later.found or Answer(authoritative=False)
        name = found.follow or asked.question.qname
        try:
            theirs = await self._upstream.ask(
                name, asked.question.qtype, secure=asked.secure, unchecked=asked.unchecked
            )
        except OSError:
            return write(asked, RCODE.SERVFAIL, limit=later.limit)
        finally:
            self._asked[later.client] -= 1
            if not self._asked[later.client]:
                del self._asked[later.client]
        rcode = theirs.header.rcode
        if rcode not in (RCODE.NOERROR, RCODE.NXDOMAIN):
            return write(asked, rcode, limit=later.limit)
        additional = [rr for rr in theirs.ar if rr.rtype != QTYPE.OPT]
        whole = Answer(rcode, found.records + theirs.rr, theirs.auth, additional, None, found.authoritative)
        return _write(asked, whole, later.limit)

    def _complain(self, subject: str, text: str, *values: object) -> None:
        """Log what may happen as often as anybody likes, but not as often as that."""
        now = asyncio.get_running_loop().time()
        if now >= self._complained.get(subject, now):
            self._complained[subject] = now + _COMPLAIN_S
            log.warning(text, *values, exc_info=True)

    # --- connections ------------------------------------------------------------------------------

    def _received(self, place: Place, packet: bytes, client: str, send: Callable[[bytes], None]) -> None:
        if place.admits(client):
            self.receive(packet, client, send)

    def _accepted(self, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if place.admits((writer.get_extra_info("peername") or ("",))[0]):
            self._accept(reader, writer)
        else:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = (writer.get_extra_info("peername") or ("",))[0]
        if self._connections.total() >= CONNECTIONS_MAX or self._connections[client] >= CONNECTIONS_OF_ONE_MAX:
            writer.transport.abort()
            return
        self._connections[client] += 1
        self._tasks.spawn(self._serve(reader, writer, client), "DNS connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> None:
        """One question after the other, as long as the client does not stop."""
        try:
            while await self._serve_one(reader, writer, client):
                pass
        except (OSError, EOFError, TimeoutError):
            pass  # gone, or silent for too long
        except Exception:
            self._complain("connection", "a connection of %s was ended", client)
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> bool:
        async with asyncio.timeout(IDLE_S):
            size = int.from_bytes(await reader.readexactly(2))
            if size > QUESTION_MAX:
                return False
            packet = await reader.readexactly(size)
        found = self._at_once(packet, client, TCP_MAX)
        if isinstance(found, _Later):
            found = await self._ask_others(found)
        if found is None:
            return False
        writer.write(len(found).to_bytes(2) + found)
        async with asyncio.timeout(IDLE_S):
            await writer.drain()
        return True

    # --- listening --------------------------------------------------------------------------------

    async def _keep_listening(self) -> None:
        while True:
            everywhere = await self._listen()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if everywhere else RETRY_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _listen(self) -> bool:
        """Whether it listens wherever it should."""
        wanted = dict.fromkeys(self._places())
        stale, self._stale = self._stale, set()
        for place in [p for p in self._open if p not in wanted or p in stale]:
            await self._open.pop(place).close()
        for place in [p for p in wanted if p not in self._open]:
            port = await self._open_one(place)
            if port is not None:
                self._open[place] = port
        return len(self._open) == len(wanted)

    async def _open_one(self, place: Place) -> "_Port | None":
        for number in place.ports:
            port = _Port(number)
            try:
                await port.open(place, partial(self._received, place), partial(self._accepted, place))
            except OSError as e:
                if place not in self._refused:
                    log.warning("cluster DNS cannot listen on %s:%d: %s", place.ip, number, e.strerror or e)
                continue
            if number != PORT:
                log.warning("cluster DNS listens on %s:%d", place.ip, number)
            self._refused.discard(place)
            return port
        self._refused.add(place)
        return None


@dataclass(frozen=True, slots=True)
class _Later:
    """A question that others are to be asked. `found`: what the cluster knows, if anything."""

    asked: Question
    found: Answer | None
    client: str
    limit: int


@dataclass(slots=True)
class _Port:
    """A port that is open by UDP and TCP."""

    number: int
    _transport: asyncio.DatagramTransport | None = None
    _server: asyncio.Server | None = None

    async def open(
        self,
        place: Place,
        receive: Receive,
        accept: Accept,
    ) -> None:
        """Raises OSError."""
        try:
            sock = await place.network.listen_udp(place.ip, self.number)
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(receive), sock=sock
            )
            sock = await place.network.listen(place.ip, self.number)
            made = asyncio.start_server(accept, sock=sock, backlog=BACKLOG, limit=QUESTION_MAX, start_serving=False)
            self._server = await serving(made)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            await stop_listening(self._server)


class _Datagrams(asyncio.DatagramProtocol):
    """The datagrams of one port. While the network takes none, answers are dropped: clients ask again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The library's own is of another class than it says.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receive(data, addr[0], lambda packet: self._send(packet, addr))

    def _send(self, packet: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._transport.sendto(packet, addr)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False


def _write(asked: Question, found: Answer, limit: int) -> bytes:
    return write(
        asked,
        found.rcode,
        found.records,
        found.authority,
        found.additional,
        limit=limit,
        authoritative=found.authoritative,
    )

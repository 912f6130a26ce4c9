"""The machine's own DNS servers, asked for all names that are not of the cluster."""

import asyncio
import ipaddress
import logging
import os
import secrets
from collections.abc import Sequence
from typing import cast

from dnslib import EDNS0, RCODE, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.node.dns.cache import Cache, Key
from rayplane.node.dns.messages import UDP_MAX
from rayplane.node.runtime.resolv import parse_resolv

log = logging.getLogger(__name__)

PORT = 53
TRY_S = 1.5
DEADLINE_S = 5.0
EXCHANGES_MAX = 128
"""Under way at once, each with a socket of its own; others wait."""
_ROUNDS = 2
_STRANGERS_MAX = 16
_ELSEWHERE = (RCODE.SERVFAIL, RCODE.NOTIMP, RCODE.REFUSED, RCODE.FORMERR)
"""What another server may know better."""


class ResolvConf:
    """The servers that a resolv.conf(5) names, read again when it changes; none of `networks`, which would be this
    cluster's own.
    """

    def __init__(self, path: str, networks: Sequence[str]) -> None:
        self._path = path
        self._networks = [ipaddress.ip_network(n) for n in networks]
        self._version: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        try:
            found = os.stat(self._path)
            version = (found.st_mtime_ns, found.st_ino)
            if version != self._version:
                with open(self._path, errors="replace") as f:
                    names, _, _ = parse_resolv(f.read())
                self._servers = [name for name in names if self._is_other(name)]
                self._version = version
        except OSError as e:
            log.debug("%s: %s", self._path, e)
        return self._servers

    def _is_other(self, server: str) -> bool:
        try:
            address = ipaddress.ip_address(server)
        except ValueError:
            return False
        return not any(address in network for network in self._networks)


class Upstream:
    """A client of the machine's servers. `resolv`: which they are."""

    def __init__(self, resolv: ResolvConf, port: int = PORT) -> None:
        self._resolv = resolv
        self._port = port
        self._cache = Cache()
        self._asked: SingleFlight[DNSRecord] = SingleFlight(lambda: OSError("this node host is shutting down"))
        self._exchanges = asyncio.Semaphore(EXCHANGES_MAX)

    async def stop(self) -> None:
        await self._asked.stop()

    async def ask(self, name: DNSLabel, kind: int, *, secure: bool, unchecked: bool) -> DNSRecord:
        """What they answer; SERVFAIL where none does. Raises OSError after `stop`."""
        key = (tuple(label.lower() for label in name.label), kind, secure, unchecked)
        now = asyncio.get_running_loop().time()
        return self._cache.get(key, now) or await self._asked.run(repr(key), lambda: self._find(key))

    async def _find(self, key: Key) -> DNSRecord:
        question = _Exchange(key)
        try:
            async with asyncio.timeout(DEADLINE_S), self._exchanges:
                packet = await self._try_all(question)
        except TimeoutError:
            packet = None
        if packet is None:
            failed = DNSRecord(DNSHeader(id=question.ident, qr=1, rcode=RCODE.SERVFAIL), q=question.question)
            packet = bytes(failed.pack())
        answer = DNSRecord.parse(packet)
        self._cache.put(key, packet, answer, asyncio.get_running_loop().time())
        return answer

    async def _try_all(self, question: "_Exchange") -> bytes | None:
        refusal = None
        for _ in range(_ROUNDS):
            for server in self._resolv.servers():
                try:
                    async with asyncio.timeout(TRY_S):
                        packet, header = await self._by_udp(server, question)
                        if header.tc:
                            packet, header = await self._by_tcp(server, question)
                except (OSError, EOFError, TimeoutError) as e:
                    log.debug("%s does not answer: %s", server, e)
                    continue
                if header.rcode not in _ELSEWHERE:
                    return packet
                refusal = packet
            if refusal is not None:
                break
        return refusal

    async def _by_udp(self, server: str, question: "_Exchange") -> tuple[bytes, DNSHeader]:
        transport, waiting = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Waiting(question), remote_addr=(server, self._port)
        )
        try:
            return await waiting.answer
        finally:
            transport.close()

    async def _by_tcp(self, server: str, question: "_Exchange") -> tuple[bytes, DNSHeader]:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            writer.write(len(question.packet).to_bytes(2) + question.packet)
            packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        finally:
            writer.transport.abort()
        header = question.answered_by(packet)
        if header is None:
            raise OSError("what came is no answer to the question")
        return packet, header


class _Exchange:
    """One question as it is sent, and what is an answer to it."""

    def __init__(self, key: Key) -> None:
        labels, kind, secure, unchecked = key
        # From the operating system: who guesses it makes others believe what is not so.
        self.ident = secrets.randbelow(1 << 16)
        self.question = DNSQuestion(DNSLabel(labels), kind)
        header = DNSHeader(id=self.ident, rd=1, cd=int(unchecked))
        option = EDNS0(udp_len=UDP_MAX, flags="do" if secure else "")
        self.packet = bytes(DNSRecord(header, q=self.question, ar=[option]).pack())

    def answered_by(self, packet: bytes) -> DNSHeader | None:
        """The header of an answer that can be read; None for what is none to this question."""
        if packet[:2] != self.packet[:2]:
            return None
        try:
            record = DNSRecord.parse(packet)
        except Exception as e:
            log.debug("an answer cannot be read: %s", e)
            return None
        asked = self.question
        same = [(q.qname, q.qtype, q.qclass) for q in record.questions] == [(asked.qname, asked.qtype, asked.qclass)]
        return record.header if record.header.qr and same else None


class _Waiting(asyncio.DatagramProtocol):
    """The socket of one question."""

    def __init__(self, question: _Exchange) -> None:
        self._question = question
        self._strangers = 0
        self.answer: asyncio.Future[tuple[bytes, DNSHeader]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The library's own is of another class than it says.
        cast(asyncio.DatagramTransport, transport).sendto(self._question.packet)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.answer.done():
            return
        header = self._question.answered_by(data)
        if header is not None:
            self.answer.set_result((data, header))
            return
        self._strangers += 1
        if self._strangers > _STRANGERS_MAX:
            # Somebody guesses. By TCP, or another time, he cannot.
            self.answer.set_exception(OSError("too many answers to other questions"))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

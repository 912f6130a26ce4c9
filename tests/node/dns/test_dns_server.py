"""The server by its sockets: questions by UDP and TCP, other servers behind it, and the bounds of both."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, RR, SOA, A, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from rayplane.control_plane.client import Informer
from rayplane.node.dns import server as serving
from rayplane.node.dns import upstream as asking
from rayplane.node.dns.feed import Feed
from rayplane.node.dns.server import DnsServer, Place
from rayplane.node.dns.upstream import ResolvConf, Upstream
from rayplane.node.dns.zone import Zone
from rayplane.node.proxy.rules import SLICES, SLICES_BY_SERVICE, services_of
from rayplane.node.runtime.pod_network import DIRECT
from tests.fakes import FakeClient
from tests.node.dns.test_dns_answers import a_slice, service

Address = tuple[str, int]
Answers = Callable[[DNSRecord], Sequence[bytes]]
#: This process's own, so that tests may run beside each other.
OURS, THEIRS, NOBODYS = (f"127.{first}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" for first in (83, 84, 85))
WEB = "web.default.svc.cluster.local"


class Datagrams(asyncio.DatagramProtocol):
    """A socket that gives what comes to a function, and sends what that says."""

    def __init__(self, receive: Callable[[bytes], Sequence[bytes]]) -> None:
        self._receive = receive

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for answer in self._receive(data):
            self.transport.sendto(answer, addr)


class Others:
    """A server outside of the cluster. `answers` by UDP, `by_tcp` by TCP; `asked`: what it was."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[DNSRecord] = []
        self.answers: Answers = lambda asked: [reply(asked, "192.0.2.53")]
        self.by_tcp: Answers = self.answers

    def receive(self, packet: bytes) -> Sequence[bytes]:
        self.asked.append(DNSRecord.parse(packet))
        return self.answers(self.asked[-1])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = DNSRecord.parse(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        for answer in self.by_tcp(asked):
            writer.write(len(answer).to_bytes(2) + answer)
        writer.close()


def reply(asked: DNSRecord, *addresses: str, ttl_s: int = 300, **header: int) -> bytes:
    found = DNSRecord(DNSHeader(id=asked.header.id, qr=1, ra=1, **header), q=asked.q)
    found.add_answer(*(RR(asked.q.qname, ttl=ttl_s, rdata=A(ip)) for ip in addresses))
    return bytes(found.pack())


def denial(asked: DNSRecord) -> bytes:
    found = DNSRecord(DNSHeader(id=asked.header.id, qr=1, rcode=RCODE.NXDOMAIN), q=asked.q)
    soa = SOA("ns.example.com", "admin.example.com", (1, 2, 3, 4, 20))
    found.add_auth(RR("example.com", QTYPE.SOA, ttl=900, rdata=soa))
    return bytes(found.pack())


@pytest.fixture
async def others() -> AsyncIterator[Others]:
    found = Others(5300)
    server = await asyncio.start_server(found.serve, THEIRS, found.port)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Datagrams(found.receive), local_addr=(THEIRS, found.port)
    )
    yield found
    transport.close()
    server.close()


@pytest.fixture
async def api() -> FakeClient:
    found = FakeClient()
    found.put("namespaces", {"metadata": {"name": "default"}})
    found.put("services", service("web", ports=[{"port": 80, "protocol": "TCP"}]))
    return found


@pytest.fixture
async def server(api: FakeClient, others: Others, tmp_path: Path) -> AsyncIterator[DnsServer]:
    (tmp_path / "resolv.conf").write_text(f"nameserver {THEIRS}\nsearch example.com\n")
    informers = [
        Informer(api, "services"),  # type: ignore[arg-type]
        Informer(api, SLICES, indexers={SLICES_BY_SERVICE: services_of}),  # type: ignore[arg-type]
        Informer(api, "namespaces"),  # type: ignore[arg-type]
    ]
    for informer in informers:
        informer.start()
        await informer.synced()
    feed = Feed(
        Zone("10.24.0.10", ["10.24.0.0/16"]), services=informers[0], slices=informers[1], namespaces=informers[2]
    )
    upstream = Upstream(ResolvConf(str(tmp_path / "resolv.conf"), ["10.24.0.0/16"]), others.port)
    found = DnsServer(feed, upstream, lambda: [Place(DIRECT, OURS, (5300,))])
    await found.start()
    yield found
    await found.stop()
    for informer in informers:
        await informer.stop()


class Client:
    """A client of the server under test."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[DNSRecord]] = {}
        self._number = 0

    def receive(self, packet: bytes) -> Sequence[bytes]:
        answer = DNSRecord.parse(packet)
        waiting = self._waiting.pop(answer.header.id, None)
        if waiting is not None:
            waiting.set_result(answer)
        return ()

    def send(self, name: str, kind: str = "A") -> "asyncio.Future[DNSRecord]":
        self._number += 1
        waiting = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        question = DNSQuestion(DNSLabel(name), getattr(QTYPE, kind))
        self.transport.sendto(bytes(DNSRecord(DNSHeader(id=self._number, rd=1), q=question).pack()))
        return waiting


@pytest.fixture
async def client(server: DnsServer) -> AsyncIterator[Client]:
    found = Client()
    found.transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Datagrams(found.receive), remote_addr=server.addresses[0]
    )
    yield found
    found.transport.close()


def said(answer: DNSRecord) -> tuple[str, list[str]]:
    return RCODE[answer.header.rcode], [str(r.rdata).rstrip(".") for r in answer.rr]


async def ask_tcp(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, *names: str) -> list[DNSRecord]:
    packets = [bytes(DNSRecord.question(name).pack()) for name in names]
    writer.write(b"".join(len(p).to_bytes(2) + p for p in packets))
    found = []
    for _ in packets:
        found.append(DNSRecord.parse(await reader.readexactly(int.from_bytes(await reader.readexactly(2)))))
    return found


# --- of the cluster -------------------------------------------------------------------------------


async def test_what_changes_is_answered_anew(api: FakeClient, client: Client) -> None:
    assert said(await client.send(WEB)) == ("NOERROR", ["10.24.0.20"])
    assert said(await client.send("db.default.svc.cluster.local")) == ("NXDOMAIN", [])
    api.put("services", service("db", clusterIP="None"))
    api.put("endpointslices.discovery.k8s.io", a_slice("db", {"addresses": ["10.16.1.1"]}))
    while said(await client.send("db.default.svc.cluster.local")) != ("NOERROR", ["10.16.1.1"]):
        pass
    # The slice goes to another service.
    api.put("endpointslices.discovery.k8s.io", a_slice("x", {"addresses": ["10.16.1.1"]}) | {"metadata": {
        "name": "db-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "x"}}})  # fmt: skip
    while said(await client.send("db.default.svc.cluster.local"))[0] != "NXDOMAIN":
        pass
    api.remove("services", "default/web")
    while said(await client.send(WEB))[0] != "NXDOMAIN":
        pass


async def test_a_connection_takes_question_after_question(server: DnsServer) -> None:
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    answers = await ask_tcp(writer, reader, WEB, "none.default.svc.cluster.local", "example.com")
    assert [said(a) for a in answers] == [
        ("NOERROR", ["10.24.0.20"]),
        ("NXDOMAIN", []),
        ("NOERROR", ["192.0.2.53"]),
    ]
    writer.write(b"\xff\xff")
    assert await reader.read() == b""
    writer.close()


async def test_an_answer_too_large_for_a_datagram_is_whole_by_tcp(
    api: FakeClient, client: Client, server: DnsServer
) -> None:
    ends = [{"addresses": [f"10.16.1.{n}"]} for n in range(200)]
    api.put("services", service("db", clusterIP="None"))
    api.put("endpointslices.discovery.k8s.io", a_slice("db", *ends))
    while not (answer := await client.send("db.default.svc.cluster.local")).header.tc:
        pass
    assert 0 < len(answer.rr) < 200
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    (answer,) = await ask_tcp(writer, reader, "db.default.svc.cluster.local")
    assert len(answer.rr) == 200 and not answer.header.tc
    writer.close()


async def test_connections_are_bounded_and_none_is_kept_for_nothing(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_OF_ONE_MAX", 1)
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    await ask_tcp(writer, reader, WEB)
    other_reader, other = await asyncio.open_connection(*server.addresses[0])
    with pytest.raises((OSError, EOFError)):
        await ask_tcp(other, other_reader, WEB)
    other.close()
    writer.close()


async def test_a_connection_that_asks_nothing_is_ended(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 0.01)
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    assert await reader.read() == b""
    writer.close()


# --- of others ------------------------------------------------------------------------------------


async def test_other_names_are_asked_for_once_and_remembered(client: Client, others: Others) -> None:
    waiting = [client.send("Example.com"), client.send("example.com")]
    answers = [await one for one in waiting]
    assert [said(a) for a in answers] == [("NOERROR", ["192.0.2.53"])] * 2
    assert [str(a.q.qname) for a in answers] == ["Example.com.", "example.com."]
    assert said(await client.send("EXAMPLE.com")) == ("NOERROR", ["192.0.2.53"])
    assert len(others.asked) == 1 and others.asked[0].header.rd
    others.answers = lambda asked: [denial(asked)]
    for _ in range(2):
        answer = await client.send("no.example.com")
        assert said(answer)[0] == "NXDOMAIN" and QTYPE[answer.auth[0].rtype] == "SOA"
    assert len(others.asked) == 2


async def test_an_alias_comes_with_what_others_know_of_it(api: FakeClient, client: Client) -> None:
    api.put("services", service("out", type="ExternalName", externalName="db.example.com"))
    while said(answer := await client.send("out.default.svc.cluster.local"))[0] == "NXDOMAIN":
        pass
    assert said(answer) == ("NOERROR", ["db.example.com", "192.0.2.53"])


async def test_what_is_cut_off_is_asked_for_by_tcp(client: Client, others: Others) -> None:
    others.answers = lambda asked: [reply(asked, tc=1)]
    others.by_tcp = lambda asked: [reply(asked, "192.0.2.7")]
    assert said(await client.send("example.com")) == ("NOERROR", ["192.0.2.7"])


async def test_answers_to_other_questions_are_none(client: Client, others: Others) -> None:
    wrong = "192.0.2.66"
    others.answers = lambda asked: [
        (asked.header.id ^ 1).to_bytes(2) + reply(asked, wrong)[2:],
        reply(DNSRecord(asked.header, q=DNSQuestion("other.example.com")), wrong),
        bytes(asked.pack()),
        reply(asked, wrong)[:-3],
        reply(asked, "192.0.2.1"),
    ]
    assert said(await client.send("example.com")) == ("NOERROR", ["192.0.2.1"])


async def test_the_next_server_is_asked_where_one_refuses_or_is_silent(
    client: Client, others: Others, tmp_path: Path
) -> None:
    (tmp_path / "resolv.conf").write_text(f"nameserver {NOBODYS}\nnameserver 10.24.0.10\nnameserver {THEIRS}\n")
    assert said(await client.send("example.com")) == ("NOERROR", ["192.0.2.53"])


async def test_without_an_answer_of_others_there_is_an_error(
    client: Client, others: Others, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others.answers = lambda asked: [reply(asked, rcode=RCODE.SERVFAIL)]
    assert said(await client.send("a.example.com")) == ("SERVFAIL", [])
    monkeypatch.setattr(asking, "TRY_S", 0.01)
    others.answers = lambda asked: []
    assert said(await client.send("b.example.com")) == ("SERVFAIL", [])
    (tmp_path / "resolv.conf").write_text("")
    assert said(await client.send("c.example.com")) == ("SERVFAIL", [])
    assert said(await client.send(WEB)) == ("NOERROR", ["10.24.0.20"])


async def test_who_asks_for_much_at_once_is_refused(
    client: Client, server: DnsServer, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ASKED_BY_ONE_MAX", 2)
    monkeypatch.setattr(asking, "TRY_S", 0.05)
    others.answers = lambda asked: []
    answers = [await one for one in [client.send(f"{n}.example.com") for n in range(4)]]
    assert sorted(said(a)[0] for a in answers) == ["REFUSED", "REFUSED", "SERVFAIL", "SERVFAIL"]
    others.answers = lambda asked: [reply(asked, "192.0.2.1")]
    assert said(await client.send("x.example.com")) == ("NOERROR", ["192.0.2.1"])
    assert server._asked == {}, "who asked once is not remembered for ever"


async def test_garbage_stops_nothing(client: Client, server: DnsServer) -> None:
    for packet in (b"", b"x", bytes(11), bytes(12), b"\xff" * 600):
        client.transport.sendto(packet)
    assert said(await client.send(WEB)) == ("NOERROR", ["10.24.0.20"])

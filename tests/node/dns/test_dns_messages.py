"""Messages: what is refused, what fits, and that no bytes make the reader fail."""

from collections.abc import Sequence
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSLabel, DNSQuestion, DNSRecord
from hypothesis import example, given
from hypothesis import strategies as st

from rayplane.node.dns.answers import answer
from rayplane.node.dns.messages import TCP_MAX, UDP_MAX, UDP_MIN, Question, Refused, read, write
from rayplane.node.dns.zone import Zone

QUERY = bytes(DNSRecord.question("WEB.default.svc.cluster.local").pack())
ZONE = Zone("10.24.0.10", ("10.24.0.0/16",))


def asked(**option: int) -> Question:
    record = DNSRecord(DNSHeader(id=7, rd=1), q=DNSQuestion("WEB.default.svc.cluster.local"))
    if option:
        record.add_ar(EDNS0(**option))
    found = read(bytes(record.pack()))
    assert found is not None
    return found


def refusal(packet: bytes) -> DNSRecord:
    with pytest.raises(Refused) as e:
        read(packet)
    return DNSRecord.parse(e.value.answer)


def many(count: int) -> list[RR]:
    return [RR("web.default.svc.cluster.local", ttl=5, rdata=A(f"10.16.{n // 250}.{n % 250}")) for n in range(count)]


def written(question: Question, records: Sequence[RR] = (), *, limit: int, **more: Any) -> DNSRecord:
    packet = write(question, RCODE.NOERROR, records, limit=limit, **more)
    assert len(packet) <= limit
    return DNSRecord.parse(packet)


def pointers(count: int) -> bytes:
    """A question with two records: the name of the second is a pointer to a pointer to a pointer in the first."""
    start = len(QUERY) + 11
    chain = b"".join((0xC000 | (12 if n == 0 else start + 2 * (n - 1))).to_bytes(2) for n in range(count))
    first = b"\x00" + (65_280).to_bytes(2) + b"\x00\x01" + bytes(4) + len(chain).to_bytes(2) + chain
    second = chain[-2:] + (65_280).to_bytes(2) + b"\x00\x01" + bytes(4) + b"\x00\x01."
    return QUERY[:10] + b"\x00\x02" + QUERY[12:] + first + second


@given(st.binary(max_size=600) | st.builds(lambda a, b: QUERY[:a] + b + QUERY[a:], st.integers(0, 47), st.binary()))
@example(pointers(1900))
@example(QUERY[:12] + b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01")
@example(QUERY[:12] + b"\x03\xff\xfe\xfd\x00\x00\x01\x00\x01")
@example(QUERY[:12] + b"\xc0\x0c\x00\x01\x00\x01")
def test_no_bytes_make_the_server_fail(packet: bytes) -> None:
    try:
        question = read(packet)
    except Refused as e:
        assert DNSRecord.parse(e.answer).header.id == int.from_bytes(packet[:2])
        return
    if question is not None:
        found = answer(ZONE, question.question.qname, question.question.qtype)
        if found is not None:
            reply = write(question, found.rcode, found.records, found.authority, limit=question.size)
            assert DNSRecord.parse(reply).q.qname.label == question.question.qname.label


def test_what_is_no_question_is_refused_as_others_do() -> None:
    def query(**header: int) -> bytes:
        return bytes(DNSRecord(DNSHeader(id=7, **header), q=DNSQuestion("web.default.svc.cluster.local")).pack())

    assert read(query(qr=1)) is None and read(b"short") is None
    assert refusal(query(opcode=5)).header.rcode == RCODE.NOTIMP
    two = DNSRecord(DNSHeader(id=7), [DNSQuestion("a.example.com"), DNSQuestion("b.example.com")])
    assert refusal(bytes(two.pack())).header.rcode == RCODE.FORMERR
    assert refusal(query()[:-1]).header.rcode == RCODE.FORMERR
    assert refusal(QUERY[:12] + b"\x40" + b"a" * 64 + QUERY[-5:]).header.rcode == RCODE.FORMERR
    chaos = DNSRecord(DNSHeader(id=7), q=DNSQuestion("version.bind", QTYPE.TXT, 3))
    assert refusal(bytes(chaos.pack())).header.rcode == RCODE.REFUSED
    newer = refusal(bytes(DNSRecord(DNSHeader(id=7), q=DNSQuestion("a"), ar=[EDNS0(version=1)]).pack()))
    assert (newer.header.rcode, newer.ar[0].edns_rcode) == (0, 1)
    options = DNSRecord(DNSHeader(id=7), q=DNSQuestion("a"), ar=[EDNS0(), EDNS0()])
    assert refusal(bytes(options.pack())).header.rcode == RCODE.FORMERR


@pytest.mark.parametrize(("said", "size"), [(0, UDP_MIN), (600, 600), (4096, UDP_MAX)])
def test_an_answer_is_as_large_as_its_client_takes(said: int, size: int) -> None:
    question = asked(udp_len=said)
    assert question.size == size
    found = written(question, many(200), limit=question.size)
    assert found.header.tc and 0 < len(found.rr) < 200
    assert found.ar[0].edns_len == UDP_MAX


def test_who_knows_no_options_gets_none() -> None:
    found = written(asked(), many(2), limit=UDP_MIN)
    assert (found.header.tc, len(found.rr), found.ar) == (0, 2, [])
    assert str(found.q.qname) == "WEB.default.svc.cluster.local." and found.header.rd and found.header.ra


def test_additional_records_are_left_out_without_a_word() -> None:
    found = written(asked(), many(2), limit=UDP_MIN, additional=many(100))
    assert not found.header.tc and len(found.rr) == 2 and 0 < len(found.ar) < 100


def test_names_far_behind_are_still_those_that_were_written() -> None:
    records = [RR(f"{n}.{'x' * 50}.example.com", ttl=5, rdata=A("192.0.2.1")) for n in range(2000)]
    # Each of them with a name that only stands where no pointer reaches.
    records += [RR(f"a.{n}.{'y' * 50}.example.org", ttl=5, rdata=A("192.0.2.1")) for n in range(200)]
    found = written(asked(), records, limit=TCP_MAX)
    assert [str(r.rname) for r in found.rr] == [str(r.rname) for r in records[: len(found.rr)]]
    assert len(found.rr) > 1000


def test_a_long_way_of_pointers_is_malformed_and_a_short_one_is_not() -> None:
    assert read(pointers(3)) is not None
    assert refusal(pointers(1900)).header.rcode == RCODE.FORMERR


def test_labels_are_kept_apart() -> None:
    """A dot in a label is none between two."""
    packet = DNSRecord(DNSHeader(id=7), q=DNSQuestion(DNSLabel([b"web.default", b"svc", b"cluster", b"local"])))
    question = read(bytes(packet.pack()))
    assert question is not None
    found = answer(ZONE, question.question.qname, QTYPE.A)
    assert found is not None and found.rcode == RCODE.NXDOMAIN

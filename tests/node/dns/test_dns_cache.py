"""What is remembered, for how long, and how much of it at most."""

import pytest
from dnslib import CNAME, QTYPE, RCODE, RR, SOA, TXT, A, DNSHeader, DNSQuestion, DNSRecord

from rayplane.node.dns.cache import BYTES_MAX, ENTRIES_MAX, FAILED_S, OWN_MAX, TTL_MAX_S, Cache, Key, OwnAnswers

KEY: Key = ((b"example", b"com"), QTYPE.A, False, False)
ADDRESS = RR("example.com", ttl=12, rdata=A("192.0.2.1"))
ALIAS = RR("example.com", QTYPE.CNAME, ttl=12, rdata=CNAME("www.example.com"))
DENIAL = RR("com", QTYPE.SOA, ttl=25, rdata=SOA("a", "b", (1, 2, 3, 4, 7)))


def answer(*records: RR, auth: tuple[RR, ...] = (), **header: int) -> DNSRecord:
    return DNSRecord(DNSHeader(id=1, qr=1, **header), q=DNSQuestion("example.com"), rr=[*records], auth=[*auth])


def kept_s(found: DNSRecord) -> int:
    """For how many seconds it is remembered."""
    cache = Cache()
    cache.put(KEY, bytes(found.pack()), found, now=100.0)
    return next(s for s in range(1000) if cache.get(KEY, 100.0 + s) is None)


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (answer(ADDRESS), 12),
        (answer(RR("example.com", ttl=9999, rdata=A("192.0.2.1"))), TTL_MAX_S),
        (answer(RR("example.com", ttl=0, rdata=A("192.0.2.1"))), 0),
        (answer(ADDRESS, tc=1), 0),
        (answer(rcode=RCODE.NXDOMAIN, auth=(DENIAL,)), 7),
        (answer(auth=(DENIAL,)), 7),
        (answer(ALIAS, auth=(DENIAL,)), 7),
        (answer(rcode=RCODE.NXDOMAIN), 0),
        (answer(), 0),
        (answer(rcode=RCODE.SERVFAIL), FAILED_S),
        (answer(rcode=RCODE.REFUSED), 0),
        (answer(RR("example.com", QTYPE.TXT, ttl=12, rdata=TXT([b"x" * 255] * (BYTES_MAX // 256 + 1)))), 0),
    ],
)
def test_an_answer_is_kept_as_long_as_it_holds(found: DNSRecord, seconds: int) -> None:
    assert kept_s(found) == seconds


def test_what_is_left_of_the_time_is_told() -> None:
    cache = Cache()
    cache.put(KEY, bytes(answer(ADDRESS).pack()), answer(ADDRESS), now=100.0)
    found = cache.get(KEY, 104.5)
    assert found is not None and [rr.ttl for rr in found.rr] == [8]


def test_the_oldest_is_given_up_for_the_newest() -> None:
    cache, found = Cache(), answer(ADDRESS)
    keys: list[Key] = [((str(n).encode(),), QTYPE.A, False, False) for n in range(ENTRIES_MAX + 1)]
    for key in keys:
        cache.put(key, bytes(found.pack()), found, now=0.0)
    assert cache.get(keys[0], 0.0) is None
    assert all(cache.get(key, 0.0) is not None for key in (keys[1], keys[-1]))


def test_own_answers_have_the_number_of_the_question_and_end_with_the_names() -> None:
    own = OwnAnswers()
    assert own.get(1, b"12question") is None
    own.put(b"12question", b"12answer")
    assert own.get(1, b"34question") == b"34answer"
    assert own.get(1, b"34other") is None
    assert own.get(2, b"34question") is None
    for n in range(3 * OWN_MAX):
        own.put(f"12{n}".encode(), b"12answer")
        assert len(own._answers) <= OWN_MAX

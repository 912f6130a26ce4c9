"""Caches of answers, pure and bounded: of others as long as they said it holds, our own while no name changes."""

from dataclasses import dataclass

from dnslib import QTYPE, RCODE, RR, DNSRecord

TTL_MAX_S = 30
"""As kubeadm configures CoreDNS: nobody is told for longer what has changed outside."""
FAILED_S = 5
ENTRIES_MAX = 2048
BYTES_MAX = 4096
"""Of one answer; larger ones are asked for again."""
OWN_MAX = 1024
_IDENT = 2

Key = tuple[tuple[bytes, ...], int, bool, bool]
"""Labels in lower case, type, DO, CD."""


@dataclass(frozen=True, slots=True)
class _Entry:
    packet: bytes
    since: float
    until: float


class Cache:
    """A cache of answers by question; the oldest is given up first."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def put(self, key: Key, packet: bytes, answer: DNSRecord, now: float) -> None:
        span = span_of(answer)
        if span <= 0 or len(packet) > BYTES_MAX:
            return
        self._entries.pop(key, None)
        while len(self._entries) >= ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = _Entry(packet, now, now + span)

    def get(self, key: Key, now: float) -> DNSRecord | None:
        """A copy with what is left of each record's time to live."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            del self._entries[key]
            return None
        answer = DNSRecord.parse(entry.packet)
        for record in records_of(answer):
            record.ttl = max(0, record.ttl - int(now - entry.since))
        return answer


class OwnAnswers:
    """A memory of answers by the question's bytes without its number, which each client chooses anew."""

    def __init__(self) -> None:
        self._version = 0
        self._answers: dict[bytes, bytes] = {}

    def get(self, version: int, question: bytes) -> bytes | None:
        """The same answer under the question's number; none that is older than `version` of the names."""
        if version != self._version:
            self._version = version
            self._answers.clear()
        answer = self._answers.get(question[_IDENT:])
        return question[:_IDENT] + answer if answer is not None else None

    def put(self, question: bytes, answer: bytes) -> None:
        """Keep an answer of the version that `get` was told last."""
        if len(self._answers) >= OWN_MAX:
            self._answers.clear()
        self._answers[question[_IDENT:]] = answer[_IDENT:]


def records_of(answer: DNSRecord) -> list[RR]:
    """All records of an answer but those that are about the message."""
    return [rr for rr in (*answer.rr, *answer.auth, *answer.ar) if rr.rtype != QTYPE.OPT]


def span_of(answer: DNSRecord) -> float:
    """For how many seconds an answer holds; 0 for one that nobody may keep (RFC 2308, 5 and 7)."""
    rcode = answer.header.rcode
    if answer.header.tc:
        return 0
    if rcode not in (RCODE.NOERROR, RCODE.NXDOMAIN):
        return FAILED_S if rcode == RCODE.SERVFAIL else 0
    spans = [rr.ttl for rr in records_of(answer)]
    if rcode == RCODE.NXDOMAIN or not any(rr.rtype != QTYPE.CNAME for rr in answer.rr):
        minimums = [rr.rdata.times[4] for rr in answer.auth if rr.rtype == QTYPE.SOA]
        if not minimums:
            return 0
        spans += minimums
    return float(min([TTL_MAX_S, *spans]))

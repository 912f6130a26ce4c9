"""DNS messages as bytes: questions that clients send, and answers that fit.

What the library does with hostile bytes is its own: any error of it means a malformed message.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dnslib import EDNS0, QTYPE, RCODE, RR, DNSHeader, DNSQuestion, DNSRecord
from dnslib.label import DNSBuffer

from rayplane.node.dns.names import LABEL_MAX, NAME_MAX

UDP_MAX = 1232
"""Bytes that no network between here and a client breaks up; also what is asked of others (DNS flag day 2020)."""
UDP_MIN = 512
TCP_MAX = 65_535
QUESTION_MAX = 4096
_HEADER = struct.Struct("!HHHHHH")
_POINTER_MAX = 0x3FFF
_OPCODE, _QUERY = 0x7800, 0
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSES = 0x8000, 0x0400, 0x0200, 0x0080
_RECURSION_DESIRED, _CHECKING_DISABLED = 0x0100, 0x0010
_CLASS_IN = 1
_BAD_VERSION = 16
_OPTION_BYTES = 11
#: As many records as a question may bring: a few for EDNS and signatures.
_RECORDS_MAX = (1, 1, 2)


@dataclass(frozen=True, slots=True)
class Question:
    """One question, in its client's letters. `size`: bytes that client takes by UDP; `edns`: whether it says so.

    `secure` and `unchecked`: the bits DO and CD, which are for other servers.
    """

    ident: int
    flags: int
    question: DNSQuestion
    size: int = UDP_MIN
    edns: bool = False
    secure: bool = False

    @property
    def unchecked(self) -> bool:
        return bool(self.flags & _CHECKING_DISABLED)


class Refused(Exception):
    """A message that is answered with an error. `answer`: that answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("refused")
        self.answer = answer


def read(packet: bytes) -> Question | None:
    """The question of a message; None for what gets no answer. Raises Refused."""
    if len(packet) < _HEADER.size:
        return None
    ident, flags, questions, *records = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        return None  # an answer to an answer might go to and fro for ever
    if flags & _OPCODE != _QUERY:
        raise Refused(_bare(ident, flags, RCODE.NOTIMP))
    too_many = any(n > most for n, most in zip(records, _RECORDS_MAX, strict=True))
    if questions != 1 or too_many or len(packet) > QUESTION_MAX:
        raise Refused(_bare(ident, flags, RCODE.FORMERR))
    try:
        record = DNSRecord.parse(packet)
        options = [rr for rr in record.ar if rr.rtype == QTYPE.OPT]
    except Exception as e:
        raise Refused(_bare(ident, flags, RCODE.FORMERR)) from e
    labels = record.q.qname.label
    if len(options) > 1 or len(record.q.qname) > NAME_MAX or any(len(label) > LABEL_MAX for label in labels):
        raise Refused(_bare(ident, flags, RCODE.FORMERR))
    if not options:
        found = Question(ident, flags, record.q)
    else:
        size = max(UDP_MIN, min(UDP_MAX, options[0].edns_len))
        found = Question(ident, flags, record.q, size, True, bool(options[0].edns_do))
        if options[0].edns_ver:
            raise Refused(write(found, _BAD_VERSION, limit=UDP_MIN))
    if record.q.qclass != _CLASS_IN:
        raise Refused(write(found, RCODE.REFUSED, limit=UDP_MIN))
    return found


def write(
    asked: Question,
    rcode: int,
    records: Sequence[RR] = (),
    authority: Sequence[RR] = (),
    additional: Sequence[RR] = (),
    *,
    limit: int,
    authoritative: bool = False,
) -> bytes:
    """An answer of at most `limit` bytes. Where records do not fit, it has those that do and says so."""
    buffer = DNSBuffer()
    buffer.names = _Names()
    flags = _RESPONSE | _RECURSES | (asked.flags & (_RECURSION_DESIRED | _CHECKING_DISABLED)) | (rcode & 0xF)
    if authoritative:
        flags |= _AUTHORITATIVE
    DNSHeader(asked.ident, flags).pack(buffer)
    asked.question.pack(buffer)
    option = EDNS0(udp_len=UDP_MAX, ext_rcode=rcode >> 4, flags="do" if asked.secure else "")
    room = limit - (_OPTION_BYTES if asked.edns else 0)
    counts = [1]
    for section in (records, authority, additional):
        fitting = _pack(buffer, section, room) if not flags & _TRUNCATED else 0
        counts.append(fitting)
        # Without additional records an answer is whole.
        if fitting < len(section) and section is not additional:
            flags |= _TRUNCATED
    if asked.edns:
        option.pack(buffer)
        counts[-1] += 1
    buffer.update(0, "!HHHHHH", asked.ident, flags, *counts)
    return bytes(buffer.data)


class _Names(dict[tuple[bytes, ...], int]):
    """A map of where names stand, as far as a pointer reaches; the library would write others that lead elsewhere."""

    def __setitem__(self, name: tuple[bytes, ...], offset: int) -> None:
        if offset <= _POINTER_MAX:
            super().__setitem__(name, offset)


def _pack(buffer: DNSBuffer, section: Sequence[RR], room: int) -> int:
    """How many records of a section fit."""
    for number, record in enumerate(section):
        before = buffer.offset
        record.pack(buffer)
        if buffer.offset > room:
            # Names among what is cut off are not pointed to any more: only an option follows.
            del buffer.data[before:]
            buffer.offset = before
            return number
    return len(section)


def _bare(ident: int, flags: int, rcode: int) -> bytes:
    """A header alone: of what was asked not even the question is certain."""
    return _HEADER.pack(ident, _RESPONSE | (flags & (_OPCODE | _RECURSION_DESIRED)) | rcode, 0, 0, 0, 0)

"""Header blocks: HPACK (RFC 7541) by the `hpack` library, with a memory for blocks that come again.

A gRPC caller sends the same few bytes for each call, references into the table of its connection. As long as nothing
was added to that table, the same bytes mean the same headers, and decoding them once is enough.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

from rayplane.control_plane.rpc.http2.errors import ErrorCode, ProtocolError

#: Decoded size of the headers of one message (RFC 9113 section 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE).
HEADERS_BYTES_MAX = 64 * 1024
#: Blocks remembered for a connection, and how long they may be.
REMEMBERED_MAX = 64
REMEMBERED_BYTES_MAX = 1024

#: Static table (RFC 7541 appendix A) entries that servers and clients of gRPC can use: (name, value) and name alone.
_STATIC_FIELDS = {
    (b":method", b"POST"): 3,
    (b":scheme", b"http"): 6,
    (b":scheme", b"https"): 7,
    (b":status", b"200"): 8,
    (b":status", b"404"): 13,
}
_STATIC_NAMES = {b":authority": 1, b":path": 4, b":status": 8, b"content-type": 31, b"user-agent": 58}

Fields = Sequence[tuple[bytes, bytes]]


class Kind(Enum):
    """Kinds of header blocks, told by their pseudo-header fields (RFC 9113 section 8.3)."""

    REQUEST = "request"
    RESPONSE = "response"
    TRAILERS = "trailers"
    MALFORMED = "malformed"


_REQUEST_NAMES = frozenset([b":method", b":scheme", b":path", b":authority"])
_CONNECTION_NAMES = frozenset([b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"])
_name_is_well_formed = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_breaks_a_value = re.compile(rb"[\0\r\n]").search


class HeaderBlock:
    """The headers of one message, in order, names in lower case.

    `meaning` is for the reader: what it made of them, kept as long as the block is remembered.
    """

    __slots__ = ("fields", "kind", "meaning")

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self.fields = fields
        self.kind = _kind_of(fields)
        self.meaning: Any = None

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header."""
        for n, v in self.fields:
            if n == name:
                return v
        return None


def _kind_of(fields: Fields) -> Kind:
    """Sections 8.2 and 8.3: which fields may be there, and in which order."""
    pseudo: list[bytes] = []
    plain = False
    for name, value in fields:
        if name.startswith(b":"):
            if plain:
                return Kind.MALFORMED
            pseudo.append(name)
        else:
            plain = True
            if name in _CONNECTION_NAMES or not _name_is_well_formed(name) or (name == b"te" and value != b"trailers"):
                return Kind.MALFORMED
        if _breaks_a_value(value):
            return Kind.MALFORMED
    if not pseudo:
        return Kind.TRAILERS
    if pseudo == [b":status"]:
        return Kind.RESPONSE
    names = set(pseudo)
    if len(names) == len(pseudo) and names <= _REQUEST_NAMES and len(names - {b":authority"}) == 3:
        return Kind.REQUEST
    return Kind.MALFORMED


class _Table(HeaderTable):
    """Counts what is added, which changes what later references mean."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


class HeaderDecoder:
    """The decoding state of one direction of a connection."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADERS_BYTES_MAX)
        self._table = self._decoder.header_table = _Table()
        self._remembered: dict[bytes, HeaderBlock] = {}

    def decode(self, block: bytes) -> HeaderBlock:
        """Raises ProtocolError (COMPRESSION_ERROR)."""
        known = self._remembered.get(block)
        if known is not None:
            return known
        if len(block) > HEADERS_BYTES_MAX:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {HEADERS_BYTES_MAX} bytes")
        additions = self._table.additions
        try:
            fields = [(bytes(f[0]), bytes(f[1])) for f in self._decoder.decode(block, raw=True)]
        except HPACKError as e:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"cannot decode headers: {e}") from e
        headers = HeaderBlock(fields)
        # Another size of the table, which only the start of a block can set, drops entries from it.
        resized = block[:1] and block[0] >> 5 == 1
        if additions != self._table.additions or resized:
            self._remembered.clear()
        elif len(block) <= REMEMBERED_BYTES_MAX:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[block] = headers
        return headers


def encode_headers(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block that needs no state: static references and plain literals "without indexing"."""
    out = bytearray()
    for name, value in fields:
        index = _STATIC_FIELDS.get((name, value))
        if index is not None:
            out.append(0x80 | index)
            continue
        index = _STATIC_NAMES.get(name, 0)
        _append_integer(out, 0x00, 4, index)
        if not index:
            _append_string(out, name)
        _append_string(out, value)
    return bytes(out)


def _append_string(out: bytearray, text: bytes) -> None:
    _append_integer(out, 0x00, 7, len(text))
    out += text


def _append_integer(out: bytearray, first: int, bits: int, value: int) -> None:
    """RFC 7541 section 5.1."""
    limit = (1 << bits) - 1
    if value < limit:
        out.append(first | value)
        return
    out.append(first | limit)
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)

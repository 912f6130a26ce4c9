"""gRPC over HTTP/2, the bytes of it: message framing, timeouts, status, metadata.

Source: the gRPC project's "gRPC over HTTP2" protocol document. Pure; both ends use it.
"""

import base64
import binascii
import functools
import math
import re
import zlib
from collections.abc import Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

import grpc

from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.http2 import HeaderBlock, encode_headers
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX

#: Trailing metadata that carries `RpcError.google_status` and `RpcError.details`.
STATUS = b"grpc-status-details-bin"
DETAILS = b"rayplane-status-bin"
#: Of an error, before they are encoded: together well below what our own peers take as headers.
#: With details beside it, within the 8 KiB that gRPC's own library takes before it begins to refuse headers at random.
STATUS_MESSAGE_BYTES_MAX = 2048
STATUS_DETAILS_BYTES_MAX = 24 * 1024
#: What a header field counts besides its name and value (RFC 9113 section 6.5.2).
_FIELD_BYTES = 32
CONTENT_TYPE = b"application/grpc"

#: In front of each message: whether it is compressed, its length.
PREFIX_BYTES = 5
_CODES = {b"%d" % code.value[0]: code for code in grpc.StatusCode}
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Printable ASCII but "%", as the protocol has it for messages.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_RESERVED = frozenset([b"te", b"content-type"])
_is_custom_name = re.compile(rb"[0-9a-z_.-]+").fullmatch
_is_ascii_value = re.compile(r"[\x20-\x7e]*").fullmatch
#: What an HTTP status means when there is no gRPC status (the protocol's "HTTP to gRPC Status Code Mapping").
_HTTP_CODES = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}


def frame(message: bytes) -> bytes:
    """A message with its prefix: not compressed, length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def is_whole(data: bytes, limit: int) -> bool:
    """Whether this is one plain message in one piece, as nearly always, and within the limit."""
    size = len(data) - PREFIX_BYTES
    return size >= 0 and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == size <= limit


class Deframer:
    """A parser that cuts the data of a stream into messages.

    Holds what there is of the next one, at most `limit` bytes.
    """

    __slots__ = ("_buffer", "_encoding", "_limit", "_wanted", "error")

    def __init__(self, encoding: bytes | None, *, limit: int = MESSAGE_BYTES_MAX) -> None:
        """`encoding`: the stream's grpc-encoding; `limit`: of a message, also when it was compressed."""
        self._limit = limit
        self._buffer = bytearray()
        self._wanted = PREFIX_BYTES  # nothing is complete in a shorter buffer
        self._encoding = encoding
        self.error: RpcError | None = None
        """After this no more messages come: one is too large, or in an encoding not spoken here."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now."""
        if self.error is not None:
            return []
        if not self._buffer and is_whole(data, self._limit):
            return [data[PREFIX_BYTES:]]
        self._buffer += data
        messages: list[bytes] = []
        if len(self._buffer) >= self._wanted:
            try:
                self._cut(messages)
            except RpcError as e:
                self.error = e
                self._buffer.clear()
        return messages

    def _cut(self, messages: list[bytes]) -> None:
        at, size = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while True:
                self._wanted = PREFIX_BYTES
                if size - at < PREFIX_BYTES:
                    break
                length = int.from_bytes(view[at + 1 : at + PREFIX_BYTES], "big")
                if length > self._limit:
                    raise too_large(length, self._limit)
                self._wanted = PREFIX_BYTES + length
                if size - at < self._wanted:
                    break
                message = bytes(view[at + PREFIX_BYTES : at + self._wanted])
                messages.append(self._inflated(message) if view[at] else message)
                at += self._wanted
        del self._buffer[:at]

    @property
    def complete(self) -> bool:
        """Whether there is no message in pieces."""
        return not self._buffer

    @property
    def held(self) -> int:
        """Bytes of a message in pieces."""
        return len(self._buffer)

    def _inflated(self, message: bytes) -> bytes:
        if self._encoding in (None, b"identity"):
            raise RpcError(grpc.StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        if self._encoding not in (b"gzip", b"deflate"):
            name = self._encoding.decode("ascii", "replace")
            raise RpcError(
                grpc.StatusCode.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
            )
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            plain = inflate.decompress(message, self._limit + 1)
        except zlib.error as e:
            raise RpcError(grpc.StatusCode.INTERNAL, f"cannot decompress a message: {e}") from e
        if len(plain) > self._limit:
            raise too_large(len(plain), self._limit)
        if not inflate.eof:
            raise RpcError(grpc.StatusCode.INTERNAL, "cannot decompress a message: it is cut short")
        return plain


def too_large(size: int, limit: int) -> RpcError:
    return RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


@functools.lru_cache(maxsize=256)
def encode_timeout(seconds: float) -> bytes:
    """At most eight digits and a unit, rounded up.

    Times that are no whole seconds are what is left of some limit: they are rounded by up to a sixteenth, so that
    calls look alike and their headers are remembered. The caller keeps its own time.
    """
    if seconds >= 90_000:
        return b"%dS" % min(99_999_999, math.ceil(seconds))
    ms = max(1, math.ceil(seconds * 1000))
    if ms % 1000:
        step = 1 << max(0, ms.bit_length() - 5)
        ms += -ms % step
    return b"%dm" % ms


def decode_timeout(value: bytes) -> float:
    """Seconds. Raises RpcError."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise RpcError(grpc.StatusCode.INTERNAL, f"malformed grpc-timeout: {value!r}")
    return int(digits) * unit


def metadata_of(headers: HeaderBlock) -> dict[str, str]:
    """The custom metadata that is text, and what the caller calls itself; values of one name are joined by commas."""
    found: dict[str, str] = {}
    for name, value in headers.fields:
        if name not in _RESERVED and not name.startswith((b"grpc-", b":")) and not name.endswith(b"-bin"):
            key, text = name.decode("ascii", "replace"), value.decode("utf-8", "replace")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


def metadata_fields(metadata: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    """Raises ValueError: metadata is text, under names that are not the protocol's own."""
    fields = []
    for name, text in (metadata or {}).items():
        key = name.lower().encode()
        if not _is_custom_name(key) or key in _RESERVED or key.startswith(b"grpc-") or key.endswith(b"-bin"):
            raise ValueError(f"metadata cannot be named {name!r}: use letters, digits, '-', '_' and '.'; text only")
        if not _is_ascii_value(text):
            raise ValueError(f"the value of metadata {name!r} must be printable ASCII")
        fields.append((key, text.encode()))
    return fields


def status_fields(error: RpcError, room: int) -> list[tuple[bytes, bytes]]:
    """The trailers of a call that failed; `room`: what the peer takes as headers, in bytes.

    Peers refuse headers that are too long and with them the status: messages are cut, details left out.
    """
    fields = [(b"grpc-status", b"%d" % error.code.value[0])]
    if error.message:
        most = min(room // 4, STATUS_MESSAGE_BYTES_MAX)
        text = error.message.encode("utf-8", "replace")[:most]
        quoted = quote_from_bytes(text, safe=_PLAIN)
        if len(quoted) > most:
            quoted = quote_from_bytes(text[: most // 3], safe=_PLAIN)
        fields.append((b"grpc-message", quoted.encode()))
    left = room - sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields)
    for name, data in ((STATUS, error.google_status), (DETAILS, error.details)):
        value = base64.b64encode(data).rstrip(b"=") if len(data) <= STATUS_DETAILS_BYTES_MAX else b""
        cost = len(name) + len(value) + _FIELD_BYTES
        if value and cost <= left:
            fields.append((name, value))
            left -= cost
    return fields


def error_in(trailers: HeaderBlock) -> RpcError | None:
    """How a call ended by its trailers: None is well."""
    status = trailers.get(b"grpc-status")
    if status == b"0":
        return None
    if status is None:
        http = trailers.get(b":status") or b"200"
        code = _HTTP_CODES.get(http, grpc.StatusCode.UNKNOWN)
        return RpcError(code, f"the answer has no gRPC status (HTTP status {http.decode('ascii', 'replace')})")
    code = _CODES.get(status, grpc.StatusCode.UNKNOWN)
    message = unquote_to_bytes(trailers.get(b"grpc-message") or b"").decode("utf-8", "replace")
    return RpcError(code, message, _binary(trailers, DETAILS), google_status=_binary(trailers, STATUS))


def _binary(trailers: HeaderBlock, name: bytes) -> bytes:
    """A binary header; nothing where it cannot be read."""
    value = trailers.get(name) or b""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


def is_grpc(content_type: bytes | None) -> bool:
    """application/grpc, perhaps with "+proto" or parameters; not grpc-web."""
    head, rest = (content_type or b"")[: len(CONTENT_TYPE)], (content_type or b"")[len(CONTENT_TYPE) :]
    return head == CONTENT_TYPE and rest[:1] in (b"", b"+", b";")


RESPONSE_HEADERS = encode_headers([(b":status", b"200"), (b"content-type", CONTENT_TYPE)])
OK_TRAILERS = encode_headers([(b"grpc-status", b"0")])

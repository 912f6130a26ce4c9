"""gRPC over HTTP/2, the bytes of it: message framing, timeouts, status, metadata.

Source: the gRPC project's "gRPC over HTTP2" protocol document. Pure; both ends use it.
"""

import base64
import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

import grpc

from control_plane.rpc.errors import RpcError
from control_plane.rpc.http2 import HeaderBlock, encode_headers

#: Largest message either side takes.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
#: Trailing metadata that carries `RpcError.details`.
DETAILS = b"rayplane-status-bin"
CONTENT_TYPE = b"application/grpc"

_PREFIX_BYTES = 5
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Printable ASCII but "%", as the protocol has it for messages.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_RESERVED = frozenset([b"te", b"content-type", b"user-agent"])
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


class Deframer:
    """Cuts the data of a stream into messages."""

    __slots__ = ("_buffer", "_compressed")

    def __init__(self, encoding: bytes | None) -> None:
        """`encoding`: the stream's grpc-encoding."""
        self._buffer = b""
        self._compressed = encoding

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises RpcError: too large, or in an encoding not spoken here."""
        if self._buffer:
            data = self._buffer + data
        at, size = 0, len(data)
        while size - at >= _PREFIX_BYTES:
            length = int.from_bytes(data[at + 1 : at + _PREFIX_BYTES], "big")
            if length > MESSAGE_BYTES_MAX:
                raise too_large(length)
            end = at + _PREFIX_BYTES + length
            if end > size:
                break
            message = data[at + _PREFIX_BYTES : end]
            yield self._inflated(message) if data[at] else message
            at = end
        self._buffer = data[at:] if at else data

    @property
    def complete(self) -> bool:
        """Whether there is no message in pieces."""
        return not self._buffer

    def _inflated(self, message: bytes) -> bytes:
        if self._compressed not in (b"gzip", b"deflate"):
            raise RpcError(grpc.StatusCode.UNIMPLEMENTED, f"grpc-encoding {self._compressed!r} is not supported")
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            plain = inflate.decompress(message, MESSAGE_BYTES_MAX + 1)
        except zlib.error as e:
            raise RpcError(grpc.StatusCode.INTERNAL, f"cannot decompress a message: {e}") from e
        if len(plain) > MESSAGE_BYTES_MAX:
            raise too_large(len(plain))
        return plain


def too_large(size: int) -> RpcError:
    return RpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({size} vs. {MESSAGE_BYTES_MAX})",
    )


@functools.lru_cache(maxsize=256)
def encode_timeout(seconds: float) -> bytes:
    """At most eight digits and a unit, rounded up."""
    if seconds < 90_000:
        return b"%dm" % max(1, math.ceil(seconds * 1000))
    return b"%dS" % min(99_999_999, math.ceil(seconds))


def decode_timeout(value: bytes) -> float:
    """Seconds. Raises RpcError."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise RpcError(grpc.StatusCode.INTERNAL, f"malformed grpc-timeout: {value!r}")
    return int(digits) * unit


def metadata_of(headers: HeaderBlock) -> dict[str, str]:
    """The custom metadata that is text."""
    return {
        name.decode("ascii", "replace"): value.decode("utf-8", "replace")
        for name, value in headers.fields
        if name not in _RESERVED and not name.startswith((b"grpc-", b":")) and not name.endswith(b"-bin")
    }


def metadata_fields(metadata: Mapping[str, str] | None) -> Iterable[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in (metadata or {}).items()]


def status_fields(error: RpcError) -> list[tuple[bytes, bytes]]:
    """The trailers of a call that failed."""
    fields = [(b"grpc-status", b"%d" % error.code.value[0])]
    if error.message:
        fields.append((b"grpc-message", quote_from_bytes(error.message.encode(), safe=_PLAIN).encode()))
    if error.details:
        fields.append((DETAILS, base64.b64encode(error.details).rstrip(b"=")))
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
    code = _CODES.get(int(status) if status.isdigit() else 2, grpc.StatusCode.UNKNOWN)
    message = unquote_to_bytes(trailers.get(b"grpc-message") or b"").decode("utf-8", "replace")
    details = trailers.get(DETAILS) or b""
    return RpcError(code, message, base64.b64decode(details + b"=" * (-len(details) % 4)))


RESPONSE_HEADERS = encode_headers([(b":status", b"200"), (b"content-type", CONTENT_TYPE)])
OK_TRAILERS = encode_headers([(b"grpc-status", b"0")])

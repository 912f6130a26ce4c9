"""SPDY/3.1 frames, as far as streams to pods need them. Pure: bytes in, frames out, and back.

Source: SPDY protocol draft 3.1, sections 2.2 (framing) and 2.6 (frames).
"""

import struct
import zlib
from dataclasses import dataclass, field

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FLAG_FIN = 1
_VERSION = 3
#: A frame's length has 24 bits; kubectl sends data in pieces of 32 KiB.
FRAME_BYTES_MAX = 1 << 20
HEADER_BYTES_MAX = 16 * 1024
HEADERS_MAX = 64
# The words that both ends prime their compressors with (section 2.6.10.1).
_COMMON_TEXT = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges "
    "age allow authorization cache-control connection content-base content-encoding content-language "
    "content-length content-location content-md5 content-range content-type date etag expect expires from host "
    "if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards "
    "pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status"
)
_COMMON = _COMMON_TEXT.split(" ")
_TAIL = (
    ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"),
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
)


def _prefixed(words: "list[str] | tuple[str, ...]") -> bytes:
    return b"".join(struct.pack(">I", len(w)) + w for w in (word.encode() for word in words))


DICTIONARY = _prefixed(_COMMON) + _prefixed(_TAIL[0]) + b"".join(_TAIL[1:])  # type: ignore[arg-type]


class SpdyError(Exception):
    """The peer sent what is no SPDY/3.1."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A data frame (`type` 0) or a control frame; `headers` where it carries some."""

    type: int
    stream: int = 0
    flags: int = 0
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def last(self) -> bool:
        return bool(self.flags & FLAG_FIN)


class Decoder:
    """Frames from bytes that come in any pieces. One for each connection: header compression has state."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. SpdyError."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= 8:
            length = int.from_bytes(self._buffer[5:8], "big")
            if length > FRAME_BYTES_MAX:
                raise SpdyError(f"a frame of {length} bytes is too large")
            if len(self._buffer) < 8 + length:
                break
            head, body = bytes(self._buffer[:8]), bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            frames.append(self._frame(head, body))
        return frames

    def _frame(self, head: bytes, body: bytes) -> Frame:
        first, flags = int.from_bytes(head[:4], "big"), head[4]
        if not first >> 31:
            return Frame(0, first, flags, body)
        if (first >> 16) & 0x7FFF != _VERSION:
            raise SpdyError(f"SPDY version {(first >> 16) & 0x7FFF} is not spoken here")
        kind = first & 0xFFFF
        if kind in (SYN_STREAM, SYN_REPLY, HEADERS):
            skip = 10 if kind == SYN_STREAM else 4
            if len(body) < skip:
                raise SpdyError("a control frame is cut short")
            stream = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
            return Frame(kind, stream, flags, b"", self._headers(body[skip:]))
        stream = 0
        if kind in (RST_STREAM, WINDOW_UPDATE) and len(body) >= 4:
            stream = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
        return Frame(kind, stream, flags, body)

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._inflate.decompress(block, HEADER_BYTES_MAX)
        except zlib.error as e:
            raise SpdyError(f"headers cannot be decompressed: {e}") from e
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"headers of more than {HEADER_BYTES_MAX} bytes")
        found, at = {}, 4
        try:
            (count,) = struct.unpack_from(">I", raw, 0)
            if count > HEADERS_MAX:
                raise SpdyError(f"{count} headers are too many")
            for _ in range(count):
                pair = []
                for _ in range(2):
                    (length,) = struct.unpack_from(">I", raw, at)
                    pair.append(raw[at + 4 : at + 4 + length].decode())
                    at += 4 + length
                found[pair[0]] = pair[1]
        except (struct.error, UnicodeDecodeError) as e:
            raise SpdyError("a header block is malformed") from e
        return found


class Encoder:
    """Bytes of frames. One for each connection."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def data(self, stream: int, data: bytes, *, last: bool = False) -> bytes:
        return _header(stream, FLAG_FIN if last else 0, data)

    def reply(self, stream: int) -> bytes:
        """SYN_REPLY without headers."""
        return self._control(SYN_REPLY, struct.pack(">I", stream) + self._block({}))

    def open(self, stream: int, headers: dict[str, str]) -> bytes:
        """SYN_STREAM."""
        return self._control(SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + self._block(headers))

    def reset(self, stream: int, status: int = 1) -> bytes:
        return self._control(RST_STREAM, struct.pack(">II", stream, status))

    def goaway(self, last: int) -> bytes:
        """GOAWAY with status OK: `last` is the last stream that was accepted."""
        return self._control(GOAWAY, struct.pack(">II", last, 0))

    def ping(self, body: bytes) -> bytes:
        return self._control(PING, body)

    def window(self, stream: int, size: int) -> bytes:
        return self._control(WINDOW_UPDATE, struct.pack(">II", stream, size))

    @staticmethod
    def _control(kind: int, body: bytes) -> bytes:
        return _header(1 << 31 | _VERSION << 16 | kind, 0, body)

    def _block(self, headers: dict[str, str]) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in sorted(headers.items()):
            parts += [_prefixed((name, value))]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _header(first: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">I", first) + bytes((flags,)) + len(body).to_bytes(3, "big") + body

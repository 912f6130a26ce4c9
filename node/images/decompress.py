"""Streams of images: plain, gzip or zstd, told by their first bytes; hashed before and after unpacking, and bounded."""

import hashlib
import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from rayplane.node.images.errors import BadImage, TooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 256 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))  # RFC 8878, section 3.1.2
MAGICS = (_GZIP, _ZSTD)
"""What compressed streams begin with that are read here."""
OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class _Decoder(Protocol):
    """A decoder of one frame or member. `take`: at most CHUNK bytes of what `data` and what was left give."""

    @property
    def ended(self) -> bool: ...

    @property
    def rest(self) -> bytes:
        """What follows the end."""

    def take(self, data: bytes) -> bytes: ...


class _Gzip:
    """A decoder of one member of a gzip stream."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self._later = b""

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def take(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._later + data, CHUNK)
        self._later = self._inner.unconsumed_tail
        return out


class _Zstd:
    """A decoder of one frame of a zstd stream. Windows larger than zstd's usual limit are refused by it."""

    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor()

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def take(self, data: bytes) -> bytes:
        return self._inner.decompress(data, CHUNK)


class Plain:
    """A reader of what a stream unpacks to.

    `limit`: bytes that it may unpack to, TooLarge beyond. Digests count once `drain` has read to the end. What is no
    such stream raises BadImage.
    """

    def __init__(self, raw: BinaryIO, limit: int) -> None:
        self._raw, self._limit = raw, limit
        self._raw_hash = self._hash = hashlib.sha256()
        self._ready = b""
        self._at = 0
        self.size = 0
        self._ended = self._between = False
        head = self._read_raw()
        self._make = _decoder_of(head)
        self._decoder = self._make() if self._make is not None else None
        if self._decoder is not None:
            self._hash = hashlib.sha256()
        self._head: bytes | None = head

    @property
    def compressed(self) -> bool:
        return self._make is not None

    @property
    def raw_digest(self) -> str:
        return f"sha256:{self._raw_hash.hexdigest()}"

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size > 0:
            if self._at == len(self._ready):
                self._ready, self._at = self._more(), 0
                if not self._ready:
                    break
            part = self._ready[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drain(self) -> bool:
        """Read to the end; whether only zeros came."""
        zeros = True
        while data := self.read(CHUNK):
            zeros = zeros and not data.strip(b"\0")
        return zeros

    def _more(self) -> bytes:
        """The next bytes; empty at the end."""
        while not self._ended:
            out = self._decode()
            if out:
                self.size += len(out)
                if self.size > self._limit:
                    raise TooLarge(f"unpacks to more than {self._limit} bytes, which is all that it may or that fits")
                if self._hash is not self._raw_hash:
                    self._hash.update(out)
                return out
        return b""

    def _decode(self) -> bytes:
        if self._decoder is None:
            data = self._next_raw()
            self._ended = not data
            return data
        try:
            return self._decode_by(self._decoder)
        except (zlib.error, zstd.ZstdError, EOFError) as e:
            raise BadImage(f"compressed data is damaged: {e}") from e

    def _decode_by(self, decoder: _Decoder) -> bytes:
        if decoder.ended:
            rest = b"" if self._between else decoder.rest
            self._between = True
            rest = rest or self._next_raw()
            self._ended = not rest
            rest = rest.lstrip(b"\0")  # what programs fill the last block with
            if not rest or self._make is None:
                return b""
            decoder = self._make()
            self._decoder, self._between = decoder, False
            return decoder.take(rest)
        out = decoder.take(b"")
        if out or decoder.ended:
            return out
        data = self._next_raw()
        if not data:
            raise BadImage("compressed data ends in the middle")
        return decoder.take(data)

    def _next_raw(self) -> bytes:
        head, self._head = self._head, None
        return head or self._read_raw()

    def _read_raw(self) -> bytes:
        data = self._raw.read(CHUNK)
        self._raw_hash.update(data)
        return data


def _decoder_of(head: bytes) -> Callable[[], _Decoder] | None:
    if head.startswith(_GZIP):
        return _Gzip
    if head.startswith((_ZSTD, *_SKIPPABLE)):
        return _Zstd
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            raise BadImage(f"is compressed by {name}: images are plain, gzip or zstd; compress it anew")
    return None

"""Answers that are known whole: head and body written at once, a long body in pieces.

aiohttp's own Response prepares for much that no answer of ours has (cookies, compression, payloads); this costs a
third. Between the pieces of a long body others get their turn, and no more of it waits than the transport takes.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5
_HTTP_1_0 = (1, 0)


class Whole(web.StreamResponse):
    """An answer of known length."""

    def __init__(self, *pieces: bytes, status: int = 200, headers: Mapping[str, str]) -> None:
        super().__init__(status=status, headers=headers)
        self.pieces: Sequence[bytes] = pieces
        self._stays: bool | None = None  # the connection, after it

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @body.setter
    def body(self, body: bytes) -> None:
        self.pieces = (body,)

    @property
    def prepared(self) -> bool:
        return self._stays is not None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. ConnectionError when the client is gone."""
        if self.prepared:
            return None
        self._stays = request.keep_alive
        pieces = self.pieces if request.method != "HEAD" else ()
        first = pieces[0] if pieces else b""
        self._write(request, self._head(request) + first)
        for piece in pieces[1:]:
            await request.writer.drain()  # type: ignore[no-untyped-call, unused-ignore]
            self._write(request, piece)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""

    @staticmethod
    def _write(request: web.BaseRequest, data: bytes) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)

    def _head(self, request: web.BaseRequest) -> bytes:
        version = request.version
        lines = [f"HTTP/{version[0]}.{version[1]} {self.status} {_REASONS.get(self.status, '')}"]
        for name, value in self.headers.items():
            if _FORBIDDEN.search(value):
                raise ValueError(f"a control character in the header {name}")
            lines.append(f"{name}: {value}")
        lines.append(f"Content-Length: {sum(map(len, self.pieces))}")
        if not self._stays:
            lines.append("Connection: close")
        elif version == _HTTP_1_0:
            lines.append("Connection: keep-alive")
        return "\r\n".join((*lines, "\r\n")).encode()

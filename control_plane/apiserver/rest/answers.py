"""Answers that are known whole: head and body written at once, a long body in pieces.

aiohttp's own Response prepares for much that no answer of ours has (cookies, compression, payloads); this costs a
third. Between the pieces of a long body others get their turn, and no more of it waits than the transport takes. The
pieces of a list are joined one by one as they are written: the whole of it is never in memory.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5
_HTTP_1_0 = (1, 0)
# Items that make one piece: few enough to stay in the processor's cache until they are encrypted.
_ITEMS_AT_ONCE = 16


def write(request: web.BaseRequest, data: bytes) -> None:
    """Write to the connection of a request, past aiohttp. ConnectionError when the client is gone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    transport.write(data)


class Joined(Sequence[bytes]):
    """A text in pieces: `head`, `items` with `glue` between them, `tail`. Each piece is made when it is taken."""

    def __init__(self, head: bytes, items: Sequence[bytes], tail: bytes, *, glue: bytes) -> None:
        self._head, self._items, self._tail, self._glue = head, items, tail, glue
        self.size = len(head) + sum(map(len, items)) + len(glue) * max(0, len(items) - 1) + len(tail)

    def __len__(self) -> int:
        return -(-len(self._items) // _ITEMS_AT_ONCE) or 1

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        first = at * _ITEMS_AT_ONCE
        items = list(self._items[first : first + _ITEMS_AT_ONCE]) or [b""]
        items[0] = (self._glue if at else self._head) + items[0]
        if at == len(self) - 1:
            items[-1] += self._tail
        return self._glue.join(items)


class Whole(web.StreamResponse):
    """An answer of known length."""

    def __init__(self, body: bytes | Sequence[bytes], *, status: int = 200, headers: Mapping[str, str]) -> None:
        super().__init__(status=status, headers=headers)
        self.pieces: Sequence[bytes] = (body,) if isinstance(body, bytes) else body
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
        self._stays = request.keep_alive and self._keep_alive is not False
        pieces = self.pieces if request.method != "HEAD" else ()
        first = pieces[0] if pieces else b""
        write(request, self._head(request) + first)
        for at in range(1, len(pieces)):
            await request.writer.drain()  # type: ignore[no-untyped-call, unused-ignore]
            write(request, pieces[at])
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""

    def _head(self, request: web.BaseRequest) -> bytes:
        version = request.version
        lines = [f"HTTP/{version[0]}.{version[1]} {self.status} {_REASONS.get(self.status, '')}"]
        for name, value in self.headers.items():
            if _FORBIDDEN.search(value):
                raise ValueError(f"a control character in the header {name}")
            lines.append(f"{name}: {value}")
        pieces = self.pieces
        lines.append(f"Content-Length: {pieces.size if isinstance(pieces, Joined) else sum(map(len, pieces))}")
        if not self._stays:
            lines.append("Connection: close")
        elif version == _HTTP_1_0:
            lines.append("Connection: keep-alive")
        return "\r\n".join((*lines, "\r\n")).encode()

"""Requests of HTTP/1.1 as bytes, so that they may be anything, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

Header = tuple[str, bytes]


def request(method: str, path: str, headers: Sequence[Header] = (), body: bytes | None = None) -> bytes:
    """A whole one, after which the connection ends. `path` may hold what no URL may but line breaks."""
    lines = [f"{method} {path} HTTP/1.1".encode("utf-8", "surrogateescape"), b"Host: a", b"Connection: close"]
    lines += [name.encode() + b": " + value for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


async def ask(address: str, data: bytes, *, seconds: float | None = None) -> bytes:
    """What is answered until the end, or for so long where an answer may go on for ever (watches, half requests)."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(seconds):
                writer.write(data)
                await writer.drain()
                while piece := await reader.read(1 << 16):
                    answer += piece
    finally:
        writer.transport.abort()
    return answer


def code_of(answer: bytes) -> int:
    """The status; 0 where nothing was answered."""
    head = answer.split(b" ", 2)
    return int(head[1]) if len(head) > 1 and head[1][:3].isdigit() else 0


# Some requests that make no sense are answered 500 in Kubernetes, too: those have no reason.
_AS_KUBERNETES = b'"status":"Failure","message":'
_FAULT = b'"reason":"InternalError"'


def is_fault(answer: bytes) -> bool:
    """Whether it says that the server could not, where Kubernetes' could."""
    return code_of(answer) in (500, 502) and (_AS_KUBERNETES not in answer or _FAULT in answer)

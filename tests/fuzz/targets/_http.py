"""Requests of HTTP/1.1 as bytes, so that they may be anything, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from rayplane.control_plane.api.machinery import protobuf

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


def body_of(answer: bytes) -> Any:
    """The object that is answered, from JSON or protobuf; None for what is neither."""
    body = answer.partition(b"\r\n\r\n")[2]
    with contextlib.suppress(ValueError):
        return protobuf.decode(body) if body.startswith(protobuf.MAGIC) else json.loads(body)
    return None


def is_fault(answer: bytes) -> bool:
    """Whether it says that the server could not, where Kubernetes' could."""
    if code_of(answer) not in (500, 502):
        return False
    # Some requests that make no sense are answered 500 in Kubernetes, too: those have no reason.
    status = body_of(answer)
    return not isinstance(status, dict) or status.get("kind") != "Status" or bool(status.get("reason"))

"""One HTTP request to a container, as probes and hooks make it (core/v1 HTTPGetAction)."""

import asyncio
import ssl
from typing import Any

from rayplane.node.errors import RuntimeFailed
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.ports import port_number

_LINE_MAX = 64 * 1024


async def http_status(
    action: dict[str, Any], run: ContainerRun, container: dict[str, Any], *, ip: str, agent: str
) -> tuple[str, int]:
    """The URL that was asked for, and the status of its answer. Raises NodeError, OSError."""
    scheme = (action.get("scheme") or "HTTP").lower()
    port = port_number(action.get("port"), container)
    host = action.get("host") or ip
    path = "/" + (action.get("path") or "").lstrip("/")
    url = f"{scheme}://{host}:{port}{path}"
    headers = {"host": f"{host}:{port}", "user-agent": agent, "accept": "*/*", "connection": "close"}
    headers |= {h["name"].lower(): h["value"] for h in action.get("httpHeaders") or ()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name.title()}: {value}" for name, value in headers.items())]
    if any(ord(c) < 32 or c == "\x7f" for line in lines for c in line) or " " in path:
        raise RuntimeFailed(f"{url!r} and its headers cannot hold control characters, the path no blanks")
    options: dict[str, Any] = {}
    if scheme == "https":
        options = {"ssl": _anybody(), "server_hostname": host}
    sock = await run.connect(host, port)
    reader, writer = await asyncio.open_connection(sock=sock, limit=_LINE_MAX, **options)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        head = await reader.readline()
    except ValueError as e:
        raise RuntimeFailed(f"{url} answered with a line without end") from e
    finally:
        writer.close()
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/") or not rest[:3].isdigit():
        raise RuntimeFailed(f"{url} answered {head[:100]!r}")
    return url, int(rest[:3])


def _anybody() -> ssl.SSLContext:
    """A probe is about whether the server answers, not about who it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

"""Life-cycle hooks of real containers (core/v1 LifecycleHandler): commands, HTTP requests, pauses."""

import asyncio
from typing import Any

from rayplane.node.errors import RuntimeFailed
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.ports import port_number


async def run_hook(hook: dict[str, Any], run: ContainerRun, container: dict[str, Any], *, ip: str) -> None:
    """Return when the hook is done. Raises NodeError or OSError when it failed."""
    if "exec" in hook:
        await _run_command(run, hook["exec"].get("command") or [])
    elif "sleep" in hook:
        await asyncio.sleep(float(hook["sleep"].get("seconds") or 0))
    elif "httpGet" in hook:
        action = hook["httpGet"]
        port = port_number(action.get("port"), container)
        await _get(action.get("host") or ip, port, "/" + (action.get("path") or "").lstrip("/"))


async def _run_command(run: ContainerRun, command: list[str]) -> None:
    session = await run.exec(command, tty=False, stdin=False)
    try:
        async for _ in session.output():
            pass
        code = await session.wait()
    finally:
        session.kill()
    if code != 0:
        raise RuntimeFailed(f"command {command[:1]} exited with {code}")


async def _get(host: str, port: int, path: str) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: kube-lifecycle/1.37\r\n\r\n".encode())
        await writer.drain()
        head = await reader.readline()
    except ValueError as e:
        raise RuntimeFailed(f"http://{host}:{port}{path} answered with a line without end") from e
    finally:
        writer.close()
    status = head.split(b" ", 2)[1:2]
    if not status or not status[0].isdigit() or not 200 <= int(status[0]) < 400:
        raise RuntimeFailed(f"http://{host}:{port}{path} answered {head!r}")

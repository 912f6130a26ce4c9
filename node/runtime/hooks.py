"""Life-cycle hooks of real containers (core/v1 LifecycleHandler): commands, HTTP requests, connections, pauses."""

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
        from rayplane.node.runtime.http_get import http_get

        status, _ = await http_get(hook["httpGet"], run, container, ip=ip, agent="kube-lifecycle/1.37")
        if not 200 <= status < 400:
            raise RuntimeFailed(f"HTTP hook failed with statuscode: {status}")
    elif "tcpSocket" in hook:
        action = hook["tcpSocket"]
        sock = await run.connect(action.get("host") or ip, port_number(action.get("port"), container))
        sock.close()


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

"""Life-cycle hooks (core/v1 LifecycleHandler): commands, HTTP requests, connections, pauses.

Of simulated containers pauses alone: the rest takes a program.
"""

import asyncio
import logging
from typing import Any

from rayplane.node.errors import NodeError, RuntimeFailed
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.ports import port_number

log = logging.getLogger(__name__)

OUTPUT_MAX = 1024
"""Bytes of what a failed command said that are told."""


async def outcome(
    hook: dict[str, Any], run: ContainerRun, container: dict[str, Any], *, ip: str, limit_s: float
) -> str:
    """Run a hook to its end; why it failed, empty when it did not."""
    try:
        async with asyncio.timeout(None if limit_s == float("inf") else limit_s):
            await _run(hook, run, container, ip)
    except TimeoutError:
        return f"not done after {limit_s:g}s"
    except (NodeError, OSError, ValueError) as e:
        return str(e)
    except Exception as e:  # whatever it was: the container's life goes on
        log.exception("a hook of container %s failed", container["name"])
        return str(e) or type(e).__name__
    return ""


async def _run(hook: dict[str, Any], run: ContainerRun, container: dict[str, Any], ip: str) -> None:
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
    said = bytearray()
    try:
        async for out, err in session.output():
            said += (out + err)[: OUTPUT_MAX - len(said)]
        code = await session.wait()
    finally:
        session.kill()
    if code != 0:
        text = said.decode(errors="replace").strip()
        raise RuntimeFailed(f"command {command[:1]} exited with {code}{f': {text}' if text else ''}")

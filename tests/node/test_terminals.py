"""Terminals of isolated containers: under names of their own, as large as asked, whosever the process is."""

import asyncio
from typing import Any

import pytest

from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, logs, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
# After so long it is no busy machine.
HANGS_S = 60.0
SHOW = "tty; stty size; test -t 1 && echo seen"


async def test_a_containers_terminal_is_found_by_its_name_and_as_the_console(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    script = "tty; stty size >/dev/null && test -c /dev/console && echo through >/dev/console"
    api.put("pods", shell("job", script, container={"tty": True}, restartPolicy="Never"))
    await api.until(lambda: phase(api, "job") == "Succeeded")
    assert await logs(host, "job") == b"/dev/pts/0\r\nthrough\r\n"


async def test_a_commands_terminal_is_one_more_of_its_container(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", SLEEP, container={"tty": True, "securityContext": {"runAsUser": 7}}))
    await api.until(lambda: "running" in state(api, "box"))
    shown = await run_in(host, "box", "sh", "-c", SHOW, tty=True, width=90, height=33)
    assert shown == (b"/dev/pts/1\r\n33 90\r\nseen\r\n", b"", 0)
    written = await run_in(host, "box", "sh", "-c", "echo mine >$(tty)", tty=True)
    assert written == (b"mine\r\n", b"", 0)
    out, _, code = await run_in(host, "box", "no-such-program", tty=True)
    assert code == 127 and b"executable file not found" in out
    typed = await run_in(host, "box", "sh", "-c", "read a; echo got $a", tty=True, stdin=b"word\n", stdin_open=True)
    assert typed[0].endswith(b"got word\r\n") and typed[2] == 0


@pytest.mark.parametrize("trick", ["mkfifo /dev/ptmx", "echo x >/dev/ptmx", "ln -s /dev/null /dev/ptmx"])
async def test_whatever_a_container_has_in_place_of_terminals_only_its_own_commands_fail(
    trick: str, api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", f"rm /dev/ptmx; {trick}; echo done; {SLEEP}"))
    await api.until(lambda: "running" in state(api, "box"))
    async with asyncio.timeout(HANGS_S):
        assert await logs(host, "box", follow=True, limit_bytes=5) == b"done\n"
    out, _, code = await run_in(host, "box", "tty", tty=True)
    assert code == 126 and b"it makes no terminals" in out
    assert (await run_in(host, "box", "echo", "on"))[0] == b"on\n"


async def test_a_command_that_nobody_waits_for_any_more_is_ended(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", make_pod("box", container={"command": ["sleep", "1000"]}))
    await api.until(lambda: "running" in state(api, "box"))
    run: Any = host.kubelet("n1").worker("default", "box").runs["main"]
    sent, order = asyncio.Event(), run._runtime.shim.order

    def seen(*args: Any, **fields: Any) -> None:
        order(*args, **fields)
        sent.set()

    run._runtime.shim.order = seen
    deaf = ["sh", "-c", "trap '' HUP; exec sleep 1000"]
    asked = asyncio.create_task(run.exec(deaf, tty=True, stdin=True))
    await sent.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await api.until(lambda: run._runtime.execs == 0)

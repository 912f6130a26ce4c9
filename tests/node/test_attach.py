"""Attaching to the process of a container."""

import asyncio
import os
import selectors
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.node.shim import child as children
from rayplane.node.shim import shim
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, MakeHost, logs, phase, shell, state, stub

pytestmark = pytest.mark.processes


async def test_attaching_types_to_the_process_and_shows_what_it_says(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    script = "while read line; do echo got $line; done; echo bad >&2; echo over; exit 3"
    api.put("pods", shell("talk", script, container={"stdin": True, "stdinOnce": True}, restartPolicy="Never"))
    await api.until(lambda: "running" in state(api, "talk"))
    closed = asyncio.Event()

    async def requests() -> Any:
        yield pb.ExecRequest(ref=pb.ContainerRef(node="n1", namespace="default", pod="talk"), stdin_open=True)
        yield pb.ExecRequest(stdin=b"one\ntwo\n")
        await closed.wait()
        yield pb.ExecRequest(stdin_closed=True)

    seen, errors, code = b"", b"", -1
    async for response in stub(host).Exec(requests()):
        seen += response.stdout
        errors += response.stderr
        if seen.endswith(b"got two\n"):
            closed.set()
        code = response.exit_code if response.HasField("exit_code") else code
    assert (seen, errors, code) == (b"got one\ngot two\nover\n", b"bad\n", 0)
    await api.until(lambda: phase(api, "talk") == "Failed")
    assert state(api, "talk")["terminated"]["exitCode"] == 3


REF = pb.ContainerRef(node="n1", namespace="default", pod="talk")


async def test_a_container_with_a_terminal_is_a_shell_that_somebody_types_into(
    api: FakeClient, make_host: MakeHost
) -> None:
    host = await make_host(NODE)
    interactive = {"stdin": True, "stdinOnce": True, "tty": True}
    api.put("pods", make_pod("talk", container=interactive, restartPolicy="Never"))
    await api.until(lambda: "running" in state(api, "talk"))

    async def requests() -> AsyncIterator[pb.ExecRequest]:
        yield pb.ExecRequest(ref=REF, stdin_open=True, tty=True, width=100, height=40)
        yield pb.ExecRequest(stdin=b"stty size; echo $TERM; test -t 1 && echo terminal\n")
        yield pb.ExecRequest(stdin_closed=True)

    seen = b"".join([response.stdout async for response in stub(host).Exec(requests())])
    assert b"40 100\r\nxterm\r\nterminal\r\n" in seen
    await api.until(lambda: phase(api, "talk") == "Succeeded")
    assert b"xterm" in await logs(host, "talk")


async def test_a_container_waits_for_who_is_attached_and_nothing_is_lost(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    script = "read go; i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done"
    api.put("pods", shell("talk", script, container={"stdin": True}, restartPolicy="Never"))
    await api.until(lambda: "running" in state(api, "talk"))

    async def requests() -> AsyncIterator[pb.ExecRequest]:
        yield pb.ExecRequest(ref=REF, stdin_open=True, stdin=b"go\n")

    seen = 0
    async for response in stub(host).Exec(requests()):
        seen += len(response.stdout)
    assert seen == 40 * 100_001


async def test_an_ephemeral_container_is_run_and_attached_to(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    pod = shell("talk", "exec sleep 600")
    api.put("pods", pod)
    await api.until(lambda: "running" in state(api, "talk"))
    debugger = {"name": "debug", "image": "tools:1", "stdin": True, "tty": True}
    spec = {**api.pod("talk")["spec"], "ephemeralContainers": [debugger]}
    api.put("pods", {**api.pod("talk"), "spec": spec})
    await api.until(lambda: "running" in _debugger(api).get("state", {}))

    async def requests() -> AsyncIterator[pb.ExecRequest]:
        ref = pb.ContainerRef(node="n1", namespace="default", pod="talk", container="debug")
        yield pb.ExecRequest(ref=ref, stdin_open=True, tty=True, stdin=b"echo looked in; exit 4\n")

    assert b"looked in\r\n" in b"".join([response.stdout async for response in stub(host).Exec(requests())])
    await api.until(lambda: "terminated" in _debugger(api).get("state", {}))
    assert _debugger(api)["state"]["terminated"]["exitCode"] == 4
    assert phase(api, "talk") == "Running" and "running" in state(api, "talk")


def _debugger(api: FakeClient) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(api.pod("talk")["status"].get("ephemeralContainerStatuses") or ()), {})
    return found


def test_who_takes_nothing_is_given_up_and_the_container_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, container = os.pipe()
    read, write = os.pipe()
    with ours, theirs, os.fdopen(container, "wb", 0) as container_end:
        below = shim.Shim(theirs)
        child = children.Child({"id": "c", "argv": []}, SimpleNamespace(pid=1))
        child.outputs[output] = b"stdout"
        child.log = SimpleNamespace(add=lambda data, stream: None)  # type: ignore[assignment]
        os.set_blocking(output, False)
        below._children["c"] = child
        below._attach({"id": "c"}, [write])
        os.close(write)
        below._balance(child)

        def is_read() -> bool:
            watched = below._selector.get_map().get(output)
            return watched is not None and watched.events == selectors.EVENT_READ

        while is_read():
            container_end.write(b"x" * 8192)
            below._pump(child, output)
        below._give_up_stuck()
        assert not is_read()
        monkeypatch.setattr(shim, "STUCK_S", -1.0)
        below._give_up_stuck()
        assert is_read() and below._attached == []
        with os.fdopen(read, "rb") as end:
            assert end.read()
        below._close_output(child, output)
        below._selector.close()

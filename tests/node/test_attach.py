"""Attaching to the process of a container."""

import asyncio
from typing import Any

import pytest

from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.test_process import NODE, MakeHost, phase, shell, state, stub

pytestmark = pytest.mark.processes


async def test_attaching_types_to_the_process_and_shows_what_it_says(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    script = "while read line; do echo got $line; done; echo over; exit 3"
    api.put("pods", shell("talk", script, container={"stdin": True, "stdinOnce": True}, restartPolicy="Never"))
    await api.until(lambda: "running" in state(api, "talk"))
    closed = asyncio.Event()

    async def requests() -> Any:
        yield pb.ExecRequest(ref=pb.ContainerRef(node="n1", namespace="default", pod="talk"), stdin_open=True)
        yield pb.ExecRequest(stdin=b"one\ntwo\n")
        await closed.wait()
        yield pb.ExecRequest(stdin_closed=True)

    seen, code = b"", -1
    async for response in stub(host).Exec(requests()):
        seen += response.stdout
        if seen.endswith(b"got two\n"):
            closed.set()
        code = response.exit_code if response.HasField("exit_code") else code
    assert (seen, code) == (b"got one\ngot two\nover\n", 0)
    await api.until(lambda: phase(api, "talk") == "Failed")
    assert state(api, "talk")["terminated"]["exitCode"] == 3

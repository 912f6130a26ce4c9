"""Commands and forwarded ports whose clients or programs go away: what is theirs ends, all is read, none is warned."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError
from rayplane.node.runtime.pipes import connect_output, merged
from rayplane.node.streaming.service import forward_port, run_command
from rayplane.proto.rayplane.v1 import node_pb2 as pb

LOST = RpcError(grpc.StatusCode.UNAVAILABLE, "the connection was lost")


class Session:
    """A command that copies its input until that ends."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.heard += data

    def close_input(self) -> None:
        self.ended.set()

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        await self.ended.wait()
        yield self.heard, b""

    async def wait(self) -> int:
        return 0

    def kill(self) -> None: ...


class Run:
    """A run with one command and one port."""

    real = True

    def __init__(self) -> None:
        self.session = Session()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)

    async def exec(self, command: list[str], **_: Any) -> Session:
        return self.session

    async def forward(self, ip: str, port: int) -> socket.socket:
        return self.near


async def lost(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message
    raise LOST


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    caplog.set_level(logging.WARNING)
    return caplog.records


async def test_a_command_hears_that_its_input_is_over(warnings: list[logging.LogRecord]) -> None:
    run: Any = Run()
    answers = run_command(run, pb.ExecRequest(command=["cat"], stdin=b"one"), lost(pb.ExecRequest(stdin=b"two")))
    said = [answer async for answer in answers]
    assert said[0].stdout == b"onetwo" and said[-1].HasField("exit_code") and warnings == []
    run.far.close()
    run.near.close()


@pytest.mark.parametrize("pod_closes_first", [True, False])
async def test_a_forwarded_port_is_closed(warnings: list[logging.LogRecord], pod_closes_first: bool) -> None:
    run: Any = Run()
    requests = lost(pb.PortForwardRequest(data=b"x"))

    async def answers() -> list[bool]:
        return [a.closed async for a in forward_port(run, "p", "127.0.0.1", pb.PortForwardRequest(port=80), requests)]

    if pod_closes_first:
        run.far.close()
    said = asyncio.create_task(answers())
    if not pod_closes_first:
        assert await asyncio.get_running_loop().sock_recv(run.far, 9) == b"x"
        run.far.close()
    assert await said == [False, True]
    assert warnings == []


async def test_what_a_terminal_said_before_its_end_is_read() -> None:
    ours, theirs = os.openpty()
    reader, transport = await connect_output(ours)
    os.write(theirs, b"last words")
    os.close(theirs)
    while not transport.is_closing():
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert b"".join([out async for out, _ in merged([reader])]) == b"last words"

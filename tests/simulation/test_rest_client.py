"""The simulation's client of the REST face says what became of its writes."""

import asyncio
import random

import pytest

from rayplane.control_plane.invariants.rest_ledger import Entry
from rayplane.control_plane.rpc.memory_sockets import MemorySockets, Wires
from rayplane.control_plane.rpc.sockets import accepting
from rayplane.control_plane.simulation.checks import Violations
from rayplane.control_plane.simulation.rest import RestClient
from rayplane.control_plane.simulation.trace import Trace

ADDRESS = "10.0.0.1:6443"


async def write(method: str) -> tuple[int, Entry]:
    """A write to a server that dies, and is gone, when it has read the request: how many it has read."""
    read = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        await reader.readuntil(b"\r\n\r\n")
        read += 1
        await listening.close()
        writer.transport.abort()

    wires = Wires()
    listening = await MemorySockets(wires, "server").listen(ADDRESS, accepting(cut))
    trace = Trace(asyncio.get_running_loop().time)
    client = RestClient(lambda: ADDRESS, random.Random(1), trace, Violations(trace))
    client.open(MemorySockets(wires, "client"))
    entry = Entry("id-1", "id-1", "1")
    await client._write(entry, "2", method, "/x", None if method == "DELETE" else {})
    await client.close()
    return read, entry


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_write_that_was_read_and_not_answered_may_be_done(method: str) -> None:
    read, entry = asyncio.run(write(method))
    assert (read, entry.doubts) == (1, ["2"])

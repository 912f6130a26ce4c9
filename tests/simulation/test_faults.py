"""Faults of the simulated world: a cluster bears each of them, and what it cannot bear it says."""

import asyncio

import pytest

from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import (
    ClockJump,
    CorruptDisk,
    Cut,
    Failpoint,
    Fault,
    FullDisk,
    Jumble,
    Reset,
    SlowCpu,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Target,
)
from rayplane.control_plane.rpc.memory_sockets import MemorySockets, Wires
from rayplane.control_plane.rpc.sockets import accepting, streams
from rayplane.control_plane.simulation import SimulationResult, parse_scenario, simulate
from rayplane.control_plane.simulation.cell import EPOCH
from rayplane.control_plane.simulation.run import Run
from rayplane.control_plane.simulation.trace import Event
from rayplane.storage.env import SimulatedDisk
from tests.tiers import todays_part

pytestmark = pytest.mark.timeout(600)

LEADER, LB = Target("leader"), Target("lb")
BORNE: list[Fault] = [
    Jumble(LEADER, twice=0.3, late=0.3, for_s=4.0),
    FullDisk(LEADER, 3.0),
    SlowDisk(LEADER, 0.05, 4.0),
    StalledDisk(LEADER, 3.0),
    CorruptDisk(Target("member", "member-1"), 3.0),
    SlowCpu(LEADER, 0.3, 4.0),
    ClockJump(Target("controllers"), -60.0, 3.0),
    ClockJump(LEADER, 3600.0, 3.0),
    Reset(LB),
    Cut(("member-0",), ("member-1", "member-2"), 3.0),
    SlowNetwork(0.1, 3.0),
    Failpoint(LEADER, "wal.before_sync", hit=3),
    Failpoint(LEADER, "wal.after_sync", "error(ENOSPC)"),
]
TEXT = """
duration: 10s
cluster: {{timing: fast, nodes: 1, apiservers: 1, schedulers: 1, controllers: 1}}
client: {{write_every: 50ms, ask_every: 200ms}}
steps:
  - await: {{ready: cluster}}
  - {fault}
  - sleep: 6s
  - await: {{ready: actors, members: 3, within: 60s}}
expect:
  - {{ready: cluster}}
"""


class Clocks:
    """Somebody who looks at the clocks of all processes whenever something happens."""

    def __init__(self) -> None:
        self.off_s = 0.0
        """The most that one was off."""

    def begin(self, parts: Run) -> None:
        def look(event: Event) -> None:
            for cell in parts.cluster.cells.values():
                off_s = (cell.clock - EPOCH).total_seconds() - event.at_s
                self.off_s = max(self.off_s, off_s, key=abs)

        parts.trace.listeners.append(look)

    def end(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module")
def quiet() -> SimulationResult:
    """The same run when nothing strikes."""
    return simulate(parse_scenario(TEXT.format(fault="sleep: 0s"), source="fault"), 1)


@pytest.mark.parametrize("fault", todays_part(4, BORNE), ids=as_step)
def test_a_cluster_bears_it(fault: Fault, quiet: SimulationResult) -> None:
    clocks = Clocks()
    result = simulate(parse_scenario(TEXT.format(fault=as_step(fault)), source="fault"), 1, control=clocks)
    assert result.ok, str(result)
    assert len(result.plan.strikes) == 1
    assert result.acknowledged > 50
    # There was something to bear: but for a clock, other messages are sent.
    assert (result.messages != quiet.messages) == (not isinstance(fault, ClockJump))
    assert round(clocks.off_s) == getattr(fault, "by_s", 0)


async def test_a_reset_lets_a_part_of_what_flies_arrive() -> None:
    class Slow:
        def delay(self, source: str, target: str) -> float:
            return 0.01

    got: asyncio.Queue[bytes] = asyncio.Queue(maxsize=9)

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = b""
        try:
            while part := await reader.read(100):
                parts += part
        except OSError:
            pass
        await got.put(parts)
        writer.close()

    wires = Wires(Slow())
    address = "10.0.0.1:80"
    await MemorySockets(wires, "server").listen(address, accepting(read))
    _, writer = await streams(MemorySockets(wires, "client"), address)
    writer.write(b"0123456789")
    wires.sever(lambda a, b: True, part=lambda size: size // 2)
    assert await got.get() == b"01234"
    writer.close()


def test_a_corrupt_bit_is_not_in_what_came_last() -> None:
    import random

    async def main() -> None:
        disk = SimulatedDisk()
        file = disk.append_file("log")
        file.append(bytes(100))
        await file.sync()
        for seed in range(50):
            disk.corrupt(random.Random(seed))
        assert disk.read("log")[50:] == bytes(50)
        assert disk.read("log") != bytes(100)

    asyncio.run(main())

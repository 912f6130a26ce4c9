"""The sync barrier's socket."""

import asyncio
import socket
from pathlib import Path

from rayplane.node.volumes.drivers.replicated.barrier import SyncBarrier


async def _synced() -> int:
    return 7


def takes(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


async def test_a_barrier_whose_start_is_cancelled_at_any_turn_takes_nobody(tmp_path: Path) -> None:
    for turns in range(20):
        barrier = SyncBarrier(str(tmp_path / "barrier" / "v.sync"), _synced)
        starting = asyncio.ensure_future(barrier.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        if starting.done():
            assert takes(barrier.path)
            await barrier.stop()
            return
        starting.cancel()
        await asyncio.wait([starting])
        assert not takes(barrier.path), f"it is still open after {turns} turns"
        await barrier.stop()
    raise AssertionError("it never began")

"""Running the operations of batches: few at a time over the whole server, every batch in its turn.

Everything that is under way shares one event loop, and each step of it waits for a step of everything else: with
hundreds of operations at once a lease renewal would take seconds. So there is room for a few operations of batches,
whatever their number, and a batch that comes late waits for some operations of the others, not for all of them.
Heartbeats (leases and nodes) have room of their own: nobody is taken for dead because others are busy.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from proto.rayplane.v1 import objects_pb2 as pb

OF_ONE_BATCH = 8
OF_ALL_BATCHES = 16
HEARTBEATS = frozenset({"leases", "nodes"})

Do = Callable[[pb.Operation], Awaitable[pb.Result]]


class Batches:
    """One for a server."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(OF_ALL_BATCHES)
        self._room_for_heartbeats = asyncio.Semaphore(OF_ALL_BATCHES)

    async def run(self, operations: Sequence[pb.Operation], do: Do) -> list[pb.Result]:
        """The results in the order of the operations. Cancelling it cancels what is under way."""
        results: list[pb.Result | None] = [None] * len(operations)
        left = iter(enumerate(operations))

        async def work() -> None:
            for at, operation in left:
                async with self._room_for(operation):
                    results[at] = await do(operation)

        await asyncio.gather(*(work() for _ in range(min(OF_ONE_BATCH, len(operations)))))
        return [r for r in results if r is not None]

    def _room_for(self, operation: pb.Operation) -> asyncio.Semaphore:
        name = operation.WhichOneof("op")
        urgent = name is not None and getattr(operation, name).ref.resource in HEARTBEATS
        # Semaphores serve in the order of arrival: whoever has had a turn queues up behind the others.
        return self._room_for_heartbeats if urgent else self._room

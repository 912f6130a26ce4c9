"""Running the operations of batches: few at a time over the whole server, every batch in its turn.

Everything that is under way shares one event loop, and each step of it waits for a step of everything else: with
hundreds of operations at once a lease renewal would take seconds. So there is room for a few operations of batches,
whatever their number, and a batch that comes late waits for some operations of the others, not for all of them.
Heartbeats (leases and nodes) have room of their own: nobody is taken for dead because others are busy. So have events,
which nobody waits for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rayplane.proto.rayplane.v1 import objects_pb2 as pb

Do = Callable[[pb.Operation], Awaitable[pb.Result]]


@dataclass(frozen=True, slots=True)
class Room:
    """The most operations of one kind that are under way: of one batch, and of all batches."""

    of_one: int
    of_all: int


ANYTHING = Room(8, 16)
# What is under way together becomes one transaction: the more the better.
HEARTBEATS = Room(128, 128)
EVENTS = Room(32, 32)
ROOMS = {"leases": HEARTBEATS, "nodes": HEARTBEATS, "events": EVENTS}


class Batches:
    """One for a server."""

    def __init__(self) -> None:
        # Semaphores serve in the order of arrival: whoever has had a turn queues up behind the others.
        self._turns = {room: asyncio.Semaphore(room.of_all) for room in (ANYTHING, HEARTBEATS, EVENTS)}

    async def run(self, operations: Sequence[pb.Operation], do: Do) -> list[pb.Result]:
        """The results in the order of the operations. Cancelling it cancels what is under way."""
        results: list[pb.Result | None] = [None] * len(operations)
        left = iter(enumerate(operations))

        async def work() -> None:
            for at, operation in left:
                async with self._turns[_room(operation)]:
                    results[at] = await do(operation)

        at_once = min((_room(o).of_one for o in operations), default=0)
        await asyncio.gather(*(work() for _ in range(min(at_once, len(operations)))))
        return [r for r in results if r is not None]


def resource_of(operation: pb.Operation) -> str:
    """The plural of what an operation is about; empty for one that is nothing."""
    name = operation.WhichOneof("op")
    return getattr(operation, name).ref.resource if name is not None else ""


def _room(operation: pb.Operation) -> Room:
    return ROOMS.get(resource_of(operation), ANYTHING)

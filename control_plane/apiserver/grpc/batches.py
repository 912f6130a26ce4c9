"""Running the operations of batches: few of one batch at a time.

Each operation is a request of its own and waits for its own seats (`flowcontrol`). A batch that asked for all at once
would fill the queues of its flow and be refused for its own length.
"""

from collections.abc import Awaitable, Callable, Sequence

from rayplane.control_plane.tasks import each_of
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

Do = Callable[[pb.Operation], Awaitable[pb.Result]]

# What comes together sets out in one round of raft; a queue holds more than these where there are no seats for them.
ANYTHING = 32
# What is small and under way together becomes one transaction: the more the better.
SMALL = 64
_SMALL = frozenset({"leases", "nodes", "events"})


async def run(operations: Sequence[pb.Operation], do: Do) -> list[pb.Result]:
    """The results in the order of the operations. Cancelling it cancels what is under way."""
    at_once = SMALL if all(_resource(o) in _SMALL for o in operations) else ANYTHING
    return await each_of(operations, do, at_once=at_once)


def _resource(operation: pb.Operation) -> str:
    """The plural of what an operation is about; empty for one that is nothing."""
    name = operation.WhichOneof("op")
    return getattr(operation, name).ref.resource if name is not None else ""

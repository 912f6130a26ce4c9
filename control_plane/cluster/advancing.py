"""Leading the time of a running cluster forward."""

from contextlib import aclosing

from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import TimeStands, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.durations import DurationError, parse_span
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

_ERRORS = {Code.FAILED_PRECONDITION: TimeStands, Code.INVALID_ARGUMENT: UsageError}


async def advance(directory: StateDir, span: str | float) -> float:
    """Let so much time pass in a cluster: "2h", or seconds; by how many seconds it is ahead of the machine's then.

    Raises UsageError, and TimeStands where a part of it has the machine's time.
    """
    try:
        span_s = parse_span(str(span))
    except DurationError as e:
        raise UsageError(f"{span!r} is no span of time ({e}): use one such as 2h, or seconds") from e
    # Whoever leads its time forward has little left for others, and less on a full machine.
    async with access(directory, patient=True) as admin:
        try:
            async with aclosing(admin.supervisor.Advance(pb.AdvanceRequest(span_s=span_s))) as told:
                return float((await anext(told)).ahead_s)
        except RpcError as e:
            if kind := _ERRORS.get(e.code):
                raise kind(e.message) from e
            raise

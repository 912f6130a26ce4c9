"""A trial inside the cluster, heard through one API server after another: it may kill the one that tells of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.patience import RETRY_S, Patience, slowdown
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb

PATIENCE_S = 30.0
"""Of fair time, in which another API server is asked for the trial; the supervisor ends a trial that nobody hears."""
_CUT_OFF = (Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN)


async def heard(admin: Access, request: pb.TrialRequest) -> AsyncGenerator[pb.TrialResponse, None]:
    """What is told of a trial whose request has an id, each once. Whoever is cancelled ends it. Raises RpcError."""
    endpoints, loop = admin.api.endpoints, asyncio.get_running_loop()
    patience: Patience | None = None  # with calls that are cut off, not with a trial that says nothing
    service = pb.DESCRIPTOR.services_by_name["Chaos"]
    while True:
        address = endpoints.pick()
        try:
            async with contextlib.aclosing(Stub(admin.network.channel(address), service).Run(request)) as told:
                async for one in told:
                    request.after += 1
                    patience = None
                    yield one
            return
        except RpcError as e:
            patience = patience or Patience(PATIENCE_S, loop.time())
            patience.passed(loop.time(), slowdown())
            if e.code not in _CUT_OFF or patience.over:
                raise
            endpoints.failed(address)
        except asyncio.CancelledError:
            with contextlib.suppress(RpcError):
                end = pb.TrialRequest(id=request.id, end=True)
                _ = [one async for one in Stub(admin.network.channel(endpoints.pick()), service).Run(end)]
            raise
        await asyncio.sleep(RETRY_S)

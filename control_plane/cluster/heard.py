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
END_S = 10.0
"""For a trial to heal and to clean up, asked through one API server; then another one is asked."""
_CUT_OFF = (Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN)
_SERVICE = pb.DESCRIPTOR.services_by_name["Chaos"]


async def heard(admin: Access, request: pb.TrialRequest) -> AsyncGenerator[pb.TrialResponse, None]:
    """What is told of a trial whose request has an id, each once. Whoever is cancelled ends it. Raises RpcError."""
    endpoints, loop = admin.api.endpoints, asyncio.get_running_loop()
    patience: Patience | None = None  # with calls that are cut off, not with a trial that says nothing
    try:
        while True:
            address = endpoints.pick()
            try:
                async with contextlib.aclosing(Stub(admin.network.channel(address), _SERVICE).Run(request)) as told:
                    async for one in told:
                        patience = None
                        if one.WhichOneof("told"):
                            request.after = one.number or request.after + 1  # supervisors of earlier builds tell none
                            yield one
                return
            except RpcError as e:
                patience = patience or Patience(PATIENCE_S, loop.time())
                patience.passed(loop.time(), slowdown())
                if e.code not in _CUT_OFF or patience.over:
                    raise
                endpoints.failed(address)
            await asyncio.sleep(RETRY_S)
    except asyncio.CancelledError:
        # In a task of its own: in one that was cancelled, timeouts of Python before 3.11.3 are told as that.
        await asyncio.create_task(_end(admin, request.id))
        raise


async def _end(admin: Access, id: str) -> None:
    """End it, through the first API server that answers."""
    endpoints = admin.api.endpoints
    for _ in endpoints.addresses:
        address = endpoints.pick()
        call = Stub(admin.network.channel(address), _SERVICE).Run(pb.TrialRequest(id=id, end=True), timeout=END_S)
        try:
            _ = [one async for one in call]
            return
        except RpcError as e:
            if e.code not in (*_CUT_OFF, Code.DEADLINE_EXCEEDED):
                return  # it is over
            endpoints.failed(address)

"""The gRPC service `rayplane.v1.Views`: what the dashboard shows of the cluster beside its objects."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.views import Views
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb


class ViewsService:
    """The one method, over the views of this supervisor's cluster."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def Look(self, request: pb.LookRequest, context: Context) -> AsyncIterator[pb.LookResponse]:
        try:
            async with aclosing(self._views.look(request.view, request.parameters)) as found:
                async for one in found:
                    yield pb.LookResponse(json=orjson.dumps(one))
        except ApiError as e:
            raise RpcError(Code[e.grpc_status], e.message, orjson.dumps(e.status)) from e

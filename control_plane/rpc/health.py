"""The standard health service (grpc.health.v1): a server that listens serves everything it has."""

import asyncio
from collections.abc import AsyncIterator, Collection

import grpc
from grpc_health.v1 import health_pb2 as pb

from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.service import Context


class HealthService:
    """A service that answers for these services; "" is the server as a whole."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = frozenset(services)

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        if request.service not in self._services:
            raise RpcError(grpc.StatusCode.NOT_FOUND, "unknown service")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """The status now; it changes only by the end of the stream, with the server."""
        known = request.service in self._services
        status = pb.HealthCheckResponse.SERVING if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
        yield pb.HealthCheckResponse(status=status)
        await asyncio.get_running_loop().create_future()

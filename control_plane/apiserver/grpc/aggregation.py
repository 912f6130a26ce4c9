"""Service Aggregation of `rayplane.v1`: what the cluster's own components need of aggregated APIs."""

from rayplane.control_plane.apiserver.aggregator.collecting import Collecting
from rayplane.control_plane.apiserver.aggregator.purging import Purging
from rayplane.control_plane.apiserver.aggregator.reading import VERSIONS_MAX, Place, Reading
from rayplane.control_plane.apiserver.grpc.calls import Calls
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import aggregation_pb2 as pb


class AggregationService:
    """Handler of `rayplane.v1.Aggregation`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Purge(self, request: pb.PurgeRequest, context: Context) -> pb.PurgeResponse:
        registry = self._calls.registry

        async def run(user: User) -> pb.PurgeResponse:
            found = await Purging(registry.aggregator, registry.authorizer, user).purge(request.namespace)
            return pb.PurgeResponse(
                stale=found.stale,
                objects=found.objects,
                deleting=found.deleting,
                finalizers=found.finalizers,
                failures=found.failures,
            )

        return await self._calls.answered(context, run)

    async def Collect(self, _: pb.CollectRequest, context: Context) -> pb.CollectResponse:
        registry = self._calls.registry

        async def run(user: User) -> pb.CollectResponse:
            look = Collecting(
                registry.aggregator, registry.authorizer, user, kinds=registry.kinds, lookup=registry.lookup
            )
            found = await look.collect()
            return pb.CollectResponse(deleted=found.deleted, failures=found.failures)

        return await self._calls.answered(context, run)

    async def Read(self, request: pb.ReadRequest, context: Context) -> pb.ReadResponse:
        registry = self._calls.registry
        versions = [*request.versions][:VERSIONS_MAX]
        place = Place(
            request.resource, request.namespace, request.name, request.subresource, request.query, request.kind
        )

        async def run(user: User) -> pb.ReadResponse:
            reading = Reading(registry.aggregator, registry.authorizer, user)
            found = await reading.read(request.group, versions, place)
            return pb.ReadResponse(served=found is not None, json=found or b"")

        return await self._calls.answered(context, run)

    async def Patch(self, request: pb.PatchAggregatedRequest, context: Context) -> pb.ReadResponse:
        registry = self._calls.registry
        versions = [*request.versions][:VERSIONS_MAX]
        place = Place(request.resource, request.namespace, request.name, request.subresource, kind=request.kind)

        async def run(user: User) -> pb.ReadResponse:
            reading = Reading(registry.aggregator, registry.authorizer, user)
            found = await reading.patch(request.group, versions, place, request.patch)
            return pb.ReadResponse(served=found is not None, json=found or b"")

        return await self._calls.answered(context, run)

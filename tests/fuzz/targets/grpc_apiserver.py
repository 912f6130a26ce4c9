"""Bodies of the API server's gRPC services: objects as JSON in typed envelopes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.proto.rayplane.v1 import node_pb2, pods_pb2
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.apiserver.conftest import make_env
from tests.apiserver.fake_etcd import FakeEtcd
from tests.apiserver.secure import StandInNode
from tests.fuzz import mutate
from tests.fuzz.targets import _objects
from tests.fuzz.targets._grpc import Case, Served, make_calls
from tests.fuzz.targets._objects import SEEDS
from tests.fuzz.targets._wire import RecordingNetwork, calling
from tests.rpc.open_service import open_service

CASES = 50
CASES_PER_WORLD = 150
_SERVICES = [*pb.DESCRIPTOR.services_by_name.values(), *pods_pb2.DESCRIPTOR.services_by_name.values()]
_PLURALS = tuple(seed[1] for seed in SEEDS)
_WORDS = (
    "a",
    "b",
    "default",
    "pods",
    "v1",
    "apps",
    "deployments",
    "status",
    "scale",
    "0",
    "1",
    "a=b",
    "All",
    *_PLURALS,
)


def make(rng: random.Random) -> Case:
    if rng.random() < 0.3:
        return make_calls(rng, _SERVICES, _WORDS, ("Watch",))
    case: Case = []
    for _ in range(mutate.some(rng)):
        operations = [_operation(rng) for _ in range(rng.choice((1, 1, 3, 30)))]
        case.append(("/rayplane.v1.Objects/Batch", (pb.BatchRequest(operations=operations).SerializeToString(),), True))
    return case


def _operation(rng: random.Random) -> pb.Operation:
    seed = rng.choice(SEEDS)
    group, _, version = seed[0].rpartition("/")
    subresource = rng.choice(("", "", "", "", "status", "scale", "binding", "eviction", "token", "finalize"))
    ref = pb.ResourceRef(group=group, version=version, resource=seed[1], namespace="default", subresource=subresource)
    ref.name = rng.choice(("a", "b"))
    if rng.random() < 0.1:
        mutate.fill(rng, ref, _WORDS)
    body = json.dumps(_objects.odd(rng, seed, ref.name)).encode()
    body = mutate.of_bytes(rng, body) if rng.random() < 0.1 else body
    options = mutate.fill(rng, pb.WriteOptions(), ("Strict", "Warn", "m")) if rng.random() < 0.2 else pb.WriteOptions()
    match rng.randrange(5):
        case 0 | 1:
            return pb.Operation(create=pb.CreateRequest(ref=ref, json=body, options=options))
        case 2:
            return pb.Operation(update=pb.UpdateRequest(ref=ref, json=body, options=options))
        case 3:
            kind: Any = rng.choice(pb.PatchType.values())
            return pb.Operation(patch=pb.PatchRequest(ref=ref, type=kind, patch=body, options=options))
        case _:
            return pb.Operation(delete=mutate.fill(rng, pb.DeleteRequest(ref=ref), _WORDS))


class OneServer(Served):
    def __init__(self, network: RecordingNetwork) -> None:
        super().__init__([s for served in network.served.values() for s in served], Identity("admin", (MASTERS,)))

    async def good(self) -> None:
        ref = pb.ResourceRef(version="v1", resource="namespaces", name="default")
        async with calling(self.registry, self.identity) as caller:
            request = pb.GetRequest(ref=ref).SerializeToString()
            status = await caller.call("/rayplane.v1.Objects/Get", [request], limit=b"60S")
        assert status == "0 ", status


async def _with_pods(network: RecordingNetwork) -> None:
    """Pods whose node host answers."""
    await network.serve("host-0:10250", [open_service(node_pb2.DESCRIPTOR.services_by_name["Node"], StandInNode())])
    client = ApiClient(network, ["host-0:20000"], follow=False)
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    await client.create("nodes", {"metadata": {"name": "n", "annotations": {HOST_ADDRESS: "host-0:10250"}}})
    for name in ("a", "b"):
        spec = {"nodeName": "n", "containers": [{"name": "a", "image": "i"}]}
        await client.create("pods", {"metadata": {"name": name, "namespace": "default"}, "spec": spec})


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[OneServer]:
    network = RecordingNetwork(Fabric(), "host-0")
    config = ApiServerConfig(grpc_address="host-0:20000", https_address=None)
    server = ApiServer(config, make_env(), network, etcd=FakeEtcd())  # type: ignore[arg-type]
    await server.start()
    one = OneServer(network)
    try:
        await _with_pods(network)
        yield one
        await asyncio.sleep(0)
    finally:
        await server.stop()
        await network.close()

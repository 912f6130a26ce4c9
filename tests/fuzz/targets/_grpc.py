"""Calls of any service with bodies that fit their types, or nearly; what its targets share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from google.protobuf.descriptor import ServiceDescriptor

from rayplane.control_plane.rpc import Identity, Service
from rayplane.control_plane.rpc.service import Method, methods_of
from tests.fuzz import mutate
from tests.fuzz.targets._wire import calling, registry_of, sizes_of

Call = tuple[str, tuple[bytes, ...], bool]
"""Path, bodies, whether each stands in a frame of gRPC."""
Case = list[Call]
#: INTERNAL that says what the client did wrong.
_CLIENTS = ("13 cannot read the request", "13 the request", "13 grpc: ", "13 cannot decompress")


def make_calls(
    rng: random.Random, services: Sequence[ServiceDescriptor], words: Sequence[bytes | str], skip: Sequence[str] = ()
) -> Case:
    methods = [m for s in services for m in methods_of(s) if m.name not in skip]
    case = []
    for _ in range(mutate.some(rng)):
        method = rng.choice(methods)
        bodies = [_body(rng, method, words) for _ in range(rng.randrange(4) if method.client_streaming else 1)]
        case.append((method.path, tuple(bodies), rng.random() > 0.03))
    return case


def _body(rng: random.Random, method: Method, words: Sequence[bytes | str]) -> bytes:
    body = mutate.fill(rng, method.request_type(), words).SerializeToString()
    if rng.random() < 0.3:
        return mutate.of_bytes(rng, body, [b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b" * 300, b"\x0a\x00"])
    return body


class Served:
    """A world of services behind one connection a case."""

    def __init__(self, services: Sequence[Service], identity: Identity) -> None:
        self.registry = registry_of(services)
        self.identity = identity
        self.metadata: dict[bytes, bytes] = {}

    async def run(self, case: Case) -> None:
        async with calling(self.registry, self.identity) as caller:
            caller.metadata = self.metadata
            for path, bodies, framed in case:
                status = await caller.call(path, bodies, framed=framed)
                bad = status.startswith(("13 ", "-1")) and not status.startswith(_CLIENTS)
                assert not bad, f"{path} is answered {status}"

    async def good(self) -> None:
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        return sizes_of(self.registry)

"""The JSON gateway of an etcd member, and everything else that its client port answers over HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.identities import MEMBERS
from rayplane.control_plane.rpc import Identity, http1
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.storage.env import Env, SystemClock
from tests.etcd import gateway_requests as known
from tests.etcd.harness import SETTLE_S, member_config, simulated_disk
from tests.fuzz import mutate
from tests.fuzz.targets._http import Header, ask, code_of, request
from tests.fuzz.targets._wire import RecordingNetwork

CASES = 50
CASES_PER_WORLD = 120
#: What a stream (a watch, an election) is listened to.
OPEN_S = 0.2

Case = list[tuple[str, str, tuple[Header, ...], bytes | None]]
_BODIES = [(path, body) for path, body in known.CALLS if body]
_STREAMS = ("watch", "observe", "keepalive", "lock", "campaign", "snapshot")


def make(rng: random.Random) -> Case:
    case = []
    for _ in range(mutate.some(rng)):
        path, text = rng.choice(_BODIES) if rng.random() < 0.7 else ("kv/range", rng.choice(known.RANGES))
        headers: tuple[Header, ...] = ()
        body: bytes | None = text.encode("utf-8", "surrogateescape")
        method, path = "POST", f"/v3/{path}"
        match rng.randrange(6):
            case 0:
                method, path = rng.choice(known.PATHS)
                body = None if method in ("GET", "HEAD", "OPTIONS") else body
            case 1:
                body = mutate.of_bytes(rng, body or b"", [b.encode("utf-8", "replace") for _, b in _BODIES])
            case 2 | 3:
                with contextlib.suppress(ValueError):
                    body = json.dumps(mutate.of_json(rng, json.loads(body or b""))).encode()
            case 4:
                path = "/v3/" + "/".join(mutate.of_text(rng, p) for p in path[4:].split("/"))
                path = path.encode("ascii", "replace").decode().translate({n: "%" for n in (*range(33), 127)})
            case 5:
                value = mutate.of_bytes(rng, b"Bearer token").translate(None, b"\r\n\0")
                headers = ((rng.choice(("Authorization", "Grpc-Timeout", "Grpc-Metadata-X", "Content-Type")), value),)
        case.append((method, path, headers, body))
    return case


class Gateway:
    def __init__(self, address: str, server: http1.GuardedServer) -> None:
        self.address, self.server = address, server

    async def run(self, case: Case) -> None:
        for asked in case:
            method, path, headers, body = asked
            goes_on = any(s in path for s in _STREAMS) or not path.startswith("/v3/")
            answer = await ask(self.address, request(method, path, headers, body), seconds=OPEN_S if goes_on else None)
            internal = code_of(answer) == 500 and b'"code":13' in answer
            assert not internal, (asked, answer[-1000:])
            assert answer or goes_on, f"no answer to {asked}"

    async def good(self) -> None:
        answer = await ask(self.address, request("POST", "/v3/kv/range", (), b'{"key":"YQ==","serializable":true}'))
        assert code_of(answer) and b'"code":13' not in answer, answer[:500]

    def sizes(self) -> dict[str, int]:
        return {"connections": len(self.server.connections), "guards": len(self.server._guards)}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Gateway]:
    network = RecordingNetwork(Fabric(), "m0", Identity("m0", (MEMBERS,)))
    env = Env(SystemClock(), random.Random(1), simulated_disk())
    member = Member(member_config("m0", {"m0": "http://m0:2380"}), env, network)
    await member.start()
    assert network.web is not None
    server = http1.server(network.web)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(SETTLE_S):
            await member.ready()
        yield Gateway(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", server)
    finally:
        listening.close()
        await server.shutdown(0.1)
        await member.stop()

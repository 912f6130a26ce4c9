"""An API server that is a real process, killed in the middle of requests: nothing is half done, clients go on."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scripts.benchmarks.members import running_members

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
SERVE = """
import asyncio, random, sys
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.storage.env import Env, SystemClock

async def serve():
    config = ApiServerConfig(etcd_endpoints=(sys.argv[1],))
    server = ApiServer(config, Env(SystemClock(), random.Random(), None), GrpcNetwork())
    await server.start()
    print(server.https_address, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""
SERVICES, QUOTAS = "/api/v1/namespaces/default/services", "/api/v1/namespaces/default/resourcequotas"


@contextlib.asynccontextmanager
async def server(etcd: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, etcd, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield process, f"http://{(await process.stdout.readline()).decode().strip()}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_what_a_killed_server_was_doing_is_done_or_not_done(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    answered: list[int] = []

    async def write(http: aiohttp.ClientSession, worker: int) -> None:
        """Services take an address each, and a place in the quota: a create is several keys, or none of them."""
        for n in range(10_000):
            name = f"s-{worker}-{n}"
            body: dict[str, Any] = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
            async with http.post(SERVICES, json=body) as answer:
                answered.append(answer.status)
                if answer.status == 201:
                    acknowledged.append(name)

    async with running_members(1, tmp_path) as [member]:
        async with server(member.client) as (process, url), aiohttp.ClientSession(url) as http:
            quota = {"metadata": {"name": "q"}, "spec": {"hard": {"services": "5000"}}}
            async with http.post(QUOTAS, json=quota) as answer:
                assert answer.status == 201
            writers = [asyncio.ensure_future(write(http, n)) for n in range(8)]
            while len(acknowledged) < 40:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            ends = await asyncio.gather(*writers, return_exceptions=True)
            assert all(isinstance(end, aiohttp.ClientError) for end in ends), "each client is told at once"
        async with server(member.client) as (_, url), aiohttp.ClientSession(url) as http:
            async with http.get(SERVICES) as answer:
                found = {o["metadata"]["name"]: o for o in (await answer.json())["items"]}
            async with http.get(f"{QUOTAS}/q") as answer:
                used = (await answer.json())["status"].get("used", {})
            assert found.keys() >= set(acknowledged)
            assert all(o["metadata"]["uid"] and o["spec"]["clusterIP"] for o in found.values())
            addresses = [o["spec"]["clusterIP"] for o in found.values()]
            assert len({*addresses}) == len(addresses)
            assert int(used.get("services", 0)) == len(found)
            async with http.post(
                SERVICES, json={"metadata": {"name": "again"}, "spec": {"ports": [{"port": 80}]}}
            ) as answer:
                assert answer.status == 201
    assert set(answered) == {201}

"""What one user may have of a server of an aggregated API that answers slowly."""

import asyncio

import pytest
from aiohttp import web

from rayplane.control_plane.apiserver.rest import aggregated
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.rayplane.v1 import aggregation_pb2
from tests.apiserver.test_aggregation import ROOT, Setting, grant, setting  # noqa: F401

FLUNDERS = f"{ROOT}/namespaces/default/flunders"
PURGE = aggregation_pb2.DESCRIPTOR.services_by_name["Aggregation"]


async def test_nobody_waits_in_all_places_of_a_slow_server(
    setting: Setting,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aggregated, "WAITING_OF_ONE_MAX", 2)
    await setting.lead()
    await setting.becomes("Passed")
    await grant(setting.client)
    goes_on, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        asked.release()
        await goes_on.wait()
        return web.Response()

    setting.extension.answers[FLUNDERS] = slow
    waiting = [asyncio.create_task(setting.text(FLUNDERS)) for _ in range(2)]
    async with asyncio.timeout(20):
        for _ in waiting:
            await asked.acquire()
        assert (await setting.json("GET", FLUNDERS))[0] == 429
        other = asyncio.create_task(setting.text(FLUNDERS, headers={"Authorization": "Bearer jane"}))
        await asked.acquire()
    goes_on.set()
    assert [code for code, _ in await asyncio.gather(*waiting, other)] == [200] * 3
    assert (await setting.text(FLUNDERS))[0] == 200


@pytest.mark.parametrize("setting", [5.0], indirect=True)
async def test_a_server_that_changes_protocols_unasked_spoils_nothing_for_the_next(
    setting: Setting,  # noqa: F811
) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    await grant(setting.client)
    stop = asyncio.Event()

    async def changes(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\nand on it goes")
        await stop.wait()
        return web.Response()

    setting.extension.answers[FLUNDERS] = changes
    code, said = await setting.text(FLUNDERS)
    assert code == 503 and "101" in said
    for _ in range(3):
        assert (await setting.text(f"{FLUNDERS}/other"))[0] == 200
    stop.set()


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "a?limit=1", "A", "x" * 64])
async def test_what_can_be_no_namespace_is_not_purged(
    setting: Setting,  # noqa: F811
    namespace: str,
) -> None:
    stub = Stub(setting.stack.network.channel(setting.stack.servers[0].grpc_address), PURGE)
    with pytest.raises(RpcError, match="Namespace parameter invalid"):
        await stub.Purge(aggregation_pb2.PurgeRequest(namespace=namespace), timeout=10)
    assert not setting.extension.seen

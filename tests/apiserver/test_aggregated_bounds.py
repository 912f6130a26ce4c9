"""What one user may have of a server of an aggregated API that answers slowly."""

import asyncio

import pytest
from aiohttp import web

from rayplane.control_plane.apiserver.rest import aggregated
from tests.apiserver.test_aggregation import ROOT, Setting, grant, setting  # noqa: F401

FLUNDERS = f"{ROOT}/namespaces/default/flunders"


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

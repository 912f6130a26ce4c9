"""A trial inside, heard through API servers of which some are cut off, stand still, or tell nothing for long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.cluster import heard as hearing
from rayplane.control_plane.cluster.heard import PATIENCE_S, heard
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from tests.rpc.open_service import open_service

Told = Callable[[pb.TrialRequest], AsyncIterator[pb.TrialResponse]]
CUT_OFF = RpcError(Code.UNAVAILABLE, "the server is gone")


class Servers:
    """API servers, each of which answers calls as it is told."""

    def __init__(self, *answers: Told) -> None:
        self._answers = answers
        self._network = MemoryNetwork(Fabric(), "host")
        self.addresses = [f"host:{number}" for number in range(1, len(answers) + 1)]
        self.admin: Any = SimpleNamespace(
            api=SimpleNamespace(endpoints=Endpoints(self.addresses)), network=self._network
        )

    async def start(self) -> None:
        for address, answer in zip(self.addresses, self._answers, strict=True):
            service = open_service(pb.DESCRIPTOR.services_by_name["Chaos"], _Chaos(answer))
            await self._network.serve(address, [service])

    def heard(self) -> Any:
        return heard(self.admin, pb.TrialRequest(id="a"))


class _Chaos:
    def __init__(self, answer: Told) -> None:
        self._answer = answer

    async def Run(self, request: pb.TrialRequest, _: Context) -> AsyncIterator[pb.TrialResponse]:
        async for one in self._answer(request):
            yield one

    Targets = Begin = End = List = Heal = None


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "slowdown", lambda: 1.0)


def story(servers: Servers, of: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        await servers.start()
        await of(servers.heard())

    VirtualLoop().run(main())


async def quiet_then_cut_off(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
    yield pb.TrialResponse(event="wait 60 s") if not request.after else pb.TrialResponse()
    await asyncio.sleep(PATIENCE_S * 2)
    raise CUT_OFF


async def stands_still(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
    yield pb.TrialResponse(event="stop")
    await asyncio.Event().wait()


async def verdict(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
    assert request.after == 1
    yield pb.TrialResponse(verdict="{}")


@pytest.mark.usefixtures("idle")
def test_a_trial_that_says_nothing_for_long_is_heard_through_another_server() -> None:
    async def of(told: Any) -> None:
        assert [one.event or one.verdict async for one in told] == ["wait 60 s", "{}"]

    story(Servers(quiet_then_cut_off, verdict), of)


@pytest.mark.usefixtures("idle")
def test_each_server_that_hears_a_trial_is_given_all_patience() -> None:
    async def of(told: Any) -> None:
        assert [one.event or one.verdict async for one in told] == ["wait 60 s", "{}"]

    story(Servers(quiet_then_cut_off, quiet_then_cut_off, verdict), of)


def test_lines_that_are_missing_are_not_asked_for_again() -> None:
    async def one_of_many(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
        yield pb.TrialResponse(event="the last", number=1001)
        raise CUT_OFF

    async def rest(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
        yield pb.TrialResponse(verdict=str(request.after), number=1002)

    async def of(told: Any) -> None:
        assert [one.event or one.verdict async for one in told] == ["the last", "1001"]

    story(Servers(one_of_many, rest), of)


def test_whoever_is_cancelled_ends_the_trial_through_a_server_that_answers() -> None:
    ended: list[str] = []

    async def ends(request: pb.TrialRequest) -> AsyncIterator[pb.TrialResponse]:
        assert request.end
        ended.append(request.id)
        return
        yield

    async def of(told: Any) -> None:
        begun = asyncio.Event()

        async def listen() -> None:
            async for _ in told:
                begun.set()

        listening = asyncio.create_task(listen())
        await begun.wait()
        listening.cancel()
        await asyncio.wait([listening])
        assert listening.cancelled() and ended == ["a"]

    story(Servers(stands_still, stands_still, ends), of)

"""What only the in-memory network has: weather, and ends that die."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.open_service import open_service
from tests.rpc.test_network_contract import SERVICES, Handler, _held_open


class Slow:
    """A link whose delays are given one by one."""

    def __init__(self, *delays: float | None, rest: float | None = 0.0) -> None:
        self.delays = list(delays)
        self.rest = rest

    def delay(self, source: str, target: str) -> float | None:
        return self.delays.pop(0) if self.delays else self.rest


async def _serve(fabric: Fabric) -> tuple[MemoryNetwork, Handler, str]:
    network, handler = MemoryNetwork(fabric, "server"), Handler()
    services = [open_service(SERVICES[name], handler) for name in ("KV", "Maintenance", "Watch")]
    server = await network.serve("server:1", services)
    return network, handler, server.address


def _stub(fabric: Fabric, service: str) -> object:
    return Stub(MemoryNetwork(fabric, "client").channel("server:1"), SERVICES[service])


def test_messages_of_a_stream_never_overtake_each_other() -> None:
    async def main() -> list[int]:
        fabric = Fabric(Slow(0.0, *(0.5 if n % 3 else 0.001 for n in range(200))))
        await _serve(fabric)
        stream = _stub(fabric, "Maintenance").Snapshot(pb.SnapshotRequest())  # type: ignore[attr-defined]
        return [r.remaining_bytes async for r in stream]

    assert VirtualLoop().run(main()) == list(range(200))


def test_a_call_takes_the_time_of_both_ways() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        fabric = Fabric(Slow(0.25, 0.5))
        await _serve(fabric)
        await _stub(fabric, "KV").Range(pb.RangeRequest())  # type: ignore[attr-defined]

    loop.run(main())
    assert loop.time() == 0.75


def test_what_is_parted_is_sent_again_and_given_up_in_the_end() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        fabric = Fabric(Slow(None, None, None))
        _, handler, _ = await _serve(fabric)
        await _stub(fabric, "KV").Range(pb.RangeRequest())  # type: ignore[attr-defined]
        assert loop.time() == pytest.approx(0.6)
        fabric.link = Slow(rest=None)
        with pytest.raises(RpcError, match="failed to connect") as e:
            await _stub(fabric, "KV").Range(pb.RangeRequest(), timeout=60)  # type: ignore[attr-defined]
        assert e.value.code is grpc.StatusCode.UNAVAILABLE
        assert len(handler.contexts) == 1

    loop.run(main())


@pytest.mark.parametrize("victim", ["server", "client"])
def test_when_one_end_dies_the_other_learns_of_it(victim: str) -> None:
    async def main() -> None:
        fabric = Fabric()
        network, handler, _ = await _serve(fabric)
        client = MemoryNetwork(fabric, "client")
        stub = Stub(client.channel("server:1"), SERVICES["Watch"])
        kv = Stub(client.channel("server:1"), SERVICES["KV"])

        async def read() -> None:
            async for _ in stub.Watch(_held_open(b"a")):
                pass

        stream = asyncio.ensure_future(read())
        call = asyncio.ensure_future(kv.Range(pb.RangeRequest(key=b"hang"), timeout=60))
        await handler.entered.wait()
        (network if victim == "server" else client).detach()
        for end in (stream, call):
            with pytest.raises(RpcError, match="lost") as e:
                await end
            assert e.value.code is grpc.StatusCode.UNAVAILABLE
        await handler.cancelled.wait()
        assert not fabric.calls

    VirtualLoop().run(main())


async def test_a_network_that_is_closed_ends_its_calls_and_takes_no_more() -> None:
    fabric = Fabric()
    _, handler, _ = await _serve(fabric)
    client = MemoryNetwork(fabric, "client")
    kv = Stub(client.channel("server:1"), SERVICES["KV"])
    call = asyncio.ensure_future(kv.Range(pb.RangeRequest(key=b"hang"), timeout=60))
    await handler.entered.wait()
    await client.close()
    with pytest.raises(RpcError, match="lost"):
        await call
    with pytest.raises(RpcError, match="closed") as e:
        await kv.Range(pb.RangeRequest(), timeout=60)
    assert e.value.unsent and e.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_nobody_took_is_known_to_be_unsent_and_a_handlers_own_failures_are_not() -> None:
    class Passing:
        async def Range(self, request: pb.RangeRequest, context: object) -> pb.RangeResponse:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "whom it asked is gone", refused=True)

    fabric = Fabric()
    server, client = MemoryNetwork(fabric, "server"), MemoryNetwork(fabric, "client")
    kv = Stub(client.channel("server:1"), SERVICES["KV"])
    with pytest.raises(RpcError, match="refused") as nobody:
        await kv.Range(pb.RangeRequest())
    assert nobody.value.refused and nobody.value.unsent
    await server.serve("server:1", [open_service(SERVICES["KV"], Passing())])
    with pytest.raises(RpcError, match="whom it asked") as passed_on:
        await kv.Range(pb.RangeRequest())
    assert not passed_on.value.refused and not passed_on.value.unsent


def test_a_reader_that_is_slow_holds_the_sender_back() -> None:
    made = 0

    class Fast:
        async def Snapshot(self, request: pb.SnapshotRequest, context: object) -> AsyncIterator[pb.SnapshotResponse]:
            nonlocal made
            for n in range(10_000):
                made += 1
                yield pb.SnapshotResponse(remaining_bytes=n)

    async def main() -> None:
        fabric = Fabric(Slow(rest=0.01))
        network = MemoryNetwork(fabric, "server")
        await network.serve("server:1", [open_service(SERVICES["Maintenance"], Fast())])
        stream = _stub(fabric, "Maintenance").Snapshot(pb.SnapshotRequest())  # type: ignore[attr-defined]
        await anext(stream)
        await asyncio.sleep(10)
        assert made < 100
        await stream.aclose()

    VirtualLoop().run(main())


def test_the_tap_sees_every_message() -> None:
    seen: list[tuple[str, str, int]] = []

    async def main() -> None:
        fabric = Fabric(tap=lambda source, target, data: seen.append((source, target, len(data))))
        await _serve(fabric)
        await _stub(fabric, "KV").Range(pb.RangeRequest(key=b"1234"))  # type: ignore[attr-defined]

    VirtualLoop().run(main())
    assert seen == [("client", "server", 6), ("server", "client", 2)]

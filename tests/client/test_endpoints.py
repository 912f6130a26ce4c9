"""Failover: which replica is asked, which calls are tried again, and when that ends."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from rayplane.control_plane.client.endpoints import PENALTY_S, RETRY_PAUSE_S, Endpoints, call_any, never_sent
from rayplane.control_plane.client.stubs import Stubs
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.etcd.rpc_pb2 import DESCRIPTOR

REFUSED = RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to b: connection refused", refused=True)
LOST = RpcError(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
WRONG = RpcError(grpc.StatusCode.INVALID_ARGUMENT, "no")


class Replicas:
    """What each address answers; a call takes `seconds`."""

    def __init__(self, seconds: float = 0.0, **faults: RpcError) -> None:
        self.faults = faults
        self.seconds = seconds
        self.asked: list[str] = []

    async def call(self, address: str, left: float) -> str:
        self.asked.append(address)
        await asyncio.sleep(self.seconds)
        if address in self.faults:
            raise self.faults[address]
        return address


def run(main: Callable[[], Awaitable[None]]) -> float:
    loop = VirtualLoop()
    loop.run(main())
    return loop.time()


def test_calls_go_round_and_sticky_ones_stay() -> None:
    async def main() -> None:
        endpoints = Endpoints(["a", "b", "c"])
        assert [endpoints.pick() for _ in range(4)] == ["a", "b", "c", "a"]
        assert {endpoints.pick(sticky=True) for _ in range(4)} == {"b"}

    run(main)


def test_one_that_failed_is_avoided_for_a_while() -> None:
    async def main() -> None:
        endpoints = Endpoints(["a", "b"])
        endpoints.failed("a")
        assert [endpoints.pick() for _ in range(3)] == ["b", "b", "b"]
        await asyncio.sleep(PENALTY_S)
        assert {endpoints.pick(), endpoints.pick()} == {"a", "b"}

    run(main)


def test_a_preferred_one_is_asked_until_it_fails() -> None:
    async def main() -> None:
        endpoints = Endpoints(["a", "b", "c"])
        endpoints.prefer("b")
        assert [endpoints.pick(), endpoints.pick(sticky=True), endpoints.pick(sticky=True)] == ["a", "b", "b"]
        endpoints.failed("b")
        endpoints.prefer("b")
        assert endpoints.pick(sticky=True) != "b"
        await asyncio.sleep(PENALTY_S)
        endpoints.prefer("b")
        endpoints.replace(["a", "c"])
        assert endpoints.pick(sticky=True) in ("a", "c")

    run(main)


def test_when_all_failed_the_one_that_failed_longest_ago_is_asked() -> None:
    async def main() -> None:
        endpoints = Endpoints(["a", "b"])
        endpoints.failed("b")
        await asyncio.sleep(0.5)
        endpoints.failed("a")
        assert endpoints.pick() == "b"

    run(main)


@pytest.mark.parametrize(
    ("fault", "idempotent", "asked"),
    [
        (REFUSED, False, ["a", "b"]),
        (LOST, True, ["a", "b"]),
        (LOST, False, ["a"]),
        (WRONG, True, ["a"]),
    ],
)
def test_only_what_cannot_have_happened_twice_is_tried_again(
    fault: RpcError, idempotent: bool, asked: list[str]
) -> None:
    async def main() -> None:
        replicas, endpoints = Replicas(a=fault), Endpoints(["a", "b"])
        try:
            answer = await call_any(endpoints, replicas.call, timeout=5, idempotent=idempotent)
            assert answer == "b"
        except RpcError as e:
            assert e is fault and len(asked) == 1
        assert replicas.asked == asked

    run(main)


class Silent(Replicas):
    """Replicas of which `a` never answers, as one that was stopped or cut off."""

    async def call(self, address: str, left: float) -> str:
        if address == "a":
            self.asked.append(address)
            await asyncio.sleep(left)
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return await super().call(address, left)


def test_a_silent_replica_is_not_asked_again_and_a_read_is_answered_by_another() -> None:
    async def main() -> None:
        replicas, endpoints = Silent(), Endpoints(["a", "b"])
        assert await call_any(endpoints, replicas.call, timeout=4, idempotent=True, sticky=True) == "b"
        assert asyncio.get_running_loop().time() == 2.0
        replicas, endpoints = Silent(), Endpoints(["a", "b"])
        with pytest.raises(RpcError):
            await call_any(endpoints, replicas.call, timeout=4, idempotent=False, sticky=True)
        assert await call_any(endpoints, replicas.call, timeout=4, idempotent=False, sticky=True) == "b"
        assert replicas.asked == ["a", "b"]

    run(main)


def test_trying_ends_in_time_with_the_last_error() -> None:
    async def main() -> None:
        replicas = Replicas(a=REFUSED, b=REFUSED)
        with pytest.raises(RpcError) as e:
            await call_any(Endpoints(["a", "b"]), replicas.call, timeout=3, idempotent=True)
        assert e.value is REFUSED
        assert 10 < len(replicas.asked) < 50

    assert run(main) <= 3.0


def test_when_the_time_is_over_the_reason_that_was_told_is_raised_and_not_the_silence_of_the_last_try() -> None:
    async def main() -> None:
        replicas = Replicas(a=REFUSED)

        async def call(address: str, left: float) -> str:
            # Too little time is left for the last try.
            if left < RETRY_PAUSE_S / 2:
                await asyncio.sleep(left)
                raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return await replicas.call(address, left)

        with pytest.raises(RpcError) as e:
            await call_any(Endpoints(["a"]), call, timeout=10.4 * RETRY_PAUSE_S, idempotent=True)
        assert e.value is REFUSED

    run(main)


def test_a_new_list_replaces_the_old_one_and_an_empty_one_does_not() -> None:
    async def main() -> None:
        endpoints = Endpoints(["a", "b"])
        endpoints.failed("b")
        endpoints.replace(["b", "c"])
        assert endpoints.pick() == "c"
        endpoints.replace([])
        assert endpoints.addresses == ("b", "c")

    run(main)
    with pytest.raises(ValueError, match="no endpoints"):
        Endpoints([])


def test_only_what_the_network_itself_found_counts_as_never_sent() -> None:
    assert never_sent(REFUSED)
    assert not never_sent(RpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed"))
    # A server's own answer about what it could not reach is another matter.
    assert not never_sent(RpcError(grpc.StatusCode.UNAVAILABLE, "etcd: failed to connect to all addresses", b"{}"))


def test_stubs_of_servers_that_are_listed_no_more_are_forgotten() -> None:
    asked: list[str] = []

    class Channels:
        def channel(self, address: str) -> object:
            asked.append(address)
            return object()

    services = {service.name: service for service in DESCRIPTOR.services_by_name.values()}
    endpoints = Endpoints(["a", "b"])
    stubs = Stubs(Channels(), services, endpoints)  # type: ignore[arg-type]
    assert stubs.of("KV", "a") is stubs.of("KV", "a") is not stubs.of("KV", "b")
    for new in range(20):
        endpoints.replace(["b", f"c{new}"])
        stubs.of("KV", f"c{new}"), stubs.of("Lease", "b")
    assert asked == ["a", "b", "c0", "b", *(f"c{new}" for new in range(1, 20))]
    assert len(stubs) == 3

"""What becomes of packets on disturbed ways: as tc-netem(8) has it, by chance that is given."""

import asyncio
import errno
import itertools
import random
import socket
import struct
from unittest.mock import AsyncMock, Mock

import pytest

from rayplane.control_plane.api.pods.marks import LATENCY_MAX_MS, Netem
from rayplane.control_plane.backoff import Backoff
from rayplane.node.netlink import attribute, framed, parsed
from rayplane.node.nftables import queue
from rayplane.node.policy import holding as module
from rayplane.node.policy.holding import NOT_YET, Holding
from rayplane.node.policy.netem import Link, flipped

HERE, THERE = bytes((127, 64, 1, 2)), bytes((127, 64, 1, 3))
WAY, BACK = ("", HERE + THERE), ("", THERE + HERE)
LONG = Netem(latency_ms=LATENCY_MAX_MS)


def judged(netem: Netem, count: int = 4000, *, seed: int = 1) -> list[float | None]:
    link = Link(netem, random.Random(seed).random)
    return [link.judge(0.0).at for _ in range(count)]


def test_packets_wait_for_the_latency_and_up_to_the_jitter_more_or_less() -> None:
    assert set(judged(Netem(latency_ms=90))) == {0.09}
    found = [at or 0 for at in judged(Netem(latency_ms=90, jitter_ms=20))]
    assert 0.07 <= min(found) < 0.071 and 0.109 < max(found) <= 0.11
    assert min(at or 0 for at in judged(Netem(latency_ms=1, jitter_ms=20))) == 0, "none goes before it came"


def test_a_part_is_lost_and_a_correlation_changes_in_what_order_not_how_many() -> None:
    for correlation in (0, 50, 90):
        lost = [at is None for at in judged(Netem(loss=25, loss_correlation=correlation), 20_000)]
        assert 0.2 < sum(lost) / len(lost) < 0.3
        again = sum(a and b for a, b in itertools.pairwise(lost)) / sum(lost)
        assert abs(again - (0.25 + 0.75 * correlation / 100)) < 0.08, "as often after one that was lost"
    assert set(judged(Netem(loss=100))) == {None}


def test_packets_go_ahead_of_those_that_wait_so_many_apart() -> None:
    found = judged(Netem(latency_ms=10, reorder=100, gap=5), 10)
    assert found == [0.01, 0.01, 0.01, 0.01, 0.0] * 2
    ahead = [at for at in judged(Netem(latency_ms=10, reorder=25)) if at == 0]
    assert 800 < len(ahead) < 1200


def test_a_bit_of_what_a_packet_carries_flips_and_its_addresses_stay() -> None:
    packet = bytes([0x45, *range(11)]) + HERE + THERE + bytes(8)
    for seed in range(50):
        changed = flipped(packet, random.Random(seed).random)
        assert changed[:20] == packet[:20]
        assert sum((a ^ b).bit_count() for a, b in zip(packet, changed, strict=True)) == 1
    assert flipped(packet[:20], random.random) == packet[:20]


class Kernel:
    """The other end of a queue's socket."""

    def __init__(self) -> None:
        self.end, self.given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)

    def agree(self) -> None:
        self.end.send(framed(2, 0, 1, struct.pack("=i", 0)))

    def pass_by(self, number: int, source: bytes = HERE, to: bytes = THERE) -> None:
        header = struct.pack(">IHB", number, 0x0800, 2)
        self.end.send(framed(queue.KIND, 0, 0, bytes(4) + attribute(1, header) + attribute(10, packet(source, to))))

    async def told(self) -> list[bytes]:
        data = await asyncio.get_running_loop().sock_recv(self.end, 1 << 16)
        return [body for _, _, body in parsed(data)]

    async def hears(self, *messages: bytes) -> None:
        """What it is told next is this."""
        for message in messages:
            (body,) = await self.told()
            assert message.endswith(body), (message, body)


def packet(source: bytes = HERE, to: bytes = THERE) -> bytes:
    return bytes([0x45, *bytes(11)]) + source + to + b"data"


async def held(netem: Netem) -> tuple[Holding, Kernel, asyncio.Event]:
    kernel, turned = Kernel(), asyncio.Event()
    kernel.agree()
    holding = Holding(AsyncMock(return_value=kernel.given.detach()), AsyncMock(), turned.set)
    holding.put("pod", {WAY: [netem]})
    assert holding.trouble == NOT_YET
    await turned.wait()
    assert holding.trouble == ""
    assert [len(await kernel.told()) for _ in range(2)] == [1, 1], "asked for a queue, and what packets come with"
    return holding, kernel, turned


async def ended(holding: Holding, kernel: Kernel) -> None:
    await holding.close()
    kernel.end.close()


async def test_packets_of_a_way_are_held_and_others_are_not() -> None:
    holding, kernel, _ = await held(Netem(latency_ms=1))
    kernel.pass_by(7)
    kernel.pass_by(8, THERE, HERE)
    await kernel.hears(queue.accept(holding.number, 8), queue.accept(holding.number, 7))
    holding.put("pod", {WAY: [Netem(loss=100)]})
    await kernel.told()
    kernel.pass_by(9)
    await kernel.hears(queue.drop(holding.number, 9))
    await ended(holding, kernel)


async def test_what_waits_for_a_pod_goes_on_at_once_when_it_is_disturbed_otherwise_or_no_more() -> None:
    holding, kernel, _ = await held(LONG)
    number, shown = holding.number, queue.show(holding.number, queue.ADDRESSES)
    holding.put("other", {BACK: [LONG]})
    await kernel.hears(shown)
    for n, way in ((1, (HERE, THERE)), (2, (THERE, HERE)), (3, (HERE, THERE)), (4, (HERE, HERE))):
        kernel.pass_by(n, *way)
    await kernel.hears(queue.accept(number, 4))
    holding.put("pod", {WAY: [LONG]})  # as it was: nothing goes on
    holding.put("pod", {WAY: [Netem(latency_ms=59_000)]})
    await kernel.hears(queue.accept(number, 1), queue.accept(number, 3), shown)
    kernel.pass_by(5)
    kernel.pass_by(6, HERE, HERE)
    await kernel.hears(queue.accept(number, 6))
    holding.put("pod", {})
    assert not holding.needs("pod") and holding.needs("other")
    await kernel.hears(queue.accept(number, 5), shown)
    kernel.pass_by(8)
    await kernel.hears(queue.accept(number, 8))
    await ended(holding, kernel)


async def test_a_pod_whose_packets_wait_long_takes_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OF_POD_MAX", 2)
    holding, kernel, _ = await held(LONG)
    holding.put("other", {("-to", THERE): [Netem(latency_ms=1)]})
    await kernel.told()
    for n in (1, 2, 3):
        kernel.pass_by(n)
    await kernel.hears(queue.drop(holding.number, 3))
    kernel.pass_by(4, bytes(4), THERE)
    await kernel.hears(queue.accept(holding.number, 4))
    await ended(holding, kernel)


async def test_no_packet_waits_longer_than_one_disturbance_may_ask_for() -> None:
    holding, kernel, _ = await held(LONG)
    holding.put("other", {("-from", HERE): [LONG]})
    await kernel.told()
    kernel.pass_by(1)
    kernel.pass_by(2, HERE[::-1], HERE)
    await kernel.hears(queue.accept(holding.number, 2))
    (waits,) = holding._held
    assert waits.at <= asyncio.get_running_loop().time() + LATENCY_MAX_MS / 1000
    await ended(holding, kernel)


async def test_packets_come_whole_while_they_are_to_be_corrupted_and_go_on_as_they_are_then() -> None:
    holding, kernel, _ = await held(LONG)
    holding.put("pod", {WAY: [Netem(corrupt=100)]})
    await kernel.hears(queue.show(holding.number, queue.WHOLE))
    kernel.pass_by(1)
    (verdict,) = await kernel.told()
    assert verdict.startswith(queue.accept(holding.number, 1)[16:])
    changed = verdict[-len(packet()) :]
    assert sum((a ^ b).bit_count() for a, b in zip(packet(), changed, strict=True)) == 1
    assert queue.accept(holding.number, 1, changed).endswith(verdict)
    holding.put("pod", {WAY: [LONG]})
    await kernel.hears(queue.show(holding.number, queue.ADDRESSES))
    await ended(holding, kernel)


async def test_a_verdict_that_the_kernel_does_not_take_keeps_no_other_packet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holding, kernel, _ = await held(Netem(latency_ms=1))
    real, full = holding._socket, OSError(errno.ENOBUFS, "no room")
    assert real is not None
    for n in (1, 2, 3):
        kernel.pass_by(n)
    kernel.pass_by(4, THERE, HERE)
    # 4 is accepted in the call that takes the others in; then these go on, one by one.
    sends = Mock(side_effect=[None, full, full, None])
    holding._socket = Mock(wraps=real, send=Mock(side_effect=lambda data: sends() or real.send(data)))
    await kernel.hears(queue.accept(holding.number, 4), queue.accept(holding.number, 3))
    assert [record.message.count("no room") for record in caplog.records] == [1]
    holding._socket = real
    await ended(holding, kernel)


async def test_a_queue_is_made_anew_in_another_network_and_what_it_held_is_lost() -> None:
    kernels, turned = [Kernel() for _ in range(3)], asyncio.Event()
    for one in kernels:
        one.agree()
    asked, go = asyncio.Event(), asyncio.Event()
    given = iter(kernels)

    async def open_socket() -> int:
        kernel = next(given)
        if kernel is kernels[1]:
            asked.set()
            await go.wait()
        return kernel.given.detach()

    holding = Holding(open_socket, AsyncMock(), turned.set)
    holding.put("pod", {WAY: [LONG]})
    await turned.wait()
    first = holding.number
    kernels[0].pass_by(1)
    kernels[0].pass_by(2, THERE, HERE)
    for _ in range(3):
        await kernels[0].told()
    turned.clear()
    holding.reopen()
    assert (holding.number, holding.trouble, turned.is_set()) == (0, NOT_YET, True)
    assert await kernels[0].told() == [], "it is closed"
    await asked.wait()
    holding.reopen()  # the network of a socket that is being opened has gone too
    turned.clear()
    go.set()
    await turned.wait()
    assert holding.number not in (0, first) and holding.trouble == ""
    with pytest.raises(ConnectionResetError):  # it is closed, and what it said is unread
        await kernels[1].told()
    for _ in range(2):
        await kernels[2].told()
    kernels[2].pass_by(1)
    kernels[2].pass_by(3, THERE, HERE)
    await kernels[2].hears(queue.accept(holding.number, 3))
    holding.put("pod", {})
    await kernels[2].hears(queue.accept(holding.number, 1))
    await holding.close()
    for one in kernels:
        one.end.close()


async def test_what_waits_when_a_queue_is_closed_is_lost() -> None:
    holding, kernel, _ = await held(LONG)
    kernel.pass_by(1)
    kernel.pass_by(2, THERE, HERE)
    await kernel.hears(queue.accept(holding.number, 2))
    await holding.close()
    assert await kernel.told() == [] and holding.number == 0
    holding.put("pod", {})
    kernel.end.close()


async def test_a_kernel_without_such_queues_is_told_of_and_asked_again_only_while_there_is_need() -> None:
    turned, refused = asyncio.Event(), AsyncMock(side_effect=OSError(errno.ENOENT, "no such rule"))
    open_socket = AsyncMock()
    holding = Holding(open_socket, refused, turned.set)
    holding.put("pod", {("-from", HERE): [Netem(duplicate=1)]})
    await turned.wait()
    assert "holds and copies no packets" in holding.trouble and holding.number == 0
    open_socket.assert_not_called()
    await holding.close()


async def test_a_queue_that_gives_way_is_told_of_and_made_anew_after_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again at once it would answer the same for ever, and nobody else of its host would have a turn."""
    monkeypatch.setattr(module, "AGAIN", Backoff(0.001, 0.002))
    kernels, turned = [Kernel() for _ in range(3)], asyncio.Event()
    for one in kernels:
        one.agree()
    given = iter(kernels)

    async def open_socket() -> int:
        return next(given).given.detach()

    async def turns(*, there: bool) -> None:
        while bool(holding.number) is not there:
            turned.clear()
            await turned.wait()

    holding = Holding(open_socket, AsyncMock(), turned.set)
    holding.put("pod", {WAY: [LONG]})
    for kernel in kernels[:2]:
        await turns(there=True)
        kernel.end.close()  # an error, as what it was told is unread
        await turns(there=False)
        assert "gives no more packets" in holding.trouble
    assert holding._gave_way == 2
    await turns(there=True)
    for _ in range(2):
        await kernels[2].told()
    kernels[2].pass_by(3, THERE, HERE)
    await kernels[2].hears(queue.accept(holding.number, 3))
    assert (holding.trouble, holding._gave_way) == ("", 0)
    await ended(holding, kernels[2])

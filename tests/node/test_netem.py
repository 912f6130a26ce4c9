"""What becomes of packets on disturbed ways: as tc-netem(8) has it, by chance that is given."""

import asyncio
import errno
import itertools
import random
import socket
import struct
from unittest.mock import AsyncMock

from rayplane.control_plane.api.pods.marks import Netem
from rayplane.node.netlink import attribute, framed, parsed
from rayplane.node.nftables import queue
from rayplane.node.policy.holding import Holding
from rayplane.node.policy.netem import Link, flipped

HERE, THERE = bytes((127, 64, 1, 2)), bytes((127, 64, 1, 3))


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
        packet = bytes([0x45, *bytes(11)]) + source + to + b"data"
        self.end.send(framed(queue.KIND, 0, 0, bytes(4) + attribute(1, header) + attribute(10, packet)))

    async def told(self) -> list[bytes]:
        data = await asyncio.get_running_loop().sock_recv(self.end, 1 << 16)
        return [body for _, _, body in parsed(data)]


async def held(netem: Netem) -> tuple[Holding, Kernel, asyncio.Event]:
    kernel, turned = Kernel(), asyncio.Event()
    kernel.agree()
    holding = Holding(AsyncMock(return_value=kernel.given.detach()), AsyncMock(), turned.set)
    holding.put("pod", {("", HERE + THERE): [netem]})
    await turned.wait()
    assert [len(await kernel.told()) for _ in range(2)] == [1, 1], "asked for a queue, and what packets come with"
    return holding, kernel, turned


async def test_packets_of_a_way_are_held_and_others_are_not() -> None:
    holding, kernel, _ = await held(Netem(latency_ms=1))
    before = asyncio.get_running_loop().time()
    kernel.pass_by(7)
    kernel.pass_by(8, THERE, HERE)
    (first,), (second,) = await kernel.told(), await kernel.told()
    assert queue.accept(holding.number, 8).endswith(first) and queue.accept(holding.number, 7).endswith(second)
    assert asyncio.get_running_loop().time() - before >= 0.001
    holding.put("pod", {("", HERE + THERE): [Netem(loss=100)]})
    await kernel.told()
    kernel.pass_by(9)
    (verdict,) = await kernel.told()
    assert queue.drop(holding.number, 9).endswith(verdict)
    await holding.close()
    kernel.end.close()


async def test_a_pod_that_is_disturbed_no_more_is_not_looked_for() -> None:
    holding, kernel, _ = await held(Netem(latency_ms=60_000))
    holding.put("pod", {})
    assert not holding.needs("pod")
    await kernel.told()
    kernel.pass_by(8)
    (verdict,) = await kernel.told()
    assert queue.accept(holding.number, 8).endswith(verdict)
    await holding.close()
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

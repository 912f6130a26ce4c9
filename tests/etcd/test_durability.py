"""No acknowledgement leaves before the disks of a majority have the write."""

import asyncio

from rayplane.storage.env.simulated import SimulatedDisk
from tests.etcd.harness import SYNC_S, etcd_cluster

# Far longer than anything else in these clusters takes, and shorter than a client waits.
SLOW_S = 1.0


class Syncs:
    """How long the disks' syncs take; each disk made gets a number, in the order of the members."""

    def __init__(self) -> None:
        self.slow: set[int] = set()
        self._made = 0

    def disk(self) -> SimulatedDisk:
        number, self._made = self._made, self._made + 1
        return SimulatedDisk(sync_seconds=lambda: SLOW_S if number in self.slow else SYNC_S)


async def seconds_to_acknowledge(slow: int, *, among: int, leader_is_slow: bool) -> float:
    """Seconds until a put is acknowledged when `slow` members' disks, the leader's or not, are slow."""
    syncs = Syncs()
    # Long elections: a leader that waits for its disk must not be deposed in between.
    async with etcd_cluster(among, disk=syncs.disk, tick_s=0.5) as cluster:
        leader = await cluster.wait_leader()
        numbers = range(among)
        leading = next(i for i in numbers if cluster.nodes[f"m{i}"].member is leader)
        order = sorted(numbers, key=lambda i: (i == leading) != leader_is_slow)
        syncs.slow = set(order[:slow])
        began = asyncio.get_running_loop().time()
        await cluster.put(b"k", b"v", endpoint=leader.client_address)
        return asyncio.get_running_loop().time() - began


async def test_a_lone_member_acknowledges_after_its_sync() -> None:
    assert await seconds_to_acknowledge(1, among=1, leader_is_slow=True) >= SLOW_S


async def test_a_majority_of_slow_followers_delays_the_acknowledgement() -> None:
    assert await seconds_to_acknowledge(2, among=3, leader_is_slow=False) >= SLOW_S


async def test_a_slow_leader_and_a_slow_follower_delay_the_acknowledgement() -> None:
    assert await seconds_to_acknowledge(2, among=3, leader_is_slow=True) >= SLOW_S


async def test_a_slow_follower_alone_does_not_delay_what_a_majority_has() -> None:
    assert await seconds_to_acknowledge(1, among=3, leader_is_slow=False) < SLOW_S

"""The network's effect on messages: latency, loss and partitions, all drawn from one seeded generator.

A lost message is sent again by the transport, as TCP does: it arrives late. While a partition holds nothing passes;
connections across it break once the keep-alive of the real transport would have given them up. Links may also be cut in
one direction, and all of them slowed down.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# gRPC's keep-alive time and timeout together, as the real network sets them.
KEEPALIVE_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """The network on an ordinary day; seconds and fractions."""

    latency_min_s: float = 0.0002
    latency_mean_s: float = 0.0006
    loss: float = 0.0005
    """Part of the messages that must be sent again."""
    retransmit_s: float = 0.2
    """How long a sender waits before it sends again; doubled each time."""


class Weather:
    """A `Link` of the in-memory fabric. Hosts are named as actors are."""

    def __init__(self, rng: random.Random, climate: Climate | None, names: Mapping[str, str] | None = None) -> None:
        """`climate` None: without faults, messages arrive at once. `names`: of addresses, for when nothing listens
        there and only the address is known."""
        self._names = {} if names is None else names
        self._rng = rng
        self._climate = climate
        self._rate = 1 / max(climate.latency_mean_s - climate.latency_min_s, 1e-9) if climate else 0.0
        self.cuts: set[tuple[str, str]] = set()
        """Source and target of links that carry nothing."""
        self.slow_s = 0.0
        """A message takes up to so long, besides its latency."""
        self._sides: dict[str, int] = {}
        self._partition = 0
        self.sever: Callable[[Callable[[str, str], bool]], None] = lambda parted: None
        """Breaks the connections between hosts that `parted(a, b)` tells; set by who owns the fabric."""

    def delay(self, source: str, target: str) -> float | None:
        if self._sides and self.parted(source, target):
            return None
        if self.cuts and self._cut(source, target):
            return None
        slow = self._rng.random() * self.slow_s if self.slow_s else 0.0
        if source == target:
            return 0.0
        if self._climate is None:
            return slow
        climate, random_ = self._climate, self._rng.random
        delay_s = slow + climate.latency_min_s + self._rng.expovariate(self._rate)
        again = climate.retransmit_s
        while random_() < climate.loss:
            delay_s += again
            again *= 2
        return delay_s

    def _cut(self, source: str, target: str) -> bool:
        names = self._names
        return (names.get(source, source), names.get(target, target)) in self.cuts

    def cut(self, sources: Iterable[str], sinks: Iterable[str]) -> None:
        """What `sources` send to `sinks` does not arrive, until all is healed."""
        sinks = tuple(sinks)
        self.cuts.update((source, sink) for source in sources for sink in sinks if source != sink)

    def mend(self, sources: Iterable[str], sinks: Iterable[str]) -> None:
        """What they send arrives again."""
        sinks = tuple(sinks)
        self.cuts.difference_update([(source, sink) for source in sources for sink in sinks])

    def parted(self, a: str, b: str) -> bool:
        """Whether a partition is between two hosts now."""
        names = self._names
        return self._sides.get(names.get(a, a), 0) != self._sides.get(names.get(b, b), 0)

    def part(self, *groups: Iterable[str]) -> None:
        """Hosts of different groups, and hosts of no group, no longer reach each other."""
        self._sides = {host: n for n, group in enumerate(groups, start=1) for host in group}
        self._partition += 1
        asyncio.get_running_loop().call_later(KEEPALIVE_S, self._give_up, self._partition)

    def join(self) -> None:
        """Nobody is parted any more; links that were cut still are."""
        self._sides = {}
        self._partition += 1

    def heal(self) -> None:
        self.join()
        self.cuts.clear()

    def troubles(self) -> list[str]:
        """What is wrong now, in words."""
        sides: dict[int, list[str]] = {}
        for host, side in self._sides.items():
            sides.setdefault(side, []).append(host)
        lines = [f"parted from the others: {', '.join(hosts)}" for _, hosts in sorted(sides.items())]
        lines += [f"nothing passes from {source} to {target}" for source, target in sorted(self.cuts)]
        return [*lines, *([f"every message takes up to {self.slow_s:g} s"] if self.slow_s else [])]

    def _give_up(self, partition: int) -> None:
        if partition == self._partition:
            self.sever(self.parted)

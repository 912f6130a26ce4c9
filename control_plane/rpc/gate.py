"""Limits of a port: how many connections, in all and from one address, and how slow ones."""

import ipaddress
import resource
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Numbers of connections open at the same time."""

    connections: int = 8192
    per_address: int = 4096
    """Of an address outside the machine. The machine's own has no share: all that come through a balancer have it."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one port; spans in seconds."""

    header_s: float = 20.0
    """From a connection or the first byte of a request to the end of its headers."""

    head_bytes: int = (1 << 20) + 4096
    """Of a request's line and headers together, as Go's servers take them: selectors travel in the URL, tokens and
    many groups in headers. More is answered with 431."""

    headers: int = 4096
    """Of a request."""

    idle_s: float = 90.0
    """Between two requests, as in Kubernetes."""

    body_grace_s: float = 20.0
    body_bytes_per_s: int = 4096
    """A body of known length comes at least as fast, after the grace."""

    chunked_bytes_per_s: int = 0
    """So does one of unknown length, which may be a conversation: 0 for those that may be silent."""

    untaken_s: float = 300.0
    """An answer or stream of which the client takes nothing for so long ends: longer than one reads a page of logs."""

    answer_s: float = 60.0
    """An answer whose length was known is taken in this time, as in Kubernetes; streams may be read at leisure."""

    check_s: float = 2.0
    """Between two looks at the connections."""

    gate: GateLimits = field(default_factory=GateLimits)


def fitting(limits: GateLimits, *, files_each: int = 1) -> GateLimits:
    """The same limits, or less where the process may not have so many files; half of those stay for other things."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return limits
    return replace(limits, connections=max(1, min(limits.connections, files // 2 // files_each)))


class Gate:
    """Counts who is inside."""

    def __init__(self, limits: GateLimits | None = None) -> None:
        self._limits = limits or GateLimits()
        self._inside: dict[str, int] = {}
        self._count = 0

    @property
    def full(self) -> bool:
        return self._count >= self._limits.connections

    def enter(self, address: str) -> bool:
        """Whether there is room; then `leave` must be called once. `address` is an IP address, or empty."""
        here = self._inside.get(address, 0)
        if self.full or (here >= self._limits.per_address and not _is_own(address)):
            return False
        self._inside[address] = here + 1
        self._count += 1
        return True

    def leave(self, address: str) -> None:
        self._count -= 1
        if self._inside[address] == 1:
            del self._inside[address]
        else:
            self._inside[address] -= 1


def _is_own(address: str) -> bool:
    """Whether it is an address of the machine that everyone on it shares; a transport without one is in memory."""
    try:
        return not address or ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False

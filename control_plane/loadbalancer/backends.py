"""Backends: the API server for a new connection, and the end of connections. Pure: state and event in, effects out.

A failed check only says where *new* connections should go: an established pair of connections is evidence of its own,
and the kernel ends it when either side is gone. The only servers that lose connections are those that nobody lists any
more, after `leave_s` seconds, and, while others are ready, those that took connections and answered none of many checks
in a row (a process that stands still, which no kernel tells of), or a single one while their kernel acknowledges
nothing, as that of a lost machine. Time that ran out is a doubt (the server, this machine or this process may be slow);
a refused connection and a server's own "not ready" are facts.

Only one thread may use a `Pool`. Times are seconds of one clock that never runs backwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum


class Health(IntEnum):
    """The health of a server as it is thought to be; the lower, the better."""

    READY = 0
    UNKNOWN = 1
    """Listed, and not checked yet."""
    DOUBTED = 2
    """It did not answer in time, several times in a row."""
    UNREADY = 3
    """It says that it is not ready."""
    UNREACHABLE = 4


class Finding(Enum):
    """The result of a check, or of connecting for a client."""

    READY = "ready"
    UNREADY = "unready"
    SILENT = "silent"
    """No answer in time, though this process did run meanwhile."""
    UNHEARD = "unheard"
    """No answer in time, nor did its machine's kernel acknowledge what it was sent."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Listed:
    """These are the servers now, as host:port. An empty list is no list: the last one stays."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    address: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class Opened:
    """A client's connection goes to this server."""

    address: str


@dataclass(frozen=True, slots=True)
class Closed:
    address: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Event = Listed | Checked | Opened | Closed | Ticked


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of the connections of this server."""

    address: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Clients that wait for a server should try again."""


Effect = Cut | Retry


@dataclass(slots=True)
class Backend:
    """One server as the balancer sees it."""

    address: str
    health: Health = Health.UNKNOWN
    silent: int = 0
    """Checks in a row that ran out of time."""
    connections: int = 0
    left_at: float | None = None
    """Since when it is listed no more."""

    @property
    def ready(self) -> bool:
        return self.health is Health.READY


@dataclass(slots=True)
class Pool:
    """All servers, those that are leaving too."""

    silent_to_doubt: int
    silent_to_cut: int
    leave_s: float
    backends: dict[str, Backend] = field(default_factory=dict)

    def candidates(self, worst: Health = Health.DOUBTED) -> list[str]:
        """Where a new connection should be tried, in this order.

        The ready ones; when there are none, or everything is to be tried, those no worse than `worst`. It is better to
        try what may be ready than to refuse; for what is known to be unready or gone it is better to wait a little.
        """
        listed = [b for b in self.backends.values() if b.left_at is None]
        ready = [b for b in listed if b.ready] if worst < Health.UNREACHABLE else []
        allowed = ready or [b for b in listed if b.health <= worst]
        return [b.address for b in sorted(allowed, key=lambda b: (b.health, b.connections))]

    def step(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Listed():
                return self._list(event.addresses, now)
            case Checked():
                return self._judge(event)
            case Opened():
                self.backends.setdefault(event.address, Backend(event.address, left_at=now)).connections += 1
            case Closed():
                self._close(event.address)
            case Ticked():
                return self._expire(now)
        return []

    def _list(self, addresses: Sequence[str], now: float) -> list[Effect]:
        if not addresses:
            return []
        fresh = [a for a in addresses if a not in self.backends or self.backends[a].left_at is not None]
        for address in addresses:
            self.backends.setdefault(address, Backend(address)).left_at = None
        for address, backend in list(self.backends.items()):
            if address not in addresses and backend.left_at is None:
                backend.left_at = now
                self._forget_idle(backend)
        return [Retry()] if fresh else []

    def _judge(self, event: Checked) -> list[Effect]:
        backend = self.backends.get(event.address)
        if backend is None:
            return []
        before = backend.health
        unheard = event.finding is Finding.UNHEARD
        backend.silent = backend.silent + 1 if unheard or event.finding is Finding.SILENT else 0
        match event.finding:
            case Finding.READY:
                backend.health = Health.READY
            case Finding.UNREADY:
                backend.health = Health.UNREADY
            case Finding.REFUSED | Finding.UNHEARD:
                backend.health = Health.UNREACHABLE
            case Finding.SILENT if before is not Health.READY or backend.silent >= self.silent_to_doubt:
                backend.health = Health.DOUBTED
        if (unheard or backend.silent >= self.silent_to_cut) and any(b.ready for b in self.backends.values()):
            return [Cut(backend.address)] if backend.connections else []
        return [Retry()] if backend.health < before and backend.health <= Health.DOUBTED else []

    def _close(self, address: str) -> None:
        backend = self.backends.get(address)
        if backend is not None and backend.connections:
            backend.connections -= 1
            self._forget_idle(backend)

    def _forget_idle(self, backend: Backend) -> None:
        if backend.left_at is not None and not backend.connections:
            del self.backends[backend.address]

    def _expire(self, now: float) -> list[Effect]:
        return [
            Cut(b.address)
            for b in self.backends.values()
            if b.left_at is not None and b.connections and now - b.left_at >= self.leave_s
        ]

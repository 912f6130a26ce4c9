"""Connections of bytes without sockets, for the simulation: what `memory` is for calls.

`Wires` knows who listens where and every connection; a `Link` says how long bytes take or that none can pass, as TCP
over it would: bytes arrive in order, what cannot pass is sent again, and a peer that stays silent is given up.
A transport's protocol is called in the context of the component that it belongs to. What the operating system does for
a process (sending again, refusing, resetting) goes on in nobody's context, also while that process stands still.
"""

import asyncio
import contextvars
import errno
import itertools
import ssl
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from rayplane.control_plane.rpc.passages import GIVE_UP_S, RETRANSMIT_S, DirectLink, Link, Tap
from rayplane.control_plane.rpc.sockets import Listening, MakeProtocol

#: Written bytes that the peer has not taken before the writer is held back, unless it sets limits of its own.
HIGH_WATER_BYTES = 128 * 1024


class _Flag(Enum):
    """Flags that travel beside bytes."""

    FIN = "the sender has said all"
    RESET = "the sender is gone"


_Item = bytes | _Flag


class Wires:
    """Everything that listens, by address, and every connection. `tap(source, target, data)` sees all bytes."""

    def __init__(self, link: Link | None = None, *, tap: Tap | None = None) -> None:
        self.link = link or DirectLink()
        self.tap = tap
        self.ports: dict[str, _Port] = {}
        # Dicts are sets that keep their order: nothing here may depend on where objects lie in memory.
        self.ends: dict[_End, None] = {}
        self._numbers = itertools.count(40_000)

    def free_port(self) -> int:
        return next(self._numbers)

    def sever(self, parted: Callable[[str, str], bool], *, part: Callable[[int], int] = lambda size: 0) -> None:
        """Break every connection between hosts for which `parted(a, b)` holds.

        `part`: how many bytes still arrive of a piece of that size that is on its way.
        """
        broken = [e for e in self.ends if parted(e.host, e.peer.host)]
        for end in broken:
            end.arrive_partly(part)
        for end in broken:
            end.give_up(TimeoutError(errno.ETIMEDOUT, "the connection was lost: keep-alive timed out"))


class MemorySockets:
    """One component's `Sockets`. `host` names where it runs, for the link policy."""

    def __init__(self, wires: Wires, host: str) -> None:
        self.wires = wires
        self.host = host

    async def listen(self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None) -> Listening:
        name, _, number = address.rpartition(":")
        if number == "0":
            address = f"{name}:{self.wires.free_port()}"
        if address in self.wires.ports:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: is the port in use?")
        port = self.wires.ports[address] = _Port(self.wires, address, self.host, make)
        return port

    async def connect(
        self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        port = self.wires.ports.get(address)
        there = port.host if port is not None else address.rpartition(":")[0]
        await self._pass(self.host, there)
        port = self.wires.ports.get(address)
        if port is None:
            # The refusal travels back; where it cannot, nobody answers.
            await self._pass(there, self.host)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {address}")
        mine = _End(self.wires, self.host, (port.host, port.number))
        port.arrived(mine)
        await self._pass(port.host, self.host)
        protocol = make()
        mine.begin(protocol)
        return mine, protocol

    async def _pass(self, source: str, target: str) -> None:
        waited = 0.0
        while (delay := self.wires.link.delay(source, target)) is None:
            if waited >= GIVE_UP_S:
                raise TimeoutError(errno.ETIMEDOUT, f"{target} does not answer")
            await asyncio.sleep(RETRANSMIT_S)
            waited += RETRANSMIT_S
        if delay > 0:
            await asyncio.sleep(delay)

    def detach(self) -> None:
        """What a killed process leaves: its ports refuse, its connections are reset, and nothing of it is called."""
        for port in [p for p in self.wires.ports.values() if p.host == self.host]:
            port.vanish()
        for end in [e for e in self.wires.ends if e.host == self.host]:
            end.vanish()


class _Port:
    """A port that belongs to the component that made it."""

    def __init__(self, wires: Wires, address: str, host: str, make: MakeProtocol) -> None:
        self.address = address
        self.host = host
        self.number = int(address.rpartition(":")[2])
        self._wires = wires
        self._make = make
        self._context = contextvars.copy_context()

    async def close(self) -> None:
        self.vanish()

    def vanish(self) -> None:
        if self._wires.ports.get(self.address) is self:
            del self._wires.ports[self.address]

    def arrived(self, client: "_End") -> None:
        """A client has connected: its other end begins as soon as this component runs."""
        mine = _End(self._wires, self.host, (client.host, self._wires.free_port()), self._context)
        mine.peer, client.peer = client, mine
        asyncio.get_running_loop().call_soon(self._begin, mine, context=self._context)

    def _begin(self, mine: "_End") -> None:
        mine.begin(self._make())


class _End(asyncio.Transport):
    """One end of a connection."""

    peer: "_End"

    def __init__(
        self, wires: Wires, host: str, peername: tuple[str, int], context: contextvars.Context | None = None
    ) -> None:
        super().__init__({"peername": peername, "sockname": (host, 0)})
        self.host = host
        self._wires = wires
        self._context = context or contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._protocol: Any = None
        self._closing = self._gone = self._finished = False
        # Receiving.
        self._reading = False
        self._inbox: deque[_Item] = deque()
        # Sending.
        self._unsent: deque[_Item] = deque()
        self._flying: deque[_Item] = deque()
        self._waited = self._last_arrival = 0.0
        self._untaken = 0
        self._held = False
        self._high, self._low = HIGH_WATER_BYTES, HIGH_WATER_BYTES // 4
        wires.ends[self] = None

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """The first call of the protocol, in the component's context."""
        self._protocol = protocol
        if self._gone:
            return
        protocol.connection_made(self)
        self.resume_reading()

    # asyncio.Transport: reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            if self._inbox:
                self._loop.call_soon(self._read, context=self._context)

    # asyncio.Transport: writing

    def write(self, data: Any) -> None:
        if self._finished and not self._closing:
            raise RuntimeError("cannot write after write_eof()")
        if self._closing or not data:
            return
        self._untaken += len(data)
        self._send(bytes(data))
        if not self._held and self._untaken > self._high:
            self._held = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if not self._finished and not self._closing:
            self._finished = True
            self._send(_Flag.FIN)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._untaken

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    # asyncio.Transport: ending

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._unsent.clear()
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        """Say so to the peer, and to the protocol. What was not read is answered with a reset, as TCP does."""
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if any(isinstance(item, bytes) for item in self._inbox):
            self._send(_Flag.RESET)
        elif not self._finished:
            self._send(_Flag.FIN)
        self._loop.call_soon(self._lost, error, context=self._context)

    def give_up(self, error: Exception) -> None:
        """The network has broken the connection: nothing more passes."""
        self._unsent.clear()
        if not self._gone:
            self._closing = True
            self._loop.call_soon(self._lost, error, context=self._context)

    def arrive_partly(self, part: Callable[[int], int]) -> None:
        """The beginning of the first piece that is on its way arrives at once."""
        first = next(iter(self._flying), None)
        if isinstance(first, bytes) and (kept := part(len(first))) and not self.peer._gone:
            self.peer._land(first[:kept])

    def vanish(self) -> None:
        """The process is dead: its operating system resets the connection, and calls nobody."""
        self._forget()
        self._unsent.clear()
        self._send(_Flag.RESET)

    def _lost(self, error: Exception | None) -> None:
        if self._gone:
            return
        self._forget()
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    def _forget(self) -> None:
        self._closing = self._gone = True
        self._reading = False
        self._wires.ends.pop(self, None)

    # The wire

    def _send(self, item: _Item) -> None:
        if self._unsent:
            self._unsent.append(item)
            return
        delay = self._wires.link.delay(self.host, self.peer.host)
        if delay is not None:
            self._fly(item, delay)
        elif not self._gone:
            self._unsent.append(item)
            self._waited = 0.0
            self._loop.call_later(RETRANSMIT_S, self._send_again, context=_NOBODY)

    def _send_again(self) -> None:
        while self._unsent:
            delay = self._wires.link.delay(self.host, self.peer.host)
            if delay is None:
                break
            self._fly(self._unsent.popleft(), delay)
        if not self._unsent:
            return
        self._waited += RETRANSMIT_S
        if self._waited >= GIVE_UP_S:
            self.give_up(TimeoutError(errno.ETIMEDOUT, "the connection was lost: the peer does not answer"))
        else:
            self._loop.call_later(RETRANSMIT_S, self._send_again, context=_NOBODY)

    def _fly(self, item: _Item, delay_s: float) -> None:
        if self._wires.tap is not None:
            self._wires.tap(self.host, self.peer.host, item if isinstance(item, bytes) else b"")
        # What was sent later may not arrive earlier.
        self._last_arrival = max(self._last_arrival, self._loop.time() + delay_s)
        # Timers of the same time go off in any order, so what each brings is decided when it does.
        self._flying.append(item)
        self._loop.call_at(self._last_arrival, self._arrive, context=_NOBODY)

    def _arrive(self) -> None:
        self.peer._land(self._flying.popleft())

    def _land(self, item: _Item) -> None:
        if item is _Flag.RESET:
            if not self._gone:
                self.give_up(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))
        elif self._gone:
            # Nobody is here to take it.
            if isinstance(item, bytes):
                self._send(_Flag.RESET)
        else:
            self._inbox.append(item)
            if self._reading:
                self._loop.call_soon(self._read, context=self._context)

    def _read(self) -> None:
        while self._inbox and self._reading:
            item = self._inbox.popleft()
            if isinstance(item, bytes):
                self.peer.taken(len(item))
                self._protocol.data_received(item)
            elif not self._protocol.eof_received():
                self.close()

    def taken(self, size: int) -> None:
        """The peer has taken bytes: the writer may go on when few are left."""
        self._untaken -= size
        if self._held and self._untaken <= self._low:
            self._held = False
            self._loop.call_soon(self._let_write, context=self._context)

    def _let_write(self) -> None:
        if not self._gone:
            self._protocol.resume_writing()


_NOBODY = contextvars.Context()

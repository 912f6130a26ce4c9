"""UDP through sockets: a flow for each client, with a socket of its own to the place it was given.

A flow ends when nothing came for a while, when its place says that nothing is there, and when its place is no longer
one of the service's. Flows are counted: a client has some at a time and a port some more; what comes beyond that is
dropped, and what a socket does not take at once too, as networks do.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from rayplane.node.proxy.listeners import Choices, Judge, Places, opened
from rayplane.node.proxy.rules import Endpoint, Target
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.node.tasks import Tasks

FLOWS_MAX, FLOWS_OF_ONE_MAX = 1024, 256
"""Of one port, and of one client."""
IDLE_S = 60.0
WAITING_MAX = 16
"""Datagrams of a flow whose socket is not there yet."""
DATAGRAM_MAX = 65_536
AT_ONCE = 64
"""Datagrams read before others have their turn."""

Connect = Callable[[], Awaitable[socket.socket]]
Answer = Callable[[bytes], object]


@dataclass(slots=True)
class _Flow:
    client: str
    used: float
    mark: object
    sock: socket.socket | None = None
    waiting: list[bytes] = field(default_factory=list)
    ended: Callable[[], object] | None = None


class Flows:
    """Flows by their keys. `most`: of all; `most_of_one`: of one client."""

    def __init__(self, tasks: Tasks, *, most: int = FLOWS_MAX, most_of_one: int = FLOWS_OF_ONE_MAX) -> None:
        self._tasks = tasks
        self._most, self._most_of_one = most, most_of_one
        self._flows: dict[Hashable, _Flow] = {}
        self._of_client: Counter[str] = Counter()
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._flows)

    def mark(self, key: Hashable) -> object:
        """What the flow was opened with; None where there is none."""
        flow = self._flows.get(key)
        return flow.mark if flow is not None else None

    def send(self, key: Hashable, data: bytes) -> bool:
        """Send by a flow that is there; False where it is not."""
        flow = self._flows.get(key)
        if flow is None:
            return False
        flow.used = asyncio.get_running_loop().time()
        if flow.sock is None:
            if len(flow.waiting) < WAITING_MAX:
                flow.waiting.append(data)
        elif not _sent(flow.sock, data):
            self.end(key)
        return True

    def open(
        self,
        key: Hashable,
        client: str,
        data: bytes,
        connect: Connect,
        answer: Answer,
        *,
        mark: object = None,
        ended: Callable[[], object] | None = None,
    ) -> bool:
        """Open a flow for a first datagram; False where there are too many. `ended`: called once, at its end."""
        if len(self._flows) >= self._most or self._of_client[client] >= self._most_of_one:
            return False
        loop = asyncio.get_running_loop()
        flow = self._flows[key] = _Flow(client, loop.time(), mark, None, [data], ended)
        self._of_client[client] += 1
        self._tasks.spawn(self._connect(key, flow, connect, answer), "UDP flow")
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S / 4, self._end_idle)
        return True

    def end(self, key: Hashable) -> None:
        flow = self._flows.pop(key, None)
        if flow is None:
            return
        self._of_client[flow.client] -= 1
        if not self._of_client[flow.client]:
            del self._of_client[flow.client]
        if flow.sock is not None:
            asyncio.get_running_loop().remove_reader(flow.sock)
            flow.sock.close()
        if flow.ended is not None:
            flow.ended()

    def close(self) -> None:
        for key in [*self._flows]:
            self.end(key)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    async def _connect(self, key: Hashable, flow: _Flow, connect: Connect, answer: Answer) -> None:
        try:
            sock = await connect()
        except OSError:
            if self._flows.get(key) is flow:
                self.end(key)
            return
        if self._flows.get(key) is not flow:
            sock.close()
            if flow.ended is not None:
                flow.ended()  # what was made for it meanwhile
            return
        flow.sock = sock
        asyncio.get_running_loop().add_reader(sock, self._read, key, flow, answer)
        waiting, flow.waiting = flow.waiting, []
        for data in waiting:
            self.send(key, data)

    def _read(self, key: Hashable, flow: _Flow, answer: Answer) -> None:
        assert flow.sock is not None
        flow.used = asyncio.get_running_loop().time()
        try:
            for _ in range(AT_ONCE):
                answer(flow.sock.recv(DATAGRAM_MAX))
        except BlockingIOError:
            return
        except OSError:
            self.end(key)  # nothing is there

    def _end_idle(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        old = loop.time() - IDLE_S
        for key in [key for key, flow in self._flows.items() if flow.used <= old]:
            self.end(key)
        if self._flows:
            self._sweep = loop.call_later(IDLE_S / 4, self._end_idle)


def _sent(sock: socket.socket, data: bytes) -> bool:
    """False when the other side says that nothing is there."""
    try:
        sock.send(data)
    except BlockingIOError:
        return True  # full: dropped
    except OSError as e:
        return not isinstance(e, ConnectionRefusedError)
    return True


class UdpListener:
    """A listener for datagrams. `connect`: a socket to an endpoint, in whichever network it is; raises OSError."""

    def __init__(
        self,
        places: Places,
        target: Target,
        connect: Callable[[Endpoint], Awaitable[socket.socket]],
        judge: Judge,
        tasks: Tasks,
        *,
        turn: int,
    ) -> None:
        self.places, self.closed = places, places
        self.target = target
        self._connect = connect
        self._judge = judge
        self._flows = Flows(tasks)
        self._choices = Choices(turn)
        self._sockets: list[socket.socket] = []

    async def open(self) -> OSError | None:
        async def begin(network: PodNetwork, ip: str, port: int) -> None:
            sock = await network.listen_udp(ip, port)
            self._sockets.append(sock)
            asyncio.get_running_loop().add_reader(sock, self._read, sock)

        return await opened(self, begin)

    async def close(self) -> None:
        self._flows.close()
        while self._sockets:
            sock = self._sockets.pop()
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def _read(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                data, client = sock.recvfrom(DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # told of an answer that found nobody
            self._take(sock, data, client)

    def _take(self, sock: socket.socket, data: bytes, client: tuple[str, int]) -> None:
        key, target = (sock.fileno(), client), self.target
        endpoint = self._flows.mark(key)
        if endpoint is not None and (endpoint not in target.endpoints or not self._judge(client[0], endpoint)):
            self._flows.end(key)
        if self._flows.send(key, data):
            return
        chosen = next((e for e in self._choices.of(target, client[0]) if self._judge(client[0], e)), None)
        if chosen is None:
            return

        def answer(back: bytes) -> None:
            with contextlib.suppress(OSError):  # the client is gone, or takes nothing now
                sock.sendto(back, client)

        if self._flows.open(key, client[0], data, lambda: self._connect(chosen), answer, mark=chosen):
            self._choices.remember(target, client[0], chosen)

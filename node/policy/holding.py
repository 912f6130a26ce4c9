"""The queue of packets that experiments have wait, be lost or be corrupted on their way between pods.

Any kernel with packet rules has such queues: the traffic control of tc-netem(8) is not asked for. What a host holds
when it ends is lost, and from then on packets pass unhindered. At most `ROOM` packets wait at a time, as in tc-netem;
more are lost.
"""

import asyncio
import contextlib
import errno
import heapq
import itertools
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping

from rayplane.control_plane.api.pods.marks import Netem
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.netlink import ERROR, error_number, parsed
from rayplane.node.nftables import queue
from rayplane.node.nftables.expressions import Duplicate, Queue, Rule
from rayplane.node.policy.disturbance import Way, ways_of
from rayplane.node.policy.netem import Link, flipped

log = logging.getLogger(__name__)

ROOM = 1000
RETRY_S = 5.0
AT_ONCE = 64
"""Packets taken before others have their turn."""
_RECEIVE_BYTES = 8 * 1024 * 1024
_SO_RCVBUFFORCE = 33
_numbers = itertools.count(os.getpid() * 64)


class Holding:
    """One queue of a network namespace.

    `open_socket`: gives a descriptor of a netlink socket there, raises OSError; `try_out`: raises OSError where the
    kernel does not take rules; `turned` is called when `number` or `trouble` has changed.
    """

    def __init__(
        self,
        open_socket: Callable[[], Awaitable[int]],
        try_out: Callable[..., Awaitable[None]],
        turned: Callable[[], None],
    ) -> None:
        self._open_socket, self._try_out, self._turned = open_socket, try_out, turned
        self._draw = random.Random().random
        self._of_pods: dict[str, dict[Way, list[Link]]] = {}
        self._links: dict[Way, list[Link]] = {}
        self._socket: socket.socket | None = None
        self._opening: asyncio.Task[None] | None = None
        self._held: list[tuple[float, int, int, bytes | None]] = []
        """When packets go on, in which order, which those are, and what they are changed to."""
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.number = 0
        """Of the queue, for rules; 0 while there is none."""
        self.trouble = ""
        """Why there is none."""

    def put(self, uid: str, wanted: Mapping[Way, Iterable[Netem]]) -> None:
        """Have these ways of a pod disturbed instead of those before."""
        self._of_pods.pop(uid, None)
        if wanted:
            shared: dict[Netem, Link] = {}
            made = {w: [shared.setdefault(n, Link(n, self._draw)) for n in many] for w, many in wanted.items()}
            self._of_pods[uid] = made
        self._links = {}
        for found in self._of_pods.values():
            for way, links in found.items():
                self._links[way] = [*self._links.get(way, ()), *links]
        if self._links and self._socket is None and self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="queue of packets")
        self._show()

    def needs(self, uid: str) -> bool:
        return uid in self._of_pods

    def reopen(self) -> None:
        """The namespace that the queue was in is gone: it is made anew in another when that is needed."""
        self._shut()
        for uid, found in [*self._of_pods.items()]:
            self.put(uid, {way: [link.netem for link in links] for way, links in found.items()})

    async def close(self) -> None:
        """End it: what it holds is lost."""
        if self._opening is not None:
            await cancel_and_wait(self._opening)
        self._shut()

    def _shut(self) -> None:
        self.number, self._held = 0, []
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    # --- opening ----------------------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            while self._links:
                number = next(_numbers) % 0xFFFF + 1
                try:
                    await self._try_out(*_asked_for(number))
                    self._bind(await self._open_socket(), number)
                    self.number, self.trouble = number, ""
                    break
                except OSError as e:
                    before, self.trouble = self.trouble, f"its kernel holds and copies no packets: {e}"
                    if before != self.trouble:
                        log.warning("packets are not held: %s", self.trouble)
                        self._turned()
                await asyncio.sleep(RETRY_S)
        finally:
            self._opening = None
        self._show()
        self._turned()

    def _bind(self, fd: int, number: int) -> None:
        sock = socket.socket(fileno=fd)
        try:
            sock.setblocking(False)
            for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
                with contextlib.suppress(PermissionError):
                    sock.setsockopt(socket.SOL_SOCKET, option, _RECEIVE_BYTES)
                    break
            sock.send(queue.bind(number, ROOM))
            # The kernel has answered when it has taken a message.
            for kind, _, body in parsed(sock.recv(1 << 16)):
                if kind == ERROR and (code := error_number(body)):
                    raise OSError(code, f"queue {number}: {os.strerror(code)}")
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._take)

    def _show(self) -> None:
        """Packets come whole only while some are to be corrupted."""
        if self._socket is not None:
            whole = any(link.netem.corrupt for links in self._links.values() for link in links)
            self._send(queue.show(self.number, queue.WHOLE if whole else queue.ADDRESSES))

    # --- packets ----------------------------------------------------------------------------------

    def _take(self) -> None:
        assert self._socket is not None
        for _ in range(AT_ONCE):
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno == errno.ENOBUFS:
                    continue  # more came than there was room for: the kernel has dropped it
                raise
            for kind, _, body in parsed(data):
                packet = queue.read_packet(body) if kind == queue.KIND else None
                if packet is not None:
                    self._judge(packet)

    def _judge(self, packet: queue.Packet) -> None:
        now = asyncio.get_running_loop().time()
        at, changed = now, None
        for link in (link for way in ways_of(packet.data) for link in self._links.get(way, ())):
            judged = link.judge(at)
            if judged.at is None:
                self._send(queue.drop(self.number, packet.number))
                return
            at = judged.at
            if judged.corrupt and len(packet.data) > queue.ADDRESSES:
                changed = flipped(changed or packet.data, self._draw)
        if at <= now:
            self._send(queue.accept(self.number, packet.number, changed))
            return
        heapq.heappush(self._held, (at, next(self._order), packet.number, changed))
        if self._held[0][2] == packet.number:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._held[0][0], self._release) if self._held else None

    def _release(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._held and self._held[0][0] <= now:
            _, _, number, changed = heapq.heappop(self._held)
            self._send(queue.accept(self.number, number, changed))
        self._wait()

    def _send(self, message: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(BlockingIOError):  # the kernel takes a message in the call that sends it
                self._socket.send(message)


def _asked_for(number: int) -> tuple[Rule, ...]:
    return (Duplicate(),), (Queue(number),)

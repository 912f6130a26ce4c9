"""The queue of packets that experiments have wait, be lost or be corrupted on their way between pods.

Any kernel with packet rules has such queues: the traffic control of tc-netem(8) is not asked for. What a host holds
when it ends is lost, and from then on packets pass unhindered. Of each pod at most `OF_POD_MAX` packets wait at a
time, as in tc-netem, and of all together `ROOM`; more are lost. What waits for a pod goes on at once when something
else, or nothing, is to become of its packets.
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
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from rayplane.control_plane.api.pods.marks import LATENCY_MAX_MS, Netem
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.netlink import ERROR, error_number, parsed
from rayplane.node.nftables import queue
from rayplane.node.nftables.expressions import Duplicate, Queue, Rule
from rayplane.node.policy.disturbance import Way, ways_of
from rayplane.node.policy.netem import Link, flipped

log = logging.getLogger(__name__)

OF_POD_MAX, ROOM = 1000, 10_000
RETRY_S = 5.0
AGAIN = Backoff(RETRY_S, 60.0)
"""Before a queue that gave way, so many times in a row, is made anew."""
NOT_YET = "its queue is not open yet"
AT_ONCE = 64
"""Packets taken before others have their turn."""
_RECEIVE_BYTES = 8 * 1024 * 1024
_SO_RCVBUFFORCE = 33
_numbers = itertools.count(os.getpid() * 64)


class Held(NamedTuple):
    """A packet that waits. `order`: in which those of one time go on; `changed`: what it becomes; `pods`: for whose
    experiments, the one that has it wait longest first: with that it counts.
    """

    at: float
    order: int
    number: int
    changed: bytes | None
    pods: tuple[str, ...]


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
        self._of_pods: dict[str, Mapping[Way, Sequence[Netem]]] = {}
        self._links: dict[Way, dict[str, list[Link]]] = {}
        """By uid of the pod that wants them."""
        self._whole: set[str] = set()
        """Pods some of whose packets are to be corrupted: these must come whole."""
        self._socket: socket.socket | None = None
        self._opening: asyncio.Task[None] | None = None
        self._networks = 0
        """How many namespaces have gone."""
        self._gave_way = 0
        """How many queues have, one after the other, before they gave any packet."""
        self._held: list[Held] = []
        self._waiting: Counter[str] = Counter()
        """Packets that wait, by pod."""
        self._refused = 0
        """The number (errno) of what the kernel said last when it took no message."""
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.number = 0
        """Of the queue, for rules; 0 while there is none."""
        self.trouble = ""
        """Why there is none."""

    def put(self, uid: str, wanted: Mapping[Way, Sequence[Netem]]) -> None:
        """Have these ways of a pod disturbed instead of those before."""
        before = self._of_pods.pop(uid, {})
        if wanted:
            self._of_pods[uid] = wanted
        if wanted == before:
            return
        for way in before:
            del self._links[way][uid]
            if not self._links[way]:
                del self._links[way]
        shared = {netem: Link(netem, self._draw) for many in wanted.values() for netem in many}
        for way, many in wanted.items():
            self._links.setdefault(way, {})[uid] = [shared[netem] for netem in many]
        self._whole.discard(uid)
        if any(netem.corrupt for netem in shared):
            self._whole.add(uid)
        self._let_go(uid)
        self._begin()
        self._show()

    def needs(self, uid: str) -> bool:
        return uid in self._of_pods

    def reopen(self) -> None:
        """The namespace that the queue was in is gone: it is made anew in another when that is needed."""
        self._networks += 1
        self._shut()
        if self._links:
            self._begin()
            self._turned()

    async def close(self) -> None:
        """End it: what it holds is lost."""
        if self._opening is not None:
            await cancel_and_wait(self._opening)
        self._shut()

    def _shut(self) -> None:
        self.number, self._refused = 0, 0
        self._held.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    # --- opening ----------------------------------------------------------------------------------

    def _begin(self, after_s: float = 0.0) -> None:
        if self._links and self._socket is None:
            self.trouble = self.trouble or NOT_YET
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open(after_s), name="queue of packets")

    async def _open(self, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
            while self._links:
                number, network = next(_numbers) % 0xFFFF + 1, self._networks
                try:
                    await self._try_out(*_asked_for(number))
                    fd = await self._open_socket()
                    if network != self._networks:
                        os.close(fd)  # it is of one that has gone
                        continue
                    self._bind(fd, number)
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
        self._send(queue.show(self.number, queue.WHOLE if self._whole else queue.ADDRESSES))

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
                self._give_way(e)
                return
            self._gave_way = 0
            for kind, _, body in parsed(data):
                packet = queue.read_packet(body) if kind == queue.KIND else None
                if packet is not None:
                    self._judge(packet)

    def _give_way(self, error: OSError) -> None:
        """The queue is of no use any more: packets pass unhindered until another is made."""
        self._shut()
        self.trouble = f"its kernel gives no more packets to be held: {error}"
        log.warning("packets are not held: %s", self.trouble)
        self._gave_way += 1
        self._begin(AGAIN.pause_s(self._gave_way))
        self._turned()

    def _judge(self, packet: queue.Packet) -> None:
        now = asyncio.get_running_loop().time()
        at, changed, waits = now, None, dict[str, float]()
        of_pods = [found for way in ways_of(packet.data) for found in self._links.get(way, {}).items()]
        for uid, link in ((uid, link) for uid, links in of_pods for link in links):
            judged = link.judge(at)
            if judged.at is None:
                self._send(queue.drop(self.number, packet.number))
                return
            waits[uid] = waits.get(uid, 0.0) + judged.at - at
            at = judged.at
            if judged.corrupt and len(packet.data) > queue.ADDRESSES:
                changed = flipped(changed or packet.data, self._draw)
        if at <= now:
            self._send(queue.accept(self.number, packet.number, changed))
            return
        pods = tuple(sorted((uid for uid, wait in waits.items() if wait), key=waits.__getitem__, reverse=True))
        at = min(at, now + LATENCY_MAX_MS / 1000)
        self._hold(Held(at, next(self._order), packet.number, changed, pods))

    def _hold(self, packet: Held) -> None:
        if self._waiting[packet.pods[0]] >= OF_POD_MAX:
            self._send(queue.drop(self.number, packet.number))
            return
        heapq.heappush(self._held, packet)
        self._waiting[packet.pods[0]] += 1
        if self._held[0] is packet:
            self._wait()

    def _let_go(self, uid: str) -> None:
        """Have what waits for a pod go on at once."""
        going = sorted(packet for packet in self._held if uid in packet.pods)
        self._held = [packet for packet in self._held if uid not in packet.pods]
        heapq.heapify(self._held)
        for packet in going:
            self._pass(packet)
        del self._waiting[uid]
        self._wait()

    def _pass(self, packet: Held) -> None:
        self._waiting[packet.pods[0]] -= 1
        self._send(queue.accept(self.number, packet.number, packet.changed))

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._held[0].at, self._release) if self._held else None

    def _release(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            while self._held and self._held[0].at <= now:
                self._pass(heapq.heappop(self._held))
        finally:
            self._wait()

    def _send(self, message: bytes) -> None:
        """Tell the kernel. What it does not take is lost: the packet stays with it until the queue goes."""
        if self._socket is None:
            return
        try:
            self._socket.send(message)
        except OSError as e:
            if e.errno != self._refused:
                log.warning("the kernel did not hear what becomes of a packet: %s", e)
            self._refused = e.errno or 0


def _asked_for(number: int) -> tuple[Rule, ...]:
    return (Duplicate(),), (Queue(number),)

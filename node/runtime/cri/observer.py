"""The watch over containers: events of the runtime where it has some, and looks at all of them now and then.

An event is a hint to ask about one container; a list finds what no event told. A runtime without events is asked for a
list every second. Bounds: how often lists are asked for, the longer the less they are answered, and how many containers
an answer may have.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.errors import NodeError, NotHere, RuntimeFailed
from rayplane.node.runtime import Usage
from rayplane.node.runtime.cri.client import CriClient
from rayplane.node.runtime.cri.configs import OWNER, Node
from rayplane.proto.cri import cri_pb2 as pb

log = logging.getLogger(__name__)

LIST_S, LIST_WITH_EVENTS_S = 1.0, 10.0
STRANGERS_S = 30.0
#: More than a node runs.
CONTAINERS_MAX = 10_000
HINTS_MAX = 1024
#: A list that fails so often in a row says that the runtime is in trouble.
FAILURES_MAX = 2
BACKOFF = Backoff(1.0, 30.0)
EVENTS_BACKOFF = Backoff(1.0, 60.0)
#: Statistics that nobody has asked for in so long are not fetched.
STATS_WANTED_S = 60.0
STATS_S = 5.0
_EXITED = pb.ContainerState.CONTAINER_EXITED


class Observed(Protocol):
    """A run that is told what became of its container; see CriRun."""

    @property
    def is_late(self) -> bool: ...

    def stop_again(self) -> None: ...

    def ended(self, status: pb.ContainerStatus) -> None: ...

    def lost(self) -> None: ...

    async def rotate_log(self) -> None: ...


class Whole(Protocol):
    """A runtime as a whole; see CriRuntime."""

    client: CriClient
    node: Node
    trouble: str

    async def meet(self) -> bool: ...

    def tell(self, trouble: str) -> None: ...

    async def remove_strangers(self) -> None: ...


class Observer:
    """One runtime's containers, as far as they are of this host."""

    def __init__(self, runtime: Whole) -> None:
        self._runtime = runtime
        self._runs: dict[str, tuple[float, Observed]] = {}
        """By the container's id, with the moment since when it is known."""
        self._hints: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._has_events = False
        self._tasks: list[asyncio.Task[None]] = []
        self._usage: dict[str, Usage] = {}
        self._usage_wanted = self._usage_at = -STATS_WANTED_S

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._observe(), name="containers of a runtime"),
            loop.create_task(self._listen(), name="events of a runtime"),
        ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)

    def add(self, ident: str, run: Observed) -> None:
        self._runs[ident] = (asyncio.get_running_loop().time(), run)

    def drop(self, ident: str) -> None:
        self._runs.pop(ident, None)
        self._usage.pop(ident, None)

    def hint(self, ident: str) -> None:
        """Something may have happened to a container."""
        if ident in self._runs and len(self._hints) < HINTS_MAX:
            self._hints[ident] = None
            self._wake.set()

    def usage(self, ident: str) -> Usage:
        """What it used when that was last looked at: soon, once somebody asks."""
        self._usage_wanted = asyncio.get_running_loop().time()
        return self._usage.get(ident, Usage())

    # --- lists ------------------------------------------------------------------------------------

    async def _observe(self) -> None:
        loop = asyncio.get_running_loop()
        failures, strangers_at = 0, loop.time() + STRANGERS_S
        while True:
            pause_s = BACKOFF.pause_s(failures) or (LIST_WITH_EVENTS_S if self._has_events else LIST_S)
            try:
                await self._hinted(pause_s)
                if self._runtime.trouble and not await self._runtime.meet():
                    failures += 1
                    continue
                await self._list()
                await self._look_after()
                if loop.time() >= strangers_at:
                    strangers_at = loop.time() + STRANGERS_S
                    await self._runtime.remove_strangers()
                failures = 0
            except NodeError as e:
                failures += 1
                if failures >= FAILURES_MAX:
                    self._runtime.tell(str(e))
            except Exception:  # whatever a runtime answers: it is looked at again
                failures += 1
                log.exception("the containers of %s cannot be looked at", self._runtime.client.path)

    async def _hinted(self, pause_s: float) -> None:
        """Ask about containers that something may have happened to, until it is time for a list."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pause_s
        while True:
            self._wake.clear()
            while self._hints:
                ident = next(iter(self._hints))
                del self._hints[ident]
                await self._ask(ident)
            left = until - loop.time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _list(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        asked = pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector={OWNER: self._runtime.node.owner}))
        answer = await self._runtime.client.call("ListContainers", asked)
        if len(answer.containers) > CONTAINERS_MAX:
            found = len(answer.containers)
            raise RuntimeFailed(f"the runtime tells of {found} containers: a node has at most {CONTAINERS_MAX}")
        states = {item.id: item.state for item in answer.containers}
        for ident, (since, run) in [*self._runs.items()]:
            if since >= asked_at:
                continue  # it may be younger than the list
            state = states.get(ident)
            if state is None or state == _EXITED:
                await self._ask(ident)
            elif run.is_late:
                run.stop_again()

    async def _ask(self, ident: str) -> None:
        """Ask about one container, and tell its run what came of it. Raises NodeError when nobody answers."""
        known = self._runs.get(ident)
        if known is None:
            return
        run = known[1]
        try:
            asked = pb.ContainerStatusRequest(container_id=ident)
            answer = await self._runtime.client.call("ContainerStatus", asked)
        except NotHere:
            run.lost()
            return
        if answer.status.id == ident and answer.status.state == _EXITED:
            run.ended(answer.status)

    # --- what else there is to see to ---------------------------------------------------------------

    async def _look_after(self) -> None:
        for _, run in [*self._runs.values()]:
            await run.rotate_log()
        loop = asyncio.get_running_loop()
        if loop.time() - self._usage_wanted > STATS_WANTED_S or loop.time() - self._usage_at < STATS_S:
            return
        self._usage_at = loop.time()
        owner = {OWNER: self._runtime.node.owner}
        asked = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(label_selector=owner))
        try:
            answer = await self._runtime.client.call("ListContainerStats", asked)
        except NodeError as e:
            # Containers run without anybody knowing what they use.
            log.info("the runtime at %s tells no statistics: %s", self._runtime.client.path, e)
            return
        self._usage = {
            stats.attributes.id: Usage(
                stats.cpu.usage_nano_cores.value,
                stats.memory.working_set_bytes.value,
                cpu_ns=stats.cpu.usage_core_nano_seconds.value,
            )
            for stats in answer.stats
            if stats.attributes.id in self._runs
        }

    # --- events -----------------------------------------------------------------------------------

    async def _listen(self) -> None:
        pause_s = 0.0
        while True:
            try:
                async with contextlib.aclosing(self._runtime.client.events()) as events:
                    async for event in events:
                        self._has_events, pause_s = True, 0.0
                        self.hint(event.container_id)
            except RpcError as e:
                log.info("the runtime at %s tells no events: %s", self._runtime.client.path, e)
            self._has_events = False
            pause_s = EVENTS_BACKOFF.after_s(pause_s)
            await asyncio.sleep(pause_s)

"""The runner, the shell around one controller: informer events to keys, workers, reconcile, execution, back-off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import QueueMetrics, Standing, WorkQueue
from rayplane.control_plane.controllers.actions import Create
from rayplane.control_plane.controllers.core import Controller, Moment, Watch
from rayplane.control_plane.controllers.manager.caches import Caches
from rayplane.control_plane.controllers.manager.executor import Executor, Outcome
from rayplane.control_plane.controllers.manager.expectations import Barrier
from rayplane.control_plane.controllers.story import Look, Story, Teller
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
REST_FACTOR = 15
"""Gathered changes of a key wait at least this many times as long as its last reconcile took: large objects that
change all the time are looked at less often, and never take more than a small share of the loop."""
REST_MAX_S = 1.0
LOOK_AGAIN_S = 1.0
CHEAP_S = 0.001  # reconciles shorter than this need no rest
COSTS_MAX = 4096  # keys of one controller whose last reconcile was not cheap


class Costs:
    """The costs of keys whose last reconcile was not cheap; only the latest, since keys go without a word."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, key: str, seconds: float) -> None:
        """A key's reconcile has taken so long."""
        self._seconds.pop(key, None)
        if seconds > CHEAP_S:
            self._seconds[key] = seconds
            if len(self._seconds) > COSTS_MAX:
                del self._seconds[next(iter(self._seconds))]

    def rest_s(self, key: str) -> float:
        """How long gathered changes of a key wait at least."""
        return min(REST_MAX_S, self._seconds.get(key, 0.0) * REST_FACTOR)

    def __len__(self) -> int:
        return len(self._seconds)


class ControllerRunner:
    """The runner of one controller. `start` once the caches have synced; `stop` ends its workers."""

    def __init__(
        self,
        controller: Controller,
        caches: Caches,
        executor: Executor,
        *,
        env: Env,
        workers: int,
        barrier_timeout_s: float,
        story: Story,
        metrics: QueueMetrics | None = None,
        observe: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`observe`: tells the controller what no cache has of a key, before each reconcile."""
        self._observe = observe
        self._controller = controller
        self._caches = caches
        self._executor = executor
        self._env = env
        self._workers = workers
        self._queue = WorkQueue(metrics=metrics)
        self._barrier = Barrier(barrier_timeout_s, caches.shown)
        caches.add_list_handler(self._listed)
        self._teller = Teller(story, controller.name)
        self._tasks: list[asyncio.Task[None]] = []
        self._attached: set[str] = set()
        self._unsure: dict[str, list[Create]] = {}  # by key, until it is its turn again
        self._costs = Costs()

    def attach(self) -> None:
        """Listen to the caches of what the controller watches now; call again when that has changed."""
        self._attached &= {watch.resource for watch in self._controller.watches}
        for watch in self._controller.watches:
            if watch.resource not in self._attached:
                self._attached.add(watch.resource)
                self._listen(watch.resource)

    def _listen(self, resource: str) -> None:
        watches = [w for w in self._controller.watches if w.resource == resource]

        def handle(kind: str, old: Object | None, obj: Object) -> None:
            for key in self._barrier.seen(resource, kind, obj):
                self._queue.add(key)
            before = old if kind == "MODIFIED" else None
            for watch in watches:
                try:
                    self._map(watch, kind, before, obj)
                except Exception:
                    # An object that cannot be mapped must not stop the cache that all controllers share.
                    log.exception("%s: cannot map %s to keys", self._controller.name, resource)

        self._caches.informer(resource).add_handler(handle)

    def _listed(self, resource: str, began: float) -> None:
        for key in self._barrier.listed(resource, began):
            self._queue.add(key)

    def refresh_caches(self) -> None:
        """Have those caches read anew that do not show in time what was written."""
        for resource in self._barrier.overdue(asyncio.get_running_loop().time()):
            if not self._caches.refresh(resource):
                for key in self._barrier.forget(resource):
                    self._queue.add(key)

    def _map(self, watch: Watch, kind: str, old: Object | None, obj: Object) -> None:
        """`old`: what was modified."""
        if watch.observe is not None and kind != "DELETED":
            watch.observe(obj, asyncio.get_running_loop().time())
        if watch.keys is None:
            return
        if old is not None and not watch.changed(old, obj):
            return
        view = self._caches.view
        keys = dict.fromkeys(watch.keys(obj, view))
        if old is not None:
            keys |= dict.fromkeys(watch.keys(old, view))
        for key in keys:
            self._teller.changed(key, watch.resource, kind, obj)
            delay = watch.delay_s
            self._queue.add_after(key, max(delay, self._costs.rest_s(key)) if delay else delay)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for key in self._controller.resync_keys:
            self._queue.add(key)
        for n in range(self._workers):
            self._tasks.append(loop.create_task(self._work(), name=f"{self._controller.name}/{n}"))

    async def stop(self) -> None:
        self._queue.close()
        await cancel_and_wait(*self._tasks)
        self._tasks.clear()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._process(key)
            except Exception:
                # A fault in one object's reconcile is retried and must not end the worker of all others.
                log.exception("%s: reconcile of %s failed", self._controller.name, key)
                self._queue.add_rate_limited(key)
            finally:
                self._queue.done(key)
            await self._caches.turn.give()

    async def _process(self, key: str) -> None:
        if key in self._unsure and not await self._look_up(key):
            self._queue.add_after(key, LOOK_AGAIN_S)
            return
        if self._barrier.is_held(key):
            return
        now = asyncio.get_running_loop().time()
        if self._observe is not None:
            await self._observe(key)
            now = asyncio.get_running_loop().time()
        moment = Moment(self._env.clock.now(), now)
        look = self._teller.look(key, moment.wall)
        try:
            await self._reconcile(key, moment, look)
        except Exception as e:
            self._teller.ended(look, asyncio.get_running_loop().time() - now, error=f"{type(e).__name__}: {e}")
            raise

    async def _reconcile(self, key: str, moment: Moment, look: Look) -> None:
        wanted = self._controller.reconcile(key, self._caches.view, moment)
        self._costs.note(key, asyncio.get_running_loop().time() - moment.mono)
        outcome = await self._executor.run(wanted)
        self._await_own(key, outcome)
        if outcome.failed and outcome.retry_s is not None:
            self._queue.add_after(key, outcome.retry_s)
        elif outcome.failed:
            self._queue.add_rate_limited(key)
        else:
            self._queue.forget(key)
            if wanted.requeue_after is not None:
                self._queue.add_after(key, wanted.requeue_after)
        self._teller.ended(
            look,
            asyncio.get_running_loop().time() - moment.mono,
            answers=outcome.answers,
            error=outcome.error,
            requeue_after_s=None if outcome.failed else wanted.requeue_after,
        )

    def _await_own(self, key: str, outcome: Outcome) -> None:
        """Hold a key back until the caches show what it has written."""
        now = asyncio.get_running_loop().time()
        self._expect(key, outcome.written, now)
        if outcome.unanswered:
            self._unsure[key] = outcome.unanswered
        for resource, gone in outcome.deleted:
            if self._caches.watches(resource):
                cached = self._caches.view.get(resource, meta.namespace(gone), meta.name(gone))
                self._barrier.deleted(key, resource, gone, cached=cached, now=now)
        # The contract of reconcile: it is called again when the caches show what it wrote.
        if (outcome.written or outcome.deleted) and not self._barrier.is_held(key):
            self._queue.add(key)

    # --- what is asked of it --------------------------------------------------------------------

    @property
    def controller(self) -> Controller:
        return self._controller

    def standing(self, key: str) -> tuple[Standing, float]:
        """What a key waits for; and while it is held back until the caches show its writes, when they are read anew."""
        return self._queue.standing(key), self._barrier.holds(key, asyncio.get_running_loop().time())

    def _expect(self, key: str, written: Iterable[tuple[str, Object]], now: float) -> None:
        for resource, answer in written:
            if self._caches.watches(resource):
                self._barrier.wrote(key, resource, answer, now=now)

    async def _look_up(self, key: str) -> bool:
        """Find out what became of writes without an answer, so that the key waits for the caches to show it as well."""
        try:
            found = await self._executor.look_up(self._unsure[key])
        except ApiError as e:
            log.debug("%s: %s", key, e.message)
            return False
        del self._unsure[key]
        self._expect(key, found, asyncio.get_running_loop().time())
        return True

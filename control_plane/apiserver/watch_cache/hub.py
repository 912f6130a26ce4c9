"""The hub of a server's watch caches: it keeps all of them in step with etcd.

One etcd watch over the whole key space feeds every cache. Since each revision of etcd has at least one event in it,
the position of the stream alone tells how fresh all caches are: a linearizable read asks etcd for its revision (one
question to a majority, shared by everybody who asks at the same time) and waits until the stream has passed it. No
progress notifications are needed, all caches show the same moment, and the member serves one watcher per API server.

Tasks: one reads the stream, one answers revision queries. A cache is loaded when it is first used: the objects as
they were where the kept history begins, then the history on top, so that even its first watcher may start in the past.
"""

import asyncio
import contextlib
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sortedcontainers import SortedDict

from rayplane.control_plane.api.errors import ApiError, Expired, ServiceUnavailable, Timeout
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.config import Limits, Timing
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.storage.hearing import SILENT
from rayplane.control_plane.apiserver.storage.outcomes import shutting_down
from rayplane.control_plane.apiserver.storage.store import Storage, api_error
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.reading import read_all
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import kv_pb2, rpc_pb2
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

_ALL = b"\0"
_ROOT = "/registry/"
_RETRIES, _AT_ONCE_S = Backoff(0.05, 1.0), 0.01
_REVISION_KEY = b"/rayplane/revision"
# Between two tries of a question that no majority answers.
_ASK_AGAIN_S = 0.1
# Whoever asks whether etcd answers is told of an answer no older than this: half of what a health check may take, as in
# kube-apiserver's limit. A server that loses etcd is called ready for as long, and for what `Hearing` waits, at most.
_ANSWER_KEPT_S = 1.0


class WatchHub:
    """All caches of one server. `await cache(info)` gives a loaded one; `await fresh()` makes all current."""

    def __init__(self, etcd: EtcdClient, storage: Storage, *, env: Env, limits: Limits, timing: Timing) -> None:
        self.revision = 0
        """All changes up to this revision are in the caches."""
        self.beginnings = 0
        """How often any cache began anew or ended: while it stays, whoever was in step with some still is."""
        self._etcd = etcd
        self._standings = etcd.standings()
        self._storage = storage
        self._hearing = storage.hearing
        self._hearing.told.append(self._give_up)
        self._env = env
        self._limits = limits
        self._timing = timing
        self._caches: dict[str, ResourceCache] = {}
        self._loads: SingleFlight[ResourceCache] = SingleFlight(shutting_down)
        self._outdated: set[str] = set()  # prefixes whose definition has changed since their load began
        self._reloads: dict[asyncio.Task[None], None] = {}
        self._history: deque[tuple[int, str, bytes | Entry | None]] = deque()
        self._history_bytes = 0
        self._history_floor = 0
        self._waiting: SortedDict = SortedDict()  # (revision, number) to the future of who waits for it
        self._numbers = itertools.count()
        self._asking: list[asyncio.Future[int]] = []
        self._asked: list[asyncio.Future[int]] = []  # those whose question is under way
        self._ask = asyncio.Event()
        self._answered_at = -math.inf
        self._quorum = asyncio.Event()  # a majority has answered since the stream was opened last
        self._restart = asyncio.Event()
        self._listeners: dict[str, Callable[[], None]] = {}
        self._source = ""  # the member that the stream is of
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def start(self) -> None:
        """Find etcd's revision and begin to follow it. ApiError when etcd cannot be reached."""
        await self._etcd.prefer_leader()
        try:
            now = await self._revision()
            # Revision 1 is the empty store: the only one without an event.
            begin = max(now - self._limits.history_at_start, 1)
            if begin < now and not await self._is_kept(begin):
                begin = now
        except RpcError as e:
            raise api_error(e) from e
        self._begin_at(begin)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._answer())]

    def follow_leader(self) -> None:
        """The stream comes from the member that is preferred now: others hear later of what is done."""
        preferred = self._etcd.endpoints.preferred
        if preferred and preferred != self._source:
            self._restart.set()

    def listen(self, prefix: str, told: Callable[[], None]) -> None:
        """Be told whenever keys may have changed that are no objects: `prefix` and one word more."""
        self._listeners[prefix] = told

    async def _revision(self) -> int:
        """etcd's revision now (linearizable). Raises RpcError."""
        limit_s = self._timing.etcd_patience_s
        return int((await self._etcd.range(_REVISION_KEY, count_only=True, timeout=limit_s)).header.revision)

    async def _is_kept(self, revision: int) -> bool:
        """Whether etcd has not compacted a revision yet. Raises RpcError."""
        try:
            await self._etcd.range(_REVISION_KEY, count_only=True, revision=revision)
        except RpcError as e:
            if e.code.name == "OUT_OF_RANGE":
                return False
            raise
        return True

    async def stop(self) -> None:
        self._stopped = True
        await self._loads.stop()
        await cancel_and_wait(*self._tasks, *self._reloads)
        await self._standings.stop()
        self._tasks.clear()
        self.beginnings += 1
        for cache in self._caches.values():
            cache.reset(None)
        _fail(self._waiting.values(), shutting_down())
        _fail((*self._asked, *self._asking), shutting_down())

    def _begin_at(self, revision: int) -> None:
        self._history.clear()
        self._history_bytes = 0
        self._history_floor = revision
        self._advance(revision)

    # --- freshness ----------------------------------------------------------------------------

    async def current_revision(self) -> int:
        """etcd's revision at some moment after this call (linearizable). ApiError when there is no quorum."""
        return await self._question()

    def _question(self) -> asyncio.Future[int]:
        if self._stopped:
            raise shutting_down()
        self.check_hearing()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asking.append(future)
        self._ask.set()
        return future

    async def etcd_answers(self) -> bool:
        """Whether there is a quorum. A good answer to any reader's question is kept for a second; a bad one stands when
        etcd has been silent for as long as this server has patience, until it answers again."""
        if asyncio.get_running_loop().time() - self._answered_at < _ANSWER_KEPT_S and not self._hearing.deaf:
            return not self._stopped
        try:
            await self.current_revision()
        except ApiError:
            return False
        return True

    def check_hearing(self) -> None:
        """Raises ServiceUnavailable while no majority of the members answers this server."""
        if self._hearing.deaf:
            raise api_error(self._hearing.error())

    def _give_up(self) -> None:
        """The server has become deaf: whoever waits or watches is better off with another one."""
        log.warning("%s: requests are refused and watches end until one does", self._hearing.error().message)
        _fail((*self._asked, *self._asking), api_error(self._hearing.error()))
        for cache in self._caches.values():
            cache.end_watchers()
        self._ask.set()  # nobody else may ask from now on, and somebody has to hear when a majority answers again

    async def _answer(self) -> None:
        while True:
            await self._ask.wait()
            self._ask.clear()
            deaf = False
            try:
                with self._hearing.waiting():
                    revision = await self._majority()
                    deaf = self._hearing.deaf
            except asyncio.CancelledError:
                _fail(self._asked, shutting_down())
                raise
            except Exception as e:
                self._answered_at = -math.inf
                _fail(self._asked, api_error(e) if isinstance(e, RpcError) else e)
            else:
                self._quorum.set()
                for future in self._asked:
                    if not future.done():
                        future.set_result(revision)
            if deaf:
                log.info("etcd answers again")
                self._restart.set()  # the stream may be of a member that is still not heard
            self._asked = []
            if self._hearing.deaf:
                await asyncio.sleep(_ASK_AGAIN_S)
                self._ask.set()

    async def _majority(self) -> int:
        """The revision, from whenever a majority tells of it. Raises RpcError when that is refused."""
        while True:
            self._asked, self._asking = [*(f for f in self._asked if not f.done()), *self._asking], []
            began = asyncio.get_running_loop().time()  # it is true of no later time for certain
            try:
                revision = await self._standings.revision() or await self._revision()
            except RpcError as e:
                if e.code not in SILENT:
                    raise
                self._answered_at = -math.inf
            else:
                self._answered_at = began
                return revision
            await asyncio.sleep(_ASK_AGAIN_S)

    @spanned("caches catch up with etcd")
    async def fresh(self) -> int:
        """Return when the caches hold everything acknowledged before this call; the revision they are at."""
        revision = await self.current_revision()
        try:
            await self.reached(revision)
        except Timeout:
            # That revision exists: the stream hangs, and another one may be better.
            self._restart.set()
            raise
        return self.revision

    def freshness(self) -> asyncio.Future[None]:
        """Done when the caches hold everything acknowledged before this call. Whoever cancels it waits no longer: no
        time limits it, and a stream that hangs is not opened anew.
        """
        found: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(question: asyncio.Future[int]) -> None:
            if found.done():
                return
            error = question.exception()
            if error is not None:
                found.set_exception(error)
            elif question.result() <= self.revision:
                found.set_result(None)
            else:
                place = question.result(), next(self._numbers)
                self._waiting[place] = found
                found.add_done_callback(lambda _: self._waiting.pop(place, None))

        self._question().add_done_callback(answered)
        return found

    async def reached(self, revision: int) -> None:
        """Wait until the caches are at `revision`. Timeout (with Kubernetes' words) if that takes too long."""
        if self.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = revision, next(self._numbers)
        self._waiting[place] = future
        try:
            async with asyncio.timeout(self._timing.fresh_timeout_s):
                await future
        except TimeoutError:
            text = f"Timeout: Too large resource version: {revision}, current: {self.revision}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            details = {"causes": [cause], "retryAfterSeconds": 1}
            raise Timeout(text, details=details) from None
        finally:
            # Its client may have left, and that revision may never come.
            self._waiting.pop(place, None)

    def _advance(self, revision: int) -> None:
        if revision <= self.revision:
            return
        self.revision = revision
        while self._waiting and self._waiting.peekitem(0)[0][0] <= revision:
            _, future = self._waiting.popitem(0)
            if not future.done():
                future.set_result(None)

    # --- the stream ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        pauses = Pauses(_RETRIES, rng=self._env.rng, jitter=0.5)
        while True:
            before = self.revision
            self._restart.clear()
            self._quorum.clear()
            try:
                if await self._stream():
                    await self._start_over()
            except RpcError as e:
                log.info("the watch on etcd broke and is opened anew: %s", e)
            except Exception:
                log.exception("following etcd failed; the watch is opened anew")
            if self.revision > before:
                pauses.reset()
            # Sooner where a majority has answered a reader since: there is a leader, and the reader waits for this.
            await asyncio.sleep(_AT_ONCE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quorum.wait(), pauses.next_s())

    async def _stream(self) -> bool:
        """Follow until the stream ends; True when the changes that come next are compacted."""
        # The leader knows first of a change, and tells of it together with its answer to who made it.
        self._source = self._etcd.endpoints.pick(sticky=True)
        responses = self._etcd.watch(_ALL, _ALL, start_revision=self.revision + 1, sticky=True)
        async with contextlib.aclosing(responses):  # type: ignore[type-var]
            restart = asyncio.ensure_future(self._restart.wait())
            following: asyncio.Future[rpc_pb2.WatchResponse] | None = None
            try:
                while True:
                    following = asyncio.ensure_future(anext(responses))  # type: ignore[arg-type]
                    await asyncio.wait((following, restart), return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        return False
                    try:
                        response = following.result()
                    except StopAsyncIteration:
                        return False
                    except RpcError as e:
                        if e.code.name == "OUT_OF_RANGE":
                            return True
                        raise
                    if response.canceled:
                        return bool(response.compact_revision)
                    self._take(response)
            finally:
                # The generator can only be closed when nobody waits for its next item.
                pending = [f for f in (following, restart) if f is not None and not f.done()]
                await cancel_and_wait(*pending)

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        """Put the events of a response into the caches. Whole revisions only: etcd keeps them together."""
        revision = 0
        for event in response.events:
            kv = event.kv
            revision = kv.mod_revision
            if revision <= self.revision:
                continue
            key = kv.key.decode(errors="surrogateescape")
            if not key.startswith(_ROOT):
                continue
            value = None if event.type == kv_pb2.Event.DELETE else kv.value
            cache = self._cache_of(key)
            if cache is None and (told := self._listeners.get(key[: key.rindex("/") + 1])) is not None:
                told()
            entry = self._apply(cache, key, value, revision) if cache is not None and cache.ready else None
            # The bytes of an entry are the same, and are kept anyway.
            self._remember(revision, key, entry if entry is not None and entry.readable else value)
        if revision:
            self._advance(revision)

    def _remember(self, revision: int, key: str, value: bytes | Entry | None) -> None:
        history, limits = self._history, self._limits
        history.append((revision, key, value))
        self._history_bytes += _size(value)
        while len(history) > limits.history_events or self._history_bytes > limits.history_bytes:
            self._history_floor, _, dropped = history.popleft()
            self._history_bytes -= _size(dropped)

    @staticmethod
    def _apply(cache: ResourceCache, key: str, value: bytes | Entry | None, revision: int) -> Entry | None:
        try:
            return cache.apply(key, value, revision)
        except Exception:
            # One object that trips over a bug must not stop the rest.
            log.exception("the change of %r at revision %d is lost", key, revision)
            return None

    def _cache_of(self, key: str) -> ResourceCache | None:
        cut = key.find("/", len(_ROOT)) + 1
        found = self._caches.get(key[:cut])
        if found is None:
            found = self._caches.get(key[: key.find("/", cut) + 1])
        return found

    async def _start_over(self) -> None:
        """The history that was missed is compacted: drop everything and load the caches again when used."""
        revision = await self._revision()
        log.warning("changes after revision %d are compacted: all watchers start over", self.revision)
        error = Expired(f"too old resource version: {self.revision}")
        self.beginnings += 1
        for cache in self._caches.values():
            cache.reset(error)
        self._begin_at(revision)
        for told in self._listeners.values():
            told()
        # Whoever follows a cache learns what it missed without having to ask.
        for cache in self._caches.values():
            if cache.installed:
                task = asyncio.get_running_loop().create_task(self._reload(cache))
                self._reloads[task] = None
                task.add_done_callback(lambda done: self._reloads.pop(done, None))

    async def _reload(self, cache: ResourceCache) -> None:
        info, pauses = cache.info, Pauses(_RETRIES)
        while self._caches.get(info.storage_prefix) is cache:
            try:
                await self.cache(info)
                return
            except Exception as e:
                log.info("%s cannot be loaded yet: %s", info.name, e)
            await asyncio.sleep(pauses.next_s())

    # --- loading ------------------------------------------------------------------------------

    def peek(self, info: ResourceInfo) -> ResourceCache | None:
        """The cache of a stored resource, if it is loaded."""
        found = self._caches.get(info.storage_prefix)
        return found if found is not None and found.ready else None

    async def cache(self, info: ResourceInfo) -> ResourceCache:
        """The loaded cache of a resource (stored form)."""
        if (found := self.peek(info)) is not None:
            return found
        return await self._loads.run(info.storage_prefix, lambda: self._load(info))

    async def _load(self, info: ResourceInfo) -> ResourceCache:
        prefix = info.storage_prefix
        try:
            entries, revision = await read_all(
                info, self._storage, floor=lambda: self._history_floor, position=lambda: self.revision
            )
            if prefix in self._outdated:
                raise ServiceUnavailable(f"the definition of {info.name} has just changed", retry_after=1)
        finally:
            self._outdated.discard(prefix)
        cache = self._caches.get(prefix)
        if cache is None:
            cache = self._caches[prefix] = ResourceCache(
                info,
                events_max=self._limits.resource_events,
                watcher_events_max=self._limits.watcher_events,
                bytes_max=self._limits.history_bytes,
                transformer=self._storage.encryption.of(info),
            )
        cache.info = info
        cache.install(entries, revision)
        self.beginnings += 1
        for at, key, value in self._history:
            if at > revision and self._cache_of(key) is cache:
                self._apply(cache, key, value, at)
        for tell in cache.installed:
            tell()
        return cache

    def forget(self, prefix: str, why: str = "the resource is no longer served") -> None:
        """Drop the cache of a custom resource; its watchers end, and are told why. One that is being loaded is of what
        was defined before."""
        if self._loads.under_way(prefix):
            self._outdated.add(prefix)
        cache = self._caches.pop(prefix, None)
        if cache is not None:
            self.beginnings += 1
            cache.reset(Expired(why))

    def loaded(self) -> Iterable[ResourceCache]:
        return list(self._caches.values())


def _size(value: bytes | Entry | None) -> int:
    return value.size if isinstance(value, Entry) else len(value or b"")


def _fail(asking: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    for future in asking:
        if not future.done():
            future.set_exception(error)

"""A client of the REST face, as kubectl is: through the load balancer, in HTTP/1.1, one command after the other.

It makes, changes, reads, lists and deletes ConfigMaps of its own, at all versions that a read may ask for, and watches
them over connections that end and begin anew; `invariants.rest_ledger` judges the answers. What is drawn (which command
next, whether on a new connection) comes from its rng.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from rayplane.control_plane.invariants.rest_ledger import Entry, Ledger, Shown
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.checks import Violations
from rayplane.control_plane.simulation.trace import Trace
from rayplane.control_plane.tasks import cancel_and_wait

PATH = "/api/v1/namespaces/default/configmaps"
LABEL = "simulation"
ANSWER_S = 10.0
WATCH_S = 8
RETRY_S = 0.5
OBJECTS_MAX = 20
PAGE = 7
#: How long the watch may take at the end to tell what is known to have happened.
CATCH_UP_S = 40.0
NEVER_IDLE_S = 1e9

_CREATE, _CHANGE, _DELETE, _GET, _LIST, _LIST_AT = range(6)
_WEIGHTS = {_CREATE: 4, _CHANGE: 3, _DELETE: 1, _GET: 3, _LIST: 1, _LIST_AT: 2}
_ANY, _NOT_OLDER, _EXACT = "0", "NotOlderThan", "Exact"
#: How often a watch that could go on begins anew instead, with all there is.
_ANEW = 0.25
_INITIAL_END = "k8s.io/initial-events-end"
#: Answers that say that nothing was done: it was not begun, or may not be.
_NOT_DONE = frozenset({409, 429, 503})


class Unanswered(Exception):
    """No answer came, or one that nobody can read: what it was about may be done or not."""


class NotSent(Unanswered):
    """Nobody was reached: nothing was done."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]


# In place of those that tell the Python that runs it, and what it can decompress: runs are the same on each.
_HEADERS = {"User-Agent": "kubectl/simulated", "Accept-Encoding": "gzip"}


class RestClient:
    """A REST client that judges its answers. `address` tells the load balancer's host:port now."""

    def __init__(self, address: Callable[[], str], rng: random.Random, trace: Trace, violations: Violations) -> None:
        self.ledger = Ledger()
        self._address = address
        self._rng = rng
        self._trace = trace
        self._violations = violations
        self._number = 0
        self._sockets: Sockets
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession
        self._watcher: aiohttp.ClientSession
        self._watch_s = WATCH_S
        self._watching: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()

    def open(self, sockets: Sockets, every_s: float = 0.0) -> None:
        """Called once, in the client's cell. `every_s`: between two commands; no watch ends sooner."""
        self._sockets, self._watch_s = sockets, max(WATCH_S, round(every_s))
        self._kept = self._session(force_close=False)
        self._fresh = self._session(force_close=True)
        self._watcher = self._session(force_close=True, silent_s=self._watch_s - WATCH_S)

    def _session(
        self, *, force_close: bool, connections: int | None = None, silent_s: float = 0.0
    ) -> aiohttp.ClientSession:
        """A session whose answers may stay away for `silent_s` longer than usual."""
        return aiohttp.ClientSession(
            connector=_Connector(self._sockets, self._address, force_close=force_close, connections=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=WATCH_S + ANSWER_S + silent_s, sock_read=ANSWER_S + silent_s),
        )

    async def run(self, every_s: float) -> None:
        """Until `finish`; the watch goes on."""
        self._watching = asyncio.get_running_loop().create_task(self._watch_for_ever())
        try:
            while not self._ending.is_set():
                await self._command()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_s * self._rng.uniform(0.5, 1.5)):
                        await self._ending.wait()
        finally:
            self._ended.set()

    # Commands

    async def _command(self) -> None:
        certain = [e for e in self.ledger.entries.values() if e.value is not None and not e.doubts]
        kind = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if kind == _LIST:
            await self.look()
        elif kind == _LIST_AT:
            await self._look_at()
        elif not certain or (kind == _CREATE and len(certain) < OBJECTS_MAX):
            await self._create()
        else:
            entry = self._rng.choice(certain)
            await {_GET: self._get, _CHANGE: self._change}.get(kind, self._delete)(entry)

    async def _create(self) -> None:
        value = self._value()
        entry = Entry(f"id-{value}")
        generated = self._rng.random() < 0.5
        metadata: dict[str, Any] = {"labels": {LABEL: "yes"}}
        metadata |= {"generateName": "drawn-"} if generated else {"name": entry.id}
        if not generated:
            entry.name = entry.id
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"id": entry.id, "value": value}}
        answer = await self._write(entry, value, "POST", PATH, body)
        if answer is not None:
            self._wrote(entry, answer)

    async def _change(self, entry: Entry) -> None:
        value = self._value()
        answer = await self._write(entry, value, "PATCH", f"{PATH}/{entry.name}", {"data": {"value": value}})
        if answer is not None:
            self._wrote(entry, answer)

    def _wrote(self, entry: Entry, answer: Answer) -> None:
        if answer.status in (200, 201):
            self._judge(self.ledger.wrote(entry, _shown(answer.body)))
        else:
            self._judge([f"a write of {entry.id} was answered with {answer.status}: {answer.body.get('message')}"])

    async def _delete(self, entry: Entry) -> None:
        answer = await self._write(entry, None, "DELETE", f"{PATH}/{entry.name}", None)
        if answer is None:
            return
        if answer.status == 200:
            self.ledger.deleted(entry)
        else:
            self._judge([f"the deletion of {entry.id} was answered with {answer.status}"])

    async def _write(
        self, entry: Entry, value: str | None, method: str, path: str, body: dict[str, Any] | None
    ) -> Answer | None:
        """An answer that says what was done; None when nothing was, or nobody knows (the ledger is told)."""
        try:
            # HTTP clients try some methods again by themselves when a connection ends; here each write is one request.
            async with self._session(force_close=True, connections=1) as session:
                answer = await self._ask(session, method, path, body)
        except NotSent:
            return None
        except Unanswered:
            self.ledger.unknown(entry, value)
            return None
        if answer.status in _NOT_DONE:
            return None
        if answer.status >= 500:
            self.ledger.unknown(entry, value)
            return None
        return answer

    async def _get(self, entry: Entry) -> None:
        version = self._rng.choice(("", _ANY, str(self.ledger.version)))
        query = f"?resourceVersion={version}" if version else ""
        try:
            answer = await self._ask(self._session_of_chance(), "GET", f"{PATH}/{entry.name}{query}")
        except Unanswered:
            return
        if answer.status in (200, 404):
            shown = _shown(answer.body) if answer.status == 200 else None
            self._judge(self.ledger.read(entry, shown, aged=version not in ("", _ANY)))

    async def look(self) -> bool:
        """List everything, in pages, and judge it; False when that was not answered."""
        session, shown, version, following = self._session_of_chance(), [], 0, ""
        while True:
            try:
                answer = await self._ask(session, "GET", f"{PATH}?labelSelector={LABEL}&limit={PAGE}{following}")
            except Unanswered:
                return False
            if answer.status != 200:
                return False
            metadata = answer.body["metadata"]
            shown += [_shown(item) for item in answer.body["items"]]
            version = version or int(metadata["resourceVersion"])
            if int(metadata["resourceVersion"]) != version:
                self._judge([f"the pages of a list are of versions {version} and {metadata['resourceVersion']}"])
            if not metadata.get("continue"):
                self._judge(self.ledger.listed(version, shown))
                return True
            following = f"&continue={metadata['continue']}"

    async def _look_at(self) -> None:
        """List everything at any version, at one that is not older than what was seen, or at exactly that."""
        asked, match = self.ledger.version, self._rng.choice((_ANY, _NOT_OLDER, _EXACT))
        version = "0" if match == _ANY else f"{asked}&resourceVersionMatch={match}"
        path = f"{PATH}?labelSelector={LABEL}&resourceVersion={version}"
        try:
            answer = await self._ask(self._session_of_chance(), "GET", path)
        except Unanswered:
            return
        if answer.status != 200:
            return
        found, shown = int(answer.body["metadata"]["resourceVersion"]), [_shown(item) for item in answer.body["items"]]
        if match == _EXACT:
            self._judge(self.ledger.listed_at(asked, found, shown))
        else:
            self._judge(self.ledger.listed(found, shown, aged=match == _NOT_OLDER))

    # The watch

    async def _watch_for_ever(self) -> None:
        while True:
            try:
                if self._rng.random() < _ANEW:
                    await self._watch_from_all()
                else:
                    if not self.ledger.watched:
                        await self._begin_anew()
                    await self._watch(f"resourceVersion={self.ledger.watched}", self._told)
            except Unanswered as e:
                self._trace.event("rest-rewatch", self.ledger.watched, e)
            await asyncio.sleep(self._rng.uniform(0, RETRY_S))

    async def _begin_anew(self) -> None:
        floor = self.ledger.version
        answer = await self._ask(self._fresh, "GET", f"{PATH}?labelSelector={LABEL}")
        if answer.status != 200:
            raise Unanswered(answer.status)
        version = int(answer.body["metadata"]["resourceVersion"])
        self._judge(self.ledger.restarted(version, map(_shown, answer.body["items"]), floor=floor))

    async def _watch_from_all(self) -> None:
        """A watch that begins with all there is, as informers begin."""
        floor, begun = self.ledger.version, False
        first: list[Shown] = []
        version = self._rng.choice(("", _ANY, str(floor)))

        def told(kind: str, obj: dict[str, Any]) -> None:
            nonlocal begun
            meta = obj["metadata"]
            if begun:
                self._told(kind, obj)
            elif kind != "BOOKMARK":
                first.append(_shown(obj))
            elif _INITIAL_END in (meta.get("annotations") or {}):
                begun = True
                self._judge(self.ledger.restarted(int(meta["resourceVersion"]), first, floor=floor))

        await self._watch(f"sendInitialEvents=true&resourceVersionMatch={_NOT_OLDER}&resourceVersion={version}", told)

    async def _watch(self, beginning: str, tell: Callable[[str, dict[str, Any]], None]) -> None:
        path = f"{PATH}?watch=1&labelSelector={LABEL}&allowWatchBookmarks=1&timeoutSeconds={self._watch_s}"
        async with self._request(self._watcher, "GET", f"{path}&{beginning}") as response:
            if response.status == 410:
                self.ledger.watched = 0
            if response.status != 200:
                raise Unanswered(response.status)
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        self.ledger.watched = 0
                    raise Unanswered(event["object"].get("message"))
                tell(event["type"], event["object"])

    def _told(self, kind: str, obj: dict[str, Any]) -> None:
        if kind == "BOOKMARK":
            self._judge(self.ledger.bookmark(int(obj["metadata"]["resourceVersion"])))
            return
        shown = _shown(obj)
        self._trace.event("rest-told", kind, *shown)
        self._judge(self.ledger.told(kind, shown))

    async def finish(self) -> bool:
        """At the end: everything is there, and the watch has told it. False while that cannot be said yet."""
        self._ending.set()
        await self._ended.wait()
        if not await self.look():
            return False
        # A change after all others: when the watch has told it, it has told what was before.
        entry = Entry(f"id-last-{self._value()}")
        entry.name = entry.id
        metadata = {"name": entry.id, "labels": {LABEL: "yes"}}
        data = {"id": entry.id, "value": "last"}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        answer = await self._write(entry, "last", "POST", PATH, body)
        if answer is None:
            return False
        self._wrote(entry, answer)
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S
        while self.ledger.watched < self.ledger.version and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(RETRY_S)
        self._judge(self.ledger.finished())
        return True

    async def close(self) -> None:
        """End the watch and all connections."""
        await cancel_and_wait(self._watching)
        for session in (self._kept, self._fresh, self._watcher):
            await session.close()

    # HTTP

    def _value(self) -> str:
        self._number += 1
        return str(self._number)

    def _session_of_chance(self) -> aiohttp.ClientSession:
        return self._kept if self._rng.random() < 0.5 else self._fresh

    def _judge(self, found: list[str]) -> None:
        for violation in found:
            self._violations.add(f"REST: {violation}")

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Answer:
        async with self._request(session, method, path, body) as response:
            answer = Answer(response.status, json.loads(await response.read()))
        self._trace.event("asked", method, path.partition("?")[0].removeprefix(PATH), answer.status)
        return answer

    @asynccontextmanager
    async def _request(
        self, session: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises Unanswered for whatever ends it early."""
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = json.dumps(body).encode() if body is not None else None
        url = aiohttp.client.URL(f"http://{self._address()}{path}", encoded=True)
        try:
            async with session.request(method, url, data=data, headers={"Content-Type": media}) as response:
                yield response
        except aiohttp.ClientConnectorError as e:
            self._trace.event("unreached", method, e)
            raise NotSent(str(e)) from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            self._trace.event("cut-off", method, path.partition("?")[0], type(e).__name__)
            raise Unanswered(f"{type(e).__name__}: {e}") from e


class _Connector(aiohttp.BaseConnector):
    """aiohttp's pool of connections, over injected sockets, to one place; it makes so many `connections` at most."""

    def __init__(
        self, sockets: Sockets, address: Callable[[], str], *, force_close: bool, connections: int | None
    ) -> None:
        # The pool asks the machine's clock who was idle for too long: none is, or a slow machine would run another way.
        keep: dict[str, Any] = {} if force_close else {"keepalive_timeout": NEVER_IDLE_S}
        super().__init__(limit=0, force_close=force_close, **keep)
        self._sockets = sockets
        self._address = address
        self._left = connections

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        if self._left == 0:
            raise aiohttp.ClientConnectionError("the connection ended before an answer")
        self._left = self._left and self._left - 1
        try:
            _, protocol = await self._sockets.connect(self._address(), self._factory)
        except OSError as e:
            raise aiohttp.ClientConnectorError(req.connection_key, e) from e
        return protocol


def _shown(obj: dict[str, Any]) -> Shown:
    metadata, data = obj["metadata"], obj["data"]
    return Shown(data["id"], metadata["name"], data["value"], int(metadata["resourceVersion"]))

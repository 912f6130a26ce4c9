"""Requests without pause, and what was acknowledged.

Every `Stream` repeats one kind of request and remembers when each was answered. A `Load` is all of them against one
cluster. What an answer contradicts (a value lost, an old value read) goes to `Load.lost` and makes the job fail.
"""

import asyncio
import contextlib
import itertools
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.rpc import RpcError

REQUEST_TIMEOUT_S = 3.0
PAUSE_S = 0.02
HOST = "demo.example"
PREFIX = b"/demo/"
COUNTER = "/api/v1/namespaces/default/configmaps/counter"


class Refused(Exception):
    """An answer that acknowledges nothing; the request is repeated."""


PASSING = (Refused, aiohttp.ClientError, RpcError, OSError, TimeoutError)


@dataclass
class Stream:
    """One kind of request. `acks`: loop times of the answers."""

    name: str
    request: Callable[[], Awaitable[None]]
    acks: list[float] = field(default_factory=list)
    failures: int = 0
    last_failure: str = ""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await self.request()
                self.acks.append(loop.time())
            except PASSING as e:
                self.failures += 1
                self.last_failure = f"{type(e).__name__}: {e}"
            await asyncio.sleep(PAUSE_S)

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds, within the span, without an answer."""
        times = [since, *(t for t in self.acks if since < t < until), until]
        return max(b - a for a, b in itertools.pairwise(times))

    def answered_since(self, since: float) -> int:
        return sum(t > since for t in self.acks)


class Load:
    """All requests. `db`, `etcd`: what was acknowledged, by key."""

    def __init__(self, ingress: str, api: str, tls: ssl.SSLContext, etcd: EtcdClient) -> None:
        self.db: dict[str, str] = {}
        self.etcd: dict[bytes, bytes] = {}
        self.lost: list[str] = []
        self._ingress, self._api, self._tls, self._client = ingress, api, tls, etcd
        self._session: aiohttp.ClientSession | None = None
        self._counter = 0
        self._db_next = self._etcd_next = 0
        self._rng = random.Random(0)
        self.page = Stream("page", self._get_page)
        self.db_write = Stream("db write", self._write_db)
        self.db_read = Stream("db read", self._read_db)
        self.etcd_write = Stream("etcd write", self._write_etcd)
        self.api_write = Stream("API write", self._write_api)
        self.api_read = Stream("API read", self._read_api)
        self.streams = [self.page, self.db_write, self.db_read, self.etcd_write, self.api_write, self.api_read]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.connected():
            await self._create_counter()
            tasks = [asyncio.create_task(s.run(), name=s.name) for s in self.streams]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [r for r in results if isinstance(r, Exception)]
        if broken:
            raise broken[0]

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as self._session:
            yield

    def progress(self) -> str:
        return f"({sum(len(s.acks) for s in self.streams)} requests answered)"

    # --- requests to the application --------------------------------------------------------------

    async def _get_page(self) -> None:
        await self._app("GET", "/")

    async def _write_db(self) -> None:
        # A write that failed is made again: it may be there already, and is the same.
        key, value = f"k{self._db_next}", f"value {self._db_next}"
        await self._app("PUT", f"/keys/{key}", value)
        self.db[key] = value
        self._db_next += 1

    async def _read_db(self) -> None:
        if not self.db:
            raise Refused("nothing is written yet")
        key = self._rng.choice(list(self.db))
        value = await self._app("GET", f"/keys/{key}", absent="(absent)")
        if value != self.db[key]:
            self.lost.append(f"database key {key} is {value!r}, acknowledged was {self.db[key]!r}")

    async def all_in_db(self) -> dict[str, str]:
        assert self._session is not None
        async with self._session.get(f"{self._ingress}/keys", headers={"Host": HOST}) as answer:
            if answer.status != 200:
                raise Refused(f"{answer.status} {await answer.text()}")
            found: dict[str, str] = await answer.json(content_type=None)
            return found

    async def _app(self, method: str, path: str, body: str | None = None, *, absent: str = "") -> str:
        """`absent`: what a 404 that the application itself gave means."""
        assert self._session is not None
        headers = {"Host": HOST}
        async with self._session.request(method, self._ingress + path, data=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status == 404 and absent and "X-Pod" in answer.headers:
                return absent
            if answer.status != 200:
                raise Refused(f"{answer.status} {text.strip()}")
            return text

    # --- requests to the control plane ------------------------------------------------------------

    async def _write_etcd(self) -> None:
        key, value = PREFIX + b"%08d" % self._etcd_next, b"value %d" % self._etcd_next
        await self._client.put(key, value, timeout=REQUEST_TIMEOUT_S)
        self.etcd[key] = value
        self._etcd_next += 1

    async def _create_counter(self) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counter"}, "data": {"n": "0"}}
        await self._api_call("POST", COUNTER.rpartition("/")[0], body, "application/json")

    async def _write_api(self) -> None:
        number = self._counter + 1
        await self._api_call("PATCH", COUNTER, {"data": {"n": str(number)}}, "application/merge-patch+json")
        self._counter = number

    async def _read_api(self) -> None:
        await self.check_counter()

    async def check_counter(self) -> None:
        """The API must show what it has acknowledged before it was asked."""
        least = self._counter
        shown = int((await self._api_call("GET", COUNTER))["data"]["n"])
        if shown < least:
            self.lost.append(f"the API shows {shown} after it had acknowledged {least}")

    async def _api_call(
        self, method: str, path: str, body: object = None, content: str = ""
    ) -> dict[str, dict[str, str]]:
        assert self._session is not None
        headers = {"Content-Type": content} if content else {}
        url = self._api + path
        async with self._session.request(method, url, json=body, headers=headers, ssl=self._tls) as answer:
            if answer.status >= 300:
                raise Refused(f"{answer.status} {await answer.text()}")
            found: dict[str, dict[str, str]] = await answer.json(content_type=None)
            return found


async def all_in_etcd(client: EtcdClient) -> dict[bytes, bytes]:
    found = await client.range(PREFIX, PREFIX[:-1] + bytes([PREFIX[-1] + 1]))
    return {kv.key: kv.value for kv in found.kvs}

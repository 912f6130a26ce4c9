"""The notes of standing faults: a file on the supervisor's machine, and a key of etcd for a supervisor elsewhere.

The file counts while etcd does not answer, which may be what is broken; etcd learns of it as soon as it answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import orjson

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.trial.journal import Broken, read_broken
from rayplane.control_plane.etcd_errors import RequestTooLarge, recognised
from rayplane.control_plane.faults.form import write_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Disk, DiskError

log = logging.getLogger(__name__)

FILE = "faults.json"
FAULTS_KEY = b"/rayplane/faults"
TELL_TIMEOUT_S = 3.0
AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A fault that lasts, or did. Times are seconds since 1970.

    `by`: who began it. `ends_s`: inf while a trial of this supervisor has it, which ends it. `failures`: how often it
    could not be ended, `why` the last time, to be tried again at `ends_s`.
    """

    id: str
    broken: Broken
    by: str
    began_s: float
    ends_s: float
    failures: int = 0
    why: str = ""

    @property
    def is_of_trial(self) -> bool:
        """Whether a trial has it that goes on here."""
        return self.ends_s == inf

    def to_json(self) -> dict[str, Any]:
        """What it takes to end it, which another supervisor does at once where a trial had it."""
        ends_s = self.began_s if self.is_of_trial else self.ends_s
        broken = {"fault": write_fault(self.broken.fault), "hit": list(self.broken.hit)}
        return {"id": self.id, **broken, "by": self.by, "began": self.began_s, "ends": ends_s}

    @staticmethod
    def from_json(data: Any) -> "Standing":
        """Raises ValueError, KeyError, TypeError, FormError."""
        return Standing(
            id=str(data["id"]),
            broken=read_broken(data),
            by=str(data["by"]),
            began_s=float(data["began"]),
            ends_s=float(data["ends"]),
        )


@dataclass(frozen=True, slots=True)
class Page:
    """All that stood at a time. `run`: the `up` of which it was; `made`: what trials have made, as rows of JSON."""

    run: str
    written_s: float
    faults: tuple[Standing, ...]
    made: tuple[Any, ...] = ()

    def to_bytes(self) -> bytes:
        rows = [one.to_json() for one in self.faults]
        made = {"made": self.made} if self.made else {}
        return orjson.dumps({"run": self.run, "written": self.written_s, "faults": rows, **made})

    @staticmethod
    def read(data: bytes, where: str) -> "Page | None":
        """None where it is damaged, which is logged."""
        try:
            found = orjson.loads(data)
            faults = tuple(map(Standing.from_json, found["faults"]))
            return Page(str(found["run"]), float(found["written"]), faults, tuple(found.get("made") or ()))
        except (ValueError, KeyError, TypeError, FormError) as e:
            log.error("%s is damaged (%s): continue what stands still by `rayplane chaos continue`", where, e)
            return None


class TooLarge(ClusterError):
    """A page that etcd refuses, as it always will."""

    code = "RESOURCE_EXHAUSTED"


class Etcd(Protocol):
    """The notes' needs of an `EtcdClient`. Calls raise RpcError."""

    async def range(self, key: bytes, *, timeout: float) -> Any: ...

    async def put(self, key: bytes, value: bytes, *, timeout: float) -> Any: ...


class Notes:
    """The newest page, in both places. Nothing is written to etcd before it was asked what another has left there."""

    def __init__(self, disk: Disk | None, etcd: Etcd) -> None:
        self._disk = disk
        self._etcd = etcd
        self._page = b""
        """Not yet told to etcd."""
        self._refused = False
        self._news, self._told = asyncio.Event(), asyncio.Event()
        self._told.set()
        self._task: asyncio.Task[None] | None = None

    def start(self, found: Callable[[Page], None]) -> Page | None:
        """The page of the file. `found` gets that of etcd, where it is newer, once etcd answers."""
        recalled = self._recalled()
        since_s = recalled.written_s if recalled is not None else 0.0
        self._task = asyncio.get_running_loop().create_task(self._tell(found, since_s), name="notes of faults")
        return recalled

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def write(self, page: Page) -> None:
        """Raises DiskError."""
        data = page.to_bytes()
        if self._disk is not None:
            await self._disk.write_atomic(FILE, data)
        self._page, self._refused = data, False
        self._told.clear()
        self._news.set()

    async def told(self) -> None:
        """Wait until etcd knows the newest page, but not for an etcd that does not answer. Raises TooLarge."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_TIMEOUT_S):
                await self._told.wait()
        if self._refused:
            raise TooLarge("etcd takes no list of that size: delete what trials have left, and let one make less")

    async def _tell(self, found: Callable[[Page], None], since_s: float) -> None:
        while (answer := await _tried(self._etcd.range(FAULTS_KEY, timeout=TELL_TIMEOUT_S))) is None:
            await asyncio.sleep(AGAIN_S)
        for kv in answer.kvs:
            page = Page.read(kv.value, "the list of faults in etcd")
            if page is not None and page.written_s > since_s:
                found(page)
        while True:
            await self._news.wait()
            data = self._page
            if not await self._put(data):
                await asyncio.sleep(AGAIN_S)
            elif data == self._page:
                self._news.clear()
                self._told.set()

    async def _put(self, data: bytes) -> bool:
        """Whether etcd has taken it, or refuses what it will never take."""
        try:
            await self._etcd.put(FAULTS_KEY, data, timeout=TELL_TIMEOUT_S)
        except RpcError as e:
            log.debug("etcd is not told of faults yet: %s", e)
            self._refused = isinstance(recognised(e), RequestTooLarge)
            return self._refused
        self._refused = False
        return True

    def _recalled(self) -> Page | None:
        if self._disk is None or not self._disk.exists(FILE):
            return None
        try:
            return Page.read(self._disk.read(FILE), FILE)
        except DiskError as e:
            log.error("%s cannot be read: %s", FILE, e)
            return None


async def _tried(call: Awaitable[Any]) -> Any:
    """None where etcd does not answer."""
    try:
        return await call
    except RpcError as e:
        log.debug("etcd is not told of faults yet: %s", e)
        return None

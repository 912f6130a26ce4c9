"""Workload of a trial: what it makes is written down before it is made, and deleted in its end, or by whoever heals.

A file in the state directory, as `journal` is. Deleted is what a trial has made, not what only has such a name, and by
right of whoever had the trial.
"""

import asyncio
import contextlib
import copy
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Forbidden, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import MADE, StateDir
from rayplane.control_plane.cluster.trial.journal import alone
from rayplane.storage.env.private import write_private

MARK = "chaos.rayplane.io/trial"
"""The annotation of what a trial made. Nobody knows its value before: it tells what was made without an answer, too."""
GONE_S = 60.0
_LOOK_S = 0.25
PASS_S = 10.0
"""For one look at what all trials have left, during which there is no other trial."""
LEFT_MAX, ALL_LEFT_MAX = 100, 1000
"""Objects that trials of one caller, and of all, have left: whoever leaves more has no other trial."""
_CLAIMS = "persistentvolumeclaims"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller who has a trial, where that is not who has access: as an API server knows it."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @staticmethod
    def from_json(data: Any) -> "Caller":
        """Raises TypeError, ValueError, KeyError."""
        extra = tuple((str(key), tuple(map(str, values))) for key, values in data["extra"])
        return Caller(str(data["name"]), tuple(map(str, data["groups"])), str(data["uid"]), extra)

    def by(self, api: ApiClient) -> ApiClient:
        """A client that acts as the caller. `api`: of who may do that."""
        return api.acting(self.name, self.groups, uid=self.uid, extra=dict(self.extra))


@dataclass(frozen=True, slots=True)
class Made:
    """An object of a trial, or one that is about to be made: without a `uid`. `caller`: who makes it."""

    resource: str
    namespace: str
    name: str
    mark: str
    uid: str = ""
    caller: Caller | None = None
    trial: str = ""

    def is_it(self, obj: Object) -> bool:
        """Whether an object of this name is the one."""
        return self.uid == meta.uid(obj) if self.uid else self.mark == meta.annotations(obj).get(MARK)

    def __str__(self) -> str:
        return f"{self.resource} {self.namespace}/{self.name}" if self.namespace else f"{self.resource} {self.name}"


def rows_of(made: Iterable[Made]) -> list[dict[str, Any]]:
    """As JSON: a row for each trial, with its caller, whose groups may be many, and its objects in order. Pure."""
    by_trial: dict[tuple[str, Caller | None], list[Made]] = {}
    for one in made:
        by_trial.setdefault((one.trial, one.caller), []).append(one)
    return [
        {
            "trial": trial,
            "caller": caller and asdict(caller),
            "made": [{word: getattr(one, word) for word in _OF_OBJECTS} for one in of_trial],
        }
        for (trial, caller), of_trial in by_trial.items()
    ]


def read_row(row: Any) -> list[Made]:
    """The objects of a row; earlier builds wrote one for each object. Raises TypeError, ValueError, KeyError."""
    caller = Caller.from_json(row["caller"]) if row.get("caller") else None
    objects = row["made"] if "made" in row else [{word: row[word] for word in _OF_OBJECTS if word in row}]
    return [Made(**one, caller=caller, trial=str(row.get("trial", ""))) for one in objects]


_OF_OBJECTS = ("resource", "namespace", "name", "mark", "uid")


class TooMuchLeft(ClusterError):
    """Trials have left so much that there is no other one."""

    code = "RESOURCE_EXHAUSTED"


class Workload:
    """Objects that trials of one cluster have made and not deleted yet.

    Bounded by what files of scenarios make, and by what may be left for another trial to begin. `caller`: of the trial
    that makes more, which is this one alone.
    """

    def __init__(
        self,
        directory: StateDir,
        caller: Caller | None = None,
        tell: Callable[[Sequence[Any]], Awaitable[None]] | None = None,
    ) -> None:
        """`tell` hears of all that there is, as rows of JSON, before more is made."""
        self._tell = tell
        self._path = directory.path / MADE
        self._caller = caller
        self._trial = secrets.token_hex(8)
        self._noted: set[str] | None = None
        """The marks that are known elsewhere."""

    def read(self) -> list[Made]:
        """Raises ClusterError when the file is damaged."""
        try:
            return [one for row in json.loads(self._path.read_bytes()) for one in read_row(row)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise ClusterError(f"{self._path} is damaged ({e}); delete what trials have left, and it") from e

    def marked(self, resource: str, manifest: Object) -> Object:
        """What to make in place of a manifest; it is written down."""
        made = self.read()
        one = next((one for one in made if self._is_of(one, resource, manifest) and not one.uid), None)
        if one is None:
            mark, key = secrets.token_hex(16), (meta.namespace(manifest), meta.name(manifest))
            one = Made(resource, *key, mark, caller=self._caller, trial=self._trial)
            self._write([*made, one])
        marked = copy.deepcopy(manifest)
        marked["metadata"]["annotations"] = {**meta.annotations(manifest), MARK: one.mark}
        return marked

    def made(self, resource: str, obj: Object) -> None:
        """Write down which it is. One of its name that was made before is gone."""
        made = self.read()
        mine = [one for one in made if self._is_of(one, resource, obj)]
        ours = replace(next(one for one in mine if not one.uid), uid=meta.uid(obj))
        self._write([*(one for one in made if one not in mine), ours])

    def _is_of(self, one: Made, resource: str, obj: Object) -> bool:
        key = (one.resource, one.namespace, one.name)
        return key == (resource, meta.namespace(obj), meta.name(obj)) and one.trial == self._trial

    async def noted(self) -> None:
        """Wait until it is known elsewhere, too. Raises ClusterError."""
        if self._tell is None:
            return
        made = self.read()
        if (marks := {one.mark for one in made}) != self._noted:
            await self._tell(rows_of(made))
            self._noted = marks

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.read())

    def adopt(self, rows: Iterable[Any]) -> None:
        """Add what was written down elsewhere; what nobody can read of it is left out."""
        there = self.read()
        marks, new = {one.mark for one in there}, list[Made]()
        for row in rows:
            with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
                new += read_row(row)
        self._write([*there, *(one for one in new if one.mark not in marks)])

    async def left(self, api: ApiClient) -> list[str]:
        """What earlier trials have left, of this caller, where that is not who has access; of who is gone nothing.

        Raises TooMuchLeft when it is too much for another trial.
        """
        gone = set()
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(PASS_S):
                for one in self.read():
                    found = await _found(api, one)
                    if found is None or not one.is_it(found):
                        gone.add(one)
        self._drop(gone)
        left = self.read()
        own = [one for one in left if self._caller in (None, one.caller)]
        if len(left) >= ALL_LEFT_MAX or (self._caller is not None and len(own) >= LEFT_MAX):
            some = f", such as {own[0]}" if own else ""
            raise TooMuchLeft(
                f"trials have left {len(left)} objects, {len(own)} of them yours{some}: delete those first"
            )
        return [str(one) for one in own]

    async def delete(self, api: ApiClient) -> list[str]:
        """Delete all of this trial, the last first, and wait until it is gone; what of it is left, and why.

        `api`: of who has access, who looks; callers delete what is theirs.
        """
        left: dict[Made, str] = {}
        own = [one for one in self.read() if one.trial == self._trial]
        until = asyncio.get_running_loop().time() + GONE_S
        for one in reversed(own):
            try:
                async with asyncio.timeout_at(until):
                    while not await _is_ended(api, one):
                        await asyncio.sleep(_LOOK_S)
            except (ApiError, TimeoutError) as e:
                left[one] = str(e) or f"not gone after {GONE_S:.0f} s"
        self._drop(one for one in own if one not in left)
        await self.noted()
        return [f"{one}: {why}" for one, why in left.items()]

    async def go_on(self, api: ApiClient, refused: set[Made]) -> tuple[list[str], list[str]]:
        """Delete what trials have left without waiting until it is gone: what goes or may yet, and what does not.

        The last of a trial first: what it made before it is deleted when that is gone. `refused`: what its caller may
        not delete, which is not tried again.
        """
        going: dict[Made, str] = {}
        gone, failed, waits = set(), [], set()
        until = asyncio.get_running_loop().time() + PASS_S
        for one in reversed([one for one in self.read() if one not in refused]):
            if one.trial in waits:
                going[one] = "what was made after it is not gone yet"
                continue
            try:
                async with asyncio.timeout_at(until):
                    if await _is_ended(api, one):
                        gone.add(one)
                        continue
                going[one] = "not gone yet"
            except Forbidden as e:
                refused.add(one)
                failed.append(f"{one}: {e}")
                continue
            except (ApiError, TimeoutError) as e:
                going[one] = str(e) or "no answer"
            waits.add(one.trial)
        self._drop(gone)
        return [f"{one}: {why}" for one, why in going.items()], failed

    def _drop(self, gone: Iterable[Made]) -> None:
        if dropped := {*gone}:
            self._write([one for one in self.read() if one not in dropped])

    def _write(self, made: list[Made]) -> None:
        if made:
            write_private(self._path, json.dumps(rows_of(made)).encode())
        else:
            self._path.unlink(missing_ok=True)


async def delete_left(directory: StateDir, api: ApiClient, refused: set[Made], within_s: float) -> list[str]:
    """Delete what all trials have left; what is left then, and why. Another trial may begin while it is waited for.

    `refused`: as of `Workload.go_on`. Raises ClusterError while a trial goes on.
    """
    loop, workload, failed = asyncio.get_running_loop(), Workload(directory), list[str]()
    until = loop.time() + within_s
    while True:
        with alone(directory):
            going, not_allowed = await workload.go_on(api, refused)
        failed += not_allowed
        if not going or loop.time() >= until:
            return [*going, *failed]
        await asyncio.sleep(_LOOK_S)


async def _is_ended(api: ApiClient, one: Made) -> bool:
    """Whether it is gone; it is deleted where it is not."""
    hands = one.caller.by(api) if one.caller is not None else api
    found = await _found(api, one)
    if found is None or not one.is_it(found):
        return True
    claims = await _claims(api, found) if found["kind"] == "StatefulSet" else []
    await _end(hands, one.resource, found, "Foreground")
    for claim in claims:
        await _end(hands, _CLAIMS, claim)
    return False


async def _found(api: ApiClient, one: Made) -> Object | None:
    try:
        return await api.get(one.resource, one.name, one.namespace)
    except NotFound:
        return None


async def _end(api: ApiClient, resource: str, obj: Object, propagation: str = "") -> None:
    if not meta.is_deleting(obj):
        with contextlib.suppress(NotFound):
            await api.delete(resource, meta.name(obj), meta.namespace(obj), uid=meta.uid(obj), propagation=propagation)


async def _claims(api: ApiClient, stateful: Object) -> list[Object]:
    """The claims that were made for a StatefulSet, which nobody owns; not one that was there before it."""
    templates = [meta.name(one) for one in stateful["spec"].get("volumeClaimTemplates") or ()]
    if not templates:
        return []
    named = re.compile(f"({'|'.join(map(re.escape, templates))})-{re.escape(meta.name(stateful))}-[0-9]+")
    since = meta.metadata(stateful)["creationTimestamp"]
    claims = (await api.list(_CLAIMS, meta.namespace(stateful))).items
    return [c for c in claims if named.fullmatch(meta.name(c)) and meta.metadata(c)["creationTimestamp"] >= since]

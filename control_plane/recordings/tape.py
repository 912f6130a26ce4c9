"""The tape: a recording while it is made. Pure; told in the order of time, and the same for the same history."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.changes import masked
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants import DELETED, Change, History, Violation
from rayplane.control_plane.invariants.judge import KEPT

FORMAT, VERSION = "recording", 1
BYTES_MAX = 128 << 20
"""Of the lines of one recording, before they are compressed."""
LINE_MAX = 8 << 20
"""So much is kept free for the last one."""
LINES_MAX = 500_000
TEXT_MAX = 10_000
"""Characters of a text that is shown as it stands."""
RESOURCES_MAX = 1000
"""Of objects of more nothing is written."""
ROWS_MAX = 1000
"""Members, or actors, of one state."""
EVENTS_MAX = 5000
"""Of an ending; as many faults, invariants and failures."""
WRONG_MAX = KEPT
"""Of one invariant."""
DEPTH_MAX = 240
"""Of an object, so that whatever answers with it can be written too: orjson goes no deeper than 254."""
GZIP = 16 + zlib.MAX_WBITS
_SPARE = 254 - DEPTH_MAX
MASK = "Kioq"
"""Stands for the values of Secrets; `***`, as these are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The run that a recording is of."""

    of: str
    """`chaos` or `simulation`"""
    name: str
    """The scenario."""
    seed: int
    cluster: str = ""
    started: datetime
    """When its time was 0."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault, and from when to when it lasted; None: to the end."""

    text: str
    hit: Sequence[str]
    from_s: float
    until_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The outcome of a run."""

    end_s: float
    ok: bool
    faults: Sequence[Struck]
    invariants: Mapping[str, Sequence[Violation]]
    """What was found against each."""
    unseen: Sequence[str] = ()
    """Those that had nothing to compare."""
    failures: Sequence[str] = ()
    """What else went wrong."""
    events: Sequence[tuple[float, str]] = ()
    """What happened, in words; the first ones."""


class Tape:
    """The tape of one run. When it is full, nothing of the run but its ending is written any more."""

    def __init__(self, head: Head) -> None:
        self._packer = zlib.compressobj(level=6, wbits=GZIP)
        self._parts: list[bytes] = []
        self._lines = self._bytes = 0
        self._full_s: float | None = None
        self._state: Mapping[str, Any] = {}
        self._resources = set[str]()
        told = asdict(head) | {"started": meta.format_micro_time(head.started)}
        told |= {one: _cut(told[one]) for one in ("name", "cluster")}
        self._write({"rayplane": FORMAT, "version": VERSION, **told})

    def begun(self, history: History) -> None:
        """What is there when recording begins, or begins anew: nothing of before is known."""
        at_s, revision = history.time_s, history.revision
        self._tell(at_s, {"begin": revision})
        for resource in history.resources():
            for _, obj in history.items(resource) if self._takes(resource) else ():
                self._tell(at_s, {"revision": revision, "resource": resource, "object": _written(resource, obj)})

    def changed(self, change: Change) -> None:
        """An object was written or deleted."""
        if not self._takes(change.resource):
            return
        what = {"revision": change.revision, "resource": change.resource}
        if change.kind != DELETED:
            self._tell(change.at_s, {**what, "object": _written(change.resource, change.object)})
        elif change.old is not None:
            self._tell(change.at_s, {**what, "gone": change.key})

    def state(self, at_s: float, state: Mapping[str, Any]) -> None:
        """How the control plane stands: `members` and `actors`, each a list of what `rayplane status` tells of them."""
        if state != self._state:
            self._state = state
            self._tell(at_s, {"state": {part: rows[:ROWS_MAX] for part, rows in state.items()}})

    def finished(self, ending: Ending) -> bytes:
        """The whole file. Nothing may be told any more."""
        for halved in range(EVENTS_MAX.bit_length() + 1):
            if self._write(self._ended(ending, EVENTS_MAX >> halved)):
                break
        return b"".join([*self._parts, self._packer.flush()])

    def _ended(self, ending: Ending, most: int) -> Mapping[str, Any]:
        """`most`: so many of each kind, the first ones."""
        faults, invariants = ending.faults[:most], islice(ending.invariants.items(), most)
        return {
            "end": round(ending.end_s, 6),
            "ok": ending.ok,
            "full": self._full_s,
            "faults": [
                {"text": _cut(f.text), "hit": [*map(_cut, f.hit)], "from": f.from_s, "until": f.until_s} for f in faults
            ],
            "invariants": [
                {
                    "name": _cut(name),
                    "seen": name not in ending.unseen,
                    "wrong": [{"at": one.at_s, "text": _cut(one.text)} for one in found[:WRONG_MAX]],
                }
                for name, found in invariants
            ],
            "failures": [_cut(text) for text in ending.failures[:most]],
            "events": [{"at": at_s, "text": _cut(text)} for at_s, text in ending.events[:most]],
        }

    def _takes(self, resource: str) -> bool:
        if len(self._resources) < RESOURCES_MAX:
            self._resources.add(resource)
        return resource in self._resources

    def _tell(self, at_s: float, what: Mapping[str, Any]) -> None:
        if self._full_s is None and not self._write({"at": round(at_s, 6), **what}, LINE_MAX):
            self._full_s = at_s

    def _write(self, what: Mapping[str, Any], free: int = 0) -> bool:
        """Whether there was room for the line."""
        line = orjson.dumps(what) + b"\n"
        is_full = self._bytes + len(line) + free > BYTES_MAX or self._lines + bool(free) >= LINES_MAX
        if is_full or len(line) > LINE_MAX:
            return False
        self._bytes += len(line)
        self._lines += 1
        if packed := self._packer.compress(line):
            self._parts.append(packed)
        return True


def bytes_of(obj: Object) -> bytes:
    """The object as JSON. Raises orjson.JSONEncodeError where it is nested deeper than DEPTH_MAX."""
    nested: Any = obj
    for _ in range(_SPARE):
        nested = [nested]
    return orjson.dumps(nested)[_SPARE:-_SPARE]


def _written(resource: str, obj: Object) -> orjson.Fragment:
    """The object without what a Secret keeps; where it is nested too deep, no more than who it is."""
    if resource == "secrets":
        # Whatever else it says that it is.
        obj = masked({**obj, "apiVersion": "v1", "kind": "Secret"}, MASK)
    try:
        return orjson.Fragment(bytes_of(obj))
    except orjson.JSONEncodeError:
        known = {name: value for name, value in meta.metadata(obj).items() if isinstance(value, str)}
        kind = {name: obj[name] for name in ("apiVersion", "kind") if isinstance(obj.get(name), str)}
        return orjson.Fragment(bytes_of({**kind, "metadata": known}))


def _cut(text: str) -> str:
    return text[:TEXT_MAX]

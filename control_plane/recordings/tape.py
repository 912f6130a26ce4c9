"""The tape: a recording while it is made. Pure; told in the order of time, and the same for the same history."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.changes import masked
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants import DELETED, Change, History, Violation

FORMAT, VERSION = "recording", 1
BYTES_MAX = 128 << 20
"""Of the lines of one recording, before they are compressed."""
LINE_MAX = 8 << 20
"""So much is kept free for the last one."""
LINES_MAX, EVENTS_MAX = 500_000, 5000
GZIP = 16 + zlib.MAX_WBITS
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
        told = asdict(head) | {"started": meta.format_micro_time(head.started)}
        self._write({"rayplane": FORMAT, "version": VERSION, **told})

    def begun(self, history: History) -> None:
        """What is there when recording begins, or begins anew: nothing of before is known."""
        at_s, revision = history.time_s, history.revision
        self._tell(at_s, {"begin": revision})
        for resource in history.resources():
            for _, obj in history.items(resource):
                self._tell(at_s, {"revision": revision, "resource": resource, "object": _shown(resource, obj)})

    def changed(self, change: Change) -> None:
        """An object was written or deleted."""
        what = {"revision": change.revision, "resource": change.resource}
        if change.kind == DELETED:
            self._tell(change.at_s, {**what, "gone": change.key})
        else:
            self._tell(change.at_s, {**what, "object": _shown(change.resource, change.object)})

    def state(self, at_s: float, state: Mapping[str, Any]) -> None:
        """How the control plane stands: `members` and `actors`, each a list of what `rayplane status` tells of them."""
        if state != self._state:
            self._state = state
            self._tell(at_s, {"state": state})

    def finished(self, ending: Ending) -> bytes:
        """The whole file. Nothing may be told any more."""
        self._write(
            {
                "end": round(ending.end_s, 6),
                "ok": ending.ok,
                "full": self._full_s,
                "faults": [
                    {"text": f.text, "hit": [*f.hit], "from": f.from_s, "until": f.until_s} for f in ending.faults
                ],
                "invariants": [
                    {
                        "name": name,
                        "seen": name not in ending.unseen,
                        "wrong": [{"at": one.at_s, "text": one.text} for one in found],
                    }
                    for name, found in ending.invariants.items()
                ],
                "failures": [*ending.failures],
                "events": [{"at": at_s, "text": text} for at_s, text in ending.events[:EVENTS_MAX]],
            }
        )
        return b"".join([*self._parts, self._packer.flush()])

    def _tell(self, at_s: float, what: Mapping[str, Any]) -> None:
        if self._full_s is None and not self._write({"at": round(at_s, 6), **what}, LINE_MAX):
            self._full_s = at_s

    def _write(self, what: Mapping[str, Any], free: int = 0) -> bool:
        """Whether there was room for the line."""
        line = orjson.dumps(what) + b"\n"
        if self._bytes + len(line) + free > BYTES_MAX or self._lines + bool(free) >= LINES_MAX:
            return False
        self._bytes += len(line)
        self._lines += 1
        if packed := self._packer.compress(line):
            self._parts.append(packed)
        return True


def _shown(resource: str, obj: Object) -> Object:
    """The object without what a Secret keeps."""
    return masked({"apiVersion": "v1", "kind": "Secret", **obj}, MASK) if resource == "secrets" else obj

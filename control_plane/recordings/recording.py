"""The reading of recordings, each line checked, and what there was at a moment of one."""

import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.faults.reading import FormError, items, mapping, shown, whole
from rayplane.control_plane.recordings.tape import (
    BYTES_MAX,
    EVENTS_MAX,
    FORMAT,
    GZIP,
    LINE_MAX,
    LINES_MAX,
    RESOURCES_MAX,
    ROWS_MAX,
    TEXT_MAX,
    VERSION,
    WRONG_MAX,
    bytes_of,
)

CHUNK = 1 << 16
REVISION_MAX = (1 << 63) - 1
SECONDS_MAX = 400 * 86_400.0
KINDS: Final = ("chaos", "simulation")


class BadRecording(ValueError):
    """The file is no recording, or is damaged; the text says how."""


class TooLarge(BadRecording):
    """Nothing that could be read of it is wanted."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a recording. `changes`: so many had been recorded by then."""

    at_s: float
    revision: int
    changes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that is seen on the way: a fault, or a violation."""

    kind: str
    """`fault` or `violation`"""
    text: str
    from_s: float
    until_s: float | None
    """None: to the end."""
    invariant: str = ""
    """The one that was violated."""


@dataclass(frozen=True, slots=True)
class Held:
    """An invariant, and whether it held; what was not seen says nothing."""

    name: str
    seen: bool
    wrong: tuple[str, ...]


Versions = list[tuple[int, bytes | None]]


@dataclass(slots=True)
class _Fates:
    """The fates of the objects of one resource, in the order of changes; those not told of in one have none."""

    versions: dict[bytes, Versions] = field(default_factory=dict)
    """By key, as UTF-8: after how many changes of all, and what it was then, None for nothing."""
    sample: bytes = b""
    """One of them."""


class Recording:
    """A recording, whole, or as far as it is good. What it keeps of objects is their bytes."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        """Raises BadRecording where not even its first line is good."""
        self.of = self.name = self.cluster = ""
        self.seed = 0
        self.started = datetime.min
        self.end_s = 0.0
        self.ok = False
        self.damage = ""
        """What is wrong with the file: nothing of it was read from there on."""
        self.full_s: float | None = None
        """Nothing after it was recorded."""
        self.marks: list[Mark] = []
        self.invariants: list[Held] = []
        self.failures: list[str] = []
        self.events: list[tuple[float, str]] = []
        self._fates: dict[str, _Fates] = {}
        self._alive: dict[tuple[str, bytes], Versions] = {}
        """What there is at the end of what was read."""
        self._kept = 0
        """Bytes of objects and states."""
        self._times: list[float] = []
        self._revisions: list[int] = []
        self._states: list[tuple[float, bytes]] = []
        self._ended = False
        self._last_s = 0.0
        self._read(lines)

    def _read(self, lines: Iterable[bytes]) -> None:
        number = good = 0
        try:
            for number, line in enumerate(lines, 1):
                self._take(number, line)
                good = number
            if not self._ended:
                self.damage = f"it ends in the midst, after {number} lines"
        except FormError as e:
            self.damage = f"line {number}: {e.place}: {e.text}"
        except TooLarge:
            raise
        except BadRecording as e:
            self.damage = str(e)
        if not good:
            raise BadRecording(self.damage)
        if not self._ended:
            self.end_s, self.ok = self._last_s, False
        if self.damage:
            self.failures.append(f"this file is damaged, and nothing of it is known from there on: {self.damage}")

    # --- what there was -----------------------------------------------------------------------------

    def moment(self, at_s: float) -> Moment:
        """The one at a time, or the nearest that there is."""
        at_s = min(max(at_s, 0.0), self.end_s)
        changes = bisect_right(self._times, at_s)
        return Moment(at_s, self._revisions[changes - 1] if changes else 0, changes)

    def time(self, moment: Moment) -> datetime:
        return self.started + timedelta(seconds=moment.at_s)

    def resources(self) -> dict[str, Object]:
        """The resources of which there ever were objects, with one of them each."""
        return {name: orjson.loads(fates.sample) for name, fates in self._fates.items()}

    def objects(self, resource: str, moment: Moment, namespace: str = "") -> list[Object]:
        """Those of one namespace, or all, in the order of their keys."""
        fates = self._fates.get(resource, _Fates())
        found = []
        for key in sorted(fates.versions):
            if namespace and key.partition(b"/")[0] != namespace.encode():
                continue
            versions = fates.versions[key]
            place = bisect_right(versions, moment.changes, key=lambda one: one[0])
            if place and (data := versions[place - 1][1]) is not None:
                found.append(orjson.loads(data))
        return found

    def state(self, moment: Moment) -> dict[str, Any]:
        """How the control plane stood; empty before anybody had looked."""
        place = bisect_right(self._states, moment.at_s, key=lambda one: one[0])
        found: dict[str, Any] = orjson.loads(self._states[place - 1][1]) if place else {}
        return found

    # --- one line -----------------------------------------------------------------------------------

    def _take(self, number: int, line: bytes) -> None:
        try:
            data = mapping(orjson.loads(line), "the line")
        except orjson.JSONDecodeError as e:
            raise FormError("the line", "it is no JSON") from e
        if number == 1:
            self._begin(data)
        elif self._ended:
            raise FormError("the line", "nothing may stand after the end")
        elif "end" in data:
            self._end(data)
        else:
            self._happened(_seconds(data.get("at"), "at", self._last_s), data)

    def _begin(self, data: dict[str, Any]) -> None:
        if data.get("rayplane") != FORMAT:
            raise FormError("rayplane", f"this is no {FORMAT} of rayplane")
        if (version := whole(data.get("version"), "version", 1)) > VERSION:
            raise FormError(
                "version", f"{version} was written by a newer release, which can open it; this one reads {VERSION}"
            )
        self.of, self.name, self.cluster = (_text(data.get(one), one) for one in ("of", "name", "cluster"))
        if self.of not in KINDS:
            raise FormError("of", f"give one of {', '.join(KINDS)}, not {shown(self.of)}")
        self.seed = whole(data.get("seed"), "seed", -(1 << 63))
        try:
            self.started = meta.parse_time(_text(data.get("started"), "started"))
            self.started + timedelta(seconds=SECONDS_MAX)
        except (ValueError, OverflowError) as e:
            raise FormError("started", "give a time such as 2026-01-01T00:00:00Z") from e

    def _happened(self, at_s: float, data: dict[str, Any]) -> None:
        self._last_s = at_s
        if "begin" in data:
            self._anew(at_s, self._revision(data["begin"], "begin"))
        elif "object" in data or "gone" in data:
            self._changed(at_s, data)
        elif "state" in data:
            self._states.append((at_s, self._keeping(orjson.dumps(_state(data["state"])))))
        else:
            raise FormError("the line", "it tells of nothing that is known here")

    def _anew(self, at_s: float, revision: int) -> None:
        """Nothing of before is known: what there still is follows."""
        self._times.append(at_s)
        self._revisions.append(revision)
        for versions in self._alive.values():
            versions.append((len(self._times), None))
        self._alive.clear()

    def _changed(self, at_s: float, data: dict[str, Any]) -> None:
        revision, resource = self._revision(data.get("revision"), "revision"), _text(data.get("resource"), "resource")
        if not resource or not resource.isascii() or not resource.replace("-", "").replace(".", "").isalnum():
            raise FormError("resource", f"{shown(resource)} is none")
        if resource not in self._fates and len(self._fates) >= RESOURCES_MAX:
            raise FormError("resource", f"there are more than {RESOURCES_MAX}")
        self._times.append(at_s)
        self._revisions.append(revision)
        if "gone" in data:
            gone = data["gone"]
            versions = self._alive.pop((resource, gone.encode()), None) if isinstance(gone, str) else None
            if versions is None:
                raise FormError("gone", "it was not there")
            versions.append((len(self._times), None))
            return
        name, kept = _object(data["object"])
        fates, key = self._fates.setdefault(resource, _Fates()), name.encode()
        fates.sample = fates.sample or kept
        self._alive[resource, key] = versions = fates.versions.setdefault(key, [])
        versions.append((len(self._times), self._keeping(kept)))

    def _keeping(self, data: bytes) -> bytes:
        """It may be longer than in its line, where numbers were written shortly."""
        self._kept += len(data)
        if self._kept > BYTES_MAX:
            raise FormError("the line", f"with it there are more than {BYTES_MAX >> 20} MiB of objects")
        return data

    def _revision(self, value: Any, at: str) -> int:
        return whole(value, at, self._revisions[-1] if self._revisions else 0, REVISION_MAX)

    def _end(self, data: dict[str, Any]) -> None:
        self.end_s = _seconds(data["end"], "end", self._last_s)
        self.ok = data.get("ok") is True
        self.full_s = None if data.get("full") is None else _seconds(data["full"], "full")
        for one in _mappings(data, "faults"):
            hit = ", ".join(_text(name, "hit") for name in items(one.get("hit", []), "hit"))
            text = _text(one.get("text"), "text") + (f" → {hit}" if hit else "")
            until = None if one.get("until") is None else _seconds(one["until"], "until")
            self.marks.append(Mark("fault", text, _seconds(one.get("from"), "from"), until))
        for one in _mappings(data, "invariants"):
            name, wrong = _text(one.get("name"), "name"), []
            for found in _mappings(one, "wrong", WRONG_MAX):
                at_s, text = _seconds(found.get("at"), "at"), _text(found.get("text"), "text")
                wrong.append(text)
                self.marks.append(Mark("violation", text, at_s, at_s, name))
            self.invariants.append(Held(name, one.get("seen") is not False, tuple(wrong)))
        self.events = [
            (_seconds(one.get("at"), "at"), _text(one.get("text"), "text")) for one in _mappings(data, "events")
        ]
        self.failures = [_text(one, "failures") for one in _items(data, "failures")]
        self.marks.sort(key=lambda mark: mark.from_s)
        self._ended = True


def read(path: Path) -> Recording:
    """The recording in a file. Raises BadRecording, OSError."""
    with path.open("rb") as file:
        return Recording(_lines(lambda: file.read(CHUNK)))


def _lines(more: Callable[[], bytes]) -> Iterator[bytes]:
    """The lines of a gzip file that comes in pieces. Raises BadRecording."""
    unpacker, rest, size, packed, count = zlib.decompressobj(wbits=GZIP), b"", 0, 0, 0
    while not unpacker.eof:
        if not (data := unpacker.unconsumed_tail):
            data = more()
            packed += len(data)
        try:
            found = unpacker.decompress(data, CHUNK)
        except zlib.error as e:
            raise BadRecording("it is no file of gzip, or a damaged one") from e
        size += len(found)
        if not data and not found:
            raise BadRecording("it is cut: its end is missing")
        *lines, rest = (rest + found).split(b"\n")
        count += len(lines)
        if size > BYTES_MAX or packed > BYTES_MAX or count > LINES_MAX or len(rest) > LINE_MAX:
            raise TooLarge(f"it is larger than any recording is: at most {BYTES_MAX >> 20} MiB in {LINES_MAX} lines")
        yield from lines
    if rest or unpacker.unused_data or more():
        raise BadRecording("something stands after its end")


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise FormError(at, f"give a text of at most {TEXT_MAX} characters, not {shown(value)}")
    return value


def _seconds(value: Any, at: str, least: float = 0.0) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= SECONDS_MAX:
        raise FormError(at, f"give seconds from {least:g} to {SECONDS_MAX:g}, not {shown(value)}")
    return float(value)


def _items(data: dict[str, Any], at: str, most: int = EVENTS_MAX) -> list[Any]:
    found = items(data.get(at, []), at)
    if len(found) > most:
        raise FormError(at, f"there are more than {most}")
    return found


def _mappings(data: dict[str, Any], at: str, most: int = EVENTS_MAX) -> list[dict[str, Any]]:
    return [mapping(one, at) for one in _items(data, at, most)]


def _object(value: Any) -> tuple[str, bytes]:
    """Its key, and its bytes."""
    obj = mapping(value, "object")
    metadata = mapping(obj.get("metadata"), "object.metadata")
    for one in ("name", "namespace", "resourceVersion"):
        # As long as it may be: names of some kinds are bounded by a request alone.
        if not isinstance(metadata.get(one, ""), str):
            raise FormError(f"object.metadata.{one}", f"give a text, not {shown(metadata[one])}")
    for one in ("kind", "apiVersion"):
        _text(obj.get(one, ""), f"object.{one}")
    try:
        return meta.key(obj), bytes_of(obj)
    except orjson.JSONEncodeError as e:
        raise FormError("object", "it is nested too deep") from e


def _state(value: Any) -> dict[str, list[dict[str, Any]]]:
    """Members and actors with what is simple of them; each has a name."""
    state = mapping(value, "state")
    return {part: [_row(one, part) for one in _items(state, part, ROWS_MAX)] for part in ("members", "actors")}


def _row(value: Any, at: str) -> dict[str, Any]:
    row = mapping(value, at)
    _text(row.get("name"), f"{at}.name")
    simple = {key: one for key, one in row.items() if one is None or isinstance(one, str | int | float)}
    return {key: one for key, one in simple.items() if not isinstance(one, float) or math.isfinite(one)}

"""Lines of a container's log, as they are stored (CRI's format) and as people ask for them. Pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from rayplane.control_plane.api.meta import parse_time
from rayplane.node.runtime import LogOptions

_TAGS = frozenset({b" stdout F ", b" stderr F "})
_STAMP_BYTES, _BEFORE_TEXT = 30, 40
"""Where the stream of a whole line begins, as the shim writes it, and where its text does."""
_STREAMS = (b"stdout", b"stderr")


class LogLine(NamedTuple):
    """A line of a log. `stamp`: RFC 3339 in UTC; `text` with its newline, unless the line goes on or just ends."""

    stamp: str
    text: bytes


def parse_line(stored: bytes) -> LogLine:
    """A line as it is stored, or what somebody else has written there."""
    stamp, _, rest = stored.partition(b" ")
    stream, _, tagged = rest.partition(b" ")
    if stream in _STREAMS and tagged[:2] in (b"F ", b"P "):
        rest = tagged[2:]
        if tagged[:1] == b"P":
            rest = rest.removesuffix(b"\n")
    return LogLine(stamp.decode("ascii", "replace"), rest)


class Wanted:
    """The lines that somebody wants, in their form. Stamps only grow, so `since` is looked at until it is passed."""

    def __init__(self, options: LogOptions) -> None:
        self._timestamps = options.timestamps
        self._since = parse_time(options.since) if options.since else None
        self._within = False  # a line

    def render(self, stored: bytes) -> bytes:
        """`stored`: lines with their ends; only the last one of a log may be without."""
        *lines, rest = stored.split(b"\n")
        plain = not (self._timestamps or self._since or rest)
        if plain and {line[_STAMP_BYTES:_BEFORE_TEXT] for line in lines} <= _TAGS:
            # As nearly always. At a hundred megabytes a second there is no time to look at each line.
            self._within = self._within and not lines
            return b"\n".join([line[_BEFORE_TEXT:] for line in lines] + [b""])
        ended = [line + b"\n" for line in lines]
        return b"".join(self.form(line) for line in self._young([*ended, rest] if rest else ended))

    def form(self, line: LogLine) -> bytes:
        begins, self._within = not self._within, not line.text.endswith(b"\n")
        return line.stamp.encode() + b" " + line.text if self._timestamps and begins else line.text

    def _young(self, lines: Iterable[bytes]) -> Iterator[LogLine]:
        for stored in lines:
            line = parse_line(stored)
            if self._since is not None and _older(line, self._since):
                continue
            self._since = None
            yield line


def _older(line: LogLine, since: datetime) -> bool:
    try:
        return parse_time(line.stamp) < since
    except ValueError:
        return True  # not the shim's line


def select_lines(lines: Iterable[LogLine], options: LogOptions) -> bytes:
    """The lines that `options` asks for, as the caller sees them; `limit_bytes` cuts the end off."""
    if options.since:
        since = parse_time(options.since)
        lines = (line for line in lines if parse_time(line.stamp) >= since)
    chosen = list(lines)
    if options.tail_lines is not None:
        chosen = chosen[-options.tail_lines :] if options.tail_lines > 0 else []
    wanted = Wanted(options)
    data = b"".join(map(wanted.form, chosen))
    return data if options.limit_bytes is None else data[: options.limit_bytes]

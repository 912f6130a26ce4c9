"""Selection of lines of a container's log. A stored line is its RFC 3339 stamp, a blank, and the text."""

from collections.abc import Iterable
from typing import NamedTuple

from rayplane.control_plane.api.meta import parse_time
from rayplane.node.runtime import LogOptions


class LogLine(NamedTuple):
    """A line of a log. `stamp`: RFC 3339 in UTC; `text` with its newline, if it had one."""

    stamp: str
    text: bytes


def parse_line(stored: bytes) -> LogLine:
    stamp, _, text = stored.partition(b" ")
    return LogLine(stamp.decode("ascii", "replace"), text)


def render(line: LogLine, *, timestamps: bool) -> bytes:
    return line.stamp.encode() + b" " + line.text if timestamps else line.text


def select_lines(lines: Iterable[LogLine], options: LogOptions) -> bytes:
    """The lines that `options` asks for, as the caller sees them; `limit_bytes` cuts the end off."""
    if options.since:
        since = parse_time(options.since)
        lines = (line for line in lines if parse_time(line.stamp) >= since)
    chosen = list(lines)
    if options.tail_lines is not None:
        chosen = chosen[-options.tail_lines :] if options.tail_lines > 0 else []
    data = b"".join(render(line, timestamps=options.timestamps) for line in chosen)
    return data if options.limit_bytes is None else data[: options.limit_bytes]

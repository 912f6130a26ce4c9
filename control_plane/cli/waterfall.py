"""Waterfalls of requests for people: each step with when it began, how long it took and what it said."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rayplane.control_plane.cli.printing import plain

_BAR = 20
_FAILED = 400
_ABOUT = (("by", "user"), ("at", "at"), ("id", "id"), ("flow schema", "flowSchema"))
_FULL, _TINY, _FILL = "█", "▏", "·"


def waterfall(entry: Mapping[str, Any]) -> RenderableType:
    """A request as an API server tells of it (`/debug/requests`)."""
    total, code = float(entry.get("seconds") or 0.0), int(entry.get("code") or 0)
    head = Text(plain(f"{entry.get('method', '')} {entry.get('path', '')}"), style="bold")
    head.append(f"  {code}  {_ms(total)}", style="red" if code >= _FAILED else "green")
    about = "  ".join(f"{label} {plain(entry[key])}" for label, key in _ABOUT if entry.get(key))
    lines = [head, Text(f"  {about}", style="dim")]
    if entry.get("message"):
        lines.append(Text(f"  {plain(entry['message'])}", style="red"))
    lines += _steps(entry.get("steps") or (), total)
    if entry.get("stepsLeftOut"):
        lines.append(Text(f"  and {entry['stepsLeftOut']} steps more", style="dim"))
    return Group(*lines, Text())


def overview(entries: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Requests, one a line."""
    rows: list[tuple[str, ...]] = [("ID", "AT", "CODE", "TIME", "USER", "REQUEST")]
    for entry in entries:
        request = f"{entry.get('method', '')} {entry.get('path', '')}"
        code, took = str(entry.get("code")), _ms(float(entry.get("seconds") or 0.0))
        cells = (entry.get("id"), entry.get("at"), code, took, entry.get("user", ""), request)
        rows.append(tuple(map(plain, cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return Group(*(Text("  ".join(map(str.ljust, row, widths)).rstrip()) for row in rows))


def _steps(steps: Sequence[Mapping[str, Any]], total: float) -> list[Text]:
    """A line for each; facts may be long, and are wrapped by the terminal."""
    names = ["  " * int(step.get("depth") or 0) + plain(step.get("name", "")) for step in steps]
    width = max(map(len, names), default=0)
    lines = []
    for name, step in zip(names, steps, strict=True):
        at, seconds = float(step.get("at") or 0.0), float(step.get("seconds") or 0.0)
        line = Text(f"  {name.ljust(width)} ")
        line.append(_bar(at, seconds, total), style="cyan")
        line.append(f" {_ms(seconds):>11}")
        line.append(
            "".join(f"  {key}: {plain(value)}" for key, value in (step.get("facts") or {}).items()), style="dim"
        )
        lines.append(line)
    return lines


def _bar(at: float, seconds: float, total: float) -> str:
    """Where in the whole a step is."""
    if total <= 0.0:
        return ""
    begin = min(int(at / total * _BAR), _BAR - 1)
    length = min(round(seconds / total * _BAR), _BAR - begin)
    return (_FILL * begin + (_FULL * length or _TINY)).ljust(_BAR, _FILL)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"

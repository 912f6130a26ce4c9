"""Strict reading of files that people write: each mistake is told once, with its place and its line. Pure.

A place is a path such as `steps[2].kill.back`. Readers of single values take a value and its place.
"""

import re
import reprlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import yaml

from rayplane.control_plane.durations import DurationError, parse_span

T = TypeVar("T")
Mapping = dict[str, Any]

SPAN_MAX_S = 7 * 86_400.0
_SHOWN_CHARS = 80
_SHORT = reprlib.Repr()
# Its constructor takes them from Python 3.12 on.
vars(_SHORT).update(maxlevel=2, maxlist=8, maxdict=8)
vars(_SHORT).update(maxstring=_SHOWN_CHARS, maxlong=_SHOWN_CHARS, maxother=_SHOWN_CHARS)
_STEP = re.compile(r"\[(\d+)\]|\[([^\]]+)\]|([^.\[]+)")
# What PyYAML raises for hostile scalars beside its own errors.
_UNREADABLE = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError, RecursionError)


class FormError(ValueError):
    """Text at `place` is not as it must be; `line`, from 1 on, is known for what stands in a file."""

    def __init__(self, place: str, text: str, line: int | None = None) -> None:
        super().__init__(f"{place}: {text}" + (f" (line {line})" if line else ""))
        self.place, self.text, self.line = place, text, line


def read(data: str | bytes, build: Callable[[Any], T]) -> T:
    """What `build` makes of a YAML document. Raises FormError with the line of what was wrong."""
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        found = loader.construct_document(node) if node is not None else None
    except _UNREADABLE as e:
        raise FormError("not YAML", " ".join(str(e).split()) or type(e).__name__) from e
    try:
        return build(found)
    except FormError as e:
        raise FormError(e.place, e.text, line_of(node, e.place)) from e


def line_of(node: Any, place: str, *, at_name: bool = False) -> int | None:
    """The line of the innermost value on the way to a place, from 1 on. `node`: the composed document; `at_name`: where
    a field's name stands, and not what it has.
    """
    line = node.start_mark.line + 1 if node is not None else None
    for number, key, name in _STEP.findall(place):
        named, node = _item(node, int(number)) if number else _field(node, key or name)
        if node is None:
            break
        line = (named if at_name else node).start_mark.line + 1
    return line


def _item(node: Any, number: int) -> tuple[Any, Any]:
    found = isinstance(node, yaml.SequenceNode) and number < len(node.value)
    return (node.value[number], node.value[number]) if found else (None, None)


def _field(node: Any, key: str) -> tuple[Any, Any]:
    """A field's name and its value, as they stand in the file."""
    if not isinstance(node, yaml.MappingNode):
        return None, None
    return next(((name, value) for name, value in node.value if name.value == key), (None, None))


def shown(value: Any) -> str:
    """The beginning of a value, for messages; the rest of it is never written out."""
    try:
        return _SHORT.repr(value)[:_SHOWN_CHARS]
    except ValueError:  # Python writes no number of so many digits
        return "a huge number"


def mapping(value: Any, at: str) -> Mapping:
    if not isinstance(value, dict):
        raise FormError(at, f"give a mapping, not {shown(value)}")
    return value


def items(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormError(at, f"give a list, not {shown(value)}")
    return value


def only(data: Mapping, known: Collection[str], at: str) -> None:
    """Refuse fields that are not known."""
    unknown = sorted(str(k) for k in data if k not in known)
    if unknown:
        raise FormError(at, f"no field {shown(unknown[0])}; there are {', '.join(sorted(known))}")


def whole(value: Any, at: str, least: int = 0, most: int = 1 << 63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f" from {least} to {most}" if most < 1 << 63 else ""
        raise FormError(at, f"give a whole number{bounds}, not {shown(value)}")
    return value


def span(value: Any, at: str, *, positive: bool = False) -> float:
    """Seconds of a time span; at most a week."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise FormError(at, f"give a time span such as 500ms, 30s, 5m or 1h, not {shown(value)}")
    try:
        found = parse_span(str(value))
    except (DurationError, ValueError) as e:
        raise FormError(at, f"{e}") from e
    if found > SPAN_MAX_S or (positive and not found):
        raise FormError(at, f"give more than nothing and at most 168h, not {shown(value)}")
    return found

"""The part of JSONPath that printer columns use: fields, indexes, wildcards, simple filters.

Understood: `.a.b`, `.a['b.c/d']`, `.a[0]`, `.a[-1]`, `.a[*]`, `.a[?(@.type=="Ready")].status`,
`.a[-1:]`, escaped dots (`.a.b\\.c`). Not understood: recursion, steps of slices, scripts.
Source: Kubernetes reference "JSONPath Support".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rayplane.control_plane.api.machinery.budget import LIMITS
from rayplane.control_plane.api.machinery.remembering import remembered

Step = Callable[[Any], list[Any]]
_FIELD = re.compile(r"\.((?:\\.|[^.\[\\])+)")
_INDEX = re.compile(r"\[(-?\d{1,9})\]")
_SLICE = re.compile(r"\[(-?\d{0,9}):(-?\d{0,9})\]")
_QUOTED = re.compile(r"\[(?:'([^']*)'|\"([^\"]*)\")\]")
_FILTER = re.compile(r"\[\?\(\s*@\.([\w./\\-]+)\s*(==|!=)\s*(?:'([^']*)'|\"([^\"]*)\"|([^)\s]+))\s*\)\]")
_CACHE = 1024


class JsonPathError(ValueError):
    """The path uses something that is not understood."""


def check(path: str) -> None:
    """Raise JsonPathError for a path that `find` does not understand."""
    _compile(path)


def find(value: Any, path: str) -> list[Any]:
    """All values at `path`, none when something on the way is missing."""
    found = [value]
    for step in _compile(path):
        found = [result for one in found for result in step(one)]
    return found


@remembered(_CACHE)
def _compile(path: str) -> tuple[Step, ...]:
    if len(path) > LIMITS.text_chars:
        raise JsonPathError(f"JSONPath of more than {LIMITS.text_chars} characters")
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if text and text[0] not in ".[":
        text = "." + text
    steps: list[Step] = []
    position = 0
    while position < len(text):
        if text.startswith("[*]", position):
            steps.append(_all)
            position += 3
            continue
        for pattern, make in (
            (_FIELD, _field_step),
            (_INDEX, _index_step),
            (_SLICE, _slice_step),
            (_QUOTED, _quoted_step),
            (_FILTER, _filter_step),
        ):
            match = pattern.match(text, position)
            if match is not None:
                steps.append(make(match))
                position = match.end()
                break
        else:
            raise JsonPathError(f"JSONPath {path!r} is not understood at {text[position:]!r}")
    return tuple(steps)


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _get(key: str) -> Step:
    return lambda value: [value[key]] if isinstance(value, dict) and key in value else []


def _field_step(match: re.Match[str]) -> Step:
    key = re.sub(r"\\(.)", r"\1", match.group(1))
    return _all if key == "*" else _get(key)


def _quoted_step(match: re.Match[str]) -> Step:
    return _get(match.group(1) if match.group(1) is not None else match.group(2))


def _index_step(match: re.Match[str]) -> Step:
    index = int(match.group(1))
    return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []


def _slice_step(match: re.Match[str]) -> Step:
    begin, end = (int(text) if text else None for text in match.groups())
    return lambda value: value[begin:end] if isinstance(value, list) else []


def _filter_step(match: re.Match[str]) -> Step:
    path, operator = "." + match.group(1), match.group(2)
    wanted = next(one for one in match.groups()[2:] if one is not None)

    def step(value: Any) -> list[Any]:
        if not isinstance(value, list):
            return []
        return [one for one in value if (wanted in [_plain(found) for found in find(one, path)]) is (operator == "==")]

    return step


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

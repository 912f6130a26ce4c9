"""Meter of a rendering: how many steps and characters a template may take; and values as Go prints them. Pure.

What is made is paid for before it is made, so that no template, however hostile, makes much of little.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from rayplane.control_plane.stages.errors import Failed

CHARS_MAX: Final = 1 << 20
_NUMBER: Final = re.compile(r"[-+]?\d{1,18}")


class Meter:
    """A budget of one rendering."""

    STEPS_MAX: ClassVar[int] = 50_000

    def __init__(self) -> None:
        self._steps = self.STEPS_MAX
        self._chars = CHARS_MAX

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise Failed(f"it takes more than {self.STEPS_MAX} steps")

    def write(self, chars: int) -> None:
        self._chars -= chars
        if self._chars < 0:
            raise Failed(f"it makes more than {CHARS_MAX} characters")

    def make(self, chars: int) -> None:
        """Pay for a text of this many characters before it is made."""
        if chars > CHARS_MAX:
            raise Failed(f"it makes more than {CHARS_MAX} characters")
        self.spend(1 + chars // 64)

    def measure(self, value: Any, depth: int = 0) -> int:
        """About how many characters a value has when it is written; each of its parts is a step."""
        self.spend(1)
        if depth > 64:
            raise Failed("a value has more than 64 levels")
        if isinstance(value, dict):
            return 2 + sum(len(str(key)) + 4 + self.measure(one, depth + 1) for key, one in value.items())
        if isinstance(value, list):
            return 2 + sum(2 + self.measure(one, depth + 1) for one in value)
        return len(value) + 2 if isinstance(value, str) else 24


def is_true(value: Any) -> bool:
    """Whether Go takes a value for true: what is not zero, and not empty."""
    return bool(value)


def printed(value: Any, meter: Meter) -> str:
    """A value as Go prints it."""
    if isinstance(value, str):
        meter.make(len(value))
        return value
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, int):
        return str(value)
    meter.make(meter.measure(value))
    return _collection(value, meter)


def _collection(value: Any, meter: Meter) -> str:
    if isinstance(value, dict):
        parts = (f"{key}:{_inner(value[key], meter)}" for key in sorted(value))
        return f"map[{' '.join(parts)}]"
    return f"[{' '.join(_inner(one, meter) for one in value)}]"


def _inner(value: Any, meter: Meter) -> str:
    return _collection(value, meter) if isinstance(value, dict | list) else printed(value, meter)


def integer(value: Any) -> int:
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        return int(match.group()) if match else 0
    number = int(value or 0)
    if abs(number) >= 1 << 63:
        raise Failed("a number has more than 64 bits")
    return number

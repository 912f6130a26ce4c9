"""Orders to a shim, looked at before anything is done about them. Pure."""

import json
import math
from collections.abc import Callable
from typing import Any

_FDS = {"start": (1, 3), "exec": (3, 3), "attach": (1, 2)}
#: Fields that an order cannot do without, beside `op`.
_NEEDED = {
    "start": ("id", "argv", "env", "cwd", "log", "log_bytes"),
    "exec": ("id", "of", "argv", "env", "cwd", "tty"),
    "attach": ("id",),
    "stress": ("id", "of", "burning", "load", "holding", "hold_bytes"),
    "kill": ("id", "grace"),
    "alive": ("seconds",),
    "limit": ("id", "memory_max"),
}


def parse(data: bytes) -> dict[str, Any]:
    """An order as it was sent. Raises ValueError for what is none."""
    try:
        message = json.loads(data)
    except RecursionError as e:
        raise ValueError("the order is nested too deeply") from e
    if not isinstance(message, dict):
        raise ValueError("an order is a JSON object")
    return message


def check(message: dict[str, Any], fds: int) -> None:
    """Raises ValueError that names the field. `fds`: how many descriptors came with it."""
    op = message.get("op")
    for field in _NEEDED.get(op, ("op",)) if isinstance(op, str) else ("op",):
        if field not in message:
            raise ValueError(f"{field} is missing")
    for field, looks_right in _FIELDS.items():
        if field in message and not looks_right(message[field]):
            raise ValueError(f"{field} is not what it must be")
    fewest, most = _FDS.get(str(op), (0, 0))
    if op == "exec" and message.get("console") is not None:
        fewest = most = 0
    if not fewest <= fds - message.get("groups", 0) <= most:
        raise ValueError(f"{fds} descriptors came with it")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_name(value: object) -> bool:
    return _is_text(value) and "/" not in str(value) and value not in ("", ".", "..")


def _are_words(value: object) -> bool:
    return isinstance(value, list) and bool(value) and bool(value[0]) and all(map(_is_text, value))


def _is_environment(value: object) -> bool:
    return isinstance(value, dict) and all(k and "=" not in k and _is_text(k) and _is_text(v) for k, v in value.items())


def _is_span(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62


def _is_number(value: object) -> bool:
    return value == 0 or _is_count(value)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(side == 0 or _is_count(side) for side in value)


def _is_signal(value: object) -> bool:
    return _is_count(value) and value <= 64  # type: ignore[operator]


_FIELDS: dict[str, Callable[[object], bool]] = {
    "op": _is_text,
    "id": _is_text,
    "of": _is_text,
    "argv": _are_words,
    "env": _is_environment,
    "cwd": _is_text,
    "tty": lambda value: isinstance(value, bool),
    "log": _is_name,
    "log_bytes": _is_count,
    "log_files": _is_count,
    "stop_signal": _is_signal,
    "groups": _is_number,
    "memory_max": _is_number,
    "processes_max": _is_number,
    "burning": _is_number,
    "load": _is_number,
    "holding": _is_number,
    "hold_bytes": _is_number,
    "console": lambda value: value is None or _is_size(value),
    "grace": _is_span,
    "seconds": _is_span,
}

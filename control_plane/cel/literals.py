"""Literals that are no valid patterns, times or spans: found when an expression is compiled, as Kubernetes does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rayplane.control_plane.api.machinery import patterns
from rayplane.control_plane.cel.syntax import Call, Literal, Node
from rayplane.control_plane.cel.values import parse_timestamp
from rayplane.control_plane.durations import parse_duration

_CHECKS: Final[dict[str, tuple[int, Callable[[str], object]]]] = {
    "matches": (1, patterns.check),
    "find": (1, patterns.check),
    "findAll": (1, patterns.check),
    "duration": (0, parse_duration),
    "timestamp": (0, parse_timestamp),
}


def literal_error(call: Call) -> tuple[Node, str] | None:
    """The argument of a call that is written in the expression and wrong, and what to say of it."""
    known = _CHECKS.get(call.function)
    if known is None or len(call.args) <= known[0]:
        return None
    arg = call.args[known[0]]
    if not isinstance(arg, Literal) or not isinstance(arg.value, str):
        return None
    try:
        known[1](arg.value)
    except ValueError:
        return arg, f"invalid {call.function} argument"
    return None

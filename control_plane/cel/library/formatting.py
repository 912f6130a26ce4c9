"""Formatted texts: `'%s is %d'.format([...])`.

Source: cel-go `ext/formatting.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.library.conversions import float_text
from rayplane.control_plane.cel.types import Type
from rayplane.control_plane.cel.values import Duration, Spend, Uint, format_timestamp, type_of

_CLAUSE: Final = re.compile(
    r"%(?:(?P<percent>%)|(?:\.(?P<precision>[0-9]{1,5}))?(?P<verb>[sdfebxXo])|(?P<bad>.?))", re.DOTALL
)
_PRECISION_MAX: Final = 1000
_PRECISION: Final = 6


def formatted(template: str, arguments: Sequence[Any], spend: Spend) -> str:
    """A text with its clauses replaced. Raises EvaluationError."""
    rest = iter(arguments)

    def one(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        if match["bad"] is not None:
            raise EvaluationError(f'could not parse formatting clause: unrecognized formatting clause "{match["bad"]}"')
        try:
            value = next(rest)
        except StopIteration:
            raise EvaluationError(f"index {len(arguments)} out of range") from None
        made = _clause(match["verb"], value, match["precision"], spend)
        spend(len(made))
        return made

    return _CLAUSE.sub(one, template)


def _clause(verb: str, value: Any, precision: str | None, spend: Spend) -> str:
    if verb == "s":
        return text_of(value, spend)
    digits = int(precision) if precision is not None else _PRECISION
    if digits > _PRECISION_MAX:
        raise EvaluationError(f"precision of {digits} is more than {_PRECISION_MAX}")
    if verb in "fe" and isinstance(value, float | int) and not isinstance(value, bool):
        return f"{float(value):.{digits}{verb}}"
    if verb == "b" and isinstance(value, bool):
        return "1" if value else "0"
    if verb in "xX" and isinstance(value, str | bytes):
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        return raw.hex() if verb == "x" else raw.hex().upper()
    if verb in "dbxXo" and isinstance(value, int) and not isinstance(value, bool):
        return f"{int(value):{verb}}"
    raise EvaluationError(f"error during formatting: {_NAMES[verb]} clause can not be used on {type_of(value)}")


_NAMES: Final = {
    **dict.fromkeys("xX", "only integers, byte buffers, and strings can be formatted as hex:"),
    "d": "decimal",
    "f": "fixed-point",
    "e": "scientific",
    "b": "binary",
    "o": "octal",
}


_SHOWN: Final[dict[type, Callable[[Any], str]]] = {
    type(None): lambda value: "null",
    bool: lambda value: "true" if value else "false",
    str: lambda value: value,
    int: str,
    Uint: lambda value: str(int(value)),
    float: float_text,
    bytes: lambda value: value.decode(errors="replace"),
    datetime: format_timestamp,
    Duration: str,
    Type: str,
}


def text_of(value: Any, spend: Spend) -> str:
    """A value as %s shows it. Raises EvaluationError."""
    spend(1)
    shown = _SHOWN.get(type(value))
    if shown is not None:
        return shown(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(text_of(one, spend) for one in value)}]"
    if isinstance(value, dict):
        pairs = sorted((text_of(k, spend), text_of(v, spend)) for k, v in value.items())
        return f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    known = "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
    raise EvaluationError(
        f"error during formatting: string clause can only be used on {known}, was given {type_of(value)}"
    )

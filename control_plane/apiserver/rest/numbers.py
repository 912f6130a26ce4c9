"""Numbers and truth values that clients write into queries."""

import re
from collections.abc import Mapping

from rayplane.control_plane.api.errors import BadRequest

_INTEGER = re.compile(r"[+-]?[0-9]+")
_SHOWN = 100


def integer(text: str) -> int:
    """As Go's ParseInt reads it, in 64 bits. BadRequest."""
    if not _INTEGER.fullmatch(text):
        raise BadRequest(f'strconv.ParseInt: parsing "{text[:_SHOWN]}": invalid syntax')
    digits = text.lstrip("+-").lstrip("0") or "0"
    value = int(digits) if len(digits) < 20 else 1 << 64
    value = -value if text.startswith("-") else value
    if not -(1 << 63) <= value < 1 << 63:
        raise BadRequest(f'strconv.ParseInt: parsing "{text[:_SHOWN]}": value out of range')
    return value


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A truth value as Kubernetes reads it: whatever is there but "false" and "0" is true. None for a missing one."""
    value = query.get(name)
    return None if value is None else value.lower() not in ("false", "0")

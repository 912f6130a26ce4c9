"""The order of rows by what a column shows, as people read it: node-10 after node-2, 1Gi after 512Mi. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime

Rank = tuple[int, tuple[str | int | float, ...]]
_SPAN = re.compile(r"(?:(\d+)y)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (365 * 86400, 86400, 3600, 60, 1)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE])i")
_DIGITS = re.compile(r"(\d+)")
_NOTHING = ("", "<none>", "<unknown>", "<unset>")
_KNOWN = {"N": "Name", "P": "Namespace", "T": "Restarts", "O": "Node"}
"""Letters of k9s that are not the first of their column."""


def rank(cell: str) -> Rank:
    """What a cell is compared by; nothing comes last."""
    if cell in _NOTHING:
        return 2, ()
    if span := _SPAN.fullmatch(cell):
        return 0, (sum(int(n) * s for n, s in zip(span.groups("0"), _SECONDS, strict=True)),)
    if size := _BYTES.fullmatch(cell):
        return 0, (float(size[1]) * 1024 ** (1 + "KMGTPE".index(size[2])),)
    # Split at digits, so that texts and numbers take turns and are never compared with each other.
    return 1, tuple(int(part) if i % 2 else part for i, part in enumerate(_DIGITS.split(cell.lower())))


def rank_of_age(since: str) -> Rank:
    """The rank of what was made then: the youngest first, as of the ages that are shown."""
    try:
        return 0, (-datetime.fromisoformat(since).timestamp(),)
    except ValueError:
        return 2, ()


def column_of(letter: str, names: Sequence[str]) -> int | None:
    """The column that a capital letter means: the one of k9s, else the first that begins with it."""
    if (known := _KNOWN.get(letter)) in names:
        return names.index(known)
    return next((i for i, name in enumerate(names) if name.upper().startswith(letter)), None)

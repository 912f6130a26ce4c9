"""Regular expressions that clients write: RE2, as Kubernetes' are, in time linear in the text. Pure.

Source: https://github.com/google/re2/wiki/Syntax; errors are worded as Go's regexp/syntax does.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import re2

from rayplane.control_plane.api.machinery.budget import LIMITS

# Compiled programs and the states they find on the way live within `_MEMORY` each.
_MEMORY: Final = 1 << 20
_CACHE: Final = 256
_GO_WORDS: Final = {
    "missing )": "missing closing )",
    "unexpected )": "unexpected )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "invalid repeat count",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "trailing \\": "trailing backslash at end of expression",
    "invalid UTF-8": "invalid UTF-8",
}


class PatternError(ValueError):
    """The text is no regular expression; the message is the one of Go's regexp."""


def check(pattern: str) -> None:
    """Raises PatternError."""
    _compiled(pattern)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern is found anywhere in the text. Raises PatternError."""
    return _compiled(pattern).search(text) is not None


def find_all(pattern: str, text: str) -> Iterator[str]:
    """All that the pattern finds, one after the other. Raises PatternError."""
    return (match.group() for match in _compiled(pattern).finditer(text))


def _compiled(pattern: str) -> Any:
    if len(pattern.encode()) > LIMITS.pattern_bytes:
        raise PatternError("error parsing regexp: expression too large")
    return _remembered(pattern)


@lru_cache(maxsize=_CACHE)
def _remembered(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise PatternError(_go_error(error)) from None


def _go_error(error: Exception) -> str:
    said = error.args[0]
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    word, colon, part = text.partition(": ")
    if "too large" in word:
        return "error parsing regexp: expression too large"
    word = _GO_WORDS.get(word, word)
    return f"error parsing regexp: {word}: `{part}`" if colon else f"error parsing regexp: {word}"

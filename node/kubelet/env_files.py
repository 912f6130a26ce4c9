"""Files of environment variables (core/v1 FileKeySelector). Pure.

A line is `NAME='value'`, and a value may go on over lines until its quote; one without quotes ends with its line. What
is blank, or begins with #, says nothing.

Source: KEP-3721.
"""

import re

BYTES_MAX = 64 * 1024
"""A larger file is none."""
_ENTRY = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)=(?:'([^']*)'[ \t]*|([^'\n][^\n]*)?)(?:\n|$)")
_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")


def parse_env_file(text: str) -> dict[str, str]:
    """Variables by name. Raises ValueError that names the line which is none."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if (nothing := _NOTHING.match(text, at)) is not None:
            at = nothing.end()
            continue
        entry = _ENTRY.match(text, at)
        if entry is None:
            number = text.count("\n", 0, at) + 1
            raise ValueError(f"line {number} is no variable of the form NAME='value'")
        name, quoted, plain = entry.groups()
        found[name] = quoted if quoted is not None else (plain or "").rstrip()
        at = entry.end()
    return found

"""Settings of a component as flags, as `/flagz` shows them: none that is, or may hold, a secret. Pure."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

CLASSIFIED = "CLASSIFIED"
"""Stands for what is not shown, where there is something."""
#: Words in names of settings that are, or name, secrets.
_SECRET = frozenset({"credential", "credentials", "key", "keys", "password", "passwords", "secret", "secrets", "token"})
#: Last words of the names of documents that may have some.
_DOCUMENTS = frozenset({"admission", "authentication", "authorization", "certificate", "encryption", "tokens"})
#: A user and a password in a URL.
_USERINFO = re.compile(r"://[^/\s]*@")
_PLAIN = (bool, int, float, str, Enum)


def flags_of(config: Any) -> dict[str, str]:
    """The settings of a dataclass by their names with hyphens; those of dataclasses within, behind theirs.

    Left out is what is neither a value nor a list of some.
    """
    return dict(_flags("", config))


def _flags(prefix: str, config: Any) -> Iterator[tuple[str, str]]:
    for one in fields(config):
        name, value = prefix + one.name.replace("_", "-"), getattr(config, one.name)
        if is_dataclass(value):
            yield from _flags(f"{name}-", value)
        elif value is None or isinstance(value, (bytes, *_PLAIN)):
            yield name, _shown(name, value)
        elif isinstance(value, tuple | frozenset) and all(isinstance(part, _PLAIN) for part in value):
            parts = sorted(value) if isinstance(value, frozenset) else value
            yield name, f"[{','.join(_shown(name, part) for part in parts)}]"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and not isinstance(value, Enum):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value.value if isinstance(value, Enum) else value or "")
    words = name.split("-")
    secret = isinstance(value, bytes) or words[-1] in _DOCUMENTS or not _SECRET.isdisjoint(words)
    # A text of several lines, or one that is JSON, is a document.
    if text and (secret or "\n" in text or text[0] in "{[" or _USERINFO.search(text)):
        return CLASSIFIED
    return text

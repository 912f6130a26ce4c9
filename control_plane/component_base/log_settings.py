"""Formats and levels of logs, as people write them. Pure."""

import logging

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: Verbosities of Kubernetes (klog) from this one on are for those who look for faults.
_DEBUG_FROM = 4


def level_of(text: str) -> int:
    """A level by its name, or by Kubernetes' verbosity (a number). ValueError for what is neither."""
    text = text.strip().lower()
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return logging.DEBUG if int(text) >= _DEBUG_FROM else logging.INFO
    if text not in LEVELS:
        raise ValueError(f"{text[:40]!r} is no level: use {', '.join(LEVELS)}, or a verbosity such as 2 or 4")
    return LEVELS[text]

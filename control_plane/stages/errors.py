"""Errors of stages: what cannot be read, and what fails when it is played."""

from __future__ import annotations


class StageError(ValueError):
    """Something about a stage is wrong; the message says what, and at which line of its template or expression."""


class Unreadable(StageError):
    """A template or expression that is none, or has what is not known here."""


class Failed(StageError):
    """A template or expression that has no result for this object, or would cost too much."""

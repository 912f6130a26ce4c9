"""Budgets of one client's document: its depth, its values, its aliases, what a patch may copy.

Owns the limits and the words of their errors, and counts; parsing, patching and validation ask here before
they spend. It doesn't own the size of a request in bytes (that is the server's) nor time: everything counted
here costs at most a bounded time.
Sources: Kubernetes API server (`MaxRequestBodyBytes`, `JSONPatchMaxCopyBytes`, `maxJSONPatchOperations`); the depth is
that of the strictest client in wide use (serde_json reads 128 levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api.errors import BadRequest, RequestEntityTooLarge


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one request's document."""

    depth: int = 128
    """Objects and arrays inside each other; below what orjson writes (254) and Python's stack takes."""

    values: int = 100_000
    """Objects, arrays, texts, numbers; an object of etcd's 1.5 MiB seldom has a tenth of them."""

    yaml_directives: int = 100
    """%TAG lines: libyaml compares each with all before it."""

    patch_operations: int = 10_000
    copied_bytes: int = 3 * 1024 * 1024
    """What the `copy` operations of one JSON patch may add up to."""

    schema_steps: int = 1_000_000
    """Looks of a value at a schema, its choices and its branches, when a custom resource is validated."""

    pattern_bytes: int = 64 * 1024
    """Length of one regular expression."""

    defaulted_bytes: int = 3 * 1024 * 1024
    """What the defaults of a schema may add to one custom resource, in bytes of JSON."""

    annotations_bytes: int = 262_144
    """Keys and values of one object's annotations together."""

    requirements: int = 1000
    """Terms of one label or field selector."""

    text_chars: int = 1024
    """Length of a schedule or a path into an object: what is parsed beyond names."""


LIMITS: Final = Budget()


class TooDeep(ValueError):
    """A document is nested too deeply; in the words of Go's encoding/json."""

    def __init__(self) -> None:
        super().__init__("exceeded max depth")


class TooManyValues(RequestEntityTooLarge):
    """A document has more to be looked at than one request may cost; 413."""


class Meter:
    """Counts down; TooManyValues, which says `cause`, when more is asked for than there was."""

    __slots__ = ("_cause", "_left", "_limit")

    def __init__(self, limit: int = LIMITS.values, cause: str = "the document has more than {limit} values") -> None:
        self._limit = self._left = limit
        self._cause = cause

    def spend(self, amount: int = 1) -> None:
        self._left -= amount
        if self._left < 0:
            raise TooManyValues("Request entity too large: " + self._cause.format(limit=self._limit))


def check(value: Any, budget: Budget = LIMITS) -> None:
    """Look at the depth and the values of a JSON value. Raises TooDeep, TooManyValues."""
    meter = Meter(budget.values)
    level, depth = [value], 0
    while level := [one for one in level if type(one) is dict or type(one) is list]:
        depth += 1
        if depth > budget.depth:
            raise TooDeep
        below: list[Any] = []
        for one in level:
            meter.spend(len(one))
            below.extend(one.values() if type(one) is dict else one)
        level = below


def check_json(body: bytes, value: Any, budget: Budget = LIMITS) -> None:
    """As `check`, for a value read from `body`: most bodies are judged by their brackets and commas alone."""
    opened = body.count(b"{") + body.count(b"[")
    if opened > budget.depth or opened + body.count(b",") > budget.values:
        check(value, budget)


def check_operations(count: int) -> None:
    """Raises RequestEntityTooLarge for a JSON patch of too many operations."""
    limit = LIMITS.patch_operations
    if count > limit:
        raise RequestEntityTooLarge(f"The allowed maximum operations in a JSON patch is {limit}, got {count}")


def check_requirements(count: int) -> None:
    """Raises BadRequest for a selector of too many: each object of a list and each event of a watch is asked all."""
    if count > LIMITS.requirements:
        raise BadRequest(f"a selector may have at most {LIMITS.requirements} requirements, got {count}")


class CopyMeter:
    """A meter that adds up what the `copy` operations of one JSON patch copy, in bytes of JSON."""

    def __init__(self) -> None:
        self._copied = 0

    def copy(self, size: int) -> None:
        """Raises CopiesTooMuch."""
        self._copied += size
        if self._copied > LIMITS.copied_bytes:
            raise CopiesTooMuch(self._copied, LIMITS.copied_bytes)


class CopiesTooMuch(ValueError):
    """A JSON patch copies too much."""

    def __init__(self, copied: int, limit: int) -> None:
        super().__init__(
            "Unable to complete the copy, the accumulated size increase of copy is "
            f"{copied}, exceeding the limit {limit}"
        )

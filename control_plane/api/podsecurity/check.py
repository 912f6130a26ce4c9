"""The shape of a pod security check, and the words that all checks use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.levels import Level

Spec = Mapping[str, Any]
"""A PodSpec."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A reason why a pod is not allowed. `detail` names what is to be changed."""

    reason: str
    detail: str


Look = Callable[[Mapping[str, str], Spec], Violation | None]
"""Annotations and spec of a pod -> what one check finds wrong."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of a level. `revisions`: (first version v1.N, look), ascending; `overrides`: a check of the baseline
    that this stricter one stands in for."""

    id: str
    level: Level
    revisions: Sequence[tuple[int, Look]]
    overrides: str = ""

    def at(self, version: int) -> Look | None:
        """The revision in force at v1.`version`; None before the first."""
        found = None
        for since, look in self.revisions:
            if since <= version:
                found = look
        return found


def context(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    """The securityContext of a pod's spec or of a container."""
    return holder.get("securityContext") or {}


def names(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return [one.get("name") or "" for one in found]


def where(spec: Spec, bad: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """The names of the containers that are bad."""
    return names(c for c in every(spec) if bad(c))


def quoted(items: Iterable[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def plural(word: str, count: int, many: str = "") -> str:
    """`word`, or its plural unless `count` is one."""
    return word if count == 1 else many or f"{word}s"


def some(word: str, items: Sequence[str]) -> str:
    """`container "a"`, `containers "a", "b"`."""
    return f"{plural(word, len(items))} {quoted(items)}"


def setters(pod: bool, bad: Sequence[str]) -> str:
    """`pod and container "a"`; empty when nobody set anything bad."""
    return " and ".join([*(["pod"] if pod else ()), *([some("container", bad)] if bad else ())])


def in_user_namespace(spec: Spec) -> bool:
    """Whether root in the pod is nobody on the node (`hostUsers: false`)."""
    return spec.get("hostUsers") is False


def unless_windows(look: Look) -> Look:
    """The same check, which lets pods for Windows pass: there its fields cannot be set."""

    def look_elsewhere(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
        if (spec.get("os") or {}).get("name") == "windows":
            return None
        return look(annotations, spec)

    return look_elsewhere


def unless_in_user_namespace(look: Look) -> Look:
    """The same check, which lets pods in a user namespace of their own pass (KEP-127)."""

    def look_elsewhere(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
        return None if in_user_namespace(spec) else look(annotations, spec)

    return look_elsewhere

"""Evaluation of a pod: the checks that a level has at a version, and what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rayplane.control_plane.api.podsecurity import (
    capabilities,
    host,
    identity,
    privileges,
    profiles,
    seccomp,
    sysctls,
    volumes,
)
from rayplane.control_plane.api.podsecurity.check import Check, Look, Violation
from rayplane.control_plane.api.podsecurity.levels import Level, LevelVersion

CHECKS: tuple[Check, ...] = tuple(
    check
    for family in (host, privileges, capabilities, profiles, seccomp, identity, volumes, sysctls)
    for check in family.CHECKS
)
NEWEST = max(since for check in CHECKS for since, _ in check.revisions)
"""The N of the last version v1.N that changed anything; later ones are the same."""


@lru_cache(maxsize=256)
def _looks(level: Level, version: int) -> tuple[Look, ...]:
    """Baseline checks come before restricted ones, each in the order of their ids, so that messages are stable."""
    if level == Level.PRIVILEGED:
        return ()
    found = [c for c in CHECKS if c.level <= level and c.at(version) is not None]
    overridden = {c.overrides for c in found}
    ordered = sorted((c for c in found if c.id not in overridden), key=lambda c: (c.level, c.id))
    return tuple(look for c in ordered if (look := c.at(version)) is not None)


def violations(policy: LevelVersion, metadata: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> list[Violation]:
    """All that a policy finds wrong with a pod or a pod template; empty when it is allowed."""
    annotations = (metadata or {}).get("annotations") or {}
    looks = _looks(policy.level, min(policy.version, NEWEST))
    return [found for look in looks if (found := look(annotations, spec)) is not None]


def reasons(found: Sequence[Violation]) -> str:
    """In short, for lists of pods."""
    return ", ".join(v.reason for v in found)


def details(found: Sequence[Violation]) -> str:
    """In full, for one pod."""
    return ", ".join(f"{v.reason} ({v.detail})" if v.detail else v.reason for v in found)

"""Levels, versions, and how a namespace's labels choose them.

Source: Kubernetes reference "Well-Known Labels", `pod-security.kubernetes.io/*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from rayplane.control_plane.api.errors import FieldError, invalid

T = TypeVar("T", bound=int)
PREFIX = "pod-security.kubernetes.io/"
MODES = ("enforce", "audit", "warn")
LATEST = 1 << 62
"""The version `latest`, newer than any other; other versions are the N of `v1.N`."""
_VERSION = re.compile(r"v1\.([0-9]|[1-9][0-9]{1,17})")


class Level(IntEnum):
    """Pod security levels, from the laxest to the strictest."""

    PRIVILEGED = 0
    BASELINE = 1
    RESTRICTED = 2


_LEVELS = {level.name.lower(): level for level in Level}


@dataclass(frozen=True, slots=True)
class LevelVersion:
    """One policy, printed as `restricted:latest` or `baseline:v1.30`."""

    level: Level = Level.PRIVILEGED
    version: int = LATEST

    def __str__(self) -> str:
        version = "latest" if self.version == LATEST else f"v1.{self.version}"
        return f"{self.level.name.lower()}:{version}"

    def equivalent(self, other: LevelVersion) -> bool:
        """Whether both allow the same pods."""
        return self == other or (self.level == other.level == Level.PRIVILEGED)


@dataclass(frozen=True, slots=True)
class Policy:
    """The levels that one namespace's pods are held to: refused, recorded, warned of."""

    enforce: LevelVersion = LevelVersion()
    audit: LevelVersion = LevelVersion()
    warn: LevelVersion = LevelVersion()

    @property
    def privileged(self) -> bool:
        """Whether nothing is checked at all."""
        return self.enforce.level == self.audit.level == self.warn.level == Level.PRIVILEGED

    def equivalent(self, other: Policy) -> bool:
        return all(getattr(self, mode).equivalent(getattr(other, mode)) for mode in MODES)


def parse_level(text: str) -> Level | None:
    """None for a text that is no level."""
    return _LEVELS.get(text)


def parse_version(text: str) -> int | None:
    """The N of `v1.N`, or LATEST; None for any other text."""
    if text == "latest":
        return LATEST
    match = _VERSION.fullmatch(text)
    return int(match.group(1)) if match else None


def parse_labels(labels: Mapping[str, str] | None, defaults: Policy) -> tuple[Policy, list[FieldError]]:
    """The policy of a namespace, always a usable one, and what is wrong with its labels.

    A level that is none means `restricted` for enforce (fails closed) and `privileged` for audit and warn; a version
    that is none means the latest.
    """
    if not labels or not any(key.startswith(PREFIX) for key in labels):
        return defaults, []
    errors: list[FieldError] = []
    chosen: dict[str, LevelVersion] = {}
    for mode in MODES:
        fallback = Level.RESTRICTED if mode == "enforce" else Level.PRIVILEGED
        default: LevelVersion = getattr(defaults, mode)
        level = _label(labels, mode, parse_level, default.level, errors)
        version = _label(labels, f"{mode}-version", parse_version, default.version, errors)
        chosen[mode] = LevelVersion(fallback if level is None else level, LATEST if version is None else version)
    policy = Policy(**chosen)
    enforced = parse_level(labels.get(PREFIX + "enforce", ""))
    # Who enforces a level without a word on warnings is warned of it on workloads too.
    if PREFIX + "warn" not in labels and enforced is not None and enforced > policy.warn.level:
        version = policy.warn.version if PREFIX + "warn-version" in labels else policy.enforce.version
        policy = replace(policy, warn=LevelVersion(enforced, version))
    return policy, errors


_MUST_BE: Mapping[Callable[[str], int | None], str] = {
    parse_level: "must be one of privileged, baseline, restricted",
    parse_version: 'must be "latest" or "v1.x"',
}


def _label(
    labels: Mapping[str, str], name: str, parse: Callable[[str], T | None], default: T, errors: list[FieldError]
) -> T | None:
    """None, and an error, for a label that makes no sense."""
    text = labels.get(PREFIX + name)
    if text is None:
        return default
    parsed = parse(text)
    if parsed is None:
        errors.append(invalid(f"metadata.labels[{PREFIX}{name}]", text, _MUST_BE[parse]))
    return parsed

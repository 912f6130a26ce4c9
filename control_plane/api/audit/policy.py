"""A policy and its rules, and what they say of a request: the first rule that matches decides."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from rayplane.control_plane.api.authorization.rbac import Attributes

Names = Collection[str]


class Level(IntEnum):
    """Audit levels: the part of a request that is recorded."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def text(self) -> str:
        """`RequestResponse`."""
        return "".join(part.capitalize() for part in self.name.split("_"))


class Stage(StrEnum):
    """Audit stages: the moments in the life of a request at which an event is written."""

    REQUEST_RECEIVED = "RequestReceived"
    RESPONSE_STARTED = "ResponseStarted"
    RESPONSE_COMPLETE = "ResponseComplete"
    PANIC = "Panic"


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's decision on one request: the part of it that is recorded."""

    level: Level
    omit_stages: frozenset[Stage] = frozenset()
    omit_managed_fields: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of one group: `pods`, `pods/log`, `pods/*`, `*/scale`, `*`; none means all."""

    group: str = ""
    resources: tuple[str, ...] = ()
    names: Names = ()

    def matches(self, request: Attributes) -> bool:
        if self.group != request.group:
            return False
        if not self.resources:
            return True
        if self.names and request.name not in self.names:
            return False
        part = request.subresource
        whole = f"{request.resource}/{part}" if part else request.resource
        wanted = {whole, "*", f"{request.resource}/*"} | ({f"*/{part}"} if part else set())
        return not wanted.isdisjoint(self.resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A level for the requests that match everything that the rule says; what it leaves out matches all."""

    level: Level
    users: Names = ()
    groups: Names = ()
    verbs: Names = ()
    resources: tuple[Resources, ...] = ()
    namespaces: Names = ()
    """The empty string is that of resources without one."""
    paths: tuple[str, ...] = ()
    omit_stages: frozenset[Stage] = frozenset()
    omit_managed_fields: bool | None = None
    """None: as the policy says."""

    def matches(self, request: Attributes) -> bool:
        if self.users and request.user not in self.users:
            return False
        if self.groups and not any(group in self.groups for group in request.groups):
            return False
        if self.verbs and request.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            return self._matches_resource(request)
        return not self.paths or any(_path_matches(request.path, path) for path in self.paths)

    def _matches_resource(self, request: Attributes) -> bool:
        if request.path or (self.namespaces and request.namespace not in self.namespaces):
            return False
        return not self.resources or any(one.matches(request) for one in self.resources)


def _path_matches(path: str, pattern: str) -> bool:
    if not path:
        return False
    return path == pattern or (pattern.endswith("*") and path.startswith(pattern[:-1]))


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in their order."""

    rules: tuple[Rule, ...]
    omit_stages: frozenset[Stage] = frozenset()
    omit_managed_fields: bool = False

    def decide(self, request: Attributes) -> Decision:
        """Level NONE for what no rule matches."""
        for rule in self.rules:
            if rule.matches(request):
                omit = rule.omit_managed_fields
                return Decision(
                    rule.level,
                    self.omit_stages | rule.omit_stages,
                    self.omit_managed_fields if omit is None else omit,
                )
        return Decision(Level.NONE)

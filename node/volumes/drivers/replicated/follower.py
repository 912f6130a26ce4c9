"""Followers of a publication: what its writing node knows of each replica."""

import asyncio
from dataclasses import dataclass, field

from rayplane.node.volumes.drivers.replicated.manifest import EMPTY, Manifest, Version
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.errors import PeerError
from rayplane.storage.errors import Code

_LOST = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNKNOWN, Code.DATA_LOSS})
"""Failures of the replica, not of what is asked of it: if they last, it is replaced."""


@dataclass(slots=True)
class Target:
    """A generation of the content."""

    version: Version
    manifest: Manifest


@dataclass(slots=True)
class Follower:
    """Knowledge of one replica."""

    replica: Replica
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    known: Target | None = None
    acked: Version = EMPTY
    failing_since: float | None = None
    """When the first of the failures was since it last took what was sent."""
    failed_at: float = 0.0
    """When the last was."""
    lost_since: float | None = None
    """When the first was of those since which each was as that of a lost replica."""
    error: str = ""
    code: Code | None = None
    task: "asyncio.Task[None] | None" = None

    def succeeded(self) -> None:
        """It has taken what was sent, committed or overtaken by then: it is not lost."""
        self.error, self.code, self.failing_since, self.lost_since = "", None, None, None

    def failed(self, error: PeerError, at: float) -> None:
        self.known = None
        self.error, self.code, self.failed_at = str(error), error.code, at
        if self.failing_since is None:
            self.failing_since = at
        if error.code not in _LOST:
            self.lost_since = None
        elif self.lost_since is None:
            self.lost_since = at

    def has_failed_for(self, seconds: float) -> bool:
        """Whether all of its tries did, whatever with. One that is under way may take as long as it takes."""
        return self.failing_since is not None and self.failed_at - self.failing_since >= seconds

    async def is_gone(self) -> bool:
        """Whether it answers that it holds nothing. Where nothing is written nobody else would miss it."""
        try:
            return bool((await self.replica.state()).filling)
        except PeerError as e:
            return e.code is Code.NOT_FOUND

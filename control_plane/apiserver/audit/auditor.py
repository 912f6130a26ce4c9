"""The auditor: it begins trails, and counts what became of them."""

import re
from collections import Counter

from rayplane.control_plane.api.audit import Level, read_policy
from rayplane.control_plane.apiserver.audit.encoding import encode
from rayplane.control_plane.apiserver.audit.log import AuditLog
from rayplane.control_plane.apiserver.audit.trail import Asked, Record, Trail
from rayplane.control_plane.apiserver.config import AuditConfig
from rayplane.storage.env import Env

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Auditor:
    """One for an API server with a policy. ConfigFileError for one that makes no sense."""

    def __init__(self, config: AuditConfig, env: Env) -> None:
        self._policy = read_policy(config.policy)
        self._env = env
        self._log = AuditLog(config, env, encode)
        self.levels: Counter[Level] = Counter()
        """Events by their level."""

    def start(self) -> None:
        """DiskError when the log cannot be written."""
        self._log.start()

    async def stop(self) -> None:
        await self._log.stop()

    async def take(self, policy: str) -> None:
        """Go by another policy from now on. ConfigFileError."""
        self._policy = read_policy(policy)

    def trail(self, asked: Asked, *, id: str = "") -> Trail:
        """`id`: the client's own name for the request, taken when it is a harmless one."""
        return Trail(
            id if _ID.fullmatch(id) else self._env.uuid(),
            asked.bounded(),
            self._env.clock.now(),
            self._policy.decide,
            self._put,
            self._env.clock.now,
        )

    def _put(self, record: Record) -> None:
        self.levels[record.decision.level] += 1
        self._log.put(record)

    @property
    def lost(self) -> dict[tuple[str], int]:
        """Events that were dropped or not written, by plug-in."""
        return {("buffered",): self._log.dropped, ("log",): self._log.failed}

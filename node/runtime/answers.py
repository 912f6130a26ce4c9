"""Answers of simulated containers, as the objects of the API say that are there when somebody asks.

Nothing is watched: who looks into simulated containers does so now and then. What usage depends on is listed when it
was not for a while.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.stages.answers import (
    CLUSTER,
    Answer,
    Moment,
    answer_to,
    forward_of,
    part_of,
    rendered,
    usage_of,
)
from rayplane.control_plane.stages.definitions import resource
from rayplane.control_plane.stages.errors import Failed
from rayplane.node.errors import RuntimeFailed
from rayplane.storage.beneath import Beneath
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 1 << 20
USAGE_AFTER_S = 5.0
"""What is said of usage is listed again after so long."""
_USAGE = "ResourceUsage"


class Answers:
    """A reader of what is said of containers. `files`: the directory of the files that logs may be read from."""

    def __init__(self, client: ApiClient, env: Env, files: str | None) -> None:
        self._client = client
        self._env = env
        self._files = files
        self._usage_own: dict[str, Object] = {}
        self._usage_cluster: list[Object] = []
        self._usage_at = float("-inf")

    # --- what a container says --------------------------------------------------------------------

    async def output(self, kind: str, pod: Object, container: str, *, previous: bool = False) -> bytes | None:
        """What the container has said; None where nobody says. `kind`: Logs or Attach. Raises RuntimeFailed."""
        part = await self._part(kind, pod, container)
        if part is None:
            return None
        text, file = ("previousText", "previousLogsFile") if previous else ("text", "logsFile")
        if part.get(file):
            return await asyncio.to_thread(self._read, str(part[file]))
        try:
            said = rendered(str(part.get(text) or ""), pod).encode()
        except Failed as e:
            raise RuntimeFailed(f"{kind} of pod {meta.key(pod)}: {e}") from e
        return said if not said or said.endswith(b"\n") else said + b"\n"

    async def answer(self, pod: Object, container: str, command: Sequence[str]) -> Answer | None:
        """What a command in the container says; None where nobody says. Raises RuntimeFailed."""
        part = await self._part("Exec", pod, container)
        try:
            return None if part is None else answer_to(part, command, pod)
        except Failed as e:
            raise RuntimeFailed(f"Exec of pod {meta.key(pod)}: {e}") from e

    async def forward(self, pod: Object, port: int) -> tuple[str, int] | None:
        """Where a port of the pod leads; None where nobody says."""
        return forward_of(pod, port, await self._list(CLUSTER + "PortForward"))

    async def _part(self, kind: str, pod: Object, container: str) -> Object | None:
        try:
            own = await self._client.get(resource(kind), meta.name(pod), meta.namespace(pod))
        except ApiError as e:
            if not isinstance(e, NotFound):
                log.info("what pod %s answers is not known: %s", meta.key(pod), e.message)
            own = None
        return part_of(kind, pod, container, own, await self._list(CLUSTER + kind))

    async def _list(self, kind: str) -> list[Object]:
        try:
            return (await self._client.list(resource(kind))).items
        except ApiError as e:
            if not isinstance(e, NotFound):
                log.info("objects of kind %s are not known: %s", kind, e.message)
            return []

    def _read(self, path: str) -> bytes:
        """The end of a file below the directory. Raises RuntimeFailed."""
        if self._files is None:
            raise RuntimeFailed(f"cannot read {path}: this node host has no files for logs")
        try:
            return Beneath(self._files).read(path.removeprefix("./"), FILE_BYTES_MAX)
        except OSError as e:
            raise RuntimeFailed(f"cannot read {path}: {e.strerror}: put it below {self._files}") from e

    # --- usage ------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Know what is said of usage, as it is now or was a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._usage_at < USAGE_AFTER_S:
            return
        self._usage_at = now
        self._usage_cluster = await self._list(CLUSTER + _USAGE)
        self._usage_own = {meta.key(one): one for one in await self._list(_USAGE)}

    def usage(
        self, pod: Object, container: str, since: str, chance: Callable[[], float]
    ) -> tuple[float | None, float | None]:
        """Cores and bytes that a container uses, which started at the moment `since`; None where nobody says.

        `chance`: a number from 0 up to 1.
        """
        if not self._usage_own and not self._usage_cluster:
            return None, None
        part: Any = part_of(_USAGE, pod, container, self._usage_own.get(meta.key(pod)), self._usage_cluster)
        if part is None:
            return None, None
        now = self._env.clock.now()
        elapsed_s = max(0.0, (now - meta.parse_time(since)).total_seconds()) if since else 0.0
        moment = Moment(now, elapsed_s, chance())
        cpu, memory = (usage_of(part, one, pod, container, moment) for one in ("cpu", "memory"))
        return cpu, memory


class ScriptedExec:
    """An `ExecSession` of a command that is answered by a script."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def write(self, data: bytes) -> None:
        """Drop it: nobody reads."""

    def close_input(self) -> None:
        return

    def resize(self, width: int, height: int) -> None:
        return

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        await asyncio.sleep(self._answer.delay_s)
        out, err = self._answer.stdout.encode(), self._answer.stderr.encode()
        if out or err:
            yield out, err

    async def wait(self) -> int:
        return self._answer.exit_code

    def kill(self) -> None:
        return

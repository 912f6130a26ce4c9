"""Files of a server's configuration, read again while it runs: a change that can be read is taken, any other is not.

Source: kube-apiserver's reloading of its authentication and authorization configuration, with its metrics.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from rayplane.control_plane.api.audit import read_policy
from rayplane.control_plane.apiserver.admission.configuration import read_admission
from rayplane.control_plane.apiserver.admission_files import ManifestReloads, admission_text, hash_of, text_of
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authorization.configuration import read_authorization
from rayplane.control_plane.apiserver.config import (
    ADMISSION,
    AUDIT,
    AUTHENTICATION,
    AUTHORIZATION,
    ApiServerConfig,
    Take,
)
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.component_base.metrics import Family, counter, gauge
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

log = logging.getLogger(__name__)


class _File:
    """One file, what it said last, and what became of that."""

    def __init__(self, kind: str, path: str, read: Callable[[str], object]) -> None:
        self.kind = kind
        self._load = admission_text if kind == ADMISSION else text_of
        self.read = read
        """Raises ValueError for a text that makes no sense."""
        self.in_force = ""
        """The text that holds."""
        self.reloads: Counter[str] = Counter()
        """How many were taken (`success`) and not (`failure`)."""
        self.last: dict[str, float] = {}
        self._path = path
        self._seen: str | None = None
        self._trouble = ""

    @property
    def seen(self) -> str:
        """What it said last; empty for what could not be read."""
        return self._seen or ""

    def changed(self) -> str | None:
        """What it says, where that is something else than last time. ValueError for what cannot be read, once."""
        try:
            found = self._load(self._path)
        except (OSError, ValueError) as e:
            # Where it never was, as on another machine, the text that came with the configuration holds.
            expected = isinstance(e, FileNotFoundError) and self._seen is None
            if str(e) == self._trouble or expected:
                return None
            self._trouble, self._seen = str(e), ""
            raise ValueError(str(e)) from e
        self._trouble = ""
        if found == self._seen:
            return None
        self._seen = found
        if not found.strip():
            raise ValueError("it is empty")
        return None if found == self.in_force else found

    def count(self, status: str, at: float) -> None:
        self.reloads[status] += 1
        self.last[status] = at


class ConfigurationFiles:
    """The files of one server, looked at every few seconds from `follow` to `stop`."""

    def __init__(self, config: ApiServerConfig, env: Env) -> None:
        self._server = hash_of(config.name)
        self._pause_s = config.timing.file_pause_s
        self._clock = env.clock
        self._heavy = Heavy(env)
        self._manifests = ManifestReloads(self._server)
        self._takers: Mapping[str, Take] = {}
        self._task: asyncio.Task[None] | None = None
        readers: dict[str, tuple[str, Callable[[str], object]]] = {
            AUTHENTICATION: (
                config.files.authentication,
                lambda text: read_authentication(text, own_issuer=config.issuer),
            ),
            AUTHORIZATION: (config.files.authorization, read_authorization),
            ADMISSION: (config.files.admission, read_admission),
            AUDIT: (config.files.audit if config.audit is not None else "", read_policy),
        }
        self._files = [_File(kind, path, read) for kind, (path, read) in readers.items() if path]

    def newest(self, config: ApiServerConfig) -> ApiServerConfig:
        """The configuration with what the files say now; what cannot be read is as the configuration has it."""
        texts = {
            AUTHENTICATION: config.authentication,
            AUTHORIZATION: config.authorization,
            ADMISSION: config.admission,
            AUDIT: config.audit.policy if config.audit is not None else "",
        }
        self._manifests.begin(config.admission)
        for file in self._files:
            file.in_force = texts[file.kind]
            try:
                found = file.changed()
                if found is not None:
                    file.read(found)
                    texts[file.kind] = file.in_force = found
            except ValueError as e:
                self._failed(file, e)
        self._manifests.begin(texts[ADMISSION])
        return replace(
            config,
            authentication=texts[AUTHENTICATION],
            authorization=texts[AUTHORIZATION],
            admission=texts[ADMISSION],
            audit=replace(config.audit, policy=texts[AUDIT]) if config.audit is not None else None,
        )

    def follow(self, takers: Mapping[str, Take]) -> None:
        """Have each change taken by who stands for its kind."""
        self._takers = takers
        if self._files:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="configuration files")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def look(self) -> None:
        """Look at each file once."""
        for file in self._files:
            try:
                text = file.changed()
                if text is None:
                    continue
                await self._heavy.apart(file.read, text)
                await self._takers[file.kind](text)
            except ValueError as e:
                self._failed(file, e)
                continue
            file.in_force = text
            self._count(file, "success")
            log.info("the %s configuration is read again", file.kind)

    def collect(self) -> Iterable[Family]:
        """Metrics, as kube-apiserver has them of authentication, authorization and manifests."""
        yield from self._manifests.collect()
        for file in self._files:
            name = f"apiserver_{file.kind}_config_controller"
            labels = "apiserver_id_hash", "status"
            by_status = {(self._server, status): count for status, count in file.reloads.items()}
            yield counter(f"{name}_automatic_reloads_total", "Changes of the file.", by_status, *labels)
            times = {(self._server, status): at for status, at in file.last.items()}
            yield gauge(f"{name}_automatic_reload_last_timestamp_seconds", "Time of the last.", times, *labels)
            info = {(self._server, hash_of(file.in_force)): 1.0}
            yield gauge(f"{name}_last_config_info", "What is in force.", info, "apiserver_id_hash", "hash")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            await self.look()

    def _count(self, file: _File, status: str) -> None:
        at = self._clock.now().timestamp()
        file.count(status, at)
        if file.kind == ADMISSION:
            self._manifests.count(file.seen, status, at)

    def _failed(self, file: _File, error: ValueError) -> None:
        self._count(file, "failure")
        log.error("the %s configuration stays as it is: its file cannot be taken: %s", file.kind, error)

"""Files of a server's configuration, read again while it runs: a change that can be read is taken, any other is not.

Source: kube-apiserver's reloading of its authentication and authorization configuration, with its metrics.
"""

import asyncio
import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import yaml

from rayplane.control_plane.api.audit import read_policy
from rayplane.control_plane.api.config_files import BYTES_MAX, ConfigFileError
from rayplane.control_plane.apiserver.admission.configuration import read_admission
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

_PLUGINS_MAX = 16
log = logging.getLogger(__name__)


class _File:
    """One file, what it said last, and what became of that."""

    def __init__(self, kind: str, path: str, read: Callable[[str], object]) -> None:
        self.kind = kind
        self._load = admission_text if kind == ADMISSION else _text
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
        self._server = _hash(config.name)
        self._pause_s = config.timing.file_pause_s
        self._clock = env.clock
        self._heavy = Heavy(env)
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
        for file in self._files:
            file.in_force = texts[file.kind]
            try:
                found = file.changed()
                if found is not None:
                    file.read(found)
                    texts[file.kind] = file.in_force = found
            except ValueError as e:
                self._failed(file, e)
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
            file.count("success", self._clock.now().timestamp())
            log.info("the %s configuration is read again", file.kind)

    def collect(self) -> Iterable[Family]:
        """Metrics, as kube-apiserver has them of authentication and authorization."""
        for file in self._files:
            name = f"apiserver_{file.kind}_config_controller"
            labels = "apiserver_id_hash", "status"
            by_status = {(self._server, status): count for status, count in file.reloads.items()}
            yield counter(f"{name}_automatic_reloads_total", "Changes of the file.", by_status, *labels)
            times = {(self._server, status): at for status, at in file.last.items()}
            yield gauge(f"{name}_automatic_reload_last_timestamp_seconds", "Time of the last.", times, *labels)
            info = {(self._server, _hash(file.in_force)): 1.0}
            yield gauge(f"{name}_last_config_info", "What is in force.", info, "apiserver_id_hash", "hash")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            await self.look()

    def _failed(self, file: _File, error: ValueError) -> None:
        file.count("failure", self._clock.now().timestamp())
        log.error("the %s configuration stays as it is: its file cannot be taken: %s", file.kind, error)


def admission_text(path: str) -> str:
    """An AdmissionConfiguration with what stands in files that it names, from its own place. OSError, ValueError."""
    text = _text(path)
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as e:
        raise ConfigFileError(f"{path} is no YAML: {e}") from e
    plugins = document.get("plugins") if isinstance(document, dict) else None
    elsewhere = [
        one
        for one in (plugins if isinstance(plugins, list) else ())
        if isinstance(one, dict) and isinstance(one.get("path"), str) and one.get("configuration") is None
    ]
    if len(elsewhere) > _PLUGINS_MAX:
        raise ConfigFileError(f"{path} names more than {_PLUGINS_MAX} files")
    for one in elsewhere:
        named = os.path.join(os.path.dirname(path), one.pop("path"))
        try:
            one["configuration"] = yaml.safe_load(_text(named))
        except (yaml.YAMLError, RecursionError) as e:
            raise ConfigFileError(f"{named} is no YAML: {e}") from e
    return yaml.safe_dump(document, sort_keys=False) if elsewhere else text


def _text(path: str) -> str:
    """All that a file says. OSError, ValueError."""
    # A pipe in its place would never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigFileError(f"{path} is no file")
        content = file.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise ConfigFileError(f"{path} has more than {BYTES_MAX} bytes")
    return content.decode()


def _hash(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

"""Logs: lines in text or JSON, a bounded file for each component, and levels that change while it runs.

    with logs.speaking("apiserver", "apiserver-0"):     # what is started here, and all that it starts
        await component.start()

Components may share a process: who speaks is known by the context of the task (PEP 567), so that each has a file and a
level of its own there, too. A process that carries one component names it once and for all (`to_files`).
"""

import contextlib
import json
import logging
import logging.handlers
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from rayplane.control_plane.component_base.log_settings import JSON, TEXT

FILE_BYTES_MAX = 8 * 1024 * 1024
#: Beside the one that is written.
FILES_KEPT = 2
# Control characters, among them those that move a terminal's cursor, and what Unicode takes for the end of a line.
_ESCAPED = {c: f"\\u{c:04x}" for c in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "speaker"}


class Speaker(NamedTuple):
    """A component, such as `apiserver`, and which of them, such as `apiserver-0`."""

    component: str
    instance: str


NOBODY = Speaker("", "")

_speaker: ContextVar[Speaker | None] = ContextVar("speaker", default=None)


@contextlib.contextmanager
def speaking(component: str, instance: str) -> Iterator[None]:
    """Records of this task, and of tasks that begin inside, are this component's."""
    token = _speaker.set(Speaker(component, instance))
    try:
        yield
    finally:
        _speaker.reset(token)


class Lines(logging.Formatter):
    """One line for a message, whatever clients wrote into what it tells; in text a trace follows it."""

    def __init__(self, form: str, otherwise: Speaker) -> None:
        super().__init__("%(asctime)s %(levelname)s %(speaker)s %(name)s: %(message)s")
        self._form = form
        self._otherwise = otherwise

    def format(self, record: logging.LogRecord) -> str:
        speaker = _speaker.get() or self._otherwise
        if self._form == JSON:
            return self._json(record, speaker)
        record.speaker = "/".join(part for part in speaker if part) or "-"
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_ESCAPED)

    def _json(self, record: logging.LogRecord, speaker: Speaker) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "component": speaker.component,
            "instance": speaker.instance,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # What a call passes as `extra`: values of its message by name, for programs. Names that begin with _ are Ray's,
        # which marks every record of a process that imports it.
        named = vars(record).keys() - _OF_EVERY_RECORD - line.keys()
        line |= {name: getattr(record, name) for name in sorted(named) if not name.startswith("_")}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Levels(logging.Handler):
    """A handler that hands on what a component's own level lets pass, to the file of the component that speaks."""

    def __init__(self, path: Path, form: str, otherwise: Speaker, *, shared: bool) -> None:
        super().__init__()
        self._path = path
        self._form = form
        self._otherwise = otherwise
        self._shared = shared
        self._levels: dict[str, int] = {}
        self._files: dict[str, logging.Handler] = {}

    def level_of(self, instance: str) -> int:
        return self._levels.get(instance, logging.INFO)

    def set_level(self, instance: str, level: int) -> None:
        self._levels[instance] = level
        # What nobody wants is not even made.
        logging.getLogger().setLevel(min([logging.INFO, *self._levels.values()]))

    def instance(self) -> str:
        """Who speaks here."""
        return (_speaker.get() or self._otherwise).instance

    def emit(self, record: logging.LogRecord) -> None:
        instance = self.instance()
        if record.levelno >= self.level_of(instance):
            # Actors are as many as the supervisor starts, and so are files.
            self._file(self.path_of(instance)).emit(record)

    def path_of(self, instance: str) -> Path:
        """The file of a component of this process."""
        return self.path_beside(instance) if self._shared and instance else self._path

    def path_beside(self, instance: str) -> Path:
        """The file of any component of this machine, were there one of that name."""
        return self._path.with_name(f"{instance}.log")

    def _file(self, path: Path) -> logging.Handler:
        found = self._files.get(path.name)
        if found is None:
            found = logging.handlers.RotatingFileHandler(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT)
            found.setFormatter(Lines(self._form, self._otherwise))
            self._files[path.name] = found
        return found

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        super().close()


def to_files(path: Path, form: str = TEXT, speaker: Speaker = NOBODY, *, shared: bool = False) -> None:
    """Send this process's log to a bounded file. `shared`: each component has one of its own beside it."""
    root = logging.getLogger()
    root.handlers = [Levels(path, form, speaker, shared=shared)]
    root.setLevel(logging.INFO)
    _quieten()


def to_stderr(level: int, form: str, speaker: Speaker) -> None:
    """Send this process's log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(form, speaker))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    _quieten()


def _quieten() -> None:
    """Libraries that tell of each request, at whatever level: hpack writes down headers, and so the tokens in them."""
    for noisy in ("aiohttp.access", "asyncio", "hpack"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Level:
    """The level of the component that made this, to be told and changed; the process's where it has no files."""

    def __init__(self) -> None:
        self._instance = (_speaker.get() or NOBODY).instance

    def set(self, level: int) -> None:
        levels = _levels()
        if levels is None:
            logging.getLogger().setLevel(level)
        else:
            levels.set_level(self._instance or levels.instance(), level)

    def file(self, instance: str = "") -> Path | None:
        """Where it logs to, or another of this machine; None where the process has no files."""
        levels = _levels()
        if levels is None:
            return None
        return levels.path_beside(instance) if instance else levels.path_of(self._instance or levels.instance())

    def get(self) -> str:
        levels = _levels()
        level = logging.getLogger().level if levels is None else levels.level_of(self._instance or levels.instance())
        return logging.getLevelName(level).lower()


def _levels() -> Levels | None:
    return next((h for h in logging.getLogger().handlers if isinstance(h, Levels)), None)

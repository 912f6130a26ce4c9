"""The guard of simulated code that is not ours: what would bring in the machine is refused, and told.

Python says by audit events when code opens files or sockets, or starts processes (PEP 578), from 3.12 on threads too;
what a guarded life asks for raises `NotSimulated` there. It is also told to its guard: the code may swallow it.

Code that never awaits would hang the run, in whose time nothing passes meanwhile: the time that this process spends
computing is counted, and `bounded` ends the run with a failure that says so.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayplane.control_plane.simulation.loop import LIFE, Life, NotSimulated, VirtualLoop

_OBJECTS = "keep what must last in objects of the API"
_CLIENT = "use the client that it was given"
_ASYNC = "write it as `async` code"
THREAD = "_thread.start_new_thread"
_REFUSED = {
    THREAD: ("a thread", _ASYNC),
    "os.exec": ("a process", _ASYNC),
    "os.fork": ("a process", _ASYNC),
    "os.forkpty": ("a process", _ASYNC),
    "os.mkdir": ("a directory", _OBJECTS),
    "os.posix_spawn": ("a process", _ASYNC),
    "os.remove": ("the removal of a file", _OBJECTS),
    "os.rename": ("the renaming of a file", _OBJECTS),
    "os.rmdir": ("the removal of a directory", _OBJECTS),
    "os.spawn": ("a process", _ASYNC),
    "os.system": ("a process", _ASYNC),
    "socket.__new__": ("a socket", _CLIENT),
    "socket.getaddrinfo": ("a name look-up", _CLIENT),
    "socket.gethostbyname": ("a name look-up", _CLIENT),
    "sqlite3.connect": ("a database", _OBJECTS),
    "subprocess.Popen": ("a process", _ASYNC),
    "time.sleep": ("a pause of the whole process", "use `await asyncio.sleep`"),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: What an import reads.
_CODE = (".py", ".pyc", ".so", ".pth", ".zip")
_installed: list[bool] = []
#: Seconds of computing between two looks: a guarded life that is at the same callback at both is ended.
ENDLESS_S = 10.0


class Endless(BaseException):
    """A guarded life computed for too long without an `await`. Not for its code to catch."""


def install() -> None:
    """Listen to this process's audit events, once; they cost those that are not guarded next to nothing."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)
        threading.Thread.start = _start  # type: ignore[assignment, method-assign]


_really_start = threading.Thread.start


def _start(thread: threading.Thread) -> None:
    _audit(THREAD, ())
    _really_start(thread)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" and event not in _REFUSED:
        return
    life = LIFE.get()
    if life is None or life.guard is None or life.dead:
        return
    if event == "open":
        if _may_open(*arguments):
            return
        what, instead = f"the file {arguments[0]!s:.200}", _OBJECTS
    else:
        what, instead = _REFUSED[event]
    life.guard(f"{life.name} asks for {what}: {instead}")
    raise NotSimulated(f"{what}: {instead}")


def _may_open(path: Any, mode: Any, flags: Any) -> bool:
    if not isinstance(path, str | bytes):
        return True  # a descriptor that is open already
    if isinstance(flags, int) and flags & _WRITES:
        return False
    name = os.fsdecode(path)
    return name.endswith(_CODE) or any(Path(name).is_relative_to(place) for place in {sys.prefix, sys.base_prefix})


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A run in which guarded lives may not compute for ever. Signals are for main threads only: elsewhere they may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last: list[tuple[Life, int]] = []

    def look(*_: object) -> None:
        life = LIFE.get()
        seen = [(life, life.turns)] if life is not None and life.guard is not None else []
        if not seen or seen != last:
            last[:] = seen
            return
        text = f"{seen[0][0].name} computes for more than {ENDLESS_S:g} s without an `await`: nobody else can run"
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop) and not loop.halted:
            loop.halted = text
            _tell(seen[0][0], text)
        raise Endless(text)

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS_S, ENDLESS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _tell(life: Life, text: str) -> None:
    assert life.guard is not None
    life.guard(text)

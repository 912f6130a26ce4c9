"""A component of another build, in a process of its own, carried by a host of this one.

The process is told its spec once, says one line when it serves, and lives beside the host; signals end it. What a host
must know of it stands in a file beside its data, so that another host of the cluster can go on with it.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.environments import CARRIED_MODULE, environment
from rayplane.control_plane.cluster.failures import ComponentFailed, Failure
from rayplane.control_plane.cluster.patience import stretched
from rayplane.control_plane.cluster.spec_json import spec_to_json
from rayplane.control_plane.tasks import finished
from rayplane.storage.env.private import make_private_dir, write_private

STOP_TIMEOUT_S = 10.0
# On an idle machine; a busy one gets more, up to so many times.
START_TIMEOUT_S = 90.0
SLOWDOWN_MAX = 10.0
POLL_S = 0.05
#: End at once; end the work in order before; that also for good.
END, LEAVE, LEAVE_FOR_GOOD = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
#: To a host of such processes: end, but do not end them, another host goes on with them.
HAND_OVER = signal.SIGHUP
OUTLIVES, WITH_ITS_HOST = "outlives", "with-its-host"
_SUFFIX = "-carried.json"


@dataclass(frozen=True, slots=True)
class Note:
    """The facts about a carried process, beside who it is."""

    version: str
    python: str
    leave_s: float = 0.0
    leave_for_good_s: float = 0.0


def write_note(data_dir: Path, note: Note) -> None:
    make_private_dir(data_dir.parent)
    write_private(_path(data_dir), json.dumps(asdict(note)).encode())


def read_note(data_dir: Path) -> Note | None:
    """None when there is none that can be read."""
    try:
        return Note(**json.loads(_path(data_dir).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _path(data_dir: Path) -> Path:
    return data_dir.with_name(data_dir.name + _SUFFIX)


def process_of(data_dir: Path) -> int:
    """The carried process of the actor whose data lies there, if it lives; else 0."""
    pid = processes.read(data_dir)
    ours = {CARRIED_MODULE.encode(), os.fsencode(data_dir)}
    return pid if pid and ours.issubset(processes.arguments(pid)) else 0


class Carried:
    """A carried component. `outlives`: whether it lives on when its host ends without a word."""

    def __init__(self, spec: Spec, *, outlives: bool) -> None:
        self._spec = spec
        self._data = Path(spec.data_dir)
        self._outlives = outlives
        self._ended = asyncio.Event()
        self._pipe: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self.failure: BaseException | None = None
        self.pid = 0
        self.note = Note("", spec.instance.python)

    async def start(self) -> None:
        """Take over the process that is there, or start one. Raises ComponentFailed, OSError; call `stop` then too."""
        await finished(self._start())

    async def _start(self) -> None:
        there = process_of(self._data)
        note = read_note(self._data)
        if self._outlives and there and note is not None and note.python == self._spec.instance.python:
            self.pid = there
        else:
            if there:
                await end(there)
            await asyncio.to_thread(self._launch)
            note = read_note(self._data)
        self.note = note or self.note
        self._watch()

    def _launch(self) -> None:
        """Start a process and wait for its line."""
        out = Path(self._spec.log_file).with_suffix(".out")
        make_private_dir(out.parent)
        life = OUTLIVES if self._outlives else WITH_ITS_HOST
        command = [self._spec.instance.python, "-m", CARRIED_MODULE, self._spec.data_dir, life]
        with open(out, "wb") as said:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=self._outlives,
                env=environment(),
            )
        assert process.stdin is not None and process.stdout is not None
        line = _answer(process, json.dumps(spec_to_json(self._spec)).encode() + b"\n")
        process.stdout.close()
        try:
            told = json.loads(line)
        except ValueError:
            told = {"text": _last_words(out)}
        if "pid" not in told:
            process.kill()
            process.wait()
        if self._outlives or "pid" not in told:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if "pid" not in told:
            raise ComponentFailed(Failure(told["text"], told.get("data_lost", False), told.get("port_taken", False)))
        # Whoever gives a handle up is warned while the process runs, unless its end is known.
        process.returncode = 0
        # The number of a process that is behind a script may be another.
        self.pid, self._pipe = told["pid"], process

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            loop.call_soon(self._gone, -1)
            return
        loop.add_reader(handle, self._gone, handle)

    def _gone(self, handle: int) -> None:
        if handle >= 0:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)
        processes.is_alive(self.pid)  # a child of this process is told so
        if not self._stopping:
            self.failure = ComponentFailed(Failure(f"process {self.pid} ended"))
        self._ended.set()

    async def wait_stopped(self) -> None:
        await self._ended.wait()

    def leave_s(self, *, for_good: bool) -> float:
        return self.note.leave_for_good_s if for_good else self.note.leave_s

    async def leave(self, *, for_good: bool) -> None:
        """End its work in order, and it with that."""
        self._stopping = True
        self.send(LEAVE_FOR_GOOD if for_good else LEAVE)
        await self._ended.wait()

    async def stop(self) -> None:
        self._stopping = True
        if not self.pid:
            return
        for number in (END, signal.SIGKILL):
            self.send(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._ended.wait()
                    return

    @property
    def stands_still(self) -> bool:
        """Whether its process was stopped by a signal (SIGSTOP)."""
        return processes.stands_still(self._data)

    def send(self, number: int) -> None:
        """Send a signal to its process; nothing when that has ended."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _answer(process: "subprocess.Popen[bytes]", told: bytes) -> bytes:
    """The line that a process says when it is told its spec; one that hangs, or does not read it, is killed in time."""
    assert process.stdin is not None and process.stdout is not None
    timer = threading.Timer(stretched(START_TIMEOUT_S, times_max=SLOWDOWN_MAX), process.kill)
    timer.start()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(told)
        process.stdin.flush()
    line = process.stdout.readline()
    timer.cancel()
    return line


def _last_words(out: Path) -> str:
    lines = out.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its process said nothing"


async def end(pid: int) -> None:
    """End a carried process that nobody watches."""
    for number in (END, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while processes.is_alive(pid):
                    await asyncio.sleep(POLL_S)
                return

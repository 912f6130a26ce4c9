"""Machines and the switch between them, as their owner has them."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.testing.machines import owned
from rayplane.storage.env.sockets import short_directory

# For measurements between networks (RFC 2544): none of anybody's, and none of rayplane's own.
NETWORK, PREFIX = "198.18.0", 24
MACHINES_MAX = 5
COMMAND_TIMEOUT_S = 180.0
_MODULE = "rayplane.control_plane.testing.machines.inside"
_UNSHARE = ("unshare", "--net", "--kill-child", "--fork")
_MACHINE = (*_UNSHARE, "--mount", "--pid", "--uts", "--ipc", "--propagation", "private")
# Ray's sockets: PLACE/ray/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store, below a folder `rpm-PID-START-…/m`.
_SOCKETS_BYTES = 100


def why_not() -> str:
    """The reason why there can be no machines here; empty when there can."""
    if os.geteuid() != 0:
        return "only root may make machines out of namespaces"
    missing = [program for program in ("unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"machines are made by util-linux: {' and '.join(missing)} are not installed"
    tried = subprocess.run([*_MACHINE, "true"], capture_output=True, text=True, check=False)
    return f"the kernel makes no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class _Process:
    """A first process (`inside`)."""

    def __init__(self, command: Sequence[str], errors: Path) -> None:
        with open(errors, "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        self._errors = errors

    def order(self, *words: Any) -> Any:
        """Its answer. ClusterError with what it says when it cannot."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as e:
            raise ClusterError(f"{words[0]}: the machine has ended: {self._errors.read_text().strip()}") from e
        if "error" in answer:
            raise ClusterError(f"{words[0]}: {answer['error']}")
        return answer["answer"]

    def end(self) -> None:
        """Return when it, and with it all of its namespaces, has ended."""
        with self._process, contextlib.suppress(BrokenPipeError):
            self._process.kill()


class Machine:
    """A machine: `address` as the others reach it, `place` its own folder, at the same path on each machine."""

    def __init__(self, name: str, address: str, folder: Path, place: Path, switch: _Process) -> None:
        self.name = name
        self.address = address
        self.place = place
        self._folder = folder
        self._switch = switch
        self._first: _Process | None = None

    def boot(self) -> None:
        """Start it, with what its folder holds from before."""
        for path in (self._folder, self._folder / "tmp"):
            path.mkdir(exist_ok=True, mode=0o700)
        command = (*_MACHINE, sys.executable, "-m", _MODULE, "machine", self.name, str(self._folder), str(self.place))
        self._first = _Process(command, self._folder / "machine.log")
        self._switch.order("plug", self.name, self.pid)
        self._first.order("address", self.address, PREFIX)

    @cached_property
    def pid(self) -> int:
        """The number of its first process."""
        assert self._first is not None
        pid: int = self._first.order("pid")
        return pid

    def path(self, name: str) -> Path:
        """Where this process finds what is called so at `place`."""
        return self._folder / name

    @property
    def is_up(self) -> bool:
        return self._first is not None

    def lose(self) -> None:
        """End it as a machine without power: all its processes, without a word to the others."""
        if self._first is None:
            return
        with contextlib.suppress(ClusterError):
            self._switch.order("unplug", self.name)
        with contextlib.suppress(ClusterError):  # one that did not come up has no number to tell
            _kill(self.pid)
        self._first.end()
        self._first = None
        self.__dict__.pop("pid", None)

    def cut(self) -> None:
        """Take its cable out: it runs on, and nobody hears of it."""
        self._switch.order("part", self.name)

    def heal(self) -> None:
        """Put the cable back."""
        self._switch.order("join", self.name)

    def take_address(self, address: str) -> None:
        """Have an address more."""
        assert self._first is not None
        self._first.order("address", address, PREFIX)

    @property
    def environment(self) -> dict[str, str]:
        """What the programs that are started on it see."""
        own = {"HOME": str(self.place), "TMPDIR": str(self.place / "tmp"), "RAY_TMPDIR": str(self.place)}
        return os.environ | own

    def command(self, *words: str) -> list[str]:
        """The command that runs another there, in the directory that this process is in; with `environment`."""
        flags = ("--net", "--mount", "--pid", "--uts", "--ipc")
        return ["nsenter", "--target", str(self.pid), *flags, "env", f"--chdir={os.getcwd()}", *words]

    def run(self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a program there to its end; its standard output. ClusterError when it fails."""
        done = subprocess.run(
            self.command(*words),
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
        if done.returncode:
            raise ClusterError(f"{self.name}: {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self, program: str = "") -> list[int]:
        """The numbers of its processes; only those whose program is called so."""
        mine = _namespace(self.pid)
        found = [pid for pid in processes.running() if _namespace(pid) == mine]
        return [pid for pid in found if not program or _program(pid) == program]


class Machines:
    """Machines that are up inside a `with` block, joined by a switch; how it ends is how they end, all of them.

    What an owner that was killed has left is cleared by whoever makes machines next.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MACHINES_MAX:
            raise ClusterError(f"{count} machines: 1 to {MACHINES_MAX} can be made")
        self._count = count
        self.all: list[Machine] = []

    def __enter__(self) -> Self:
        if why := why_not():
            raise ClusterError(why)
        parent = Path(short_directory(_SOCKETS_BYTES))
        owned.clear(parent)
        self.folder = owned.folder_of_mine(parent)
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def _make(self) -> None:
        place = self.folder / "m"
        place.mkdir()
        command = (*_UNSHARE, sys.executable, "-m", _MODULE, "switch", str(self.folder))
        self._switch = _Process(command, self.folder / "switch.log")
        for number in range(1, self._count + 1):
            name = f"machine-{number}"
            machine = Machine(name, f"{NETWORK}.{number}", self.folder / name, place, self._switch)
            self.all.append(machine)
            machine.boot()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with contextlib.ExitStack() as ends:  # each, whatever becomes of the others
            ends.callback(shutil.rmtree, self.folder)
            if hasattr(self, "_switch"):
                ends.callback(self._switch.end)
            for machine in self.all:
                ends.callback(machine.lose)

    def living(self) -> list[Machine]:
        return [machine for machine in self.all if machine.is_up]


def _program(pid: int) -> str:
    path, *_ = processes.arguments(pid) or [b""]
    return os.path.basename(os.fsdecode(path))


def _kill(pid: int) -> None:
    """Kill a process and return when it has ended: the first of a namespace ends as the last."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
    finally:
        os.close(handle)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""

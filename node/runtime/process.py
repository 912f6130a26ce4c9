"""Containers as real processes of this machine, below the host's shim.

`command` says how a container's spec becomes a process. A container without a command is simulated, so that manifests
which rely on an image's entry point still make pods that run.
"""

import asyncio
import contextlib
import os
import posixpath
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import stresses
from rayplane.node.config import PIDS_MAX
from rayplane.node.errors import ContainerConfigError, ContainerCreateError, NotRunning, RuntimeFailed
from rayplane.node.images.containers import own_command, stop_signal
from rayplane.node.lifecycle.model import START_ERROR, TOO_MANY_PROCESSES, ContainerUser
from rayplane.node.runtime import ContainerRun, ExecSession, Listener, LogOptions, PodPlace, StartOrder, Usage
from rayplane.node.runtime.attach import Attached, OwnTerminal, StandardInput, Terminal
from rayplane.node.runtime.command import (
    CommandLine,
    Layout,
    command_line,
    localizer,
    own_paths,
)
from rayplane.node.runtime.copying import copy_command
from rayplane.node.runtime.exec_session import ConsoleExec, ProcessExec
from rayplane.node.runtime.host_group import HostGroup
from rayplane.node.runtime.isolation.cgroups import Group
from rayplane.node.runtime.isolation.limits import of_container
from rayplane.node.runtime.logfile import LogFile, LogLimits
from rayplane.node.runtime.nothing_shared import NothingShared
from rayplane.node.runtime.pipes import connect_output, merged
from rayplane.node.runtime.shim_client import ShimClient
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.runtime.stressors import Stressors
from rayplane.node.runtime.termination import termination_message
from rayplane.node.runtime.tree import TERMINATION_LOG, ContainerTree
from rayplane.node.runtime.usage import ProcessTable, SessionUse, UsageMeter, together
from rayplane.node.shim.child import CROWDED, OOM_KILLED

CREATE_ERROR = "CreateContainerError"
EXEC_MAX = 256


class ProcessRuntime(NothingShared):
    """A runtime that starts containers as processes; `simulated` takes those without a command.

    `makes_consoles`: whether processes make their terminals themselves, in a file system of their own.
    """

    makes_consoles = False

    def __init__(
        self,
        simulated: SimulatedRuntime,
        shim: ShimClient | None = None,
        logs: LogLimits | None = None,
        group: str = "",
        pod_processes: int = PIDS_MAX,
    ) -> None:
        """`group`: a name of this host on its machine, by which it has control groups; empty for none;
        `pod_processes`: of a pod at most, 0 for any number."""
        self._simulated = simulated
        self.groups = HostGroup(group, pod_processes)
        self.pod_processes = pod_processes
        self.logs = logs or LogLimits()
        self.shim = shim or ShimClient()
        self.table = ProcessTable()
        self.execs = 0
        own = os.path.dirname(sys.executable)
        self.path = f"{os.environ.get('PATH', os.defpath)}:{own}"

    async def open(self) -> None:
        await self.groups.open()
        self.shim.start()

    async def close(self) -> None:
        await self.shim.stop()
        await self.groups.close()

    async def add_pod(self, place: PodPlace) -> str:
        self.groups.add(place.uid, place.pod)
        return place.ip

    def resize_pod(self, pod: Object) -> None:
        try:
            self.groups.limit(meta.uid(pod), pod, reported=False)
        except OSError as e:
            raise RuntimeFailed(f"cannot change the pod's resources: {e}") from e

    def remove_pod(self, uid: str) -> None:
        self.groups.remove(uid)

    def keep_alive(self, seconds: float) -> None:
        self.shim.order("", op="alive", seconds=seconds)

    def start(self, order: StartOrder, listener: Listener) -> ContainerRun:
        if order.image is None and not own_command(order.container):
            return self._simulated.start(order, listener)
        run = self.run_of(order, listener)
        run.begin()
        return run

    def run_of(self, order: StartOrder, listener: Listener) -> "ProcessRun":
        return ProcessRun(self, order, listener)


class ProcessRun:
    """One run of a container."""

    real = True

    def __init__(self, runtime: ProcessRuntime, order: StartOrder, listener: Listener) -> None:
        self._runtime = runtime
        self._order = order
        self._listener = listener
        self._tree = ContainerTree(order.directory, order.container["name"])
        self._log_name = f"{order.attempt}-{order.container_id.rpartition('/')[2][:12]}.log"
        self._log = LogFile(self._tree.files, self._log_name, lambda: self._over)
        self.log_path = f"{self._tree.files.root}/{self._log_name}"
        self._line: CommandLine | None = None
        self._localize: Callable[[str], str] = str
        self._stdin: StandardInput | None = None
        self._pid = 0
        self._over = False
        self._group: Group | None = None
        self._hurries = False
        self._meter = UsageMeter()
        self._stressors = Stressors(runtime.shim, order.container_id)
        self.stress(order.pod)

    # --- start ------------------------------------------------------------------------------------

    def begin(self) -> None:
        try:
            self._line = self._prepare()
            with self._tree.files.open_dir() as logs, self._open_input() as stdin, self._open_groups() as groups:
                self._runtime.shim.order(
                    self._order.container_id,
                    self._report,
                    fds=[logs, *stdin, *groups],
                    groups=len(groups),
                    op="start",
                    **self._line.to_json(),
                    **self._place(),
                    log=self._log_name,
                    log_bytes=self._runtime.logs.file_bytes,
                    log_files=self._runtime.logs.files,
                    stop_signal=stop_signal(self._order.container, self._order.image),
                )
        except ContainerConfigError as e:
            self._failed(str(e), e.reason)
        except OSError as e:
            self._failed(f"cannot make the container's root: {e}")
        except RuntimeFailed as e:
            self._failed(str(e))

    @contextlib.contextmanager
    def _open_groups(self) -> Iterator[list[int]]:
        """What the shim needs to put the process in its control groups, where it has some."""
        order, limits = self._order, of_container(self._order.container)
        name = f"{order.container['name']}-{order.attempt}"
        self._group = self._runtime.groups.container(meta.uid(order.pod), name, limits)
        fds = self._group.entries() if self._group is not None else []
        try:
            yield fds
        finally:
            for fd in fds:
                os.close(fd)

    @contextlib.contextmanager
    def _open_input(self) -> Iterator[list[int]]:
        """What the shim needs of the process's terminal or standard input, where it has one."""
        if self._order.container.get("tty"):
            self._stdin = OwnTerminal() if self._runtime.makes_consoles else Terminal()
        elif self._order.container.get("stdin"):
            self._stdin = StandardInput()
        theirs = self._stdin.theirs if self._stdin is not None else []
        try:
            yield theirs
        finally:
            for fd in theirs:
                os.close(fd)

    def _prepare(self) -> CommandLine:
        """Make the container's files; what to run there."""
        tree, order = self._tree, self._order
        tree.prepare(order.mounts, log=self._log_name)
        cwd = tree.place(order.container.get("workingDir") or "/", create=True)
        layout = Layout(tree.root.root, f"{tree.files.root}/{TERMINATION_LOG}", cwd)
        order = replace(order, mounts=tree.mounts)
        self._localize = localizer(order, layout)
        line = command_line(order, layout, path=self._runtime.path)
        check_line(line)
        return line

    def _place(self) -> dict[str, Any]:
        """What a start says of where the process is to be, and what it may have."""
        if self._runtime.groups.top is not None:
            return {}
        return {"memory_max": of_container(self._order.container).memory, "processes_max": self._runtime.pod_processes}

    def _failed(self, message: str, reason: str = START_ERROR) -> None:
        self._end()
        self._drop_group()
        self._listener.failed(reason, message)

    def _report(self, message: dict[str, Any]) -> None:
        event = message["ev"]
        if event == "started":
            self._pid = message["pid"]
            for fd in message.get("fds") or ():
                assert isinstance(self._stdin, OwnTerminal)
                self._stdin.connect(fd)
            self._listener.started(user=_user(message.get("user")))
            self._stressors.started()
        elif event == "failed":
            # A shim that died says nothing of the program: it is started again.
            self._failed(message["error"], CREATE_ERROR if message.get("lost") else START_ERROR)
        else:
            self._end()
            code = int(message["code"])
            self._listener.exited(
                code,
                int(message["signal"]),
                termination_message(self._tree.files, self._log, self._order.container, code),
                self._why(message),
            )

    # --- end --------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._over = True
        self._stressors.ended()
        if self._stdin is not None:
            self._stdin.close()

    def stop(self, grace_s: float) -> None:
        if not self._over:
            self._runtime.shim.order(self._order.container_id, op="kill", grace=grace_s)
            if self._group is not None:
                asyncio.get_running_loop().call_later(grace_s, self._hurry)

    def _hurry(self) -> None:
        """Let what was killed end at once: each process needs a turn for that, and a small share has few."""
        if self._group is not None and not self._over and self._runtime.groups.top is not None:
            self._hurries = True
            self._runtime.groups.pod(meta.uid(self._order.pod)).lift_cpu()
            self._group.lift_cpu()

    def _why(self, message: dict[str, Any]) -> str:
        """What is to be told of its end beside its code."""
        group, short = self._group, False
        if group is not None:
            if self._hurries:  # the pod's other containers have its bound again
                with contextlib.suppress(OSError):
                    self._runtime.groups.limit(meta.uid(self._order.pod))
            short = bool(message["code"]) and group.use().kills > 0
            self._drop_group()
        why = str(message.get("why") or "")
        return OOM_KILLED if short else TOO_MANY_PROCESSES if why == CROWDED else why

    def _drop_group(self) -> None:
        if self._group is not None:
            asyncio.get_running_loop().run_in_executor(None, self._group.remove)

    # --- while it runs ----------------------------------------------------------------------------

    def logs(self, options: LogOptions) -> AsyncIterator[bytes]:
        return self._log.read(options)

    async def exec(self, command: list[str], *, tty: bool, stdin: bool, size: tuple[int, int] = (0, 0)) -> ExecSession:
        if self._over or self._line is None or not self._pid:
            raise NotRunning(f"container {self._order.container['name']} does not run")
        if self._runtime.execs >= EXEC_MAX:
            raise NotRunning(f"{EXEC_MAX} commands run in containers of this host: end some first")
        command = self._exec_command(command)
        self._runtime.execs += 1
        runtime = self._runtime
        kind = ConsoleExec if tty and runtime.makes_consoles else ProcessExec
        session = kind(runtime.shim, self._order.container_id, tty=tty, size=size)

        def ended() -> None:
            self._runtime.execs -= 1

        await session.begin(command, self._line, stdin=stdin, on_end=ended)
        return session

    async def attach(self, *, stdin: bool) -> ExecSession:
        if self._over:
            raise NotRunning(f"container {self._order.container['name']} does not run")
        streams = 1 if self._order.container.get("tty") else 2
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(streams)]
        try:
            self._runtime.shim.order(self._order.container_id, op="attach", fds=[theirs for _, theirs in pipes])
        finally:
            for _, theirs in pipes:
                os.close(theirs)
        ends = [await connect_output(ours) for ours, _ in pipes]
        once = bool(self._order.container.get("stdinOnce"))

        def close() -> None:
            for _, transport in ends:
                transport.close()

        return Attached(merged([reader for reader, _ in ends]), self._stdin if stdin else None, once=once, close=close)

    def _exec_command(self, command: list[str]) -> list[str]:
        """The command with real paths. Raises RuntimeFailed."""
        tree = self._tree
        check_words(command)
        at = self._order.container.get("workingDir") or "/"
        try:
            copying = copy_command(command, lambda path, make: tree.place(posixpath.join(at, path), create=make))
        except OSError as e:
            raise RuntimeFailed(f"cannot run {command[:1]}: {e.strerror}: a copy stays in the container") from e
        if copying is not None:
            return copying
        own = own_paths(tree.root.root, tree.has)
        return [self._localize(part) if n == 0 else own(self._localize(part)) for n, part in enumerate(command)]

    async def connect(self, host: str, port: int) -> socket.socket:
        return await self._runtime.network.connect(host, port)

    async def forward(self, ip: str, port: int) -> socket.socket:
        return await self.connect(ip, port)

    def usage(self, pod: Object) -> Usage:
        if self._over or not self._pid:
            return Usage()
        now = asyncio.get_running_loop().time()
        if self._group is None:
            sessions = self._runtime.table.sessions(now)
            found = [sessions[pid] for pid in (self._pid, *self._stressors.pids) if pid in sessions]
            return self._meter.measure(together(found), now)
        use = self._group.use()
        return self._meter.measure(SessionUse(use.cpu_ns, use.memory_bytes, use.processes), now)

    def stress(self, pod: Object) -> None:
        self._stressors.want(stresses(meta.annotations(pod), self._order.container["name"]))

    async def resize(self, pod: Object, container: dict[str, Any]) -> None:
        """Let it have other resources from now on. Raises RuntimeFailed."""
        limits, runtime = of_container(container), self._runtime
        try:
            if self._group is not None:
                runtime.groups.limit(meta.uid(pod), pod)
                self._group.set(limits)
            else:
                runtime.shim.order(self._order.container_id, op="limit", memory_max=limits.memory)
        except OSError as e:
            raise RuntimeFailed(f"cannot change the container's resources: {e}") from e

    def probe_delay(self, probe: str) -> tuple[float, bool] | None:
        return None


def _user(told: Sequence[Any] | None) -> ContainerUser:
    """As whom a process began; as this host's own user where it says nothing of that."""
    if told is None:
        return ContainerUser(os.getuid(), os.getgid(), tuple(os.getgroups()))
    uid, gid, groups = told
    return ContainerUser(uid, gid, tuple(groups))


def check_line(line: CommandLine) -> None:
    """Raises ContainerCreateError for what no process can have."""
    for name, value in line.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ContainerCreateError(f"environment variable {name!r}: neither name nor value can hold NUL or =")
    if any("\0" in word for word in (*line.argv, line.cwd)):
        raise ContainerCreateError("command, arguments and working directory cannot hold NUL")


def check_words(words: Sequence[str]) -> None:
    """Raises RuntimeFailed."""
    if any("\0" in word for word in words):
        raise RuntimeFailed("a command cannot hold NUL")

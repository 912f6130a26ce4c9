"""The process that real containers are children of: one small program per node host, run by itself.

It starts containers and commands in sessions of their own, writes their output to log files, kills whole groups, and
reports ends. It lives in its own session and watches its host: when the control socket closes, when the host's
process is gone, or when the host has not heard the cluster for too long (`alive`), every process below it is killed, so
nothing outlives its owner even if that dies by SIGKILL. It is the reaper of orphans below it, so what a container
left behind in another session is found by the variable RAYPLANE_CONTAINER_ID and killed too. Should the shim itself be
killed, its children die by their parent-death signal.

Protocol: JSON in datagrams on the socket given as descriptor `argv[1]`.
in:  {op: start, id, argv, env, cwd, log, log_bytes, [log_files], [stop_signal]} with the descriptor of the
     directory that gets the file `log`, and for a process with a standard input one more, for one with a terminal two:
     its end and ours; at last `groups` of files that the process writes to; with `memory_max` or `processes_max` it is
     looked after
     {op: exec, id, of, argv, env, cwd, tty} with three descriptors
     with `console`, columns and rows, a start or an exec gets a terminal from where it runs, and no descriptors of one
     {op: attach, id} with one for what a container writes from now on, or two, the second for its errors; closed when
     that ends
     {op: stress, id, of, burning, load, holding, hold_bytes}   work in the control groups of a container (see `stress`)
     {op: kill, id, grace} {op: alive, seconds} {op: limit, id, memory_max}
out: {ev: started, id, pid, user} {ev: failed, id, error, [code]} {ev: exited, id, code, signal, why}; with the first
     comes the other end of a terminal that is from where it runs

Imports of this project only what is beside it, so that it starts in a few milliseconds. Single-threaded, one epoll
loop.
"""

import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[3]))

from rayplane.node.shim import orders, stress
from rayplane.node.shim.child import Attached, Child, Process, changed_signals
from rayplane.node.shim.consoles import handed_over, socket_pair
from rayplane.node.shim.container_log import STDERR, STDOUT, Log
from rayplane.node.shim.failures import describe, exit_code
from rayplane.node.shim.hogs import Most
from rayplane.node.shim.lookout import ORPHANS, Lookout
from rayplane.node.shim.processes import child_pids, kill, kill_group, mark_of
from rayplane.node.shim.spawning import spawn

MESSAGE_MAX = 192 * 1024
#: Descriptors that the shim may have, where the machine allows it; a container takes about ten.
FILES_MAX = 65536
READ_BYTES = 64 * 1024
FDS_MAX = 8
WATCH_S = 1.0
#: Whoever is attached and takes nothing for so long is given up.
STUCK_S = 10.0
_STARTS = ("start", "exec", "stress")
_STREAMS = (STDOUT, STDERR)
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class Shim:
    """The loop and what it knows. `proc`: where it finds processes below it, by their numbers."""

    proc = "/proc"
    can_be_stopped = True  # by SIGTERM
    makes_consoles = False

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._host = os.getppid()
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._attached: list[Attached] = []
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._alive_until: float | None = None
        self._running = True
        self._lookout = Lookout(self.proc, self._children, self.roots)
        self._orders: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "start": self._start,
            "exec": self._exec,
            "attach": self._attach,
            "stress": self._stress,
            "kill": self._kill,
            "alive": self._alive,
            "limit": self._limit,
        }

    def run(self) -> None:
        control, selector = self._control, self._selector
        control.setblocking(False)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, FILES_MAX) if most >= 0 else FILES_MAX, most))
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop() if self.can_be_stopped else None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        changed_signals()
        selector.register(control, selectors.EVENT_READ, self._receive)
        selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 4096))
        while self._running:
            for key, _ in selector.select(self._timeout()):
                key.data()
            self._reap()
            self._kill_late()
            self._lookout.look()
            self._give_up_stuck()
            self._send_more()
            if os.getppid() != self._host:
                break
        self._end_all()

    def _stop(self) -> None:
        self._running = False

    def _timeout(self) -> float:
        now = time.monotonic()
        due = [self._lookout.due, *(c.kill_at for c in self._children.values() if c.kill_at is not None)]
        if self._alive_until is not None:
            due.append(self._alive_until)
        return max(0.0, min([now + WATCH_S, *due]) - now)

    # --- messages ---------------------------------------------------------------------------------

    def _receive(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_MAX, FDS_MAX)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._running = False
                return
            self._obey(data, fds)

    def _obey(self, data: bytes, fds: list[int]) -> None:
        message: dict[str, Any] = {}
        try:
            message = orders.parse(data)
            orders.check(message, len(fds))
            if message["op"] in _STARTS and message["id"] in self._children:
                raise ValueError(f"{message['id']} was started before")
            self._orders[message["op"]](message, fds)
        except Exception as e:  # whatever one order met: the shim lives for all the others
            self._send(ev="failed", id=str(message.get("id") or ""), error=describe(e, message))
        finally:
            for fd in fds:
                os.close(fd)

    @staticmethod
    def encode(**message: Any) -> bytes:
        return json.dumps(message).encode()

    def _send(self, *, fds: Sequence[int] = (), **message: Any) -> None:
        """`fds`: sent with it, and closed here."""
        self._unsent.append((self.encode(**message), [*fds]))
        self._send_more()

    def _send_more(self) -> None:
        # At most one message for each start and each end of a child: bounded by what the host asked for.
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(self._control, [data], fds)
            except BlockingIOError:
                return
            except OSError:
                self._running = False
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)

    # --- start ------------------------------------------------------------------------------------

    def spawn(self, message: dict[str, Any], stdio: tuple[int, int, int]) -> Process:
        """Start a process. Raises OSError, ValueError, SubprocessError."""
        return spawn(message, stdio, tty=message["tty"])

    def shown(self, child: Child) -> int:
        """The number of a child as it is told; 0 for one that has ended meanwhile."""
        return child.pid

    def roots(self, children: Collection[Child]) -> dict[str, list[int]]:
        """Processes that all others of each container are below; as ORPHANS those of which nobody knows whose."""
        found = {child.id: [child.pid] for child in children}
        for other in self._children.values():
            if other.of in found:
                found[other.of].append(other.pid)
        for ident, pid in self.adopted(children):
            found.setdefault(ident, []).append(pid)
        return found

    def adopted(self, children: Collection[Child]) -> Iterator[tuple[str, int]]:
        """Processes of containers that are no child's of theirs any more, with whose they are."""
        for pid in child_pids(self.proc):
            if pid not in self._by_pid:
                yield mark_of(self.proc, pid) or ORPHANS, pid

    def left(self, child: Child) -> None:
        """See to what is left of a container whose main process has ended."""

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        first = len(fds) - message.get("groups", 0)
        directory, stdin, terminal = (*fds[:first], -1, -1)[:3]
        tty, own = terminal >= 0, self._makes_console(message)
        if own:
            pipes = [socket_pair()]
        else:
            pipes = [(os.dup(terminal), os.dup(stdin))] if tty else [os.pipe2(os.O_CLOEXEC) for _ in _STREAMS]
        log = None
        try:
            log = Log(os.dup(directory), message["log"], message["log_bytes"], message.get("log_files", 2))
            read_from = pipes[0][1] if own else stdin if stdin >= 0 else self._nothing
            stdio = (read_from, pipes[0][1], pipes[-1][1])
            process = self.spawn({**message, "tty": tty, "groups": fds[first:]}, stdio)
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            for read, _ in pipes:
                os.close(read)
            if log is not None:
                log.close()
            self._send(ev="failed", id=message["id"], error=describe(e, message))
            return
        finally:
            for _, write in pipes:
                os.close(write)
        child = Child(message, process)
        child.log = log
        for (read, _), stream in zip(pipes, _STREAMS, strict=False):
            os.set_blocking(read, False)
            child.outputs[read] = stream
        child.console = pipes[0][0] if own else -1
        child.groups = [os.dup(fd) for fd in fds[first:]]
        self._add(child)
        self._lookout.bound(child, Most(message.get("memory_max", 0), message.get("processes_max", 0)))

    def _makes_console(self, message: dict[str, Any]) -> bool:
        return self.makes_consoles and message.get("console") is not None

    def _exec(self, message: dict[str, Any], fds: list[int]) -> None:
        console, theirs = socket_pair() if self._makes_console(message) else (-1, -1)
        try:
            container = self._children.get(message["of"])
            groups = container.groups if container is not None else []
            stdio = (theirs, theirs, theirs) if console >= 0 else (fds[0], fds[1], fds[2])
            process = self.spawn({**message, "groups": groups}, stdio)
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            if console >= 0:
                os.close(console)
            self._send(ev="failed", id=message["id"], error=describe(e, message), code=exit_code(e, message))
            return
        finally:
            if theirs >= 0:
                os.close(theirs)
        child = Child(message, process)
        child.console = console
        self._add(child)

    def _stress(self, message: dict[str, Any], fds: list[int]) -> None:
        container = self._children.get(message["of"])
        if container is None:
            self._send(ev="failed", id=message["id"], error="the container does not run")
            return
        message["argv"] = ["stress"]
        self._add(Child(message, stress.begin(message, container.groups)))

    def _add(self, child: Child) -> None:
        """Know a child; it is told as started when it has come to its program."""
        self._children[child.id] = child
        self._by_pid[child.pid] = child
        if child.process.pending < 0:
            self._begun(child)
        else:
            self._watch(child.process.pending, selectors.EVENT_READ, partial(self._hear, child))

    def _hear(self, child: Child) -> None:
        if child.process.arrived():
            self._begun(child)

    def _begun(self, child: Child) -> None:
        if child.process.pending >= 0:
            self._watch(child.process.pending, 0)
            error = child.process.failure()
            if error is not None:
                child.failure = error
                for fd in self._console_of(child):
                    os.close(fd)
                return
        child.begun = True
        user = child.process.user
        self._send(ev="started", id=child.id, pid=self.shown(child), user=user, fds=self._console_of(child))
        if child.outputs:
            self._balance(child)

    def _console_of(self, child: Child) -> list[int]:
        """The other end of a terminal that a process has made, for the host. A container's is read here too."""
        if child.console < 0:
            return []
        stream, terminal = child.outputs.pop(child.console, None), handed_over(child.console)
        child.console = -1
        if terminal < 0:
            return []
        if stream is None:
            return [terminal]
        os.set_blocking(terminal, False)
        child.outputs[terminal] = stream
        return [os.dup(terminal)]

    def _pump(self, child: Child, output: int) -> bool:
        """Move some output to the log; whether there may be more now."""
        try:
            data = os.read(output, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            # A terminal whose last process is gone.
            data = b""
        stream = child.outputs[output]
        if data and child.log is not None:
            child.log.add(data, stream)
            for one in self._attached_to(child):
                if stream in one.streams:
                    self._hand_on(one, data)
            return True
        self._close_output(child, output)
        return False

    def _close_output(self, child: Child, output: int) -> None:
        del child.outputs[output]
        self._watch(output, 0)
        os.close(output)

    # --- attached ---------------------------------------------------------------------------------

    def _attach(self, message: dict[str, Any], fds: list[int]) -> None:
        child = self._children.get(message["id"])
        if child is not None:
            for fd, streams in zip(fds, (_STREAMS[: 3 - len(fds)], _STREAMS[1:]), strict=False):
                self._attached.append(Attached(child, os.dup(fd), streams))

    def _attached_to(self, child: Child) -> list[Attached]:
        return [one for one in self._attached if one.child is child]

    def _hand_on(self, one: Attached, data: bytes = b"") -> None:
        try:
            one.write(data)
        except OSError:
            self._detach(one)
        else:
            if not one.waiting and one.child.id not in self._children:
                self._detach(one)
        self._balance(one.child)

    def _detach(self, one: Attached) -> None:
        self._watch(one.fd, 0)
        os.close(one.fd)
        self._attached.remove(one)

    def _balance(self, child: Child) -> None:
        """Read the container's output while nobody is behind."""
        behind = False
        for one in self._attached_to(child):
            behind |= bool(one.waiting)
            self._watch(one.fd, selectors.EVENT_WRITE if one.waiting else 0, partial(self._hand_on, one))
        for output in child.outputs:
            self._watch(output, 0 if behind else selectors.EVENT_READ, partial(self._pump, child, output))

    def _watch(self, fd: int, events: int, call: Callable[[], object] | None = None) -> None:
        watched = fd in self._selector.get_map()
        if watched and not events:
            self._selector.unregister(fd)
        elif events and not watched:
            self._selector.register(fd, events, call)

    def _give_up_stuck(self) -> None:
        too_old = time.monotonic() - STUCK_S
        for one in [one for one in self._attached if one.waiting and one.since < too_old]:
            self._detach(one)
            self._balance(one.child)

    # --- end --------------------------------------------------------------------------------------

    def _alive(self, message: dict[str, Any], fds: list[int]) -> None:
        self._alive_until = time.monotonic() + message["seconds"]

    def _limit(self, message: dict[str, Any], fds: list[int]) -> None:
        child = self._children.get(message["id"])
        if child is not None:
            self._lookout.bound(child, Most(message["memory_max"], child.most.processes))

    def _kill(self, message: dict[str, Any], fds: list[int]) -> None:
        child, grace_s = self._children.get(message["id"]), message["grace"]
        if child is None:
            return
        at = time.monotonic() + grace_s
        if grace_s > 0 and child.kill_at is None:
            # As container runtimes do: the main process is asked, the others die with it.
            kill(child.pid, child.stop_signal)
        child.kill_at = at if child.kill_at is None else min(at, child.kill_at)

    def _kill_late(self) -> None:
        now = time.monotonic()
        if self._alive_until is not None and now > self._alive_until:
            self._alive_until = None
            for child in self._children.values():
                child.kill_at = now
        for child in self._children.values():
            if child.kill_at is not None and child.kill_at <= now:
                kill_group(child.pid, signal.SIGKILL)
                child.kill_at = now + WATCH_S

    def _reap(self) -> None:
        while True:
            try:
                # Looked at before it is reaped: while it is a zombie nobody else can get its group's number.
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            child = self._by_pid.pop(info.si_pid, None)
            if child is not None:
                kill_group(child.pid, signal.SIGKILL)
            _, status = os.waitpid(info.si_pid, 0)
            if child is not None:
                self._ended(child, status)
            self._kill_strays()

    def _ended(self, child: Child, status: int) -> None:
        del self._children[child.id]
        code = os.waitstatus_to_exitcode(status)
        child.process.returncode = code
        if not child.begun and child.failure is None:
            # What it said before its end is there to be read.
            self._begun(child)
        if not child.of:
            for other in self._children.values():
                if other.of == child.id:
                    kill_group(other.pid, signal.SIGKILL)
            self.left(child)
        for output in [*child.outputs]:
            while output in child.outputs and self._pump(child, output):
                pass
            if output in child.outputs:
                self._close_output(child, output)
        for one in self._attached_to(child):
            self._hand_on(one)
        if child.log is not None:
            child.log.close()
        while child.groups:
            os.close(child.groups.pop())
        if child.failure is not None:
            words = {"argv": child.argv}
            error, number = describe(child.failure, words), exit_code(child.failure, words)
            self._send(ev="failed", id=child.id, error=error, code=number)
            return
        number = -code if code < 0 else 0
        self._send(ev="exited", id=child.id, code=128 + number if number else code, signal=number, why=child.why)

    def _kill_strays(self) -> None:
        """Kill orphans whose container is no more."""
        for pid in child_pids(self.proc):
            if pid not in self._by_pid:
                mark = mark_of(self.proc, pid)
                # Without a mark nobody can tell whose it is; it goes when the shim goes.
                if mark and mark not in self._children:
                    kill(pid)

    def _end_all(self) -> None:
        signal.set_wakeup_fd(-1)
        for child in self._children.values():
            kill_group(child.pid, signal.SIGKILL)
        # Children of those just killed become ours: look again until there are none.
        while pids := child_pids(self.proc):
            for pid in pids:
                kill(pid)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


if __name__ == "__main__":
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Shim(socket.socket(fileno=int(sys.argv[1]))).run()

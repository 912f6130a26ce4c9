"""The node host's end of its shim: starts it, sends orders, hands on what it reports.

If the shim dies, everything below it is dead: each child is reported as killed, and the next order starts a new one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from rayplane.node.errors import RuntimeFailed
from rayplane.node.shim import shim

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
MESSAGE_MAX = 192 * 1024
UNSENT_MAX = 4096
SOCKET = "{socket}"
_SHIM_ENV = ("PATH", "LANG", "LD_LIBRARY_PATH")


class ShimClient:
    """The runtime's end of a shim.

    `order` sends a message about child `id`; `report` is called with each message the shim sends about it. `command`:
    what runs a shim (one that isolates nothing if left out), `SOCKET` standing for the descriptor of its socket.
    `lost`: told when one died.
    """

    def __init__(self, command: Sequence[str] = (), lost: Callable[[], None] | None = None) -> None:
        self._command = command or (sys.executable, "-I", "-S", shim.__file__, SOCKET)
        self._on_lost = lost
        self.broken = ""
        """Why no shim can work here: none is started any more. Empty while one can."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reports: dict[str, Report] = {}
        self._pids: dict[str, int] = {}
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def start(self) -> None:
        """Start the shim unless it runs."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MESSAGE_MAX)
        ours.setblocking(False)
        number = str(theirs.fileno())
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.callback(ours.close)
            self._process = subprocess.Popen(
                [number if word == SOCKET else word for word in self._command],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                # Pods can read the environment of processes of their user: none of the host's secrets is in this one.
                env={name: os.environ[name] for name in _SHIM_ENV if name in os.environ},
            )
            unless_started.pop_all()
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)

    @property
    def pid(self) -> int:
        """The shim's process id, 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    async def stop(self) -> None:
        """End the shim and with it everything below it."""
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.get_running_loop().run_in_executor(None, _wait, process)

    def order(self, ident: str, report: Report | None = None, *, fds: Sequence[int] = (), **message: Any) -> None:
        """Send an order. Raises RuntimeFailed when it is too large. `fds` are copied; the caller closes its own."""
        try:
            data = orjson.dumps({"id": ident, **message})
        except TypeError as e:
            raise RuntimeFailed(f"command and environment must be valid Unicode: {e}") from e
        if len(data) > MESSAGE_MAX:
            raise RuntimeFailed(
                f"command and environment take {len(data)} bytes, at most {MESSAGE_MAX} are possible: "
                "use a file in a volume for large values"
            )
        if self.broken:
            raise RuntimeFailed(self.broken)
        if len(self._unsent) >= UNSENT_MAX:
            raise RuntimeFailed("the shim does not take orders any more; restart the node host")
        self.start()
        if report is not None:
            self._reports[ident] = report
        # Orders that wait keep copies, since the caller closes its descriptors at once.
        self._unsent.append((data, tuple(os.dup(fd) for fd in fds)))
        self._send()

    def _send(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(self._socket, [data], list(fds))
            except BlockingIOError:
                loop.add_writer(self._socket.fileno(), self._send)
                return
            except OSError:
                self._lost()
                return
            self._unsent.popleft()
            _close(fds)
        loop.remove_writer(self._socket.fileno())

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_MAX, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # It went with orders unread. That is told once, and before what it said at last.
                continue
            except OSError:
                data, fds = b"", []
            if not data:
                self._lost()
                return
            self._handle(orjson.loads(data), fds)

    def _handle(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        ident = message["id"]
        if message["ev"] == "started":
            self._pids[ident] = message["pid"]
            report = self._reports.get(ident)
        else:
            self._pids.pop(ident, None)
            report = self._reports.pop(ident, None)
        if report is not None:
            report(message | {"fds": fds} if fds else message)
            return
        _close(fds)
        if message["ev"] == "failed":
            log.warning("the shim of this node host failed: %s", message["error"])

    def _lost(self) -> None:
        log.error("the shim of this node host died; its containers are killed and started again")
        pids, self._pids = self._pids, {}
        for pid in filter(None, pids.values()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            asyncio.get_running_loop().run_in_executor(None, _wait, process)
        if self._on_lost is not None:
            self._on_lost()
        reports, self._reports = self._reports, {}
        for ident, report in reports.items():
            if ident not in pids:
                report({"ev": "failed", "id": ident, "error": "the shim died", "lost": True})
            else:
                report({"ev": "exited", "id": ident, "code": 137, "signal": 9})

    def _disconnect(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        while self._unsent:
            _close(self._unsent.popleft()[1])


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

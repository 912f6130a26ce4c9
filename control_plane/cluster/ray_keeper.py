"""The keeper of a machine that is lost on purpose: it ends Ray's part of it, and later starts that again.

    python -m rayplane.control_plane.cluster.ray_keeper RAYLET LOSS ADDRESS SECONDS

It is nobody's child, so that it outlives what it ends. Once the tables of Ray's head say that the machine is lost it
kills Ray's `raylet` there and everything that this has started; when they say that it is back, or its time is over,
the same raylet starts under another id. If nobody says so soon, nothing happens. Like a raylet it ends with the head.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rayplane.control_plane.cluster import processes

SPACE = b"rayplane-machines"
LOST, GONE, BACK = "lost", "gone", "back"
"""What is asked for, what the keeper answers when it is done, and the end of it."""
POLL_S = 0.3
BEGIN_S = 30.0
"""For whoever started the keeper to say that the machine is lost."""
TRIES, PAUSE_S, LIVES_S = 20, 5.0, 120.0
"""A raylet that lives so long has begun: on a busy machine it may give up on its own helpers after half a minute."""
_RAYLET = "raylet"
_PARENTS = 5


def key(address: str) -> bytes:
    """The row of a machine in Ray's tables: an order, and which loss it is for."""
    return address.encode()


def read(row: bytes | None) -> tuple[str, str]:
    """The order and the loss that stand in a row; empty where there is none."""
    order, _, loss = (row or b"").decode(errors="replace").partition(" ")
    return order, loss


def start(loss: str, address: str, for_s: float) -> None:
    """Start the keeper of the machine that this process runs on, a task of Ray. Returns when it waits for its order."""
    words = [sys.executable, "-m", __name__, str(_raylet_above(os.getpid())), loss, address, str(for_s)]
    # The package may be known to this worker alone.
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
        timeout=BEGIN_S,
    )


def _raylet_above(pid: int) -> int:
    """The raylet that has started a process. Raises RuntimeError."""
    for _ in range(_PARENTS):
        pid = processes.parent(pid)
        program, *_ = processes.arguments(pid) or [b""]
        if os.path.basename(program).decode(errors="replace") == _RAYLET:
            return pid
    raise RuntimeError("this process was not started by a raylet")


class Raylet:
    """A raylet as it was started, and so can be again."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._began = processes.started(pid)
        self.words = [os.fsdecode(word) for word in processes.arguments(pid)[:-1]]
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        self._environment = dict(line.split(b"=", 1) for line in lines if b"=" in line)
        out = os.readlink(f"/proc/{pid}/fd/1")
        self._out = out if os.path.exists(out) else os.devnull

    def option(self, name: str) -> str:
        """What stands after `--NAME=`; empty without it."""
        prefix = f"--{name}="
        return next((word.removeprefix(prefix) for word in self.words if word.startswith(prefix)), "")

    def end(self) -> None:
        """Kill it and all that it has started: first whoever stands still starts no more."""
        if processes.started(self.pid) != self._began:
            return  # it has ended by itself, and what has its number is another's
        found: dict[int, None] = {}
        while new := {self.pid, *processes.below(self.pid)} - found.keys():
            found |= dict.fromkeys(new)
            _signal(new, signal.SIGSTOP)
        _signal(found, signal.SIGKILL)

    def start(self, is_over: Callable[[], bool]) -> bool:
        """Whether nothing is left to do: it lives, or `is_over`. Its id is new, as for Ray the former is dead.

        Raises OSError.
        """
        for socket in ("raylet_socket_name", "store_socket_name"):
            if path := self.option(socket):
                Path(path).unlink(missing_ok=True)
        former = self.option("node_id")
        node = secrets.token_hex(len(former) // 2)
        words = [word.replace(former, node) for word in self.words]
        with open(self._out, "ab") as out:
            process = subprocess.Popen(
                words, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        until = time.monotonic() + LIVES_S
        while process.poll() is None:
            if is_over() or time.monotonic() > until:
                process.returncode = 0  # it outlives this process
                return True
            time.sleep(POLL_S)
        return is_over()


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def keep(raylet: Raylet, order: Callable[[], str], gone: Callable[[], None], for_s: float) -> None:
    """The whole of it. `order`: what the tables say of this loss; nothing when somebody has seen the machine there
    again, or it is lost anew and another keeper's. `gone`: tells them that the machine is."""
    begin = time.monotonic() + BEGIN_S
    while order() != LOST:
        if time.monotonic() > begin:
            return
        time.sleep(POLL_S)
    raylet.end()
    gone()
    until = time.monotonic() + for_s
    while order() in (LOST, GONE) and time.monotonic() < until:
        time.sleep(POLL_S)
    for _ in range(TRIES):
        with contextlib.suppress(OSError):  # there is no room for it now
            if not order() or raylet.start(lambda: not order()):
                return
        time.sleep(PAUSE_S)


def main() -> None:
    pid, loss, address, for_s = sys.argv[1:]
    raylet = Raylet(int(pid))
    if os.fork():
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    client, last = GcsClient(address=raylet.option("gcs-address")), ""

    def order() -> str:
        nonlocal last
        with contextlib.suppress(RayError, RuntimeError):  # Ray's head does not answer now
            told, lost = read(client.internal_kv_get(key(address), SPACE))
            last = told if lost == loss else ""
        return last

    def gone() -> None:
        with contextlib.suppress(RayError, RuntimeError):
            client.internal_kv_put(key(address), f"{GONE} {loss}".encode(), True, SPACE)

    keep(raylet, order, gone, float(for_s))


if __name__ == "__main__":
    main()

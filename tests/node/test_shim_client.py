"""The runtime's end of a shim."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.node.runtime.shim_client import ShimClient
from rayplane.node.shim import orders, shim
from tests.tiers import examples


@pytest.mark.processes
async def test_a_shim_that_cannot_be_started_keeps_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = os.listdir("/proc/self/fd")
    # Held, so that what the failed call had is still there.
    with pytest.raises(FileNotFoundError) as failed:
        ShimClient().start()
    assert os.listdir("/proc/self/fd") == before, failed.traceback


@contextmanager
def running_shim(**popen: Any) -> Iterator[socket.socket]:
    """A shim of its own, and the socket of its host."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-S", shim.__file__, str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, **popen) as process:
        theirs.close()
        ours.settimeout(30)
        try:
            yield ours
        finally:
            ours.close()
        assert process.wait(30) == 0


def says(control: socket.socket, *, fds: tuple[int, ...] = (), **order: Any) -> dict[str, Any]:
    """The shim's answer to an order."""
    socket.send_fds(control, [json.dumps(order).encode()], [*fds])
    found: dict[str, Any] = json.loads(control.recv(1 << 18))
    return found


def run(control: socket.socket, tmp_path: Path, *argv: str) -> tuple[dict[str, Any], bytes]:
    """How a program that the shim runs ends, and what it said."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        place = {"cwd": "/", "log": "1.log", "log_bytes": 1 << 20, "env": {"PATH": os.environ["PATH"]}}
        answer = says(control, fds=(directory,), op="start", id="c", argv=[*argv], **place)
        while answer["ev"] == "started":
            answer = json.loads(control.recv(1 << 18))
    finally:
        os.close(directory)
    return answer, (tmp_path / "1.log").read_bytes()


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_USUAL: dict[str, list[Any]] = {
    "id": ["a", "b"],
    "of": ["a", ""],
    "argv": [["true"], [], ["/nowhere"], [""]],
    "env": [{}, {"A": "b"}],
    "cwd": ["/", "/nowhere"],
    "tty": [True, False],
    "log": ["1.log", "../x", "."],
    "log_bytes": [100, 0],
    "stop_signal": [15, 99],
    "grace": [0, 0.1, 1e308],
    "seconds": [60],
}
_ORDER = st.fixed_dictionaries(
    {"op": st.sampled_from(["start", "exec", "attach", "kill", "alive", "none"])},
    optional={field: _JSON | st.sampled_from(usual) for field, usual in _USUAL.items()},
)
_SENT = st.binary(min_size=1, max_size=64) | _ORDER.map(lambda order: json.dumps(order).encode())


@pytest.mark.processes
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_SENT, st.integers(0, 3)), max_size=12))
def test_no_order_ends_a_shim(tmp_path: Path, sent: list[tuple[bytes, int]]) -> None:
    with running_shim() as control:
        directory = os.open(tmp_path, os.O_RDONLY)
        for message, fds in sent:
            socket.send_fds(control, [message], [directory] * fds)
        os.close(directory)
        control.send(b'{"op": "kill", "id": "last"}')
        while (answer := json.loads(control.recv(1 << 18)))["id"] != "last":
            pass
        assert answer["ev"] == "failed" and "grace" in answer["error"]


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_an_order_or_refused(data: bytes) -> None:
    try:
        orders.check(orders.parse(data), 0)
    except ValueError:
        return
    assert json.loads(data)["op"] in ("kill", "alive") or json.loads(data)["op"] not in shim._STARTS


@pytest.mark.processes
def test_a_program_meets_signals_as_if_nobody_ignored_them(tmp_path: Path) -> None:
    """Where `up` runs in a script's background, the host and its shim ignore what a terminal sends."""

    def ignore() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    with running_shim(preexec_fn=ignore) as control:
        _, said = run(control, tmp_path, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        ended, _ = run(control, tmp_path, "sh", "-c", "kill -INT $$; exit 5")
    assert ended["signal"] == signal.SIGINT
    assert [line.split()[-1].strip(b"0") for line in said.splitlines()] == [b"", b""]

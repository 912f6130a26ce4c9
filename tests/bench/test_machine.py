"""Processes are called by what they write, and none outlives its benchmark."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.machine import usage


def own_name(logs: Path) -> str:
    return usage([os.getsid(0)], logs=logs)[os.getpid()].name


def test_a_process_is_called_like_its_log_and_process_where_it_has_several(tmp_path: Path) -> None:
    with (tmp_path / "supervisor.log").open("w"):
        assert own_name(tmp_path) == "supervisor"
        with (tmp_path / "member-0.log").open("w"):
            assert own_name(tmp_path) == "process"


def test_open_files_and_ports_are_those_of_the_process() -> None:
    def own() -> tuple[int, int]:
        found = usage([os.getsid(0)], memory=True)[os.getpid()]
        assert 0 < found.anonymous_mb <= found.memory_mb
        return found.files, found.ports

    files, ports = own()
    with (
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        assert own() == (files + 3, ports + 2)


@pytest.mark.processes
def test_what_a_killed_benchmark_started_ends_with_it() -> None:
    code = (
        "import subprocess, sys; from scripts.benchmarks.machine import ends_with_its_parent;"
        "subprocess.Popen(['sleep', '60'], preexec_fn=ends_with_its_parent); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as benchmark:
        assert benchmark.stdout is not None
        benchmark.stdout.readline()
        benchmark.kill()
        # The child holds the other end of this pipe: it reads as ended when the child has gone too.
        assert select.select([benchmark.stdout], [], [], 20)[0], "the child runs on"
        assert benchmark.stdout.read() == b""

"""Processes are called by what they write."""

import os
from pathlib import Path

from scripts.benchmarks.machine import usage


def own_name(logs: Path) -> str:
    return usage([os.getsid(0)], logs=logs)[os.getpid()].name


def test_a_process_is_called_like_its_log_and_process_where_it_has_several(tmp_path: Path) -> None:
    with (tmp_path / "supervisor.log").open("w"):
        assert own_name(tmp_path) == "supervisor"
        with (tmp_path / "member-0.log").open("w"):
            assert own_name(tmp_path) == "process"

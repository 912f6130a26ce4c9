"""The program that runs a shim is out of containers' reach, and nothing is mounted where their roots have layers."""

import os
import sys
from pathlib import Path

import pytest

from rayplane.node.runtime.isolation import entrance, syscalls
from rayplane.node.runtime.isolation.rootfs import STAGE


def test_the_interpreter_is_read_only_where_it_is_started_and_nothing_is_mounted_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entrance._PROGRAM.startswith(f"{STAGE}/")
    kept = str(tmp_path / "program")
    mounted: list[tuple[str, str]] = []
    read_only: list[str] = []
    monkeypatch.setattr(entrance, "_PROGRAM", kept)
    monkeypatch.setattr(syscalls, "mount", lambda source, target, *more: mounted.append((source, target)))
    monkeypatch.setattr(entrance, "make_read_only", read_only.append)
    entrance._keep("/opt/python/bin/python3")
    assert mounted == [("/opt/python/bin/python3", kept)]
    assert read_only == [kept] and os.path.isfile(kept)


def test_the_interpreters_own_library_is_found_from_wherever_it_is_started() -> None:
    said = entrance._own_libraries().get("LD_LIBRARY_PATH", "").split(":")
    with open("/proc/self/maps") as maps:
        shared = {line.split()[-1] for line in maps if "/libpython" in line}
    assert {os.path.dirname(path) for path in shared} <= {*said}
    assert os.path.exists(os.path.realpath(sys.executable))

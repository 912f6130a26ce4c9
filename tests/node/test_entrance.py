"""The program that runs a host is out of containers' reach, by a mount only where they could write it."""

from pathlib import Path

import pytest

from rayplane.node.runtime.isolation import entrance, syscalls


@pytest.mark.parametrize("writable", [True, False])
def test_only_a_program_that_its_user_may_write_is_mounted_over(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, mounted = str(tmp_path / "python"), []
    monkeypatch.setattr(entrance.os, "access", lambda path, mode: writable)
    monkeypatch.setattr(syscalls, "mount", lambda source, *more: mounted.append(source))
    monkeypatch.setattr(entrance, "make_read_only", mounted.append)
    entrance._protect(program)
    assert mounted == ([program, program] if writable else [])

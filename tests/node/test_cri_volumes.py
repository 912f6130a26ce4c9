"""Volumes of pods of another runtime, which run as whoever they say: numbers of users and groups are the machine's."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime import PodPlace
from rayplane.node.runtime.cri.volumes import give, give_volumes
from tests.node.conftest import make_pod


def place(volumes: dict[str, Path], **context: Any) -> PodPlace:
    pod = make_pod("p")
    pod["spec"]["securityContext"] = context
    return PodPlace("u", "", "", "", "", pod=pod, volumes={name: str(path) for name, path in volumes.items()})


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def made(path: Path, bits: int) -> Path:
    path.mkdir(parents=True)
    path.chmod(bits)
    return path


def test_an_empty_volume_is_anybodys_and_one_in_use_is_its_pods(tmp_path: Path) -> None:
    empty, used, machine = made(tmp_path / "own/a", 0o700), made(tmp_path / "own/b", 0o750), made(tmp_path / "c", 0o700)
    (used / "file").write_text("x")
    give_volumes(place({"a": empty, "b": used, "c": machine}), [str(tmp_path / "own")])
    assert [mode(path) for path in (empty, used, machine)] == [0o777, 0o750, 0o700]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to a group: root's alone")
def test_the_group_of_a_pods_files_has_its_volumes(tmp_path: Path) -> None:
    used, machine = made(tmp_path / "own/b", 0o700), made(tmp_path / "c", 0o700)
    (used / "file").write_text("x")
    (machine / "file").write_text("x")
    give_volumes(place({"b": used, "c": machine}, fsGroup=2000), [str(tmp_path / "own")])
    assert [(path.stat().st_gid, mode(path)) for path in (used, used / "file")] == [(2000, 0o2770), (2000, 0o664)]
    assert {path.stat().st_gid for path in (machine, machine / "file")} == {0}


def test_a_file_has_its_mode_and_group_and_a_link_leads_nobody_on(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("x")
    link.symlink_to("file")
    group = 2000 if os.geteuid() == 0 else os.getegid()
    give(str(file), 0o440, group)
    give(str(link), 0o777)
    assert (mode(file), file.stat().st_gid) == (0o440, group)

"""A checkout that was unpacked without its links says so, before anything is installed."""

from pathlib import Path

import pytest

from scripts import bootstrap


def test_a_checkout_without_links_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flat = tmp_path / "control_plane"
    flat.write_text("../../control_plane")
    monkeypatch.setattr(bootstrap, "LINKED", flat)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    with pytest.raises(SystemExit, match="unpack with symbolic links, or clone with git"):
        bootstrap.python_for("test")
    assert not (tmp_path / "venv").exists()

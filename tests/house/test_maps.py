"""The map of each top-level folder names everything in it, and nothing that is gone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["control_plane", "node", "proto", "scripts", "storage", "tests"]
ROW = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)
HEAD = re.compile(r"\A# (\w+): \S")


def map_of(readme: str) -> list[str]:
    """What the first column of the tables names."""
    return [name for cell in ROW.findall(readme) for name in re.findall(r"`([^`]+)`", cell)]


def content(folder: Path) -> set[str]:
    """Packages, modules and programs of a folder, by the names that a map gives them."""
    found = {one.name for one in folder.iterdir() if one.is_file() and one.suffix in {"", ".py"}}
    packages = {f"{one.name}/" for one in folder.iterdir() if one.is_dir() and any(one.glob("[!.]*.*"))}
    return {name for name in found | packages if not name.startswith((".", "__"))}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_map_names_everything_once_and_nothing_that_is_gone(folder: str) -> None:
    readme = (ROOT / folder / "README.md").read_text()
    head = HEAD.match(readme)
    assert head and head[1] == folder
    named = map_of(readme)
    assert [name for name in named if not (ROOT / folder / name).exists()] == [], "gone"
    assert sorted(set(named)) == sorted(named)
    first = {name.partition("/")[0] + ("/" if "/" in name else "") for name in named}
    assert content(ROOT / folder) - first == set(), "not on the map"


def test_what_is_not_on_a_map_is_seen(tmp_path: Path) -> None:
    for name in ("on.py", "room/__init__.py", "off.py", "__init__.py", "program", "__pycache__/on.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert content(tmp_path) == {"on.py", "off.py", "room/", "program"}
    assert map_of("| where | what |\n|---|---|\n| `on.py`, `room/a.py` | two |\n| `off/` | one `x.py` |\n") == [
        "on.py",
        "room/a.py",
        "off/",
    ]

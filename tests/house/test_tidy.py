"""Each rule of scripts/tidy.py finds what is planted for it, and nothing in its counterpart that is in order."""

from pathlib import Path

import pytest

from scripts import tidy

LONG_FUNCTION = "def f(x: int) -> None:\n" + "    x += 1\n" * (tidy.FUNCTION_LINES + 1)
# rule -> (file, what breaks it, what is in order)
PLANTED = {
    "function-length": ("node/a.py", f'"""A."""\n{LONG_FUNCTION}', '"""A."""\ndef f(\n' + "a,\n" * 99 + "): pass\n"),
    "module-length": ("node/a.py", '"""A."""\n' + "x = 1\n" * 510, '"""A."""\n' + "x = 1\n" * 400),
    "module-docstring": ("node/a.py", "x = 1\n", '"""A module."""\n'),
    "vague-name": ("node/utils.py", '"""A."""\n', None),
    "bounded-queue": ("node/a.py", '"""A."""\nq = asyncio.Queue()\n', '"""A."""\nq = asyncio.Queue(100)\n'),
}


def rules_broken(root: Path, file: str, text: str) -> set[str]:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = {line.split(": ")[1] for line in tidy.broken(root)}
    path.unlink()
    return found


@pytest.mark.parametrize("rule", [rule.__name__.replace("_", "-") for rule in tidy.RULES])
def test_what_is_planted_is_found(rule: str, tmp_path: Path) -> None:
    file, breaks, in_order = PLANTED[rule]
    assert rules_broken(tmp_path, file, breaks) == {rule}
    assert in_order is None or rules_broken(tmp_path, file, in_order) == set()


def test_links_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node/a.py").write_text("x = 1\n")
    (tmp_path / ".src/rayplane").mkdir(parents=True)
    (tmp_path / ".src/rayplane/node").symlink_to("../../node")
    assert [line.split(":")[0] for line in tidy.broken(tmp_path)] == ["node/a.py"]

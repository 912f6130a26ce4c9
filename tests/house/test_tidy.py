"""Each rule of scripts/tidy.py finds what is planted for it, and nothing in its counterpart that is in order."""

from pathlib import Path

import pytest

from scripts import tidy

CHARTER = '"""Pods.\n\nOwns pods. Does not own nodes.\n"""\n'
LONG_FUNCTION = "def f(x: int) -> None:\n" + "    x += 1\n" * (tidy.FUNCTION_LINES["product"] + 1)
# rule -> (file, what breaks it, what is in order)
PLANTED = {
    "function-length": ("node/a.py", f'"""A."""\n{LONG_FUNCTION}', '"""A."""\ndef f(\n' + "a,\n" * 99 + "): pass\n"),
    "module-length": ("node/a.py", '"""A."""\n' + "x = 1\n" * 510, '"""A."""\n' + "x = 1\n" * 400),
    "module-docstring": ("node/a.py", "x = 1\n", '"""A module."""\n'),
    "docstring-subject": (
        "node/a.py",
        '"""A."""\nclass C:\n    """Of one member."""\n',
        '"""A."""\nclass C:\n    """Reads of one member."""\n    def ready(self): "Whether it is ready."\n',
    ),
    "class-noun": (
        "node/a.py",
        '"""A."""\nclass C:\n    """Finds the servers of a cell."""\n',
        '"""A."""\nclass C:\n    """Calls of one RPC."""\n    def go(self): "Finds the servers."\n',
    ),
    "package-charter": ("node/x/__init__.py", '"""Pods."""\n', CHARTER),
    "vague-name": ("node/utils.py", '"""A."""\n', None),
    "bounded-queue": ("node/a.py", '"""A."""\nq = asyncio.Queue()\n', '"""A."""\nq = asyncio.Queue(100)\n'),
    "span-unit": ("node/a.py", '"""A."""\nRETRY_INTERVAL = 3\n', '"""A."""\nRETRY_INTERVAL_S = 3\nother.delay = 3\n'),
}
ALSO_BROKEN = {
    "docstring-subject": ['"""What a pod may do."""\n', '"""A."""\ndef size():\n    """Of a file."""\n'],
    "class-noun": [
        '"""A."""\nclass C:\n    """See the module."""\n',
        '"""A."""\nclass C:\n    """`get` answers."""\n',
    ],
    "span-unit": [
        '"""A."""\ndef f(delay: float) -> None: ...\n',
        '"""A."""\nclass C:\n    lease_ttl: int | None\n',
        '"""A."""\nself.interval = lease / 3\n',
    ],
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


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in ALSO_BROKEN.items() for text in texts])
def test_its_other_forms_are_found(rule: str, text: str, tmp_path: Path) -> None:
    assert rules_broken(tmp_path, "node/a.py", text) == {rule}


def test_links_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node/a.py").write_text("x = 1\n")
    (tmp_path / ".src/rayplane").mkdir(parents=True)
    (tmp_path / ".src/rayplane/node").symlink_to("../../node")
    assert [line.split(":")[0] for line in tidy.broken(tmp_path)] == ["node/a.py"]

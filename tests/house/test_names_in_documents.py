"""Paths, modules and links that documents name are there."""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.house.documents import ROOT, blocks, documents, drawn_tree

TOP = "control_plane|node|storage|proto|scripts|tests"
#: In the text and in code alike; a folder's name alone says nothing.
PATH = re.compile(rf"(?<![\w./-])(?:(?:{TOP}|\.github|\.ci)/[\w.*/-]*\w\*?)")
FILE = re.compile(r"`([\w./-]+\.(?:py|md|toml|gz|json))`")
DOTTED = re.compile(rf"(?<![\w./-])((?:rayplane\.)?(?:{TOP})(?:\.[A-Za-z_]\w*)+)(?![\w/]|\.k8s)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
#: Without such a line no docstring of a file names a module, and it need not be parsed.
NAMING = re.compile(rf"^(?!(?:from|import) [\w.]+(?: import| as|$)).*\b(?:{TOP})\.", re.MULTILINE)
#: Groups of the API are named as ours are.
GROUPS = ("node.k8s.io", "storage.k8s.io")


def missing_in(document: Path, text: str) -> list[str]:
    """What a document names and nobody has; files are looked for from its folder and from the top."""
    own = {block.file for block in blocks(document)} if document.exists() else set()
    places = (ROOT, document.parent)
    paths = {*PATH.findall(text), *FILE.findall(text), *LINK.findall(text)} - own
    found = [path for path in paths if not any([*place.glob(path.rstrip("/"))] for place in places if ".." not in path)]
    gone = [path for path in found if not (document.parent / path).exists()]
    # What Python code names is found out where it runs.
    prose = re.sub(r"^```python.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    dotted = {name for name in DOTTED.findall(prose) if not name.startswith(GROUPS)}
    dotted -= paths
    return sorted([*gone, *(name for name in dotted if not is_there(name) and not is_file(name, places))])


def docstrings(tree: ast.Module) -> list[str]:
    owners = (
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [ast.get_docstring(node) or "" for node in owners]


@pytest.mark.parametrize("folder", TOP.split("|"))
def test_modules_that_docstrings_name_are_there(folder: str) -> None:
    gone = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        if NAMING.search(source := path.read_text())
        for text in docstrings(ast.parse(source))
        for code in re.findall(r"`([^`]+)`", text)
        for name in DOTTED.findall(code)
        if not name.startswith(GROUPS) and not is_there(name)
    ]
    assert gone == []


def is_file(name: str, places: tuple[Path, ...]) -> bool:
    return any((place / name).exists() for place in places)


def is_there(name: str) -> bool:
    """Whether it is a module, or a name in one."""
    if name.partition(".")[0] not in ("rayplane", "scripts", "tests"):
        name = f"rayplane.{name}"
    module, _, last = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(module), last)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    assert missing_in(document, document.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "see `control_plane/apiserver/gone.py`",
        "in control_plane/gone/",
        "`rayplane.control_plane.etcd.gone`",
        "`storage.wal.gone`",
        "`gone.py`",
        "[text](gone.md)",
        "`tests/etcd/test_gone*`",
    ],
)
def test_what_is_gone_is_seen(text: str) -> None:
    assert missing_in(ROOT / "README.md", text)


@pytest.mark.parametrize(
    "text",
    [
        "`control_plane/rpc/http2`",
        "`rayplane.control_plane.etcd`",
        "`storage.env.failpoints`",
        "`tests/etcd/test_diff*`",
    ],
)
def test_what_is_there_is_found(text: str) -> None:
    assert missing_in(ROOT / "README.md", text) == []


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_drawn_as_a_tree_is_there(document: Path) -> None:
    drawn = [path for block in blocks(document) if not block.language for path in drawn_tree(block.text)]
    assert [path for path in drawn if not (ROOT / path).is_dir()] == []
    assert drawn or document.name != "README.md" or document.parent != ROOT


def test_a_tree_is_read() -> None:
    text = "a/    one\n  b/  c/    two\n    more of it\n  d/e/  three/four\nf/\n"
    assert drawn_tree(text) == ["a/", "a/b/", "a/c/", "a/d/e/", "f/"]

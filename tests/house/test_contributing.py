"""The examples of CONTRIBUTING.md work: they are written into a copy of the tree, and its tests run there."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayplane.control_plane.controllers import replicaset
from rayplane.control_plane.simulation import load_scenario, simulate
from tests.house.documents import ROOT, Block, blocks

DOCUMENT = ROOT / ".github/CONTRIBUTING.md"
EXAMPLES = [block for block in blocks(DOCUMENT) if block.file]
ROOM = "control_plane/api/kinds/lifecycle/eviction_request.py"


def example(file: str) -> Block:
    return next(block for block in EXAMPLES if block.file == file)


def whereabouts(tree: ast.Module, place: str) -> int:
    """The number of lines before which something is added to a function, to a table, or to the imports."""
    if place == "imports":
        return next(n.lineno for n in tree.body if isinstance(n, ast.ImportFrom) and "rayplane" in (n.module or "")) - 1
    body: list[ast.stmt] = tree.body
    found: ast.stmt | None = None
    for name in place.split("."):
        for found in body:
            targets = [getattr(found, "target", None), *getattr(found, "targets", [])]
            if name in (getattr(found, "name", None), *(getattr(target, "id", "") for target in targets)):
                break
        else:
            raise LookupError(place)
        body = getattr(found, "body", [])
    assert found is not None and found.end_lineno is not None
    if isinstance(found, ast.AnnAssign | ast.Assign):
        return found.end_lineno - 1
    return body[-1].lineno - 1 if body and isinstance(body[-1], ast.Return) else found.end_lineno


def add(root: Path, block: Block) -> None:
    """Write a block where the document says that it belongs."""
    path = root / block.file if block.file.startswith("tests/") else root / ".src/rayplane" / block.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    elif path.suffix == ".json":
        content = json.loads(path.read_text())
        content[block.place].append(json.loads(block.text))
        path.write_text(json.dumps(content))
    elif not block.place:
        path.write_text(f"{path.read_text().rstrip()}\n\n\n{block.text}")
    else:
        lines = path.read_text().splitlines(keepends=True)
        at = whereabouts(ast.parse("".join(lines)), block.place)
        apart = "\n\n" if block.text.startswith(("@", "class ", "def ")) else ""
        path.write_text("".join([*lines[:at], apart, block.text, *lines[at:]]))


def run_in(root: Path, *arguments: str) -> tuple[bool, str]:
    """Whether a module of the interpreter's is content, and what it says."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    # With what was compiled: each of the runs would do it again.
    shutil.copytree(ROOT / ".src", root / ".src")
    shutil.copy(ROOT / "pyproject.toml", root)
    for folder in ("tests", "scripts"):
        shutil.copytree(ROOT / folder, root / folder)
    return root


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_the_examples_work_in_a_copy_of_the_tree(copy: Path) -> None:
    kinds = [b for b in EXAMPLES if b.file.startswith("control_plane/api/")]
    add(copy, kinds[0])
    completeness = "tests/api/kinds/test_completeness.py"
    tests = ("pytest", "-p", "no:cacheprovider", "-x")
    fine, said = run_in(copy, *tests, completeness)
    assert not fine and "lifecycle.k8s.io/EvictionRequest" in said, "a kind without a room is named"

    for block in kinds[1:]:
        add(copy, block)
    room = copy / ".src/rayplane" / ROOM
    room.write_text("".join(x for x in room.read_text().splitlines(keepends=True) if "validate=_validate" not in x))
    fine, said = run_in(copy, *tests, completeness)
    assert not fine and "lifecycle.k8s.io/EvictionRequest: validate" in said, "a forgotten rule is named"

    room.write_text(example(ROOM).text)
    for block in EXAMPLES:
        if block.language == "python" and block not in kinds and "/" in block.file:
            add(copy, block)
    written = [block.file for block in EXAMPLES if block.file.startswith("tests/")]
    assert len(written) >= 3
    fine, said = run_in(
        copy, *tests, *written, completeness, "tests/scheduler/test_filters.py", "tests/faults/test_form.py"
    )
    assert fine, said
    fine, said = run_in(copy, *tests, "tests/faults/test_injectors.py")
    assert not fine and "Flap" in said, "a fault without a sample is named"
    changed = {
        f".src/rayplane/{b.file}" for b in EXAMPLES if b.file.startswith("control_plane/") and b.language != "json"
    }
    # Where an import is sorted in, the document does not say.
    for check in (["check", "--extend-ignore=I001"], ["format", "--check"]):
        fine, said = run_in(copy, "ruff", *check, "--no-cache", *sorted(changed), *written)
        assert fine, said


@pytest.mark.turn(1, of=2)
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_seed_fails_again_as_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.yaml").write_text(example("web.yaml").text)
    assert simulate(load_scenario("web.yaml"), 7).ok
    wanted = replicaset.wanted
    monkeypatch.setattr(replicaset, "wanted", lambda workload: min(wanted(workload), 3))
    exec(compile(example("debug_seed.py").text, "debug_seed.py", "exec"), {})
    said = capsys.readouterr().out
    assert "seed 7: FAILED" in said
    assert "again: rayplane simulate web.yaml --seed 7" in said

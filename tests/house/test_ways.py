"""The ways that control_plane/README.md draws are true: files and names exist, each step is reached from another."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
WAY = re.compile(r"^### (.+)\n((?:(?!^##).*\n?)*)", re.MULTILINE)
STEP = re.compile(r"^(\d+)\. `([\w/]+\.py)` `([\w.]+)`: (?:on a change of `([\w.]+)`)?.*$", re.MULTILINE)


class Step(NamedTuple):
    file: str
    name: str
    seen: str = ""
    """The resource whose changes bring it here, where no step before it is called or calls."""


def ways() -> dict[str, list[Step]]:
    text = (ROOT / "control_plane/README.md").read_text()
    return {title: [Step(*found) for _, *found in STEP.findall(body)] for title, body in WAY.findall(text)}


@cache
def names_in(file: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a module defines (functions, classes, their methods), and everything it names: calls, attributes, texts."""
    defined: set[str] = set()
    named: set[str] = set()
    tree = ast.parse((ROOT / file).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            defined |= {
                f"{node.name}.{one.name}" for one in inner if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    for part in ast.walk(tree):
        match part:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=str(name)):
                named.add(name)
    return frozenset(defined), frozenset(named)


def calls(caller: Step, called: Step) -> bool:
    """Whether the one module names what the other defines: the function, or the class where that is private to it."""
    owner, _, method = called.name.rpartition(".")
    wanted = {owner or method} if method.startswith("_") else {method}
    return caller.file == called.file or bool(wanted & names_in(caller.file)[1])


def follows(step: Step, before: list[Step]) -> bool:
    if step.seen:
        return step.seen in names_in(step.file)[1]
    return any(calls(one, step) or calls(step, one) for one in before)


def loose_ends(steps: list[Step]) -> list[Step]:
    return [step for number, step in enumerate(steps) if number and not follows(step, steps[:number])]


def test_all_steps_are_read() -> None:
    text = (ROOT / "control_plane/README.md").read_text().partition("\n## The ways\n")[2]
    numbered = re.findall(r"^(\d+)\. ", text, re.MULTILINE)
    assert len(numbered) == sum(map(len, ways().values()))
    assert len(ways()) >= 7
    for title, body in WAY.findall(text):
        assert [int(number) for number, *_ in STEP.findall(body)] == [*range(1, len(ways()[title]) + 1)]


@pytest.mark.parametrize("way", ways())
def test_each_step_is_there(way: str) -> None:
    assert [s for s in ways()[way] if not (ROOT / s.file).is_file()] == []
    assert [s for s in ways()[way] if s.name not in names_in(s.file)[0]] == []


@pytest.mark.parametrize("way", ways())
def test_each_step_is_called_by_one_before_it_or_calls_one(way: str) -> None:
    assert loose_ends(ways()[way]) == []


def test_a_step_that_nothing_leads_to_is_seen() -> None:
    put = ways()["A put to disk"]
    stray = Step("node/proxy/rules.py", "plan_service")
    assert loose_ends([*put[:5], stray, *put[5:]]) == [stray]
    assert loose_ends([put[0], put[4]]) == [put[4]]
    assert loose_ends([put[0], stray._replace(seen="leases")]) == [stray._replace(seen="leases")]

"""Commands that documents name exist, with the options that are written there."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.checks import CHECKS
from tests.cli.whole import whole
from tests.house.documents import ROOT, commands, documents

OWN = ("rayplane", "scripts/", "python -m")
#: Options of scripts/test itself; what else begins with a dash is pytest's.
TEST_OPTIONS = ("--fast", "--check", "--oldest")


def words_of(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def wrong_in(command: str) -> str:
    """What of a command there is not; empty where all is well, or where it is not ours."""
    words = [word for word in words_of(command) if "=" not in word or word.startswith("-")]
    if not words:
        return ""
    if words[0] == "rayplane" and len(words) > 1:
        return wrong_in_rayplane(words[1:])
    if words[0].startswith("scripts/"):
        return wrong_in_script(words)
    if words[:2] == ["python", "-m"] and len(words) > 2:
        return "" if words[2] in ("venv", "pytest") or is_module(words[2]) else f"no module {words[2]}"
    return ""


def is_module(name: str) -> bool:
    return find_spec(name) is not None


def wrong_in_script(words: list[str]) -> str:
    if not (ROOT / words[0]).exists():
        return f"no {words[0]}"
    if words[0] != "scripts/test":
        return ""
    arguments = words[1:]
    if arguments[:1] == ["--check"]:
        return "" if arguments[1] in (*CHECKS, "NAME") else f"no check {arguments[1]}"
    missing = [a for a in arguments if a.startswith("tests/") and not (ROOT / a).exists()]
    unknown = [a for a in arguments[:1] if a.startswith("--") and a not in TEST_OPTIONS]
    return " ".join(missing + unknown)


def wrong_in_rayplane(words: list[str]) -> str:
    """Each alternative of `a|b` is looked at."""
    if words[0] == "COMMAND" or words[0].startswith("--"):
        return ""
    return " ".join(filter(None, (wrong_in_command(first, words[1:]) for first in words[0].split("|"))))


def wrong_in_command(first: str, rest: list[str]) -> str:
    every = whole()
    trail, found = first, every.commands.get(first)
    if rest and (inner := getattr(found, "commands", None)):
        names, rest, trail = rest[0].split("|"), rest[1:], f"{first} {rest[0]}"
        found = inner[names[0]] if {*names} <= {*inner} else None
    if found is None:
        return f"no command {trail}"
    options = {"--help", *(option for p in found.params for option in (*p.opts, *p.secondary_opts))}
    given = [word.partition("=")[0].strip("[]") for word in rest[: rest.index("--") if "--" in rest else None]]
    unknown = [word for word in given if word.startswith("-") and word not in {"-", *options}]
    return f"{trail} has no {' '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_are_named_exist(document: Path) -> None:
    wrong = {command: why for command in commands(document) if (why := wrong_in(command))}
    assert wrong == {}


@pytest.mark.parametrize(
    "command",
    [
        "rayplane updown",
        "rayplane chaos kill --never",
        "rayplane add|lose member",
        "scripts/tests",
        "scripts/test --slow",
        'scripts/test --check "beauty"',
        "scripts/test tests/none.py",
        "python -m rayplane.none",
    ],
)
def test_what_does_not_exist_is_seen(command: str) -> None:
    assert wrong_in(command)


def test_some_commands_are_read() -> None:
    found = [command for document in documents() for command in commands(document) if command.startswith(OWN)]
    assert len(found) > 40

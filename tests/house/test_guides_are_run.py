"""Each block of each document is run by a test, or the table of those that are not says why."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.whole import whole as all_commands
from tests.e2e import test_web_shop
from tests.e2e.guides import (
    GROUPS,
    NOT_RUN,
    OTHERWISE,
    SHELL,
    SHOWN,
    SNIPPET,
    TRIED_BY,
    WEB_SHOP,
    command_of,
    missing_of_what_is_shown,
    prepare,
    run,
    shows,
    steps,
)
from tests.house.documents import ROOT, Block, blocks, commands, documents, drawn_tree, parted
from tests.house.test_commands import words_of

RUN = {guide for group in GROUPS.values() for guide in group} | {WEB_SHOP}
WHOLE = all_commands()
#: What names a file without its name.
NAMED_BY = {"Dockerfile": "rayplane image build"}
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in documents()}


def not_run(guide: str, found: list[Block], excused: Iterable[str], *, whole: bool) -> list[str]:
    """Commands, files and first lines of blocks that nothing runs; `whole`: a test runs it as a script."""
    commands = [line for block in found if block.language == SHELL for line in block.text.splitlines()]
    wrong = []
    for block in found:
        if (guide, block.language) in OTHERWISE or (not block.language and drawn_tree(block.text)):
            continue
        if block.language == SHELL:
            wrong += [] if whole else [one for one in block.text.splitlines() if command_of(one) not in excused]
        elif block.file:
            others = [*commands, *(one.text for one in found if one.file and one != block)]
            wrong += [] if any(NAMED_BY.get(block.file, block.file) in text for text in others) else [block.file]
        elif not (whole and block.language in (SNIPPET, SHOWN)):
            wrong.append(block.text.partition("\n")[0])
    return wrong


def parts_of(command: str) -> set[str]:
    """`rayplane COMMAND`, and that with each of its options; also of each alternative of `a|b`."""
    words = [word.strip("[]") for word in words_of(command) if "=" not in word or word.startswith("-")]
    own = words[1 : words.index("--") if "--" in words else None]
    if words[:1] != ["rayplane"] or not own or own[0].startswith("-"):
        return set()
    trails = own[0].split("|")
    if (group := getattr(WHOLE.commands.get(own[0]), "commands", None)) is not None:
        trails = [f"{own[0]} {inner}" for inner in (own[1].split("|") if len(own) > 1 else ()) if inner in group]
    options = [word.partition("=")[0] for word in own if word.startswith("-") and word != "-"]
    return {" ".join(("rayplane", trail, *option)) for trail in trails for option in ((), *zip(options, strict=True))}


@pytest.mark.parametrize("guide", DOCUMENTS)
def test_every_block_is_run_or_the_reason_is_told(guide: str) -> None:
    assert not_run(guide, blocks(DOCUMENTS[guide]), NOT_RUN.get(guide, ()), whole=guide in RUN) == []


@pytest.mark.parametrize("guide", NOT_RUN)
def test_no_reason_is_left_of_a_command_that_is_gone(guide: str) -> None:
    text = [line for block in blocks(ROOT / guide) if block.language == SHELL for line in block.text.splitlines()]
    assert [command for command in NOT_RUN[guide] if command not in map(command_of, text)] == []


def test_who_is_said_to_run_a_document_names_it() -> None:
    named = {module: vars(import_module(module)).values() for module in {*OTHERWISE.values()}}
    assert [key for key, module in OTHERWISE.items() if ROOT / key[0] not in named[module]] == []
    assert [key for key in OTHERWISE if key[1] not in {block.language for block in blocks(ROOT / key[0])}] == []
    assert test_web_shop.GUIDE == WEB_SHOP


def test_what_texts_name_of_our_commands_is_run_too_or_tried_by_a_test() -> None:
    """Changes of the past alone name what may be gone."""
    told = [path for path in DOCUMENTS.values() if path.name != "CHANGELOG.md"]
    found = set().union(*(parts_of(command) for path in told for command in commands(path)))
    scripts = ("\n".join(steps(guide, NOT_RUN.get(guide, ()))).replace("\\\n", " ") for guide in RUN)
    tried = set().union(*(parts_of(c) for script in scripts for c in parted(script.splitlines())))
    assert sorted(found - tried - {*TRIED_BY}) == []
    assert sorted({*TRIED_BY} - (found - tried)) == []
    assert [
        part for part, test in TRIED_BY.items() if part.split()[-1].strip("-") not in (ROOT / test).read_text()
    ] == []


@pytest.mark.parametrize(
    "block",
    [
        Block(SHELL, "", "", "rayplane status\n"),
        Block("", "", "", "rayplane status\n"),
        Block("python", "", "", "print(1)\n"),
        Block("yaml", "", "", "kind: Pod\n"),
        Block("yaml", "pod.yaml", "", "kind: Pod\n"),
        Block("text", "", "", "healthy\n"),
    ],
    ids=lambda block: f"{block.language} {block.file}",
)
def test_a_block_that_nothing_runs_is_seen(block: Block) -> None:
    assert not_run("new.md", [block], ["rayplane up"], whole=False)


@pytest.mark.processes
def test_a_script_has_all_steps_but_those_left_out_and_ends_where_one_is_wrong(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"

    def said(*commands: str, shown: str = "") -> str:
        guide.write_text(
            "```sh\n{}\n```\n\n```python\nprint('two')\n```\n\n```text\n{}\n```\n".format("\n".join(commands), shown)
        )
        return run(prepare(tmp_path, [str(guide)], steps(str(guide), ["false"])), tmp_path, {})

    assert "one\n" in said("echo one  # a comment", "false  # left out", "! test -e gone")
    assert missing_of_what_is_shown(str(guide), said("echo one", shown="t...")) == []
    assert missing_of_what_is_shown(str(guide), said("echo one", shown="three")) == ["three"]
    for wrong in ("test -e gone", "! test -e guide.md"):
        with pytest.raises(AssertionError):
            said(wrong)


def test_output_is_as_it_is_shown_whatever_stands_for_three_dots() -> None:
    assert shows("seed 2: ok; ... trace ...", "seed 2:  ok; 3 s, trace 17")
    assert not shows("seed 2: ok", "seed 2: ok; more")

"""Commands of the guides: run one after the other as a reader would, on one cluster for several guides."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e import guides
from tests.e2e.guides import GROUPS, environment, missing_of_what_is_shown, prepare, run, steps
from tests.e2e.harness import OWN_BIN
from tests.ports import free_port

#: Of a member alone, which others on this machine may have.
PORTS = ("2379", "2380")


def with_programs(home: Path) -> dict[str, str]:
    """Programs of the test environment too, and a wrapper, which is all that `uv run` is to a guide."""
    variables = environment(home)
    (home / "bin" / "uv").write_text('#!/bin/sh\nshift\n"$@"\n')
    (home / "bin" / "uv").chmod(0o755)
    return variables | {"PATH": f"{home / 'bin'}{os.pathsep}{OWN_BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.turn(day, of=4)) for day, name in GROUPS])
@pytest.mark.timeout(1200)  # a busy machine is ordinary
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_every_command_of_the_guides_works(group: str, tmp_path: Path) -> None:
    documents = next(documents for (_, name), documents in GROUPS.items() if name == group)
    commands = [text for guide in documents for text in steps(guide, guides.NOT_RUN.get(guide, ()))]
    for port in PORTS:
        commands = [text.replace(f":{port}", f":{free_port()}") for text in commands]
    variables = with_programs(tmp_path)
    try:
        said = run(prepare(tmp_path, documents, commands), tmp_path, variables)
    finally:
        for state in (tmp_path / ".rayplane").glob("*/cluster.json"):
            run(["rayplane", "down", "--purge", "--name", state.parent.name], tmp_path, variables)
    assert {guide: missing_of_what_is_shown(guide, said) for guide in documents} == {guide: [] for guide in documents}

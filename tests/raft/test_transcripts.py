"""Runs the transcripts; `pytest tests/raft --rewrite` writes them anew: read the diff then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.transcript import rerun

TRANSCRIPTS = sorted((Path(__file__).parent / "testdata").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    expected, actual = rerun(path)
    if rewrite:
        path.write_text(actual)
        return
    assert actual == expected


def test_there_are_transcripts() -> None:
    assert TRANSCRIPTS


def test_a_transcript_that_tells_something_else_fails_and_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("# Alone.\ngroup 1\n----\nnot so\n")
    expected, actual = rerun(path)
    assert expected != actual == "# Alone.\ngroup 1\n----\nok\n"

"""Runs the transcripts; `RAFT_REWRITE=1 pytest tests/raft/test_transcripts.py` writes them anew: read the diff then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.raft.transcript import rerun

TRANSCRIPTS = sorted((Path(__file__).parent / "testdata").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    expected, actual = rerun(path)
    if os.environ.get("RAFT_REWRITE"):
        path.write_text(actual)
        return
    assert actual == expected


def test_there_are_transcripts() -> None:
    assert TRANSCRIPTS

"""`pytest tests/raft --rewrite` writes the transcripts anew, as what happens now; read the diff then."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write tests/raft/testdata anew from what happens now")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    # The option is unknown when the whole suite runs: this file is read too late then.
    return bool(request.config.getoption("--rewrite", default=False))

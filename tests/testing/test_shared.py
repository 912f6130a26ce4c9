"""A cluster in a test: what is told of its namespace."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.testing import failing
from rayplane.control_plane.testing.shared import ClusterInTest


async def test_a_story_is_told_where_a_loop_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(*_: object) -> list[tuple[str, str]]:
        return [("rayplane events", "it came"), ("rayplane history", "")]

    monkeypatch.setattr(failing, "told", told)
    api: Any = SimpleNamespace(get=lambda *_: {"metadata": {"resourceVersion": "1"}})
    cluster: Any = SimpleNamespace(directory=None)
    assert ClusterInTest(cluster, "a", Path(), api).story() == [("rayplane events", "it came")]

"""What a run of all tests leaves to another day: each has its day, and who names its file has it on any."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest, tiers

HERE = Path(__file__).parent


def left_out(day: int, *named: Path) -> bool:
    """Whether a run of what is named skips a test whose turn that is, on a day 0 of 3."""
    added: list[Any] = []
    turn = pytest.mark.turn(day, of=3).mark
    item: Any = SimpleNamespace(
        path=HERE / "test_tiers.py",
        get_closest_marker=lambda name: turn if name == turn.name else None,
        iter_markers=lambda: iter([turn]),
        add_marker=added.append,
    )
    config: Any = SimpleNamespace(args=[str(path) for path in named])
    conftest.pytest_collection_modifyitems(config, [item])
    return [mark.name for mark in added] == ["skip"]


def test_each_turn_comes_within_its_days(monkeypatch: pytest.MonkeyPatch) -> None:
    for today in range(6):
        monkeypatch.setattr(tiers, "TODAY", today)
        assert [left_out(day, HERE) for day in range(3)] == [day != today % 3 for day in range(3)]


def test_what_is_named_runs_on_any_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "TODAY", 0)
    assert left_out(1, HERE) and not left_out(1, HERE / "bench") and not left_out(1, HERE / "bench" / "test_bench.py")

"""The success policy: which indexes suffice. Source: API reference batch/v1 SuccessPolicy; KEP-3998."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.controllers.job.indexes import Indexes


def met_by(rules: Sequence[Mapping[str, Any]] | None, completed: Indexes, completions: int) -> str:
    """Which rule the completed indexes satisfy, as the condition's message says it; empty where none."""
    if completed.spans:
        for index, rule in enumerate(rules or ()):
            if _satisfies(rule, completed, completions):
                return f"Matched rules at index {index}"
    return ""


def _satisfies(rule: Mapping[str, Any], completed: Indexes, completions: int) -> bool:
    text, count = rule.get("succeededIndexes"), rule.get("succeededCount")
    if text is None:
        return count is not None and completed.total >= count
    needed = Indexes.read(text, completions)
    if not needed.spans:
        return False
    done = needed.shared(completed)
    return done == needed.total or (count is not None and done >= count)

"""Rivals among autoscalers: found as one would who compared every selector with every pod."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.selectors import LabelSelector, parse_labels
from rayplane.control_plane.controllers.autoscaling.rivals import Rivals
from tests.tiers import examples

SELECTORS = ("a=1", "a=2", "b=1", "a=1,b=1", "a in (1,2)", "a", "!b", "b notin (1)", "a=1,b!=2", "")
KEYS = [f"{space}/{name}" for space in ("x", "y") for name in "pqr"]
LABELS = st.fixed_dictionaries({}, optional={"a": st.sampled_from("12"), "b": st.sampled_from("12")})
CHANGE = st.tuples(st.sampled_from(KEYS), st.sampled_from((*SELECTORS, None)))


def pods(labels: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{"metadata": {"name": f"p{n}", "labels": one}} for n, one in enumerate(labels)]


@given(st.lists(CHANGE, max_size=30), st.lists(LABELS, max_size=4), st.sampled_from(KEYS))
@settings(max_examples=examples(200), deadline=None)
def test_all_and_only_those_who_select_one_of_the_pods(
    changes: list[tuple[str, str | None]], labels: list[dict[str, str]], key: str
) -> None:
    rivals = Rivals()
    known: dict[str, LabelSelector] = {}
    for one, text in changes:
        known.pop(one, None)
        if text is not None:
            known[one] = parse_labels(text)
        rivals.put(one, known.get(one))
    expected = sorted(
        other
        for other, selector in known.items()
        if other != key and other[0] == key[0] and not selector.everything
        if any(selector.matches(one) for one in labels)
    )
    assert rivals.of(key, pods(labels)) == expected


def test_it_takes_a_look_at_ones_own_pods_and_not_at_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rivals, looked = Rivals(), []
    matches = LabelSelector.matches

    def count(self: LabelSelector, labels: Any) -> bool:
        looked.append(self)
        return matches(self, labels)

    for n in range(150):
        rivals.put(f"x/{n}", parse_labels(f"app=a{n}"))
    monkeypatch.setattr(LabelSelector, "matches", count)
    assert all(rivals.of(f"x/{n}", pods([{"app": f"a{n}"}] * 20)) == [] for n in range(150))
    assert not looked
    rivals.put("x/another", parse_labels("app=a7"))
    assert rivals.of("x/7", pods([{"app": "a7"}] * 20)) == ["x/another"] and len(looked) == 1

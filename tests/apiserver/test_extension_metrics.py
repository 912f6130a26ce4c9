"""Metrics of what users add: how often policies were asked and what they said, and of webhooks that convert."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver import extension_metrics
from rayplane.control_plane.apiserver.extension_metrics import CALL_FAILURE, Conversions, PolicyChecks
from rayplane.control_plane.component_base.metrics import Family
from tests.apiserver.conftest import Stack
from tests.apiserver.test_policies import binding, config, enforce, policy, valid

CHECKS = "apiserver_validating_admission_policy_check"


def samples(families: Iterable[Family], name: str) -> Any:
    return next(family.samples for family in families if family.name == name)


async def test_policies_are_counted_by_what_they_said(stack: Stack) -> None:
    client = stack.client()
    rules = valid("object.data.a == 'b'")
    await enforce(client, policy(**rules), binding(actions=("Deny", "Audit")))
    await client.create("configmaps", config("good"))
    with pytest.raises(errors.ApiError):
        await client.create("configmaps", {**config("bad"), "data": {"a": "c"}})
    found = [*stack.servers[0].registry.chain.collect()]
    assert samples(found, f"{CHECKS}_total") == {
        ("p", "b", "no_error", "allow"): 1,
        ("p", "b", "no_error", "deny"): 1,
        ("p", "b", "no_error", "audit"): 1,
    }
    durations = samples(found, f"{CHECKS}_duration_seconds")
    assert durations.keys() == samples(found, f"{CHECKS}_total").keys()
    assert all(0 <= one.sum < 60 and sum(one.counts) == 1 for one in durations.values())
    assert samples(found, "apiserver_mutating_admission_policy_check_total") == {}


def test_what_is_kept_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_metrics, "KEPT_MAX", 2)
    checks, conversions = PolicyChecks("mutating", "policy"), Conversions()
    for name in "abc":
        checks.observe(0.5, name)
        conversions.observe(0.5, name, ("v1", "v2"), CALL_FAILURE)
    for families, name in (
        ([*checks.collect()], "apiserver_mutating_admission_policy_check_duration_seconds"),
        ([*conversions.collect()], "apiserver_crd_conversion_webhook_duration_seconds"),
    ):
        assert [labels[0] for labels in samples(families, name)] == ["b", "c"]
    assert samples(conversions.collect(), "apiserver_conversion_webhook_request_total") == {
        ("failure", CALL_FAILURE): 3
    }

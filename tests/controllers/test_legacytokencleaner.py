"""Generated tokens that nobody uses: marked after a year, deleted after another; whatever else is a Secret stays."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import legacy_tokens, meta
from rayplane.control_plane.controllers.legacytokencleaner import LegacyTokenCleaner
from tests.controllers.cluster import Cluster

DAY_S = 24 * 3600.0
USED, INVALID = legacy_tokens.LAST_USED, legacy_tokens.INVALID_SINCE


def of(account: str, uid: str = "") -> dict[str, str]:
    return {legacy_tokens.ACCOUNT: account, **({legacy_tokens.ACCOUNT_UID: uid} if uid else {})}


def cluster_with(since: str | None = "2020-01-01", **secret: Any) -> Cluster:
    """A Secret `s`, which its account lists."""
    found = Cluster(LegacyTokenCleaner())
    if since is not None:
        own = legacy_tokens.TRACKING_NAMESPACE
        found.add("configmaps", legacy_tokens.TRACKING, own, data={legacy_tokens.SINCE: since})
    found.add("serviceaccounts", "robot", secrets=[{"name": "s"}, {"name": "gone"}])
    metadata = {"annotations": of("robot"), **secret.pop("metadata", {})}
    found.add("secrets", "s", metadata=metadata, **{"type": legacy_tokens.SECRET_TYPE, **secret})
    return found


def fate(cluster: Cluster) -> str:
    secret = cluster.get("secrets", "default", "s")
    return "gone" if secret is None else "marked" if INVALID in meta.labels(secret) else "kept"


def days(cluster: Cluster, count: int) -> str:
    cluster.advance(count * DAY_S)
    return fate(cluster)


def day(cluster: Cluster) -> str:
    return legacy_tokens.day_of(cluster.now.wall)


def test_what_nobody_used_for_a_year_is_marked_and_deleted_after_another() -> None:
    cluster = cluster_with()
    assert days(cluster, 365) == "kept"
    assert days(cluster, 1) == "marked"
    assert meta.labels(cluster.require("secrets", "default", "s"))[INVALID] == day(cluster)
    assert days(cluster, 365) == "marked"
    assert days(cluster, 1) == "gone"


def test_uses_were_noted_for_as_long_before_anything_is_marked() -> None:
    cluster = cluster_with(since="2026-03-01")  # day 59
    assert days(cluster, 59 + 365) == "kept"  # on the first day not all uses were noted
    assert days(cluster, 1) == "marked"


POD: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n1"}
MOUNTED: dict[str, dict[str, Any]] = {
    "volume": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
    "projected": {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]},
    "pull secret": {"imagePullSecrets": [{"name": "s"}]},
    "variable": {
        "initContainers": [
            {
                "name": "i",
                "image": "i",
                "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}],
            }
        ]
    },
}


@pytest.mark.parametrize("how", MOUNTED)
def test_what_a_pod_mounts_is_left_alone_while_there_is_the_pod(how: str) -> None:
    cluster = cluster_with()
    pod = cluster.add("pods", "p", spec={**POD, **MOUNTED[how]})
    assert days(cluster, 800) == "kept"
    cluster.remove_object("pods", pod)
    assert days(cluster, 1) == "marked"


KEPT: dict[str, dict[str, Any]] = {
    "used": {"metadata": {"labels": {USED: "2099-01-01"}}},
    "used on no such day": {"metadata": {"labels": {USED: "2020-13-01"}}},
    "of another type": {"type": "Opaque"},
    "of another account": {"metadata": {"annotations": of("nobody")}},
    "of an earlier account": {"metadata": {"annotations": of("robot", "earlier")}},
    "of no account": {"metadata": {"annotations": {}}},
    "not tracked": {"since": None},
    "tracked since no day": {"since": "20200101"},
    "tracked since lately": {"since": "2099-01-01"},
}


@pytest.mark.parametrize("what", KEPT)
def test_what_may_be_needed_is_kept(what: str) -> None:
    assert days(cluster_with(**KEPT[what]), 1000) == "kept"


def test_tokens_made_by_hand_are_kept() -> None:
    cluster = cluster_with()
    cluster.change("serviceaccounts", "robot", secrets=[])
    assert days(cluster, 1000) == "kept"


def test_who_needs_it_removes_the_mark_and_uses_it_again() -> None:
    cluster = cluster_with()
    assert days(cluster, 400) == "marked"
    cluster.change("secrets", "s", metadata={"labels": {INVALID: None, USED: day(cluster)}})
    assert days(cluster, 364) == "kept"
    assert days(cluster, 3) == "marked"
    # A mark that is no day is none.
    cluster.change("secrets", "s", metadata={"labels": {INVALID: "never"}})
    assert days(cluster, 1) == "marked"
    assert meta.labels(cluster.require("secrets", "default", "s"))[INVALID] == day(cluster)
    assert days(cluster, 367) == "gone"

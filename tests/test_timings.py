"""The spans that hold a cluster together: profiles keep the rules, and what breaks one is told which to change."""

from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.apiserver.config import Timing as ApiServerTiming
from rayplane.control_plane.client import api
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.supervisor import reconciler
from rayplane.control_plane.controllers.config import Timing as ControllersTiming
from rayplane.control_plane.loadbalancer import LoadBalancerConfig
from rayplane.control_plane.timings import (
    FAST,
    KUBERNETES,
    PROFILES,
    SPARSE,
    BadTimings,
    ElectionTiming,
    ServerChanges,
    Timings,
)
from rayplane.node.config import NodeTiming


@pytest.mark.parametrize("profile", PROFILES)
def test_a_lost_node_stops_its_pods_before_they_are_started_elsewhere(profile: str) -> None:
    """In what components are handed. The node counts from sending its last renewal, the controllers from seeing it."""
    timings = ClusterConfig(timing=profile).timings
    node, control, admission = NodeTiming.of(timings), ControllersTiming.of(timings), ApiServerTiming.of(timings)
    assert admission.toleration_seconds == control.nodes.toleration_s
    evicted_s = control.nodes.grace_s + admission.toleration_seconds
    assert node.fence_after_s + node.lease_renew_s <= evicted_s + control.nodes.force_delete_s - 1.0
    # Even pods without any grace, which eviction removes at once.
    assert node.fence_after_s <= evicted_s - 1.0
    assert node.lease_duration_s <= control.nodes.grace_s <= node.fence_after_s


@pytest.mark.parametrize("timings", [FAST, KUBERNETES])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fence_s": 0.99}, "fence_s must be at least grace_s"),
        ({"fence_s": 1000.0}, "fence_s must be at most grace_s"),
        ({"toleration_s": 0}, "fence_s must be at most grace_s"),
        ({"grace_s": 0.4}, "monitor_s must be shorter than grace_s"),
        ({"duration_s": 1000}, "duration_s must not be longer than grace_s"),
        ({"renew_s": 0.0}, "renew_s must be positive"),
        ({"renew_s": 50.0, "duration_s": 4}, "renew_s must be positive and shorter"),
    ],
)
def test_leases_of_nodes_that_do_not_fit(timings: Timings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadTimings, match=message):
        replace(timings.nodes, **change)


@pytest.mark.parametrize("spans", [(4.0, 4.0, 0.5), (4.0, 3.0, 3.0), (4.0, 3.0, 0.0)])
def test_an_election_by_lease_rises(spans: tuple[float, float, float]) -> None:
    with pytest.raises(BadTimings, match="must rise"):
        ElectionTiming(*spans)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"election_ticks": 4}, "at least 5"),
        ({"tick_s": 0.0}, "must be positive"),
        ({"leisure": 0.5}, "at least 1"),
        ({"tick_s": 0.2}, "renew_deadline_s"),
        ({"tick_s": 0.3, "election": ElectionTiming(20.0, 15.0, 1.0)}, "grace_s"),
    ],
)
def test_an_election_of_etcd_is_over_before_others_miss_it(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadTimings, match=message):
        replace(FAST, **change)


@pytest.mark.parametrize("change", [{"discover_s": 4.0}, {"learn_s": 3.0}, {"discover_s": 0.0}])
def test_a_server_goes_only_when_all_know_its_successor(change: dict[str, float]) -> None:
    with pytest.raises(BadTimings, match="learn_s"):
        ServerChanges(**change)
    assert LoadBalancerConfig().refresh_interval_s < reconciler.LEARN_S
    assert api.DISCOVER_EVERY_S < reconciler.LEARN_S


def test_only_a_sparse_cluster_looks_at_leisure() -> None:
    assert FAST.leisure == KUBERNETES.leisure == 1 < SPARSE.leisure
    assert ApiServerTiming.of(KUBERNETES).bookmark_interval_s == ApiServerTiming().bookmark_interval_s
    assert ApiServerTiming.of(SPARSE).bookmark_interval_s > ApiServerTiming().bookmark_interval_s

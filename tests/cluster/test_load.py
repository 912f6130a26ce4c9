"""What is made of pages of metrics: rates between two, latencies since the first."""

import math

import pytest

from rayplane.control_plane.cluster.load import is_of_another_run, load, quantile, reading
from rayplane.control_plane.component_base.exposition import page
from rayplane.control_plane.component_base.metrics import Family, Histogram, counter, gauge, histogram

LABELS = ("verb", "group", "version", "resource", "subresource")
PODS, LEASES = ("GET", "", "v1", "pods", ""), ("PUT", "coordination.k8s.io", "v1", "leases", "")


def told(gets: int, puts: int, *seconds: float, cpu_s: float = 0.0, **queues: int) -> str:
    """A page as a component would answer, after so many requests; those of pods took so many seconds."""
    took = Histogram((0.005, 0.1, 1.0))
    for one in seconds:
        took.observe(one)
    families: list[Family] = [
        counter(
            "apiserver_request_total", "Answered.", {(*PODS, "200"): gets, (*LEASES, "409"): puts}, *LABELS, "code"
        ),
        histogram("apiserver_request_duration_seconds", "Time.", {PODS: took}, *LABELS),
        gauge(
            "apiserver_current_inflight_requests", "Under way.", {("readOnly",): 2, ("mutating",): 1}, "request_kind"
        ),
        gauge("workqueue_depth", "Keys that wait.", {(name,): depth for name, depth in queues.items()}, "name"),
        counter("process_cpu_seconds_total", "CPU.", cpu_s),
    ]
    return page(families, "", process=False)[0].decode()


def test_rates_are_between_the_last_two_pages_and_latencies_since_the_first() -> None:
    pages = [
        told(10, 0, *[5.0] * 10),
        told(20, 4, *[5.0] * 10, *[0.05] * 10, cpu_s=1.0),
        told(70, 5, *[5.0] * 10, *[0.05] * 10, *[0.001] * 50, cpu_s=2.0),
    ]
    found = load([reading(one, 10.0 * at) for at, one in enumerate(pages)])
    assert found["requests_s"] == pytest.approx(5.1)
    assert [(one["verb"], one["count"], one["requests_s"]) for one in found["verbs"]] == [
        ("GET", 70, pytest.approx(5.0)),
        ("PUT", 5, pytest.approx(0.1)),
    ]
    assert (found["p50_s"], found["p99_s"]) == (0.005, 0.1), "what was slow before the first page counts no more"
    assert (found["in_flight"], found["cpu"]) == (3, pytest.approx(0.1))


def test_of_one_page_there_are_no_rates_and_all_latencies() -> None:
    found = load([reading(told(1, 0, 0.01, replicaset=3), 0.0)])
    assert (found["requests_s"], found["cpu"], found["p50_s"]) == (None, None, 0.1)
    assert found["queues"] == {"replicaset": 3}


def test_what_is_slower_than_all_bounds_is_told_as_the_last_and_nothing_as_nothing() -> None:
    assert quantile({0.1: 0.0, 1.0: 0.0, math.inf: 4.0}, 0.5) == 1.0
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None


def test_a_component_that_began_anew_is_told_from_one_that_goes_on() -> None:
    before, on, anew = (reading(told(gets, 0, cpu_s=cpu), 0.0) for gets, cpu in ((9, 1.0), (9, 1.5), (2, 2.0)))
    assert not is_of_another_run(before, on)
    assert is_of_another_run(on, anew)

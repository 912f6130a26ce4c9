"""Pages of metrics, as the library's own parsers read them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text

from rayplane.control_plane.component_base.exposition import page
from rayplane.control_plane.component_base.metrics import (
    Histogram,
    Histograms,
    counter,
    exponential,
    gauge,
    histogram,
)

OPEN_METRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"


@given(st.lists(st.floats(0, 100)))
def test_histograms_count_up_to_each_bound(values: list[float]) -> None:
    measured = Histogram(exponential(0.001, 2, 14))
    for value in values:
        measured.observe(value)
    body, _ = page([histogram("h", "about", measured)], "")
    [family] = [f for f in text(body.decode()) if f.name == "h"]
    for sample in family.samples:
        if sample.name == "h_bucket":
            bound = float(sample.labels["le"])
            assert sample.value == sum(value <= bound for value in values)
        elif sample.name == "h_sum":
            assert sample.value == pytest.approx(sum(values))
        else:
            assert (sample.name, sample.value) == ("h_count", len(values))


@given(st.lists(st.sampled_from([*OPEN_METRICS.split(";"), ";", "version", "=", "escaping=", "x", "2.x"])).map("".join))
@example("application/openmetrics-text;version=x")
def test_a_page_is_told_whatever_format_is_asked_for(accept: str) -> None:
    assert b"# TYPE a gauge" in page([gauge("a", "about", 1)], accept)[0]


def test_the_format_is_the_one_that_is_asked_for() -> None:
    waits = Histograms((0.1, 1.0))
    waits.observe(0.5, "jobs")
    families = [
        counter("a_total", "Counted.", {("x", 'y"\\\n'): 3.0}, "one", "two"),
        counter("health_success", "Counted under an old name.", 1),
        gauge("keys_total", "A gauge under an odd name.", 7),
        histogram("wait_seconds", "Waits.", waits.by_labels, "name"),
    ]
    body, content_type = page(families, "")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE health_success counter\nhealth_success 1.0\n" in body.decode()
    found = {f.name: f for f in text(body.decode())}
    assert found["a"].samples[0].labels == {"one": "x", "two": 'y"\\\n'}
    assert found["keys_total"].type == "gauge"
    body, content_type = page(families, OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    opened = {f.name: f for f in open_metrics(body.decode())}
    assert [s.value for s in opened["health_success"].samples] == [1]
    assert [s.value for s in opened["wait_seconds"].samples] == [0, 1, 1, 0.5, 1]


def test_each_page_tells_of_the_process() -> None:
    body, _ = page([], "")
    values = {s.name: s.value for f in text(body.decode()) for s in f.samples}
    assert values["process_resident_memory_bytes"] > 1 << 20
    assert values["process_cpu_seconds_total"] > 0

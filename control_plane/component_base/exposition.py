"""The page of metrics, in the format that the scraper asks for.

One registry for each page: components share processes, so none is the process's. Loaded at the first scrape: most
processes are never asked, and the library takes a tenth of a second.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rayplane.control_plane.component_base.metrics import Family, Histogram

_TOTAL = "_total"


def page(families: Iterable[Family], accept: str, *, process: bool = True) -> tuple[bytes, str]:
    """Body and Content-Type: OpenMetrics where `accept` names it, else text 0.0.4. `process`: with this one's own."""
    found = list(families)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(lambda: found))
    if process:
        ProcessCollector(registry=registry)
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # The library compares versions, and not every scraper writes one that is made of numbers.
        encode, content_type = choose_encoder("")
    body = encode(registry)
    if not content_type.startswith("application/openmetrics-text"):
        # The library gives every counter the suffix. OpenMetrics demands it; the text format has older names.
        for family in found:
            if family.kind == "counter" and not family.name.endswith(_TOTAL):
                body = body.replace(f"{family.name}{_TOTAL}".encode(), family.name.encode())
    return body, content_type


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return map(_metric, self._families())


def _metric(family: Family) -> Metric:
    is_counter = family.kind == "counter"
    name = family.name.removesuffix(_TOTAL) if is_counter else family.name
    metric = Metric(name, family.about, family.kind)
    for values, value in family.samples.items():
        labels = dict(zip(family.labels, values, strict=True))
        if isinstance(value, Histogram):
            _add(metric, labels, value)
        else:
            metric.add_sample(name + _TOTAL if is_counter else name, labels, value)
    return metric


def _add(metric: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    count = 0
    for bound, count in histogram.cumulative():
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        metric.add_sample(f"{metric.name}_bucket", labels | {"le": le}, count)
    metric.add_sample(f"{metric.name}_sum", labels, histogram.sum)
    metric.add_sample(f"{metric.name}_count", labels, count)

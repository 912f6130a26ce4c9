"""Measurements of what users add to an API server: policies, and webhooks that convert. Pure.

Names are users' own, so what is kept is bounded: what was measured first goes first. Under Kubernetes' names
(apiserver's `pkg/admission/plugin/policy/*/metrics`, apiextensions-apiserver's `pkg/apiserver/conversion/metrics.go`).
"""

from collections import Counter
from collections.abc import Iterable

from rayplane.control_plane.component_base.metrics import Family, Histograms, counter, exponential, histogram

KEPT_MAX = 2000
_CHECK_S = (0.0000005, 0.001, 0.01, 0.1, 1.0)
_CONVERSION_S = exponential(0.001, 2, 15)
NO_ERROR, INVALID = "no_error", "invalid_error"
CALL_FAILURE, MALFORMED = "conversion_webhook_call_failure", "conversion_webhook_malformed_response_failure"


class PolicyChecks:
    """The checks of all policies of a kind, by the values of `labels`."""

    def __init__(self, kind: str, *labels: str) -> None:
        """`kind`: `validating` or `mutating`."""
        self._prefix = f"apiserver_{kind}_admission_policy"
        self._labels = labels
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._durations = Histograms(_CHECK_S)

    def observe(self, seconds: float, *labels: str) -> None:
        self._counts[labels] += 1
        self._durations.observe(seconds, *labels)
        if len(self._counts) > KEPT_MAX:
            oldest = next(iter(self._counts))
            del self._counts[oldest], self._durations.by_labels[oldest]

    def collect(self) -> Iterable[Family]:
        yield counter(f"{self._prefix}_check_total", "Checks of policies.", self._counts, *self._labels)
        durations = self._durations.by_labels
        yield histogram(f"{self._prefix}_check_duration_seconds", "Time of checks.", durations, *self._labels)


class Conversions:
    """The questions to webhooks that convert."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._durations = Histograms(_CONVERSION_S)
        self._by_definition = Histograms(_CONVERSION_S)

    def observe(self, seconds: float, definition: str, versions: tuple[str, str], failure: str = "") -> None:
        """`versions`: from which to which; `failure`: its type, empty for a success."""
        labels = "failure" if failure else "success", failure
        self._requests[labels] += 1
        self._durations.observe(seconds, *labels)
        self._by_definition.observe(seconds, definition, *versions, "false" if failure else "true")
        if len(self._by_definition.by_labels) > KEPT_MAX:
            del self._by_definition.by_labels[next(iter(self._by_definition.by_labels))]

    def collect(self) -> Iterable[Family]:
        of_result = "result", "failure_type"
        name = "apiserver_conversion_webhook"
        yield counter(f"{name}_request_total", "Questions to webhooks that convert.", self._requests, *of_result)
        yield histogram(f"{name}_duration_seconds", "Time of them.", self._durations.by_labels, *of_result)
        labels = "crd_name", "from_version", "to_version", "succeeded"
        found = self._by_definition.by_labels
        yield histogram("apiserver_crd_conversion_webhook_duration_seconds", "Time by definition.", found, *labels)

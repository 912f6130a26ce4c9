"""Autoscalers: replicas that follow from what pods use, how fast they change, conditions and events that say why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.actions import Action, Rescale
from rayplane.control_plane.controllers.autoscaling.horizontal import AUTOSCALERS, HorizontalController
from rayplane.control_plane.controllers.autoscaling.metrics import CUSTOM, EXTERNAL, RESOURCE, SCALE, Answer, Query
from rayplane.control_plane.controllers.config import AutoscalerTiming
from tests.controllers.cluster import Cluster

TIMING = AutoscalerTiming()
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}


class Scaled(Cluster):
    """A deployment `web` with pods that use what they are told to, and metrics APIs."""

    def __init__(self) -> None:
        self.hpas = HorizontalController(TIMING)
        super().__init__(self.hpas)
        self.asked: list[Query] = []
        self.used: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}
        self.on_special = self._rescale
        self.refuses = ""
        self.elsewhere: list[tuple[str, str, str, int, int]] = []
        self.add("deployments.apps", "web", spec={"replicas": 0, "selector": {"matchLabels": {"app": "web"}}})

    # --- the shell's part -----------------------------------------------------------------------

    def step(self) -> bool:
        if self.queue:
            _, key = next(iter(self.queue))
            known: dict[Query, Answer] = {}
            for _ in range(2):
                queries = [q for q in self.hpas.questions(key, self, self.seconds, known) if q not in known]
                self.asked += queries
                known |= {query: self._answer(query) for query in queries}
            self.hpas.answered(key, known)
        return super().step()

    def _answer(self, query: Query) -> Answer:
        if query.api in self.answers:
            return self.answers[query.api]
        if query.api == SCALE:
            return Answer()  # of no kind that others serve
        if query.api != RESOURCE:
            return Answer(error="nobody serves that")
        return Answer(
            [
                {
                    "metadata": {"name": name, "namespace": "default"},
                    "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "100Mi"}}],
                    "timestamp": self.now.stamp,
                    "window": "10s",
                }
                for name, cpu in sorted(self.used.items())
            ]
        )

    def _rescale(self, action: Action) -> bool:
        assert isinstance(action, Rescale)
        if action.elsewhere is not None:
            self.elsewhere.append((*action.elsewhere, meta.name(action.obj), action.before, action.replicas))
            return self.act(action.done)
        if self.refuses:
            failed = action.failed
            done = failed.done
            assert done is not None
            self.act(failed)
            return True
        self.change("deployments.apps", "web", spec={"replicas": action.replicas})
        return self.act(action.done)

    # --- users and kubelets ---------------------------------------------------------------------

    def hpa(self, name: str = "web", *, metrics: Any = (CPU,), target: str = "web", **spec: Any) -> None:
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target, **spec.pop("ref", {})}
        whole = {"minReplicas": 1, "maxReplicas": 10, "metrics": list(metrics), **spec, "scaleTargetRef": ref}
        self.add(AUTOSCALERS, name, spec=whole)

    def pods_with(self, *cpu: str | None, ready: int | None = None, request: str | None = "100m") -> None:
        """As many pods as uses; None tells nothing. The first `ready` are ready. The deployment has that many."""
        for pod in self.pods(active=False):
            self.remove("pods", meta.key(pod))
        self.used.clear()
        requests = {} if request is None else {"cpu": request, "memory": "200Mi"}
        for n, used in enumerate(cpu):
            containers = [{"name": "c", "resources": {"requests": requests}}]
            pod = self.add("pods", f"p{n}", metadata={"labels": {"app": "web"}}, spec={"containers": containers})
            self.set_pod(pod, ready=ready is None or n < ready)
            self.change("pods", f"p{n}", status={"startTime": "2025-12-31T00:00:00Z"})
            if used is not None:
                self.used[f"p{n}"] = used
        self.replicas = len(cpu)

    @property
    def replicas(self) -> int:
        return int(self.require("deployments.apps", "default", "web")["spec"]["replicas"])

    @replicas.setter
    def replicas(self, count: int) -> None:
        self.change("deployments.apps", "web", spec={"replicas": count})
        self.change("deployments.apps", "web", status={"replicas": count})

    def look(self, times: int = 1) -> int:
        """Settle, and let sync periods pass; the replicas then."""
        self.settle()
        for _ in range(times - 1):
            self.advance(TIMING.sync_s)
        return self.replicas

    @property
    def status(self) -> dict[str, Any]:
        return meta.status(self.require(AUTOSCALERS, "default", "web"))

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = meta.get_condition(self.status["conditions"], kind)
        assert found is not None, f"no condition {kind}"
        return found["status"], found["reason"], found["message"]

    def told(self, reason: str) -> list[str]:
        return [text for _, why, text in self.events if why == reason]


@pytest.fixture
def web() -> Scaled:
    return Scaled()


# uses of pods (None: no value), how many are ready, percent aimed at -> replicas, percent shown
UTILIZATION = {
    "as aimed at": (("50m", "50m"), 2, 50, 2, 50),
    "within the tolerance above": (("55m", "55m"), 2, 50, 2, 55),
    "within the tolerance below": (("45m", "45m"), 2, 50, 2, 45),
    "more": (("100m", "60m"), 2, 50, 4, 80),
    "at most double or four": (("900m",), 1, 50, 4, 900),
    "less": (("10m", "10m", "10m", "10m"), 4, 50, 1, 10),
    "nothing at all": (("0", "0"), 2, 50, 1, 0),
    "a pod that does not tell uses nothing, when more is needed": (("100m", "100m", None), 3, 50, 4, 100),
    "and all it requests, when less is": (("10m", "10m", None, None), 4, 50, 4, 10),
    "so that one more is never taken for less": (("60m", None, None), 3, 50, 3, 60),
    "a pod that is not ready yet uses nothing, when more is needed": (("100m", "100m", "9"), 2, 50, 4, 100),
}


@pytest.mark.parametrize("case", UTILIZATION)
def test_utilization(web: Scaled, case: str) -> None:
    uses, ready, aim, replicas, shown = UTILIZATION[case]
    target = {"type": "Utilization", "averageUtilization": aim}
    web.pods_with(*uses, ready=ready)
    for n in range(ready, len(uses)):  # never ready since it began
        young = {"startTime": web.now.stamp}
        web.change("pods", f"p{n}", status=young)
    web.hpa(metrics=[{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
    found = web.look()
    (metric,) = web.status["currentMetrics"]
    assert metric["resource"]["current"]["averageUtilization"] == shown
    if replicas >= len(uses):  # what becomes fewer waits for the stabilization window
        assert found == replicas
    else:
        assert found == len(uses)
        assert web.look(25) == replicas


def test_a_scaling_is_told(web: Scaled) -> None:
    web.pods_with("100m", "100m")
    web.hpa()
    assert web.look() == 4
    assert web.told("SuccessfulRescale") == [
        "New size: 4; reason: cpu resource utilization (percentage of request) above target"
    ]
    assert web.condition("AbleToScale") == (
        "True", "SucceededRescale", "the HPA controller was able to update the target scale to 4")  # fmt: skip
    why = "the HPA was able to successfully calculate a replica count from cpu resource utilization"
    assert web.condition("ScalingActive") == ("True", "ValidMetricFound", f"{why} (percentage of request)")
    within = "the desired count is within the acceptable range"
    assert web.condition("ScalingLimited") == ("False", "DesiredWithinRange", within)
    status = web.status
    assert (status["currentReplicas"], status["desiredReplicas"]) == (2, 4)
    assert status["lastScaleTime"] == "2026-01-01T00:00:00Z"
    current = {"averageUtilization": 100, "averageValue": "100m"}
    assert status["currentMetrics"] == [{"type": "Resource", "resource": {"name": "cpu", "current": current}}]


def test_looks_are_a_sync_period_apart_but_a_new_spec_is_looked_at_at_once(web: Scaled) -> None:
    web.pods_with("50m")
    web.hpa()
    web.look()
    assert len(web.asked) == 1
    web.used["p0"] = "100m"
    web.change("pods", "p0", metadata={"annotations": {"a": "b"}})
    web.advance(TIMING.sync_s - 1)
    assert (web.replicas, len(web.asked)) == (1, 1)
    web.change(AUTOSCALERS, "web", spec={"maxReplicas": 9})
    assert web.look() == 2
    assert web.asked[0] == Query(RESOURCE, "default", "pods", labels="app=web")


BOUNDS: dict[str, tuple[int, dict[str, Any], int, str]] = {
    "above": (4, {"maxReplicas": 3}, 3, "Current number of replicas above Spec.MaxReplicas"),
    "below": (1, {"minReplicas": 2}, 2, "Current number of replicas below Spec.MinReplicas"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_bounds_hold_whatever_metrics_say(web: Scaled, case: str) -> None:
    replicas, spec, wanted, reason = BOUNDS[case]
    web.pods_with(*["50m"] * replicas)
    web.hpa(**spec)
    assert web.look() == wanted
    assert web.told("SuccessfulRescale") == [f"New size: {wanted}; reason: {reason}"]


def test_no_more_than_the_most(web: Scaled) -> None:
    web.pods_with("100m", "100m")
    web.hpa(maxReplicas=3)
    assert web.look() == 3
    assert web.condition("ScalingLimited") == (
        "True", "TooManyReplicas", "the desired replica count is more than the maximum replica count")  # fmt: skip


def test_a_target_of_none_is_left_alone(web: Scaled) -> None:
    web.hpa()
    assert web.look() == 0
    assert web.condition("ScalingActive") == (
        "False", "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")  # fmt: skip


def test_fewer_only_when_fewer_were_wanted_for_the_whole_window(web: Scaled) -> None:
    web.pods_with("50m", "50m", "50m", "50m")
    web.hpa()
    web.look()
    web.used = dict.fromkeys(web.used, "10m")
    web.advance(TIMING.downscale_stabilization_s - TIMING.sync_s)
    assert web.replicas == 4
    told = "recent recommendations were higher than current one, applying the highest recent recommendation"
    assert web.condition("AbleToScale") == ("True", "ScaleDownStabilized", told)
    web.advance(2 * TIMING.sync_s)
    assert web.replicas == 1
    assert web.told("SuccessfulRescale") == ["New size: 1; reason: All metrics below target"]


def policy(kind: str, value: int, seconds: int = 60) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": seconds}


def rules(*policies: dict[str, Any], select: str = "Max", window: int = 0) -> dict[str, Any]:
    return {"policies": [*policies], "selectPolicy": select, "stabilizationWindowSeconds": window}


# way, rules, replicas at first -> replicas after one look, after the next, after the period
RATES = {
    "pods up": ("scaleUp", rules(policy("Pods", 3)), 2, (5, 5, 8)),
    "percent up, rounded up": ("scaleUp", rules(policy("Percent", 10)), 4, (5, 5, 6)),
    "the most of both": ("scaleUp", rules(policy("Pods", 1), policy("Percent", 100)), 4, (8, 8, 16)),
    "the least of both": ("scaleUp", rules(policy("Pods", 1), policy("Percent", 100), select="Min"), 4, (5, 5, 6)),
    "not up": ("scaleUp", rules(policy("Pods", 1), select="Disabled"), 4, (4, 4, 4)),
    "pods down": ("scaleDown", rules(policy("Pods", 2)), 8, (6, 6, 4)),
    "percent down": ("scaleDown", rules(policy("Percent", 50)), 8, (4, 4, 2)),
    "the least down": ("scaleDown", rules(policy("Pods", 1), policy("Percent", 50), select="Min"), 8, (7, 7, 6)),
    "not down": ("scaleDown", rules(policy("Pods", 1), select="Disabled"), 8, (8, 8, 8)),
}


@pytest.mark.parametrize("case", RATES)
def test_policies(web: Scaled, case: str) -> None:
    way, limits, start, wanted = RATES[case]
    use = "900m" if way == "scaleUp" else "1m"
    web.pods_with(*[use] * start)
    other = "scaleDown" if way == "scaleUp" else "scaleUp"
    web.hpa(maxReplicas=50, behavior={way: limits, other: rules(policy("Percent", 100))})
    seen = []
    for seconds in (0, TIMING.sync_s, 60):
        web.advance(seconds)
        web.settle()
        seen.append(web.replicas)
        status = web.condition("ScalingLimited")
        web.pods_with(*[use] * web.replicas)
    assert tuple(seen) == wanted
    assert status[1] == ("ScaleUpLimit" if way == "scaleUp" else "ScaleDownLimit")


def test_more_only_when_more_was_wanted_for_the_whole_window(web: Scaled) -> None:
    web.pods_with("50m", "50m")
    web.hpa(behavior={"scaleUp": rules(policy("Percent", 100), window=60), "scaleDown": rules(policy("Percent", 100))})
    web.look()
    web.used = dict.fromkeys(web.used, "90m")
    web.advance(45)
    assert web.replicas == 2
    told = "recent recommendations were lower than current one, applying the lowest recent recommendation"
    assert web.condition("AbleToScale") == ("True", "ScaleUpStabilized", told)
    web.advance(30)
    assert web.replicas == 4


def test_an_autoscaler_with_a_tolerance_of_its_own(web: Scaled) -> None:
    web.pods_with("54m", "54m")
    web.hpa(behavior={"scaleUp": {**rules(policy("Percent", 100)), "tolerance": "50m"}})
    assert web.look() == 3
    web.used = dict.fromkeys(web.used, "46m")
    assert web.look(30) == 3


def test_young_pods_are_not_believed(web: Scaled) -> None:
    """While CPU is what starting takes, it does not count."""
    web.pods_with("50m", "500m")
    at = {"startTime": web.now.stamp, "conditions": [{"type": "Ready", "status": "True",
                                                      "lastTransitionTime": web.now.stamp}]}  # fmt: skip
    web.change("pods", "p1", status=at)
    web.hpa()
    assert web.look() == 2
    assert web.look(2) == 4  # measured for a window since it is ready


@pytest.mark.parametrize("window", ["2562047h", "-1h"])
@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_times_at_the_ends_of_the_calendar(web: Scaled, window: str, since: str) -> None:
    web.pods_with("500m")
    web.answers[RESOURCE] = Answer([{**web._answer(Query(RESOURCE, "", "")).items[0], "window": window}])
    for start in (web.now.stamp, since):
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": since}
        web.change("pods", "p0", status={"startTime": start, "conditions": [ready]})
        web.hpa(f"at-{start[:4]}")
        web.look()
    assert meta.status(web.require(AUTOSCALERS, "default", f"at-{since[:4]}"))["conditions"]


def test_answers_to_what_was_asked_before_a_change_are_asked_for_anew(web: Scaled) -> None:
    web.pods_with("50m", "50m")
    web.hpa()
    memory = {"type": "Resource", "resource": {"name": "memory", **target(averageValue="50Mi")}}
    key, asked = "default/web", web.hpas.questions("default/web", web, 0.0)
    web.change(AUTOSCALERS, "web", spec={"metrics": [memory], "scaleTargetRef": {"name": "other"}})
    web.add("deployments.apps", "other", spec={"replicas": 2, "selector": {"matchLabels": {"tier": "a"}}})
    web.hpas.answered(key, {query: web._answer(query) for query in asked})
    again = web.hpas.reconcile(key, web, web.now)
    assert not again.actions and again.requeue_after is not None and again.requeue_after < 1
    web.settle()
    assert web.condition("AbleToScale")[0] == "True"


# --- metrics of other kinds ---------------------------------------------------------------------


def series(*values: str, labelled: str = "metricName") -> Answer:
    return Answer([{labelled: "m", "value": value} for value in values])


def of_pods(*values: str) -> Answer:
    stamp = "2026-01-01T00:00:00Z"
    return Answer(
        [{"describedObject": {"name": f"p{n}"}, "value": v, "timestamp": stamp} for n, v in enumerate(values)]
    )


METRIC = {"name": "jobs", "selector": {"matchLabels": {"queue": "a"}}}
GO = "&LabelSelector{MatchLabels:map[string]string{queue: a,},MatchExpressions:[]LabelSelectorRequirement{},}"
INGRESS = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}


def target(**aim: Any) -> dict[str, Any]:
    return {"target": {"type": "x", **aim}}


# metric, which API answers what -> replicas of two pods, the query, current value, the metric's name
SOURCES: dict[str, tuple[Any, ...]] = {
    "usage of a resource": (
        {"type": "Resource", "resource": {"name": "memory", **target(averageValue="50Mi")}}, None,
        4, "default/pods", {"averageValue": "104857600"}, "memory resource"),
    "a container": (
        {"type": "ContainerResource",
         "containerResource": {"name": "cpu", "container": "c", **target(averageUtilization=50)}}, None,
        4, "default/pods", {"averageUtilization": 100, "averageValue": "100m"},
        "cpu container resource utilization (percentage of request)"),
    "pods": (
        {"type": "Pods", "pods": {"metric": METRIC, **target(averageValue="10")}}, (CUSTOM, of_pods("15", "25")),
        4, "default/pods/*/jobs", {"averageValue": "20"}, "pods metric jobs"),
    "an object": (
        {"type": "Object", "object": {"metric": METRIC, "describedObject": INGRESS, **target(value="10")}},
        (CUSTOM, series("20")),
        4, "default/ingresses.networking.k8s.io/main/jobs", {"value": "20"}, "Ingress metric jobs"),
    "an object, shared": (
        {"type": "Object", "object": {"metric": METRIC, "describedObject": INGRESS, **target(averageValue="10")}},
        (CUSTOM, series("31")),
        4, "default/ingresses.networking.k8s.io/main/jobs", {"averageValue": "15500m"},
        f"external metric jobs({GO})"),
    "something outside": (
        {"type": "External", "external": {"metric": METRIC, **target(value="10")}},
        (EXTERNAL, series("8", "7")),
        3, "default/jobs", {"value": "15"}, f"external metric jobs({GO})"),
    "something outside, shared": (
        {"type": "External", "external": {"metric": METRIC, **target(averageValue="10")}},
        (EXTERNAL, series("30")),
        3, "default/jobs", {"averageValue": "15"}, f"external metric jobs({GO})"),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_sources(web: Scaled, case: str) -> None:
    metric, answer, replicas, path, current, name = SOURCES[case]
    if answer:
        web.answers[answer[0]] = answer[1]
    web.pods_with("100m", "100m")
    web.hpa(metrics=[metric])
    assert web.look() == replicas
    asked = web.asked[-1]
    assert "/".join(part for part in (asked.namespace, asked.resource, asked.name, asked.metric) if part) == path
    (status,) = web.status["currentMetrics"]
    (field,) = set(status) - {"type"}
    assert (status["type"], status[field]["current"]) == (metric["type"], current)
    assert web.told("SuccessfulRescale") == [f"New size: {replicas}; reason: {name} above target"]


def test_selectors_travel_with_the_questions(web: Scaled) -> None:
    web.pods_with("1m")
    web.hpa(metrics=[{"type": "Pods", "pods": {"metric": METRIC, **target(averageValue="10")}},
                     {"type": "External", "external": {"metric": METRIC, **target(value="10")}}])  # fmt: skip
    web.look()
    first, second = web.asked[:2]
    assert (first.labels, first.metric_labels) == ("app=web", "queue=a")
    assert (second.labels, second.metric_labels) == ("queue=a", "")


def test_the_metric_that_asks_for_most_decides(web: Scaled) -> None:
    web.answers[EXTERNAL] = series("60")
    web.pods_with("100m", "100m")
    external = {"type": "External", "external": {"metric": {"name": "jobs"}, **target(averageValue="10")}}
    web.hpa(metrics=[CPU, external], behavior={"scaleUp": rules(policy("Percent", 900))})
    assert web.look() == 6
    assert web.told("SuccessfulRescale")[0].endswith("external metric jobs(nil) above target")


# --- failures -----------------------------------------------------------------------------------

FETCH = "unable to fetch metrics from"
FAILURES: dict[str, tuple[Any, Callable[[Scaled], Any], str, str, str]] = {
    "nobody serves metrics": (
        CPU, lambda web: web.answers.update({RESOURCE: Answer(error="gone")}), "FailedGetResourceMetric",
        f"failed to get cpu utilization: unable to get metrics for resource cpu: {FETCH} resource metrics API: gone",
        "failed to get cpu resource metric value: "),
    "no metrics": (
        CPU, lambda web: web.answers.update({RESOURCE: Answer()}), "FailedGetResourceMetric",
        "failed to get cpu utilization: unable to get metrics for resource cpu: "
        "no metrics returned from resource metrics API", "failed to get cpu resource metric value: "),
    "pods without a request": (
        CPU, lambda web: web.pods_with("1m", request=None), "FailedGetResourceMetric",
        "failed to get cpu utilization: missing request for cpu in container c of Pod p0",
        "failed to get cpu resource metric value: "),
    "an unknown container": (
        {"type": "ContainerResource",
         "containerResource": {"name": "cpu", "container": "x", **target(averageUtilization=50)}},
        lambda web: None, "FailedGetContainerResourceMetric",
        "failed to get cpu utilization: unable to get metrics for resource cpu: failed to get container metrics: "
        "container x not present in metrics for pod default/p0", "failed to get cpu container metric value: "),
    "pods that have no value": (
        {"type": "Pods", "pods": {"metric": {"name": "jobs"}, **target(averageValue="1")}}, lambda web: None,
        "FailedGetPodsMetric", f"unable to get metric jobs: {FETCH} custom metrics API: nobody serves that",
        "failed to get pods metric value: "),
    "an object that has no value": (
        {"type": "Object", "object": {"metric": {"name": "jobs"}, "describedObject": INGRESS, **target(value="1")}},
        lambda web: None, "FailedGetObjectMetric",
        f"unable to get metric jobs: Ingress on default main/{FETCH} custom metrics API: nobody serves that",
        "failed to get object metric value: "),
    "nothing outside": (
        {"type": "External", "external": {"metric": {"name": "jobs"}, **target(value="1")}}, lambda web: None,
        "FailedGetExternalMetric",
        f"unable to get external metric default/jobs/nil: {FETCH} external metrics API: nobody serves that",
        "failed to get jobs external metric value: failed to get external metric jobs: "),
    "an answer that is none": (
        {"type": "External", "external": {"metric": {"name": "jobs"}, **target(value="1")}},
        lambda web: web.answers.update({EXTERNAL: Answer([{"value": ["?"]}])}), "FailedGetExternalMetric",
        "unable to get external metric default/jobs/nil: the answer of the external metrics API is not as documented: ",
        "failed to get jobs external metric value: failed to get external metric jobs: "),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_failures(web: Scaled, case: str) -> None:
    metric, prepare, reason, why, told = FAILURES[case]
    web.pods_with("100m")
    prepare(web)
    web.hpa(metrics=[metric])
    assert web.look() == 1
    status, found, message = web.condition("ScalingActive")
    assert (status, found) == ("False", reason)
    assert message.startswith(f"the HPA was unable to compute the replica count: {why}")
    assert web.told(reason)[0].startswith(why)
    (error,) = web.told("FailedComputeMetricsReplicas")
    assert error.startswith(f"invalid metrics (1 invalid out of 1), first error is: {told}{why}")
    assert web.status["currentReplicas"] == 1


def test_one_metric_that_fails_does_not_stop_growth_but_hinders_shrinking(web: Scaled) -> None:
    external = {"type": "External", "external": {"metric": {"name": "jobs"}, **target(value="1")}}
    web.pods_with("100m", "100m")
    web.hpa(metrics=[external, CPU])
    assert web.look() == 4
    web.pods_with("1m", "1m", "1m", "1m")
    assert web.look(30) == 4
    assert web.condition("ScalingActive")[1] == "FailedGetExternalMetric"
    assert web.told("FailedComputeMetricsReplicas")[0].startswith("invalid metrics (1 invalid out of 2)")


TARGETS = {
    "no such object": ({"name": "nobody"}, 'deployments.apps "nobody" not found'),
    "no such kind": ({"apiVersion": "a.io/v1", "kind": "Odd"}, 'no matches for kind "Odd" in group "a.io"'),
    "a kind without scale": ({"kind": "DaemonSet"}, "the server could not find the requested resource"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_cannot_be_scaled(web: Scaled, case: str) -> None:
    ref, why = TARGETS[case]
    web.hpa(ref=ref)
    web.look()
    text = f"the HPA controller was unable to get the target's current scale: {why}"
    assert web.condition("AbleToScale") == ("False", "FailedGetScale", text)
    assert web.told("FailedGetScale") == [why]


def test_a_target_without_a_selector(web: Scaled) -> None:
    web.pods_with("1m")
    web.change("deployments.apps", "web", spec={"selector": None})
    web.hpa()
    web.look()
    assert web.condition("ScalingActive") == (
        "False", "InvalidSelector", "the HPA target's scale is missing a selector")  # fmt: skip
    assert web.told("SelectorRequired") == ["selector is required"]


def test_two_autoscalers_of_the_same_pods_do_nothing(web: Scaled) -> None:
    web.pods_with("100m")
    web.hpa()
    web.hpa("other")
    assert web.look() == 1
    why = "pods by selector app=web are controlled by multiple HPAs: [default/other default/web]"
    assert web.condition("ScalingActive") == ("False", "AmbiguousSelector", why)
    assert why in web.told("AmbiguousSelector")


def test_a_refused_scaling_is_told_and_tried_again(web: Scaled) -> None:
    web.pods_with("100m")
    web.refuses = "no"
    web.hpa(behavior={"scaleUp": rules(policy("Pods", 1))})
    assert web.look() == 1
    assert web.condition("AbleToScale")[:2] == ("False", "FailedUpdateScale")
    assert web.told("FailedRescale")[0].startswith("New size: 2; reason: ")
    web.refuses = ""
    # What did not happen does not count against the policies.
    assert web.look(2) == 2


def test_an_old_version_of_the_target_will_do(web: Scaled) -> None:
    web.pods_with("100m")
    web.hpa(ref={"apiVersion": "apps/v1beta1"})
    assert web.look() == 2

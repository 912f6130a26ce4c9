"""The choice of stages, what they do, and what is refused of them."""

from datetime import UTC, datetime
from functools import partial
from operator import truediv
from typing import Any

import pytest

from rayplane.control_plane.stages.choice import next_transition
from rayplane.control_plane.stages.definitions import definitions, errors_in
from rayplane.control_plane.stages.effects import ChangeObject, MakeObject, WriteStatus, play
from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.pace import UNDELAYED_MAX, Pace
from rayplane.control_plane.stages.stage import Delete, Stage, Tell, read_stage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(name: str = "s", **spec: Any) -> dict[str, Any]:
    spec = {"resourceRef": {"apiGroup": "v1", "kind": "Pod"}, "selector": {}, **spec}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def stage(name: str = "s", **spec: Any) -> Stage:
    made, errors = read_stage(written(name, **spec))
    assert errors == []
    return made


def pod(phase: str = "Pending", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d", **metadata},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase},
    }


def key(path: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": path, "operator": operator, **({"values": [*values]} if values else {})}]}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        (None, False),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchAnnotations": {"a": "1"}}, False),
        (key(".status.phase", "In", "Pending", "Running"), True),
        (key(".status.phase", "NotIn", "Pending"), False),
        (key(".metadata.deletionTimestamp", "DoesNotExist"), True),
        (key(".metadata.labels", "Exists"), True),
        (key(".none[].x", "NotIn", "a"), True),
        ({"matchExpressions": [{"jq": {"key": ".status.phase", "operator": "In", "values": ["Pending"]}}]}, True),
        ({"matchExpressions": [{"cel": {"expression": "self.status.phase == 'Pending'"}}]}, True),
        ({"matchExpressions": [{"cel": {"expression": "!has(self.spec.none)"}}]}, True),
        ({"matchExpressions": [{"cel": {"expression": "self.spec.none == 1"}}]}, False),
    ],
)
def test_selectors(selector: dict[str, Any] | None, matches: bool) -> None:
    spec = {"selector": selector} if selector is not None else {"selector": None}
    assert stage(**spec).matches(pod(labels={"a": "1"})) is matches


def test_weights_decide_among_several_and_those_without_are_left_out() -> None:
    stages = [stage("a", weight=1), stage("b", weight=3), stage("c")]
    chosen = [next_transition(stages, pod(), NOW, partial(truediv, n, 100)) for n in range(100)]
    names = [one.stage.name for one in chosen if one is not None]
    assert (names.count("a"), names.count("b"), names.count("c")) == (25, 75, 0)
    even = [next_transition([stage("a"), stage("b")], pod(), NOW, partial(truediv, n, 100)) for n in range(100)]
    assert sum(one is not None and one.stage.name == "a" for one in even) == 50


def test_a_weight_may_come_from_the_pod() -> None:
    heavy = stage("a", weightFrom={"expressionFrom": '.metadata.annotations["w"]'})
    one = next_transition([heavy, stage("b", weight=1)], pod(annotations={"w": "99"}), NOW, lambda: 0.9)
    assert one is not None and one.stage.name == "a"


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ({}, 0),
        ({"durationMilliseconds": 1500}, 1.5),
        ({"durationMilliseconds": 1000, "jitterDurationMilliseconds": 3000}, 2),
        ({"durationMilliseconds": 3000, "jitterDurationMilliseconds": 1000}, 1),
        ({"durationMilliseconds": 1000, "durationFrom": {"expressionFrom": '.metadata.annotations["d"]'}}, 7),
        ({"durationMilliseconds": 1000, "durationFrom": {"expressionFrom": ".none"}}, 1),
        ({"durationFrom": {"jq": {"expression": '.metadata.annotations["t"]'}}}, 60),
        ({"durationFrom": {"cel": {"expression": "duration('5s')"}}}, 5),
        ({"durationFrom": {"expressionFrom": '"1000000h"'}}, 366 * 86_400),
    ],
)
def test_delays(delay: dict[str, Any], seconds: float) -> None:
    notes = {"d": "7s", "t": "2026-01-01T00:01:00Z"}
    one = next_transition([stage(delay=delay)], pod(annotations=notes), NOW, lambda: 0.5)
    assert one is not None and one.delay_s == seconds


def test_stages_without_a_delay_are_held_and_only_those() -> None:
    pace = Pace()
    held = [pace.paced(0)[1] for _ in range(2 * (UNDELAYED_MAX + 1))]
    assert [n for n, one in enumerate(held) if one] == [UNDELAYED_MAX, 2 * UNDELAYED_MAX + 1]
    assert not any(pace.paced(n % 2)[1] for n in range(1000))


# --- effects --------------------------------------------------------------------------------------


def test_effects_come_in_order_and_each_sees_the_status_before_it() -> None:
    steps = [
        {"event": {"type": "Warning", "reason": "R", "message": "m"}},
        {"patch": {"root": "status", "subresource": "status", "template": "phase: Running"}},
        {"patch": {"root": "status", "subresource": "status", "type": "json", "template": OPERATIONS}},
        {"patch": {"root": "metadata", "type": "merge", "template": "labels: {phase: {{ .status.phase }}}"}},
        {"apply": {"template": "{apiVersion: v1, kind: Secret, metadata: {name: {{ .metadata.name }}-key}}"}},
        {"delete": True},
        {"event": {"reason": "Last"}},
        {"patch": {"root": "status", "subresource": "status", "template": "phase: Failed"}},
    ]
    assert play(stage(steps=steps), pod(), {}) == [
        Tell("Warning", "R", "m"),
        WriteStatus({"phase": "Running"}),
        WriteStatus({"phase": "Running", "message": "was Running"}),
        ChangeObject("merge", {"metadata": {"labels": {"phase": "Running"}}}),
        MakeObject("apply", SECRET, ""),
        Delete(),
        Tell("Normal", "Last", ""),
    ]


OPERATIONS = "- {op: add, path: /message, value: was {{ .status.phase }}}"
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "p-key", "namespace": "d"}}


def test_conditions_of_a_status_template_are_merged_by_type() -> None:
    one = pod()
    one["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    template = 'conditions: [{type: Ready, status: "True"}]\npodIP: {{ PodIPWith .spec.nodeName | Quote }}'
    (effect,) = play(stage(next={"statusTemplate": template}), one, {"PodIPWith": lambda _: "10.0.0.1"})
    assert isinstance(effect, WriteStatus)
    assert {c["type"]: c["status"] for c in effect.status["conditions"]} == {"PodScheduled": "True", "Ready": "True"}
    assert effect.status["podIP"] == "10.0.0.1"
    assert one["status"]["conditions"][1]["status"] == "False"


def test_finalizers_are_added_and_removed() -> None:
    change = {"finalizers": {"add": [{"value": "a"}], "remove": [{"value": "b"}]}}
    (effect,) = play(stage(next=change), pod(finalizers=["b", "c"], resourceVersion="7"), {})
    assert effect == ChangeObject("merge", {"metadata": {"resourceVersion": "7", "finalizers": ["c", "a"]}})
    assert play(stage(next={"finalizers": {"remove": [{"value": "x"}]}}), pod(finalizers=["c"]), {}) == []


@pytest.mark.parametrize("template", ["a: [", "- 1", "phase: {{ repeat 300000 `a` }}", "{{ .a | fail }}", "7"])
def test_a_template_that_makes_no_status_fails(template: str) -> None:
    with pytest.raises(Failed):
        play(stage(next={"statusTemplate": template}), pod(), {})


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"resourceRef": {"kind": "PersistentVolume"}}, "spec.resourceRef.kind"),
        ({"next": {"statusTemplate": "a\n{{ foo }}"}}, "spec.next.statusTemplate"),
        ({"next": {"statusPatchAs": {"username": "admin"}}}, "spec.next.statusPatchAs"),
        ({"steps": [{"apply": {"template": "a", "impersonation": {"username": "a"}}}]}, "spec.steps[0].apply"),
        ({"steps": [{"patch": {"template": "a", "type": "x"}}]}, "spec.steps[0].patch.type"),
        ({"steps": [{"patch": {"subresource": "x", "template": "a"}}]}, "spec.steps[0].patch.subresource"),
        ({"steps": [{"delete": True}] * 33}, "spec.steps"),
        ({"weight": -1}, "spec.weight"),
        ({"delay": {"durationMilliseconds": "1"}}, "spec.delay.durationMilliseconds"),
        ({"selector": key(".a b", "In", "x")}, "spec.selector.matchExpressions[0].key"),
        ({"selector": key(".a", "Like", "x")}, "spec.selector.matchExpressions[0].operator"),
        ({"selector": key(".a", "In")}, "spec.selector.matchExpressions[0].values"),
        ({"selector": {"matchExpressions": [{"cel": {"expression": "self."}}]}}, "spec.selector.matchExpressions[0]"),
        ({"selector": {"matchExpressions": [{"cel": {"expression": "1"}}]}}, "spec.selector.matchExpressions[0]"),
        ({"weightFrom": {"expressionFrom": "a b"}}, "spec.weightFrom.expressionFrom"),
        ({"resourceRef": {"kind": "Node"}, "next": {"delete": True}}, "spec.next.delete"),
        ({"resourceRef": {"kind": "Node"}, "steps": [{"apply": {"template": "a"}}]}, "spec.steps[0].apply"),
    ],
)
def test_what_cannot_be_played_is_refused_by_its_field(spec: dict[str, Any], field: str) -> None:
    (error,) = errors_in(written(**spec))
    assert error.field.startswith(field)


def test_the_line_that_is_wrong_is_named() -> None:
    (error,) = errors_in(written(next={"statusTemplate": "a: 1\nb: {{ foo }}"}))
    assert "line 2: there is no function foo" in str(error)


def test_there_is_a_definition_of_each_kind() -> None:
    names = {one["metadata"]["name"] for one in definitions()}
    assert {"stages.kwok.x-k8s.io", "clusterexecs.kwok.x-k8s.io", "resourceusages.kwok.x-k8s.io"} <= names
    assert len(names) == 11

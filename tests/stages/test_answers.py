"""What simulated containers answer: whose word counts, scripts of commands, usage by value, expression and trace."""

from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.control_plane.stages.answers import (
    Answer,
    Moment,
    answer_errors,
    answer_to,
    forward_of,
    part_of,
    usage_of,
)

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"n": "3"}},
    "spec": {"containers": [{"name": "c"}]},
}


def said(name: str, kind: str, *parts: dict[str, Any], **selector: Any) -> dict[str, Any]:
    field = {"Logs": "logs", "Exec": "execs", "PortForward": "forwards", "ResourceUsage": "usages"}[kind]
    return {"metadata": {"name": name}, "spec": {field: [*parts], "selector": selector}}


def test_the_pods_own_word_goes_first_then_the_clusters_by_name() -> None:
    own = said("p", "Logs", {"containers": ["other"], "text": "no"}, {"text": "own"})
    cluster = [said("b", "Logs", {"text": "b"}), said("a", "Logs", {"text": "a"}, matchNames=["q"])]
    assert part_of("Logs", POD, "c", own, cluster) == {"text": "own"}
    assert part_of("Logs", POD, "c", None, cluster) == {"text": "b"}
    assert part_of("Logs", POD, "c", None, cluster[1:]) is None


def test_commands_are_answered_by_their_beginning_or_a_pattern() -> None:
    part = {
        "answers": [
            {"command": ["redis-cli", "ping"], "stdout": "PONG\n"},
            {"match": "^ls .*tmp$", "stderr": "no {{ .metadata.name }}", "exitCode": 2, "delayMilliseconds": 500},
        ]
    }
    assert answer_to(part, ["redis-cli", "ping", "-v"], POD) == Answer("PONG\n")
    assert answer_to(part, ["ls", "-l", "/tmp"], POD) == Answer("", "no p", 2, 0.5)
    assert answer_to(part, ["rm"], POD) is None
    assert answer_to({"answers": [{"stdout": "any"}]}, ["rm"], POD) == Answer("any")


def test_ports_lead_where_an_administrator_says() -> None:
    cluster = [said("a", "PortForward", {"ports": [80], "target": {"address": "127.0.0.1", "port": 8080}})]
    assert forward_of(POD, 80, cluster) == ("127.0.0.1", 8080)
    assert forward_of(POD, 81, cluster) is None


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"value": "100m"}, 0.1),
        ({"expression": 'Quantity("2") '}, 2.0),
        ({"expression": "pod.SinceSecond() + Rand()"}, 60.25),
        ({"expression": 'double(pod.metadata.labels["n"]) * elapsed'}, 30.0),
        ({"expression": 'pod.metadata.annotations["none"]'}, None),
        ({"expression": '"5Ki"'}, 5120.0),
        ({"expression": "true"}, None),
        ({"trace": [{"after": "0s", "value": "1"}, {"after": "8s", "value": "3"}, {"after": "20s", "value": "1"}]}, 3),
        ({"trace": [{"after": "0s", "value": "1"}, {"after": "4s", "value": "2"}]}, 1),
    ],
)
def test_usage(given: dict[str, Any], used: float | None) -> None:
    part = {"usage": {"cpu": given}}
    assert answer_errors("ResourceUsage", said("a", "ResourceUsage", part)) == []
    assert usage_of(part, "cpu", POD, "c", Moment(NOW, 10.0, 0.25)) == used
    assert usage_of(part, "memory", POD, "c", Moment(NOW, 10.0, 0.25)) is None


@pytest.mark.parametrize(
    ("kind", "part", "field"),
    [
        ("Exec", {"local": {"workDir": "/"}}, "spec.execs[0].local"),
        ("ClusterExec", {"answers": [{"match": "("}]}, "spec.execs[0].answers[0].match"),
        ("Exec", {"answers": [{"stdout": "{{ foo }}"}]}, "spec.execs[0].answers[0].stdout"),
        ("Logs", {"text": "{{ foo }}"}, "spec.logs[0].text"),
        ("PortForward", {"target": {"address": "127.0.0.1", "port": 1}}, "spec.forwards[0]"),
        ("ClusterPortForward", {"command": ["sh"]}, "spec.forwards[0].command"),
        ("ResourceUsage", {"usage": {"cpu": {"value": "x"}}}, "spec.usages[0].usage[cpu].value"),
        ("ResourceUsage", {"usage": {"cpu": {"expression": "foo("}}}, "spec.usages[0].usage[cpu].expression"),
        ("ResourceUsage", {"usage": {"cpu": {"trace": [{"after": "x"}]}}}, "spec.usages[0].usage[cpu].trace[0].after"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_field(kind: str, part: dict[str, Any], field: str) -> None:
    (error,) = answer_errors(kind, said("a", kind.removeprefix("Cluster"), part))
    assert error.field == field

"""Histories as data: each line is what happened, and what the judge is told of it."""

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.invariants import Answer, Fact, Invariant, Judge

Line = tuple[Any, ...] | Answer | Fact
"""(resource, object), (resource, object, "gone"), ("later", seconds), an answer, or a fact."""


def judged(kind: type[Invariant], lines: Iterable[Line], *, there: Iterable[tuple[str, Any]] = ()) -> list[str]:
    """What one invariant finds in a history that began with `there`, its end included."""
    judge = Judge([(kind.name, kind)])
    judge.begin(0.0, 10, there)
    tell(judge, lines)
    judge.finished(judge.history.time_s)
    return [violation.text for violation in judge.violations]


def tell(judge: Judge, lines: Iterable[Line]) -> None:
    now_s = judge.history.time_s
    for line in lines:
        now_s += 1.0
        match line:
            case ("later", seconds):
                now_s += seconds
            case (resource, obj, "gone"):
                _change(judge, now_s, resource, obj, gone=True)
            case (resource, obj):
                _change(judge, now_s, resource, obj)
            case Answer():
                judge.answered(line)
            case tuple():
                raise AssertionError(f"no line of a history: {line}")
            case fact:
                judge.observed(now_s, fact)


def _change(judge: Judge, now_s: float, resource: str, obj: Any, *, gone: bool = False) -> None:
    revision = judge.history.revision + 1
    judge.changed(
        now_s, resource, {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}, revision, gone=gone
    )


def named(name: str, uid: str = "", *, space: str = "default", **about: Any) -> dict[str, Any]:
    """Metadata of an object; without a namespace where `space` is empty."""
    metadata = {"name": name, "uid": uid or name, "resourceVersion": "10", **about}
    return {"metadata": metadata | ({"namespace": space} if space else {})}


def node(name: str, *, cpu: str = "1", ready: bool = True, **labels: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"allocatable": {"cpu": cpu, "pods": "3"}, "conditions": conditions}
    return {**named(name, space="", labels=labels), "status": status}


def pod(
    name: str, on: str = "", *, uid: str = "", cpu: str = "500m", phase: str = "", ready: bool = False, **spec: Any
) -> dict[str, Any]:
    """A pod of one container. `spec` goes into the spec, but for `about`, which goes into the metadata."""
    about = spec.pop("about", {})
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]
    status = {
        "phase": phase or ("Running" if on else "Pending"),
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    place = {"nodeName": on} if on else {}
    return {
        **named(name, uid, labels={"app": "web"}, **about),
        "spec": {"containers": containers, **place, **spec},
        "status": status,
    }


def with_status(obj: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {**obj, "status": {**meta.status(obj), **status}}


GOING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}

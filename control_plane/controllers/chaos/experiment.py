"""PodChaos: kills pods and containers, or keeps pods from working for a while.

An experiment goes through its targets one step at a time: it is given its finalizer; its targets are chosen and written
down, each with the uid of its pod, so that no later pod of that name is hit; what is to be done to them is done; at its
end, or when it is paused or deleted, that is undone. Nodes do what marks on their pods say (`api.pods.marks`).
Source: Chaos Mesh, "Simulate pod chaos"; conditions and records are theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.controllers.chaos.selection import chosen
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    CustomController,
    Delete,
    Event,
    Moment,
    Patch,
    Result,
    UpdateStatus,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.finalizers import with_finalizers, without_finalizer
from rayplane.control_plane.durations import DurationError, parse_duration

RUN, STOP = "Run", "Stop"
INJECTED, NOT_INJECTED = "Injected", "Not Injected"
SELECT_AGAIN_S = 3.0
EVENTS_MAX = 8
"""Of one target, the last ones."""
APPLY, RECOVER = "Apply", "Recover"
GONE = "the pod that was chosen is gone"
Record = dict[str, Any]


class PodChaosController(CustomController):
    name = "podchaos"
    component = "chaos-controller"
    resource = mesh.resource(mesh.POD_CHAOS)

    def __init__(self) -> None:
        self.custom = (Watch(self.resource),)
        self.watches = (Watch("pods", None), Watch("nodes", None))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        experiment = view.get(self.resource, *meta.split_key(key))
        if experiment is None:
            return NOTHING
        deleting, held = meta.is_deleting(experiment), mesh.RECORDS in meta.finalizers(experiment)
        if not held:
            added = [*meta.finalizers(experiment), mesh.RECORDS]
            return NOTHING if deleting else result([with_finalizers(self.resource, experiment, added)])
        phase, left_s = desired(experiment, now)
        records = records_of(experiment)
        if records is None and phase == RUN:
            return self._select(experiment, view)
        if deleting:
            undone = self._recover(experiment, records or (), view)
            return result(undone, [without_finalizer(self.resource, experiment, mesh.RECORDS)])
        due = [one for one in records or () if (one["phase"] == INJECTED) != (phase == RUN)]
        actions = self._apply(experiment, due, view) if phase == RUN else self._recover(experiment, records or (), view)
        gone = {one["id"] for one in due if _pod_of(view, one) is None}
        after = [_stepped(one, phase, now.stamp, one["id"] in gone) if one in due else one for one in records or ()]
        told = [_told(experiment, phase, one["id"], gone) for one in due]
        writes = self._write(experiment, phase, None if records is None else after)
        return result(actions, [*told, *writes], requeue_after=left_s)

    def _select(self, experiment: Object, view: View) -> Result:
        try:
            pods, why = chosen(experiment, meta.spec(experiment), view), "no pod is selected"
        except (BadRequest, ValueError) as e:
            pods, why = [], str(e)
        made = [_record(target, meta.uid(pod)) for pod in pods for target in _targets(experiment, pod)]
        if made:
            return result(self._write(experiment, RUN, made))
        failed = Event(experiment, "Warning", "Failed", f"Failed to select targets: {why}")
        writes = self._write(experiment, RUN, None)
        return result([*([failed] if writes else []), *writes], requeue_after=SELECT_AGAIN_S)

    def _write(self, experiment: Object, phase: str, records: list[Record] | None) -> list[UpdateStatus]:
        status = status_of(experiment, phase, records)
        return (
            [UpdateStatus(self.resource, {**experiment, "status": status})] if status != meta.status(experiment) else []
        )

    def _apply(self, experiment: Object, records: Sequence[Record], view: View) -> list[Action]:
        spec, uid = meta.spec(experiment), meta.uid(experiment)
        actions: list[Action] = []
        for ours in _by_pod(records):
            pod = _pod_of(view, ours[0])
            if pod is None:
                continue
            match spec.get("action"):
                case mesh.POD_FAILURE:
                    actions.append(_mark(pod, marks.failed(uid), "true"))
                case mesh.CONTAINER_KILL:
                    names = sorted(one["id"].split("/")[2] for one in ours)
                    actions.append(_mark(pod, marks.killed(uid), marks.kill(ours[0]["injectedCount"], names)))
                case _:
                    actions.append(Delete("pods", pod, grace_seconds=int(spec.get("gracePeriod") or 0)))
        return actions

    def _recover(self, experiment: Object, records: Sequence[Record], view: View) -> list[Action]:
        """For those that were hit, and those that may have been: nobody may have heard of it.

        What is deleted is asked for once more in any case, as nobody asks later.
        """
        if meta.spec(experiment).get("action") != mesh.POD_FAILURE:
            return []
        mark, sure = marks.failed(meta.uid(experiment)), meta.is_deleting(experiment)
        found = [(one, _pod_of(view, one)) for one in records]
        return [
            _mark(pod, mark, None)
            for one, pod in found
            if pod is not None and (sure or one["phase"] == INJECTED or mark in meta.annotations(pod))
        ]


# --- phases ---------------------------------------------------------------------------------------


def desired(experiment: Object, now: Moment) -> tuple[str, float | None]:
    """Run or Stop, and in how many seconds that changes by itself."""
    if meta.is_deleting(experiment):
        return STOP, None
    spec = meta.spec(experiment)
    if spec.get("action") in mesh.ONE_SHOT:
        waits = mesh.is_paused(experiment) and not records_of(experiment)
        return (STOP if waits else RUN), None
    if (for_s := duration_s(spec)) is not None:
        left_s = for_s - now.seconds_since(meta.metadata(experiment).get("creationTimestamp"))
        if left_s <= 0:
            return STOP, None
        return (STOP if mesh.is_paused(experiment) else RUN), left_s
    return (STOP if mesh.is_paused(experiment) else RUN), None


def duration_s(spec: dict[str, Any]) -> float | None:
    """How long an experiment lasts; None for as long as it is there."""
    try:
        return parse_duration(spec["duration"]) if spec.get("duration") else None
    except DurationError:
        return None  # it was let in before anybody looked at it


def is_finished(experiment: Object) -> bool:
    """Whether nothing more comes of it."""
    if meta.spec(experiment).get("action") in mesh.ONE_SHOT:
        return meta.condition_is(experiment, "AllInjected")
    stopped = (meta.status(experiment).get("experiment") or {}).get("desiredPhase") == STOP
    return stopped and meta.condition_is(experiment, "AllRecovered") and not mesh.is_paused(experiment)


def status_of(experiment: Object, phase: str, records: list[Record] | None) -> dict[str, Any]:
    """The status that says how far it is."""
    found = records or []
    holds = {
        "Selected": bool(found),
        "AllInjected": bool(found) and all(one["phase"] == INJECTED for one in found),
        "AllRecovered": bool(found) and all(one["phase"] == NOT_INJECTED for one in found),
        "Paused": mesh.is_paused(experiment),
    }
    conditions = [{"type": kind, "status": "True" if value else "False"} for kind, value in holds.items()]
    state: dict[str, Any] = {"desiredPhase": phase}
    if records is not None:
        state["containerRecords"] = records
    return {**meta.status(experiment), "conditions": conditions, "experiment": state}


# --- records --------------------------------------------------------------------------------------


def records_of(experiment: Object) -> list[Record] | None:
    """None before any target was chosen."""
    found: list[Record] | None = (meta.status(experiment).get("experiment") or {}).get("containerRecords")
    return found


def _targets(experiment: Object, pod: Object) -> list[str]:
    if meta.spec(experiment).get("action") != mesh.CONTAINER_KILL:
        return [meta.key(pod)]
    wanted = meta.spec(experiment).get("containerNames") or ()
    return [f"{meta.key(pod)}/{c['name']}" for c in meta.spec(pod).get("containers") or () if c["name"] in wanted]


def _record(target: str, uid: str) -> Record:
    counts = {"injectedCount": 0, "recoveredCount": 0}
    return {"id": target, "selectorKey": ".", "phase": NOT_INJECTED, **counts, "events": [], "uid": uid}


def _stepped(record: Record, phase: str, stamp: str, gone: bool) -> Record:
    made = copy.deepcopy(record)
    operation, count = (APPLY, "injectedCount") if phase == RUN else (RECOVER, "recoveredCount")
    made["phase"] = INJECTED if phase == RUN else NOT_INJECTED
    made[count] += 1
    how, why = ("Failed", GONE) if gone else ("Succeeded", "")
    event = {"type": how, "operation": operation, "message": why, "timestamp": stamp}
    made["events"] = [*made["events"], event][-EVENTS_MAX:]
    return made


def _told(experiment: Object, phase: str, target: str, gone: Collection[str]) -> Event:
    what = "apply" if phase == RUN else "recover"
    if target in gone:
        return Event(experiment, "Warning", "Failed", f"Failed to {what} chaos for {target}: {GONE}")
    reason = "Applied" if phase == RUN else "Recovered"
    return Event(experiment, "Normal", reason, f"Successfully {what} chaos for {target}")


def _by_pod(records: Sequence[Record]) -> Iterable[list[Record]]:
    found: dict[str, list[Record]] = {}
    for one in records:
        found.setdefault("/".join(one["id"].split("/")[:2]), []).append(one)
    return found.values()


def _pod_of(view: View, record: Record) -> Object | None:
    """The very pod that was chosen; None when it is gone."""
    space, name, *_ = record["id"].split("/")
    pod = view.get("pods", space, name)
    return pod if pod is not None and meta.uid(pod) == record["uid"] else None


def _mark(pod: Object, name: str, value: str | None) -> Patch:
    body = {"metadata": {"uid": meta.uid(pod), "annotations": {name: value}}}
    return Patch("pods", meta.namespace(pod), meta.name(pod), body)

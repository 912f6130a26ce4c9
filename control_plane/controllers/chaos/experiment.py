"""Experiments: whom they chose, what is to be done to these and undone, and how far that is.

An experiment goes through its targets one step at a time: it is given its finalizer; its targets are chosen and written
down, each with the uid of its pod, so that no later pod of that name is hit; what is to be done to them is done; at its
end, or when it is paused or deleted, that is undone. Nodes do what marks on their pods say (`api.pods.marks`).
Source: Chaos Mesh, "Simulate pod chaos"; conditions and records are theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Event,
    Patch,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    CustomController,
    Moment,
    Result,
    View,
    Watch,
    result,
    soonest,
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
AGAIN_S = 10.0
"""Until what could not be done is tried again."""
SOURCE, TARGET = ".", ".Target"
Record = dict[str, Any]
_KEYS = frozenset(("id", "selectorKey", "phase", "injectedCount", "recoveredCount", "events", "uid"))


class ExperimentController(CustomController):
    """A controller of experiments of one `kind` of `chaos_mesh.EXPERIMENTS`."""

    component = "chaos-controller"
    kind = ""

    def __init__(self) -> None:
        self.resource = mesh.resource(self.kind)
        self.custom = (Watch(self.resource),)
        self.watches = (Watch("pods", None), Watch("nodes", None))

    # --- what differs ---------------------------------------------------------------------------

    def selected(self, experiment: Object, view: View) -> list[Record]:
        """New records of the targets; BadRequest, ValueError for selectors that make no sense."""
        raise NotImplementedError

    def act(self, experiment: Object, pod: Object, ours: Sequence[Record], view: View) -> Action | None:
        """What is to be done to a pod, once or many times; None for nothing."""
        raise NotImplementedError

    def refusal(self, experiment: Object, pod: Object, view: View) -> str:
        """Why that cannot be done now; empty when it can."""
        return ""

    def undone(self, pod: Object) -> str:
        """Why the pod's node could not do what it was told; empty where it says nothing."""
        return ""

    def kept(self, experiment: Object, records: Sequence[Record], view: View) -> list[Action]:
        """What keeps what was done as it should be, while it lasts."""
        return []

    def marks(self, experiment: Object) -> tuple[str, ...]:
        """All marks that it may have put on pods: they are taken away when it is over."""
        raise NotImplementedError

    # --- what is the same -----------------------------------------------------------------------

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
            return self._select(experiment, view, left_s)
        if deleting:
            undone = self._recover(experiment, records or (), view)
            return result(undone, [without_finalizer(self.resource, experiment, mesh.RECORDS)])
        if phase == RUN:
            return self._run(experiment, records or [], view, now, left_s)
        undone = self._recover(experiment, records or (), view)
        due = {one["id"]: "" for one in records or () if one["phase"] == INJECTED}
        return self._stepped(experiment, STOP, records, due, undone, now, left_s)

    def _select(self, experiment: Object, view: View, left_s: float | None) -> Result:
        try:
            made, why = self.selected(experiment, view), "no pod is selected"
        except (BadRequest, ValueError) as e:
            made, why = [], str(e)
        if made:
            return result(self._write(experiment, RUN, made))
        failed = Event(experiment, "Warning", "Failed", f"Failed to select targets: {why}")
        if _is_of_its_time(experiment):
            return result([failed, *self._write(experiment, STOP, [])])
        writes = self._write(experiment, RUN, None)
        return result([*([failed] if writes else []), *writes], requeue_after=soonest(SELECT_AGAIN_S, left_s))

    def _run(self, experiment: Object, records: list[Record], view: View, now: Moment, left_s: float | None) -> Result:
        due: dict[str, str] = {}
        actions: list[Action] = []
        for ours in by_pod(records):
            pod = pod_of(view, ours[0])
            undone = self.undone(pod) if pod is not None and ours[0]["selectorKey"] == SOURCE else ""
            if not undone and all(one["phase"] == INJECTED for one in ours):
                continue
            why = GONE if pod is None else undone or self.refusal(experiment, pod, view)
            due |= {one["id"]: why for one in ours}
            if pod is not None and not why and (action := self.act(experiment, pod, ours, view)) is not None:
                actions.append(action)
        actions += self.kept(experiment, records, view)
        again_s = AGAIN_S if any(why not in ("", GONE) for why in due.values()) else None
        return self._stepped(experiment, RUN, records, due, actions, now, soonest(left_s, again_s))

    def _recover(self, experiment: Object, records: Sequence[Record], view: View) -> list[Action]:
        """For those that were hit, and those that may have been: nobody may have heard of it.

        What is deleted is asked for once more in any case, as nobody asks later.
        """
        marks, sure = self.marks(experiment), meta.is_deleting(experiment)
        undone = dict.fromkeys(marks)
        found = [(ours, pod_of(view, ours[0])) for ours in by_pod(records)]
        return [
            marked(pod, undone)
            for ours, pod in found
            if pod is not None
            and (sure or any(one["phase"] == INJECTED for one in ours) or undone.keys() & meta.annotations(pod).keys())
        ]

    def _stepped(
        self,
        experiment: Object,
        phase: str,
        records: list[Record] | None,
        due: Mapping[str, str],
        actions: Sequence[Action],
        now: Moment,
        again_s: float | None,
    ) -> Result:
        """The actions, then what is said of them. `due`: by target, why nothing could be done to it."""
        after, told = [], []
        for one in records or ():
            made = _step(one, phase, now.stamp, due[one["id"]]) if one["id"] in due else one
            after.append(made)
            if made is not one:
                told.append(_told(experiment, phase, one["id"], due[one["id"]]))
        writes = self._write(experiment, phase, None if records is None else after)
        return result(actions, [*told, *writes], requeue_after=again_s)

    def _write(self, experiment: Object, phase: str, records: list[Record] | None) -> list[UpdateStatus]:
        status = status_of(experiment, phase, records)
        if status == meta.status(experiment):
            return []
        return [UpdateStatus(self.resource, {**experiment, "status": status})]


# --- phases ---------------------------------------------------------------------------------------


def desired(experiment: Object, now: Moment) -> tuple[str, float | None]:
    """Run or Stop, and in how many seconds that changes by itself."""
    if meta.is_deleting(experiment):
        return STOP, None
    spec = meta.spec(experiment)
    if spec.get("action") in mesh.ONE_SHOT:
        records = records_of(experiment)
        waits = mesh.is_paused(experiment) and not records
        return (STOP if waits or records == [] else RUN), None
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
        return meta.condition_is(experiment, "AllInjected") or records_of(experiment) == []
    stopped = (meta.status(experiment).get("experiment") or {}).get("desiredPhase") == STOP
    return stopped and meta.condition_is(experiment, "AllRecovered") and not mesh.is_paused(experiment)


def status_of(experiment: Object, phase: str, records: list[Record] | None) -> dict[str, Any]:
    """The status that says how far it is."""
    found = records or []
    undone = next((one for one in found if one["phase"] != INJECTED and one["events"]), None) if phase == RUN else None
    holds = {
        "Selected": bool(found),
        "AllInjected": bool(found) and all(one["phase"] == INJECTED for one in found),
        "AllRecovered": (bool(found) or phase == STOP) and all(one["phase"] == NOT_INJECTED for one in found),
        "Paused": mesh.is_paused(experiment),
    }
    conditions = [{"type": kind, "status": "True" if value else "False"} for kind, value in holds.items()]
    if undone is not None:
        conditions[1]["reason"] = f"{undone['id']}: {undone['events'][-1]['message']}"
    state: dict[str, Any] = {"desiredPhase": phase}
    if records is not None:
        state["containerRecords"] = records
    return {**meta.status(experiment), "conditions": conditions, "experiment": state}


# --- records --------------------------------------------------------------------------------------


def records_of(experiment: Object) -> list[Record] | None:
    """None before any target was chosen; empty when it was given up.

    Who may write a status is no controller: what it may not hit, and what nobody can read, is not among them.
    """
    found = (meta.status(experiment).get("experiment") or {}).get("containerRecords")
    if found is None:
        return None
    spaces = mesh.namespaces_of(experiment)
    return [one for one in found if one.keys() >= _KEYS and _may_be_hit(one["id"], spaces)]


def _may_be_hit(target: str, spaces: Collection[str]) -> bool:
    space, *rest = target.split("/")
    return len(rest) in (1, 2) and space in spaces


def _is_of_its_time(experiment: Object) -> bool:
    """Whether it is one of a schedule, done at once or not at all: those that hit nobody would pile up."""
    of_schedule = (meta.controller_of(experiment) or {}).get("kind") == mesh.SCHEDULE
    return of_schedule and meta.spec(experiment).get("action") in mesh.ONE_SHOT


def new_record(target: str, pod: Object, key: str = SOURCE) -> Record:
    counts = {"injectedCount": 0, "recoveredCount": 0}
    return {"id": target, "selectorKey": key, "phase": NOT_INJECTED, **counts, "events": [], "uid": meta.uid(pod)}


def _step(record: Record, phase: str, stamp: str, why: str) -> Record:
    """The record after a try; itself where that is no news. `why`: nothing could be done.

    Who is gone counts as hit: there is nothing left to be done.
    """
    operation, count = (APPLY, "injectedCount") if phase == RUN else (RECOVER, "recoveredCount")
    event = {"type": "Failed" if why else "Succeeded", "operation": operation, "message": why, "timestamp": stamp}
    last = record["events"][-1] if record["events"] else {}
    if why and why != GONE and {**last, "timestamp": stamp} == event:
        return record
    made = {**record, "events": [*record["events"], event][-EVENTS_MAX:]}
    if why not in ("", GONE):
        made |= {"phase": NOT_INJECTED if phase == RUN else record["phase"]}
    else:
        made |= {"phase": INJECTED if phase == RUN else NOT_INJECTED, count: record[count] + 1}
    return made


def _told(experiment: Object, phase: str, target: str, why: str) -> Event:
    what = "apply" if phase == RUN else "recover"
    if why:
        return Event(experiment, "Warning", "Failed", f"Failed to {what} chaos for {target}: {why}")
    reason = "Applied" if phase == RUN else "Recovered"
    return Event(experiment, "Normal", reason, f"Successfully {what} chaos for {target}")


def by_pod(records: Sequence[Record]) -> Iterable[list[Record]]:
    found: dict[str, list[Record]] = {}
    for one in records:
        found.setdefault("/".join(one["id"].split("/")[:2]), []).append(one)
    return found.values()


def pod_of(view: View, record: Record) -> Object | None:
    """The very pod that was chosen; None when it is gone."""
    space, name, *_ = record["id"].split("/")
    pod = view.get("pods", space, name)
    return pod if pod is not None and meta.uid(pod) == record["uid"] else None


def marked(pod: Object, values: Mapping[str, str | None]) -> Patch:
    """A pod gets marks, or loses those without a value."""
    body = {"metadata": {"uid": meta.uid(pod), "annotations": {**values}}}
    return Patch("pods", meta.namespace(pod), meta.name(pod), body)

"""Schedule: makes an experiment at each time that its schedule names.

Of several times that were missed the latest is served. Source: Chaos Mesh, "Define scheduling rules".
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, parse_schedule
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.chaos.experiment import is_finished
from rayplane.control_plane.controllers.core import (
    NOTHING,
    CustomController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.due import due

HISTORY = 1
"""Of finished experiments that are kept, where nothing is said."""
MANAGED_BY = "managed-by"
_SCHEDULES = mesh.resource(mesh.SCHEDULE)
_NAME_MAX, _UID_MAX = 37, 8
"""Of a schedule's name in those of its experiments, and of a hash of its uid, as others may begin like it."""


class ChaosScheduleController(CustomController):
    name = "chaosschedule"
    component = "chaos-controller"

    def __init__(self) -> None:
        made = [Watch(mesh.resource(kind), controller_key(mesh.SCHEDULE, mesh.GROUP)) for kind in mesh.EXPERIMENTS]
        self.custom = (Watch(_SCHEDULES), *made)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        schedule = view.get(_SCHEDULES, *meta.split_key(key))
        if schedule is None or meta.is_deleting(schedule):
            return NOTHING
        kind = meta.spec(schedule).get("type") or ""
        if kind not in mesh.EXPERIMENTS:
            return NOTHING  # it was let in before anybody looked at it
        made = sorted(controlled(view, mesh.resource(kind), schedule), key=_age)
        active = [meta.object_reference(one) for one in made if not is_finished(one) and not meta.is_deleting(one)]
        status = {**meta.status(schedule), "active": active}
        starts: Sequence[Iterable[Action]] = ()
        wait_s: float | None = None
        if not mesh.is_paused(schedule):
            try:
                wait_s, starts = _run(schedule, kind, now.wall, running=bool(active), status=status)
            except CronError as e:
                starts = ([Event(schedule, "Warning", "Failed", f"Failed to parse the schedule: {e}")],)
        if not status["active"]:
            del status["active"]
        writes = [UpdateStatus(_SCHEDULES, {**schedule, "status": status})] if status != meta.status(schedule) else []
        # A time counts as served once its experiment is there.
        return result(_cleanup(schedule, kind, made), *starts, writes, requeue_after=wait_s)


def _run(
    schedule: Object, kind: str, now: datetime, *, running: bool, status: dict[str, Any]
) -> tuple[float | None, Sequence[Iterable[Action]]]:
    """Seconds until the next time, and what makes the experiment of the latest time that was not served."""
    spec = meta.spec(schedule)
    last = status.get("time") or meta.metadata(schedule).get("creationTimestamp")
    times = due(parse_schedule(spec["schedule"]), now, last=last, deadline_s=spec.get("startingDeadlineSeconds"))
    wait_s = times.wait_s(now)
    if times.latest is None:
        return wait_s, ()
    if running and spec.get("concurrencyPolicy") != mesh.ALLOW:
        # It stays due, and is served when what runs is over.
        return wait_s, ()
    status["time"] = meta.format_time(times.latest)
    made = _made(schedule, kind, times.latest)
    done = Event(schedule, "Normal", "Spawned", "Create new object: {name}")
    failed = Event(schedule, "Warning", "Failed", "Failed to create a new object: {error}")
    return wait_s, ([Create(mesh.resource(kind), made, done=done, failed=failed, exists_ok=True)],)


def _made(schedule: Object, kind: str, at: datetime) -> Object:
    """The experiment of one time: its name is made from that, so that no time is served twice."""
    name = meta.name(schedule)
    own = hashlib.sha256(meta.uid(schedule).encode()).hexdigest()[:_UID_MAX]
    return {
        "apiVersion": mesh.API_VERSION,
        "kind": kind,
        "metadata": {
            "name": f"{name[:_NAME_MAX].rstrip('-.')}-{own}-{int(at.timestamp())}",
            "namespace": meta.namespace(schedule),
            "labels": {**meta.labels(schedule), MANAGED_BY: name[:63].rstrip("-.")},
            "ownerReferences": [meta.owner_reference(schedule)],
        },
        "spec": copy.deepcopy(meta.spec(schedule).get(mesh.EXPERIMENTS[kind]) or {}),
    }


def _cleanup(schedule: Object, kind: str, made: Sequence[Object]) -> list[Delete]:
    """Finished experiments beyond the history's limit, oldest first."""
    limit = meta.spec(schedule).get("historyLimit") or HISTORY
    over = [one for one in made if is_finished(one) and not meta.is_deleting(one)]
    return [Delete(mesh.resource(kind), one) for one in over[: max(0, len(over) - limit)]]


def _age(o: Object) -> tuple[str, str]:
    return meta.metadata(o).get("creationTimestamp") or "", meta.name(o)

"""Writes of the scheduler: bindings, claims' selected nodes, status of pods without a node, deletions of victims.

Owns no decision. Calls carry many operations each. An operation's error concerns its object only; an error of the
call is the error of all its operations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import SELECTED_NODE, is_bound
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.kinds.scheduling.pod_group import INITIALLY_SCHEDULED
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, ops
from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.cycle import Failure, Placement
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.gangs import Verdict
from rayplane.control_plane.scheduler.groups import GroupIndex, GroupInfo
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.volumes import VolumeIndex
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
DEVICE_CLAIMS = "resourceclaims.resource.k8s.io"
_Results = list[Object | ApiError]


def binding(pod: PodInfo, node: str) -> Object:
    """The Binding object that assigns this very pod (its uid guards against a namesake)."""
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }


def unscheduled_patch(failure: Failure, stamp: str) -> Object | None:
    """A strategic patch of the pod's status; None when it says so already.

    It holds for the version seen only: a late one must not speak over a binding.
    """
    status: dict[str, Any] = {}
    pod, nominated = failure.pod, failure.preemption.node if failure.preemption else ""
    reason = "SchedulerError" if failure.is_fault else "Unschedulable"
    old = meta.get_condition(pod.obj, "PodScheduled") or {}
    if (old.get("status"), old.get("reason"), old.get("message")) != ("False", reason, failure.message):
        new = {"type": "PodScheduled", "status": "False", "reason": reason, "message": failure.message}
        if old.get("status") != "False":
            new["lastTransitionTime"] = stamp
        status["conditions"] = [new]
    if nominated and nominated != pod.nominated:
        status["nominatedNodeName"] = nominated
    elif pod.nominated and not nominated and not failure.keeps_nomination:
        status["nominatedNodeName"] = None
    if not status:
        return None
    return {"metadata": {"uid": pod.uid, "resourceVersion": meta.resource_version(pod.obj)}, "status": status}


def victim_patch(victim: PodInfo, scheduler: str, stamp: str) -> Object:
    return {"metadata": {"uid": victim.uid}, "status": {"conditions": [_disruption(scheduler, stamp)]}}


def _disruption(scheduler: str, stamp: str) -> Object:
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{scheduler}: preempting to accommodate a higher priority pod",
        "lastTransitionTime": stamp,
    }


def verdict(group: GroupInfo, found: Verdict, stamp: str) -> Object | None:
    """A group's condition; None when it says so already, or says that the group got its nodes once: that stays."""
    old = meta.get_condition(group.obj, INITIALLY_SCHEDULED) or {}
    reason = "Scheduled" if found.is_scheduled else "SchedulerError" if found.is_fault else "Unschedulable"
    said = "True" if found.is_scheduled else "False"
    if old.get("status") == "True" != said or all(
        old.get(field) == value for field, value in (("status", said), ("reason", reason), ("message", found.message))
    ):
        return None
    since = old.get("lastTransitionTime") if old.get("status") == said else stamp
    return {
        "type": INITIALLY_SCHEDULED,
        "status": said,
        "reason": reason,
        "message": found.message,
        "observedGeneration": meta.generation(group.obj),
        "lastTransitionTime": since,
    }


def _of_group(group: GroupInfo, condition: Object) -> Any:
    """The write of a condition of a group."""
    body = {"metadata": {"uid": meta.uid(group.obj)}, "status": {"conditions": [condition]}}
    name, namespace = meta.name(group.obj), meta.namespace(group.obj)
    return ops.patch(GROUPS, name, namespace, body, kind="strategic", subresource="status")


def allocation_patch(claim: Object, pod: PodInfo, allocation: Mapping[str, Any] | None) -> Object | None:
    """A merge patch of the claim's status; None when it says so already. It holds for the version seen only."""
    status, mine = meta.status(claim), {"resource": "pods", "name": pod.name, "uid": pod.uid}
    users = [*(status.get("reservedFor") or ())]
    is_user = any(user.get("uid") == pod.uid for user in users)
    if status.get("allocation") and is_user:
        return None
    own = {"uid": meta.uid(claim), "resourceVersion": meta.resource_version(claim)}
    more = [] if is_user else [mine]
    return {"metadata": own, "status": {"allocation": allocation, "reservedFor": [*users, *more]}}


class Binder:
    """A binder that writes through one client; tells users by events."""

    def __init__(self, client: ApiClient, recorder: EventRecorder, env: Env) -> None:
        self._client = client
        self._recorder = recorder
        self._env = env

    async def bind(self, placements: Sequence[Placement]) -> list[ApiError | None]:
        """Assign each pod to its node; None or the error, for each in order."""
        answers = await self._batch(
            [ops.create("pods", binding(p.pod, p.node), subresource="binding") for p in placements]
        )
        return [answer if isinstance(answer, ApiError) else None for answer in answers]

    async def beyond(self, conflict: Conflict, placement: Placement) -> ApiError | None:
        """The error of a binding in conflict with what is there: None if that is this very binding, by an earlier call.

        What kept that from being found out is the error else.
        """
        pod = placement.pod
        try:
            found = await self._client.get("pods", pod.name, pod.namespace)
        except ApiError as error:
            return error
        return None if meta.uid(found) == pod.uid and meta.node_name(found) == placement.node else conflict

    def tell(self, placement: Placement) -> None:
        """Tell users that the pod has its node."""
        self._recorder.event(placement.pod.obj, "Normal", "Scheduled", report.bound(placement.pod.key, placement.node))

    async def select_node(self, placement: Placement, claims: Sequence[Object]) -> ApiError | None:
        """Tell the volume binder where the claims' consumer will run; the first error, if any."""
        operations = [
            ops.patch(
                "persistentvolumeclaims",
                meta.name(claim),
                meta.namespace(claim),
                {"metadata": {"uid": meta.uid(claim), "annotations": {SELECTED_NODE: placement.node}}},
            )
            for claim in claims
            if meta.annotations(claim).get(SELECTED_NODE) != placement.node
        ]
        return next((a for a in await self._batch(operations) if isinstance(a, ApiError)), None)

    async def allocate(self, placement: Placement, devices: DeviceIndex) -> ApiError | None:
        """Write what the pod's claims to devices got, and that it uses them; the first error, if any."""
        operations = []
        for key in placement.devices:
            claim = devices.claims.get(key)
            if claim is None:
                return NotFound(f'resourceclaim "{key.partition("/")[2]}" not found')
            patch = allocation_patch(claim, placement.pod, devices.allocation(key))
            if patch is not None:
                name, namespace = meta.name(claim), meta.namespace(claim)
                operations.append(ops.patch(DEVICE_CLAIMS, name, namespace, patch, kind="merge", subresource="status"))
        return next((a for a in await self._batch(operations) if isinstance(a, ApiError)), None)

    async def tell_groups(self, verdicts: Sequence[Verdict], groups: GroupIndex) -> None:
        """Write into each pod group how it fared."""
        newest = [(groups.get(one.group.key) or one.group, one) for one in verdicts]
        stamp = self._env.timestamp()
        operations = [_of_group(group, condition) for group, one in newest if (condition := verdict(group, one, stamp))]
        for answer in await self._batch(operations):
            if isinstance(answer, ApiError):
                log.debug("a pod group's status was not written: %s", answer.message)

    async def report(self, failures: Sequence[Failure], groups: GroupIndex) -> list[PodInfo]:
        """Write into each pod why it waits, and delete the victims of preemptions; those that were not deleted."""
        operations = []
        stamp = self._env.timestamp()
        for failure in failures:
            pod = failure.pod
            self._recorder.event(pod.obj, "Warning", "FailedScheduling", failure.message)
            found = failure.preemption
            patch = unscheduled_patch(failure, stamp)
            if patch is not None:
                operations.append(
                    ops.patch("pods", pod.name, pod.namespace, patch, kind="strategic", subresource="status")
                )
            for victim in found.victims if found else ():
                text = f"Preempted by pod {pod.uid} on node {victim.node}"
                self._recorder.event(victim.obj, "Normal", "Preempted", text)
                body = victim_patch(victim, pod.scheduler, stamp)
                operations.append(
                    ops.patch("pods", victim.name, victim.namespace, body, kind="strategic", subresource="status")
                )
            for group in groups.disrupted(found.victims) if found else ():
                operations.append(_of_group(group, _disruption(pod.scheduler, stamp)))
        for answer in await self._batch(operations):
            if isinstance(answer, ApiError):
                log.debug("a pod's status was not written: %s", answer.message)
        return await self._delete([v for f in failures if f.preemption for v in f.preemption.victims])

    async def _delete(self, victims: Sequence[PodInfo]) -> list[PodInfo]:
        kept = []
        answers = await self._batch([ops.delete("pods", v.name, v.namespace, uid=v.uid) for v in victims])
        for victim, answer in zip(victims, answers, strict=True):
            if isinstance(answer, ApiError):
                kept.append(victim)
                log.info("victim %s was not deleted: %s", victim.key, answer.message)
        return kept

    async def _batch(self, operations: list[Any]) -> _Results:
        if not operations:
            return []
        try:
            return await self._client.batch(operations, quiet=True)
        except ApiError as error:
            return [error] * len(operations)


@dataclass(slots=True)
class _Wait:
    placement: Placement
    deadline: float
    missing: set[str] = field(default_factory=set)
    #: Claims that have shown the selected node: if it disappears again, provisioning failed there.
    shown: set[str] = field(default_factory=set)


class VolumeWaits:
    """Placed pods whose volumes are being bound. Pure: claims and the time come in, verdicts go out."""

    def __init__(self, volumes: VolumeIndex) -> None:
        self._volumes = volumes
        self._waits: dict[str, _Wait] = {}
        self._by_claim: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def add(self, placement: Placement, deadline: float) -> None:
        key = placement.pod.key
        self._waits[key] = _Wait(placement, deadline, set(placement.claims))
        for claim in placement.claims:
            self._by_claim.setdefault(claim, {})[key] = None

    def remove(self, pod_key: str) -> Placement | None:
        wait = self._waits.pop(pod_key, None)
        if wait is None:
            return None
        for claim in wait.placement.claims:
            waiting = self._by_claim[claim]
            del waiting[pod_key]
            if not waiting:
                del self._by_claim[claim]
        return wait.placement

    def claim_changed(self, key: str) -> list[tuple[Placement, str]]:
        """Placements that this settles: with an empty text when all volumes are bound, else with what went wrong."""
        settled = []
        claim = self._volumes.claims.get(key)
        for pod_key in [*self._by_claim.get(key, ())]:
            verdict = self._verdict(self._waits[pod_key], key, claim)
            if verdict is not None:
                placement = self.remove(pod_key)
                assert placement is not None
                settled.append((placement, verdict))
        return settled

    def _verdict(self, wait: _Wait, key: str, claim: Object | None) -> str | None:
        name = key.partition("/")[2]
        prefix = 'running PreBind plugin "VolumeBinding": '
        if claim is None:
            return f'{prefix}persistentvolumeclaim "{name}" not found'
        if is_bound(claim):
            volume = self._volumes.volumes.get(meta.spec(claim)["volumeName"])
            if volume is None:
                return None  # its object is on its way
            if volume.is_elsewhere(wait.placement.node):
                # What is made from a snapshot is made where that is.
                text = f'pv "{volume.name}" node affinity doesn\'t match node "{wait.placement.node}"'
                return f"{prefix}binding volumes: {text}"
            wait.missing.discard(key)
            return None if wait.missing else ""
        if meta.annotations(claim).get(SELECTED_NODE) == wait.placement.node:
            wait.shown.add(key)
        elif key in wait.shown:
            return f'{prefix}binding volumes: provisioning failed for PVC "{name}"'
        return None

    def expired(self, now: float) -> list[Placement]:
        late = [key for key, wait in self._waits.items() if wait.deadline <= now]
        return [placement for key in late if (placement := self.remove(key)) is not None]

    def next_deadline(self) -> float | None:
        return min((wait.deadline for wait in self._waits.values()), default=None)

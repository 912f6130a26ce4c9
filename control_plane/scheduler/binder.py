"""Writes of the scheduler: bindings, claims' selected nodes, status of pods without a node, deletions of victims.

Owns no decision. Calls carry many operations each. An operation's error concerns its object only; an error of the
call is the error of all its operations.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import SELECTED_NODE
from rayplane.control_plane.api.device_claims import CLAIMS, FINALIZER, consumer, consumers
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.kinds.scheduling.pod_group import INITIALLY_SCHEDULED
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, ops
from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.cycle import Failure, Placement
from rayplane.control_plane.scheduler.device_resources import is_made_for
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.gangs import Verdict
from rayplane.control_plane.scheduler.groups import GroupIndex, GroupInfo
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
_Results = list[Object | ApiError]
_RELEASES_MAX = 3
#: Of a pod that no node was looked for (KEP-5501).
_NOT_READY: Final = "NotReadyForScheduling"


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
    reason = _NOT_READY if failure.is_kept_out else "SchedulerError" if failure.is_fault else "Unschedulable"
    old = meta.get_condition(pod.obj, "PodScheduled") or {}
    if (old.get("status"), old.get("reason"), old.get("message")) != ("False", reason, failure.message):
        new = {"type": "PodScheduled", "status": "False", "reason": reason, "message": failure.message}
        if old.get("status") != "False":
            new["lastTransitionTime"] = stamp
        status["conditions"] = [meta.observed(pod.obj, new)]
    if nominated and nominated != pod.nominated:
        status["nominatedNodeName"] = nominated
    elif pod.nominated and not nominated and not failure.keeps_nomination:
        status["nominatedNodeName"] = None
    if not status:
        return None
    return {"metadata": {"uid": pod.uid, "resourceVersion": meta.resource_version(pod.obj)}, "status": status}


def nomination(placement: Placement) -> list[Any]:
    """The write that tells others where a pod will go that cannot be bound at once; none where it is told already."""
    pod = placement.pod
    if pod.nominated == placement.node:
        return []
    body = {"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": placement.node}}
    return [ops.patch("pods", pod.name, pod.namespace, body, kind="strategic", subresource="status")]


def victim_patch(victim: PodInfo, preemptor: PodInfo, stamp: str) -> Object:
    return {"metadata": {"uid": victim.uid}, "status": {"conditions": [_disruption(victim.obj, preemptor, stamp)]}}


def _disruption(of: Object, preemptor: PodInfo, stamp: str) -> Object:
    """The condition of a pod, or of a pod group, that makes room."""
    kind = "pod group" if preemptor.group else "pod"
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{preemptor.scheduler}: preempting to accommodate a higher priority {kind}",
        "lastTransitionTime": stamp,
    }
    return meta.observed(of, condition)


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


def allocation_patch(claim: Object, pod: PodInfo, allocation: Mapping[str, Any] | None, stamp: str) -> Object | None:
    """A merge patch of the claim's status; None when it says so already. It holds for the version seen only."""
    had, users = meta.status(claim).get("allocation"), consumers(claim)
    is_user = any(user.get("uid") == pod.uid for user in users)
    if had and is_user:
        return None
    if not had and allocation is not None:
        allocation = {**allocation, "allocationTimestamp": stamp}
    more = [] if is_user else [consumer(pod.obj)]
    return {"metadata": _seen(claim), "status": {"allocation": had or allocation, "reservedFor": [*users, *more]}}


def release_patch(claim: Object, pod: PodInfo) -> Object:
    """A merge patch of the claim's status: the pod uses it no more, and with the last user it loses its devices."""
    others = [user for user in consumers(claim) if user.get("uid") != pod.uid]
    freed = {} if others else {"allocation": None, "devices": None}
    return {"metadata": _seen(claim), "status": {"reservedFor": others or None, **freed}}


def _seen(claim: Object) -> Object:
    """What makes a patch hold for this version of a claim only."""
    return {"uid": meta.uid(claim), "resourceVersion": meta.resource_version(claim)}


def _first_error(answers: Iterable[Object | ApiError]) -> ApiError | None:
    return next((answer for answer in answers if isinstance(answer, ApiError)), None)


def _needs_mark(claim: Object) -> bool:
    return not meta.status(claim).get("allocation") and FINALIZER not in meta.finalizers(claim)


def _mark(claim: Object) -> Object:
    return {"metadata": {**_seen(claim), "finalizers": [*meta.finalizers(claim), FINALIZER]}}


def _unmark(claim: Object) -> Object:
    return {"metadata": {**_seen(claim), "finalizers": [one for one in meta.finalizers(claim) if one != FINALIZER]}}


def _claim_told(pod: PodInfo, status: Mapping[str, Any]) -> Any:
    """The write of the claim for the pod's extended resources into its status."""
    body = {"metadata": {"uid": pod.uid}, "status": {"extendedResourceClaimStatus": status}}
    return ops.patch("pods", pod.name, pod.namespace, body, kind="merge", subresource="status")


def _of_claim(claim: Object, patch: Object, subresource: str = "") -> Any:
    """The write of a merge patch of a claim to devices."""
    name, namespace = meta.name(claim), meta.namespace(claim)
    return ops.patch(CLAIMS, name, namespace, patch, kind="merge", subresource=subresource)


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
        pod = placement.pod
        text = report.bound(pod.key, placement.node)
        self._recorder.event(pod.obj, "Normal", "Scheduled", text, component=pod.scheduler)

    async def expect(self, placement: Placement) -> None:
        """Tell where a pod will go that waits for something. It waits all the same where that cannot be told."""
        self._told(placement, await self._batch(nomination(placement)))

    def _told(self, placement: Placement, answers: Sequence[Object | ApiError]) -> None:
        for answer in answers:
            if isinstance(answer, ApiError):
                log.debug("pod %s: its node was not told: %s", placement.pod.key, answer.message)
            else:
                placement.pod.nominated = placement.node

    async def select_node(self, placement: Placement, claims: Sequence[Object]) -> ApiError | None:
        """Tell where the pod will go, and the volume binder where to make its claims' volumes; that one's first error.

        None when there is none.
        """
        where = nomination(placement)
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
        answers = await self._batch([*where, *operations])
        self._told(placement, answers[: len(where)])
        return _first_error(answers[len(where) :])

    async def allocate(self, placement: Placement, devices: DeviceIndex) -> ApiError | None:
        """Write what the pod's claims to devices got, and that it uses them; the first error, if any.

        A claim for its extended resources is made first, and told in the pod's status.
        """
        pod = placement.pod
        made = next((devices.to_make[key] for key in placement.devices if key in devices.to_make), None)
        found = await self._protected(placement.devices, devices)
        operations, stamp = [], self._env.timestamp()
        for key, claim in zip(placement.devices, found, strict=True):
            if isinstance(claim, ApiError):
                return claim
            if claim is None:
                return NotFound(f'resourceclaim "{key.partition("/")[2]}" not found')
            patch = allocation_patch(claim, pod, devices.allocation(key), stamp)
            if patch is not None:
                operations.append(_of_claim(claim, patch, "status"))
        error = _first_error(await self._batch(operations))
        if error is None and made is not None:
            error = _first_error(await self._batch([_claim_told(pod, made.status)]))
        return error

    async def _protected(self, keys: Sequence[str], devices: DeviceIndex) -> list[Object | ApiError | None]:
        """The claims, made where they are to be, and marked: who has devices is not gone before they are given back."""
        found: list[Object | ApiError | None] = [devices.claims.get(key) for key in keys]
        writes: dict[int, Any] = {}
        for number, key in enumerate(keys):
            claim, made = devices.claims.get(key), devices.to_make.get(key)
            if claim is None and made is not None:
                writes[number] = ops.create(CLAIMS, made.claim)
            elif claim is not None and _needs_mark(claim):
                writes[number] = _of_claim(claim, _mark(claim))
        answers = await self._batch([*writes.values()], quiet=False)
        for number, answer in zip(writes, answers, strict=True):
            found[number] = answer
        return found

    async def release(self, pod: PodInfo, keys: Iterable[str]) -> None:
        """Give back devices that are of no use to the pod; who else uses a claim keeps them."""
        for namespace, name in map(meta.split_key, keys):
            for _ in range(_RELEASES_MAX):
                try:
                    claim = await self._client.get(CLAIMS, name, namespace)
                except ApiError as error:
                    log.debug("devices of claim %s/%s are not given back: %s", namespace, name, error.message)
                    break
                answers = await self.release_seen(pod, claim)
                if not any(isinstance(answer, Conflict) for answer in answers):
                    break

    async def release_seen(self, pod: PodInfo, claim: Object) -> _Results:
        """Give the devices of a claim back, if it still is what was seen of it: the pod may have got others since."""
        if not is_made_for(claim, pod.obj):
            return await self._batch([_of_claim(claim, release_patch(claim, pod), "status")])
        # What the pod's status says of it the API server keeps until another claim is named there.
        answers = await self._batch([_of_claim(claim, _unmark(claim))])
        if _first_error(answers) is None:
            name, namespace = meta.name(claim), meta.namespace(claim)
            answers = await self._batch([ops.delete(CLAIMS, name, namespace, uid=meta.uid(claim))])
        return answers

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
            reason = _NOT_READY if failure.is_kept_out else "FailedScheduling"
            self._recorder.event(pod.obj, "Warning", reason, failure.message, component=pod.scheduler)
            found = failure.preemption
            patch = unscheduled_patch(failure, stamp)
            if patch is not None:
                operations.append(
                    ops.patch("pods", pod.name, pod.namespace, patch, kind="strategic", subresource="status")
                )
            for victim in found.victims if found else ():
                text = f"Preempted by pod {pod.uid} on node {victim.node}"
                self._recorder.event(victim.obj, "Normal", "Preempted", text, component=pod.scheduler)
                body = victim_patch(victim, pod, stamp)
                operations.append(
                    ops.patch("pods", victim.name, victim.namespace, body, kind="strategic", subresource="status")
                )
            for group in groups.disrupted(found.victims) if found else ():
                operations.append(_of_group(group, _disruption(group.obj, pod, stamp)))
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

    async def _batch(self, operations: list[Any], *, quiet: bool = True) -> _Results:
        if not operations:
            return []
        try:
            return await self._client.batch(operations, quiet=quiet)
        except ApiError as error:
            return [error] * len(operations)

"""StatefulSet: pods with stable names and volumes, made, updated and deleted in order.

Source: Kubernetes concepts "StatefulSets", API reference apps/v1; events as kube-controller-manager writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_available, pod_is_ready, pod_is_terminated, pod_phase
from rayplane.control_plane.controllers import history
from rayplane.control_plane.controllers.adoption import claim, orphan_matches
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
    soonest,
)
from rayplane.control_plane.controllers.replicaset import BURST, wanted
from rayplane.control_plane.controllers.rollout import int_or_percent
from rayplane.control_plane.controllers.statefulset_identity import (
    CLAIMS,
    REVISION_LABEL,
    claims_for,
    ordinal_of,
    pod_for,
    retention_patches,
    sets_of_claim,
)
from rayplane.control_plane.controllers.templates import next_available, replica_changed

SETS = "statefulsets.apps"
HASH_LABEL = "controller.kubernetes.io/hash"
_owner = controller_key("StatefulSet", "apps")


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    if meta.controller_of(pod) is not None:
        return _owner(pod, view)
    return orphan_matches(view, SETS, pod)


def _claim_keys(claim: Object, view: View) -> Iterable[str]:
    """The set whose name and template a claim has: caches of pods and claims need not be of one moment."""
    for template, name in sets_of_claim(claim):
        sts = view.get(SETS, meta.namespace(claim), name)
        if sts is not None and any(
            t["metadata"]["name"] == template for t in meta.spec(sts).get("volumeClaimTemplates") or ()
        ):
            yield meta.key(sts)


def _claim_changed(old: Object, new: Object) -> bool:
    return (
        meta.metadata(old).get("ownerReferences") != meta.metadata(new).get("ownerReferences")
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.uid(old) != meta.uid(new)
    )


class StatefulSetController(BaseController):
    name = "statefulset"
    component = "statefulset-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch(SETS),
            Watch("pods", _pod_keys, delay_s=coalesce_s / 2, changed=replica_changed),
            Watch(history.REVISIONS, _owner, delay_s=coalesce_s),
            Watch(CLAIMS, _claim_keys, delay_s=coalesce_s, changed=_claim_changed),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        sts = view.get(SETS, *meta.split_key(key))
        if sts is None:
            return NOTHING
        selector = from_label_selector(meta.spec(sts).get("selector"))
        claimed = claim(view, "pods", sts, selector=selector)
        if claimed.patches:
            return result(claimed.patches)
        revisions = list(controlled(view, history.REVISIONS, sts))
        data = history.revision_data(sts)
        update = history.find_equal(revisions, data)
        if update is None:
            if meta.is_deleting(sts):
                return NOTHING
            create = history.new_revision(sts, revisions, hash_label=HASH_LABEL, collisions=_collisions(sts, revisions))
            return result([create])
        if history.number_of(update) < history.next_number(revisions) - 1:
            return result([history.renumbered(update, history.next_number(revisions))])
        return _Sync(sts, claimed.owned, revisions, update=update, view=view, now=now).run()


def _collisions(sts: Object, revisions: Sequence[Object]) -> int:
    """Tries of hashes that are taken by another template."""
    names = {meta.name(r) for r in revisions}
    tries = 0
    while _revision_name(sts, tries) in names:
        tries += 1
    return tries


def _revision_name(sts: Object, tries: int) -> str:
    create = history.new_revision(sts, (), hash_label=HASH_LABEL, collisions=tries)
    return meta.name(create.obj)


class _Sync:
    """One reconcile of one StatefulSet, with its revisions recorded."""

    def __init__(
        self,
        sts: Object,
        pods: Sequence[Object],
        revisions: Sequence[Object],
        *,
        update: Object,
        view: View,
        now: Moment,
    ) -> None:
        self.sts, self.view, self.now, self.update = sts, view, now, update
        spec = meta.spec(sts)
        self.revisions = revisions
        named = meta.status(sts).get("currentRevision")
        self.current = next((r for r in revisions if meta.name(r) == named), update)
        self.pods = {ordinal: pod for pod in pods if (ordinal := ordinal_of(sts, pod)) is not None}
        self.start = (spec.get("ordinals") or {}).get("start") or 0
        self.ordinals = range(self.start, self.start + wanted(sts))
        self.ordered = (spec.get("podManagementPolicy") or "OrderedReady") == "OrderedReady"
        self.min_ready = spec.get("minReadySeconds") or 0
        strategy = spec.get("updateStrategy") or {}
        self.rolling = (strategy.get("type") or "RollingUpdate") == "RollingUpdate"
        self.rolling_spec = strategy.get("rollingUpdate") or {}
        self.partition = self.rolling_spec.get("partition") or 0

    def run(self) -> Result:
        stages: tuple[Iterable[Action], ...] = ()
        if not meta.is_deleting(self.sts):
            patches = retention_patches(self.sts, self.pods, self.ordinals, view=self.view)
            if patches:
                return result(patches)
            stages = self._fill() or self._shrink() or self._roll()
        if any(stages):
            return result(*stages)
        status = self._status()
        writes: list[Action] = []
        if status != meta.status(self.sts):
            writes.append(UpdateStatus(SETS, {**self.sts, "status": status}))
        else:
            live = {meta.name(self.current), meta.name(self.update)}
            live |= {_revision_of(pod) for pod in self.pods.values()}
            limit = meta.spec(self.sts).get("revisionHistoryLimit")
            writes += history.surplus(self.revisions, live=live, limit=limit)
        waits = soonest(
            next_available(self.pods.values(), self.min_ready, self.now),
            1.0 if self._waits_for_claim() else None,
        )
        return result(writes, requeue_after=waits)

    # --- pods that should be there --------------------------------------------------------------

    def _fill(self) -> tuple[Iterable[Action], ...]:
        """Make missing pods; in order each waits for those before it. A non-empty answer ends the step."""
        claims: list[Action] = []
        pods: list[Action] = []
        for ordinal in self.ordinals:
            pod = self.pods.get(ordinal)
            if pod is None:
                if self._claim_is_leaving(ordinal):
                    if self.ordered:
                        break
                    continue
                made, create = self._create(ordinal)
                claims += made
                pods.append(create)
                if len(pods) >= BURST:
                    break
            elif pod_is_terminated(pod) and not meta.is_deleting(pod):
                text = f"StatefulSet {meta.key(self.sts)} is recreating {pod_phase(pod).lower()} Pod {meta.name(pod)}"
                pods.append(Event(self.sts, "Warning", "RecreatingFailedPod", text))
                pods.append(self._delete(pod))
            elif self._settled(pod) or not self.ordered:
                continue
            if self.ordered:
                return (claims, pods) if pods else _WAIT
        if self.ordered and any(o not in self.pods for o in self.ordinals):
            return _WAIT
        return (claims, pods) if pods else ()

    def _settled(self, pod: Object) -> bool:
        return not meta.is_deleting(pod) and self._healthy(pod)

    def _healthy(self, pod: Object) -> bool:
        return pod_phase(pod) == "Running" and pod_is_available(pod, self.min_ready, self.now.wall)

    def _create(self, ordinal: int) -> tuple[list[Action], Create]:
        revision = self.update
        if self.rolling and ordinal < self.start + self.partition:
            revision = self.current
        pod = pod_for(self.sts, revision, ordinal)
        name = meta.name(self.sts)
        claims: list[Action] = []
        for one in claims_for(self.sts, ordinal):
            if self.view.get(CLAIMS, meta.namespace(one), meta.name(one)) is not None:
                continue
            what = f"create Claim {meta.name(one)} Pod {meta.name(pod)} in StatefulSet {name}"
            done = Event(self.sts, "Normal", "SuccessfulCreate", f"{what} success")
            failed = Event(self.sts, "Warning", "FailedCreate", f"{what} failed error: {{error}}")
            claims.append(Create(CLAIMS, one, done=done, failed=failed, exists_ok=True))
        what = f"create Pod {meta.name(pod)} in StatefulSet {name}"
        done = Event(self.sts, "Normal", "SuccessfulCreate", f"{what} successful")
        failed = Event(self.sts, "Warning", "FailedCreate", f"{what} failed error: {{error}}")
        return claims, Create("pods", pod, done=done, failed=failed)

    def _claim_is_leaving(self, ordinal: int) -> bool:
        """A claim of an earlier pod is still being deleted: its name is not free yet."""
        for one in claims_for(self.sts, ordinal):
            found = self.view.get(CLAIMS, meta.namespace(one), meta.name(one))
            if found is not None and meta.is_deleting(found):
                return True
        return False

    def _waits_for_claim(self) -> bool:
        missing = islice((o for o in self.ordinals if o not in self.pods), BURST)
        return any(self._claim_is_leaving(o) for o in missing)

    # --- pods that should go --------------------------------------------------------------------

    def _delete(self, pod: Object) -> Delete:
        what = f"delete Pod {meta.name(pod)} in StatefulSet {meta.name(self.sts)}"
        done = Event(self.sts, "Normal", "SuccessfulDelete", f"{what} successful")
        failed = Event(self.sts, "Warning", "FailedDelete", f"{what} failed error: {{error}}")
        return Delete("pods", pod, done=done, failed=failed)

    def _shrink(self) -> tuple[Iterable[Action], ...]:
        """Delete pods beyond the wanted ones, the highest first."""
        surplus = sorted((o for o in self.pods if o not in self.ordinals), reverse=True)
        deletes: list[Action] = []
        unhealthy = [o for o in sorted(self.pods) if not self._settled(self.pods[o])]
        for ordinal in surplus:
            pod = self.pods[ordinal]
            if meta.is_deleting(pod):
                if self.ordered:
                    return _WAIT
                continue
            # In order, nothing goes while another pod is unhealthy, unless this is the first of the unhealthy.
            if self.ordered and unhealthy and ordinal != unhealthy[0]:
                return _WAIT
            deletes.append(self._delete(pod))
            if self.ordered:
                break
        return (deletes,) if deletes else ()

    def _roll(self) -> tuple[Iterable[Action], ...]:
        """Delete pods of other revisions, the highest first, as availability allows; `_fill` makes them anew."""
        if not self.rolling:
            return ()
        most = self.rolling_spec.get("maxUnavailable", 1)
        left = max(1, int_or_percent(most, len(self.ordinals), up=True))
        deletes: list[Action] = []
        for ordinal in reversed(self.ordinals):
            if left <= 0 or ordinal < self.start + self.partition:
                break
            pod = self.pods.get(ordinal)
            if pod is None or meta.is_deleting(pod):
                left -= 1
            elif _revision_of(pod) != meta.name(self.update):
                deletes.append(self._delete(pod))
                left -= 1
            elif not self._healthy(pod):
                left -= 1
        return (deletes,) if deletes else ()

    # --- status ---------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        pods = [pod for pod in self.pods.values() if pod_phase(pod)]
        staying = [pod for pod in pods if not meta.is_deleting(pod)]
        ready = [p for p in pods if pod_phase(p) == "Running" and pod_is_ready(p)]
        current, update = meta.name(self.current), meta.name(self.update)
        counts = {
            "readyReplicas": len(ready),
            "currentReplicas": sum(_revision_of(p) == current for p in staying),
            "updatedReplicas": sum(_revision_of(p) == update for p in staying),
        }
        want = wanted(self.sts)
        if self.rolling and (counts["updatedReplicas"] == want == counts["readyReplicas"] == len(pods)):
            counts["currentReplicas"], current = counts["updatedReplicas"], update
        status: dict[str, Any] = {
            "observedGeneration": meta.generation(self.sts),
            "replicas": len(pods),
            "availableReplicas": sum(pod_is_available(p, self.min_ready, self.now.wall) for p in ready),
            "currentRevision": current,
            "updateRevision": update,
            "collisionCount": meta.status(self.sts).get("collisionCount") or 0,
        }
        status.update({field: count for field, count in counts.items() if count})
        if conditions := meta.status(self.sts).get("conditions"):
            status["conditions"] = conditions
        return status


_WAIT: tuple[Iterable[Action], ...] = ((),)
"""Nothing to do now, but later steps must wait too."""


def _revision_of(pod: Object) -> str:
    return meta.labels(pod).get(REVISION_LABEL, "")

"""StatefulSet: pods with stable names and volumes, made, updated and deleted in order.

Source: Kubernetes concepts "StatefulSets", API reference apps/v1; events as kube-controller-manager writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_available, pod_is_ready, pod_is_terminated, pod_phase
from rayplane.control_plane.controllers import history
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import claim, owner_or_adopters, selector_of
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controller_key,
    result,
    slow_start,
    soonest,
)
from rayplane.control_plane.controllers.replicaset import BURST, wanted
from rayplane.control_plane.controllers.rollout import int_or_percent
from rayplane.control_plane.controllers.statefulset_identity import (
    CLAIMS,
    REVISION_LABEL,
    claims_for,
    claims_of,
    goes_with_another,
    identity_patches,
    is_member,
    ordinal_of,
    pod_for,
    pod_name,
    retention_patches,
    sets_of_claim,
)
from rayplane.control_plane.controllers.templates import next_available, replica_changed

SETS = "statefulsets.apps"
HASH_LABEL = "controller.kubernetes.io/hash"


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
            Watch(
                "pods", owner_or_adopters("StatefulSet", "apps", SETS), delay_s=coalesce_s / 2, changed=replica_changed
            ),
            Watch(history.REVISIONS, controller_key("StatefulSet", "apps"), delay_s=coalesce_s),
            Watch(CLAIMS, _claim_keys, delay_s=coalesce_s, changed=_claim_changed),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        sts = view.get(SETS, *meta.split_key(key))
        if sts is None:
            return NOTHING
        selector = selector_of(sts)
        kept = history.recorded(view, sts, owners=SETS, release=False)
        claimed = claim(view, "pods", sts, owners=SETS, selector=selector, member=partial(is_member, sts))
        if kept.steps or claimed.steps:
            return result([*kept.steps, *claimed.steps])
        revisions = kept.owned
        update = history.find_equal(revisions, history.revision_data(sts))
        if update is None:
            if meta.is_deleting(sts):
                return NOTHING
            return result([history.new_revision(sts, revisions, view=view, owners=SETS, hash_label=HASH_LABEL)])
        if history.number_of(update) < history.next_number(revisions) - 1:
            return result([history.renumbered(update, history.next_number(revisions))])
        return _Sync(sts, claimed.owned, revisions, update=update, view=view, now=now).run()


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
            patches += identity_patches(self.sts, self.pods)
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
                if not self._claim_is_stale(ordinal):
                    claims += self._missing_claims(ordinal)
                    pods.append(self._create(ordinal))
            elif meta.is_deleting(pod):
                pass
            elif pod_is_terminated(pod):
                pods.append(self._delete(pod))
            elif pod_phase(pod) == "Pending":
                claims += self._missing_claims(ordinal)
            if self.ordered and not (pod is not None and self._settled(pod)):
                return (claims, pods) if claims or pods else _WAIT
            if len(pods) >= BURST:
                break
        return (claims, *slow_start(pods)) if claims or pods else ()

    def _settled(self, pod: Object) -> bool:
        return not meta.is_deleting(pod) and self._healthy(pod)

    def _healthy(self, pod: Object) -> bool:
        return pod_phase(pod) == "Running" and pod_is_available(pod, self.min_ready, self.now.wall)

    def _missing_claims(self, ordinal: int) -> list[Action]:
        claims: list[Action] = []
        there = {meta.name(claim) for claim in claims_of(self.sts, ordinal, self.view)}
        if len(there) == len(meta.spec(self.sts).get("volumeClaimTemplates") or ()):
            return claims
        for one in claims_for(self.sts, ordinal):
            if meta.name(one) in there:
                continue
            pod, name = pod_name(self.sts, ordinal), meta.name(self.sts)
            what = f"create Claim {meta.name(one)} Pod {pod} in StatefulSet {name}"
            done = Event(self.sts, "Normal", "SuccessfulCreate", f"{what} success")
            failed = Event(self.sts, "Warning", "FailedCreate", f"{what} failed error: {{error}}")
            claims.append(Create(CLAIMS, one, done=done, failed=failed, exists_ok=True))
        return claims

    def _create(self, ordinal: int) -> Create:
        held_back = self.rolling and ordinal < self.start + self.partition
        pod = pod_for(self.sts, self.current if held_back else self.update, ordinal)
        what = f"create Pod {meta.name(pod)} in StatefulSet {meta.name(self.sts)}"
        done = Event(self.sts, "Normal", "SuccessfulCreate", f"{what} successful")
        failed = Event(self.sts, "Warning", "FailedCreate", f"{what} failed error: {{error}}")
        return Create("pods", pod, done=done, failed=failed)

    def _claim_is_stale(self, ordinal: int) -> bool:
        """A claim of an earlier pod is being deleted, or about to be: its name is not free yet."""
        return any(goes_with_another(self.sts, ordinal, c) for c in claims_of(self.sts, ordinal, self.view))

    def _waits_for_claim(self) -> bool:
        missing = islice((o for o in self.ordinals if o not in self.pods), BURST)
        return any(self._claim_is_stale(o) for o in missing)

    # --- pods that should go --------------------------------------------------------------------

    def _delete(self, pod: Object) -> Delete:
        what = f"delete Pod {meta.name(pod)} in StatefulSet {meta.name(self.sts)}"
        done = Event(self.sts, "Normal", "SuccessfulDelete", f"{what} successful")
        failed = Event(self.sts, "Warning", "FailedDelete", f"{what} failed error: {{error}}")
        return Delete("pods", pod, done=done, failed=failed)

    def _shrink(self) -> tuple[Iterable[Action], ...]:
        """Delete pods beyond the wanted ones, the highest first."""
        surplus = sorted((o for o in self.pods if o not in self.ordinals), reverse=True)
        unhealthy = [o for o in surplus if not self._settled(self.pods[o])]
        deletes: list[Action] = []
        for ordinal in surplus:
            pod = self.pods[ordinal]
            if meta.is_deleting(pod):
                if self.ordered:
                    return _WAIT
                continue
            # In order, an unhealthy pod goes only when none below it is unhealthy.
            if self.ordered and not self._healthy(pod) and ordinal != unhealthy[-1]:
                return _WAIT
            deletes.append(self._delete(pod))
            if self.ordered:
                break
        return (deletes,) if deletes else ()

    def _roll(self) -> tuple[Iterable[Action], ...]:
        """Delete pods of other revisions, the highest first, as availability allows; `_fill` makes them anew.

        Of parallel sets those that are down anyway go at once. In order a pod that never becomes ready is not replaced,
        even by a better template: `_fill` waits for it (see "Forced rollback" in Kubernetes' documentation).
        """
        if not self.rolling:
            return ()
        most = self.rolling_spec.get("maxUnavailable")
        budget = max(1, int_or_percent(1 if most is None else most, len(self.ordinals), up=False))
        here = [o for o in sorted(self.pods, reverse=True) if o in self.ordinals]
        budget -= len(self.ordinals) - sum(self._settled(self.pods[o]) for o in here)
        outdated = [
            self.pods[o]
            for o in here
            if o >= self.start + self.partition
            and not meta.is_deleting(self.pods[o])
            and _revision_of(self.pods[o]) != meta.name(self.update)
        ]
        down = [] if self.ordered else [pod for pod in outdated if not self._healthy(pod)]
        others = [pod for pod in outdated if pod not in down]
        deletes = [self._delete(pod) for pod in [*down, *others[: max(0, budget)]]]
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

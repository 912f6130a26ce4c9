"""Deployment: rolls ReplicaSets of successive templates over into each other.

Source: Kubernetes concepts "Deployments"; annotations, names and events as kube-controller-manager writes them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers import rollout
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    Patch,
    Update,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import claim, owner_or_adopters
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.deployment_status import (
    deadline_in,
    has_deadline,
    is_complete,
    judge_rollout,
    paused_or_resumed,
    progressing,
    status_of,
)
from rayplane.control_plane.controllers.replicaset import wanted
from rayplane.control_plane.controllers.rollout import DESIRED, MAX, REVISION, REVISION_HISTORY, Scale
from rayplane.control_plane.controllers.templates import replica_changed, safe_hash, with_labels, without_label

HASH = "pod-template-hash"
DEPLOYMENTS = "deployments.apps"
SETS = "replicasets.apps"
HISTORY_LENGTH = 2000
"""Characters of the annotation that lists a ReplicaSet's earlier revisions."""
_NOT_COPIED = frozenset({
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION, REVISION_HISTORY, DESIRED, MAX,
})  # fmt: skip
_set_owner = controller_key("Deployment", "apps")


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    """Only deleted or finished pods matter, and only to Deployments that wait for them (Recreate)."""
    ref = meta.controller_of(pod)
    if ref is None or ref.get("kind") != "ReplicaSet":
        return ()
    rs = view.get(SETS, meta.namespace(pod), ref["name"])
    if rs is None:
        return ()
    keys = list(_set_owner(rs, view))
    return [key for key in keys if _recreates(view.get(DEPLOYMENTS, *meta.split_key(key)))]


def _recreates(deployment: Object | None) -> bool:
    return deployment is not None and not rollout.is_rolling(deployment)


class DeploymentController(BaseController):
    name = "deployment"
    component = "deployment-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch(DEPLOYMENTS),
            Watch(SETS, owner_or_adopters("Deployment", "apps", DEPLOYMENTS), delay_s=coalesce_s / 2),
            Watch("pods", _pod_keys, delay_s=coalesce_s, changed=replica_changed),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        deployment = view.get(DEPLOYMENTS, *meta.split_key(key))
        if deployment is None:
            return NOTHING
        selector = from_label_selector(meta.spec(deployment).get("selector"))
        if selector.everything:
            about = "This deployment is selecting all pods. A non-empty selector is required."
            return result([Event(deployment, "Warning", "SelectingAll", about)], _observed(deployment))
        claimed = claim(view, SETS, deployment, owners=DEPLOYMENTS, selector=selector)
        if claimed.steps:
            return result(claimed.steps)
        return _Sync(deployment, claimed.owned, view, now=now).run()


def _observed(deployment: Object) -> list[UpdateStatus]:
    seen = meta.generation(deployment)
    if (meta.status(deployment).get("observedGeneration") or 0) >= seen:
        return []
    status = {**meta.status(deployment), "observedGeneration": seen}
    return [UpdateStatus(DEPLOYMENTS, {**deployment, "status": status})]


class _Sync:
    """One reconcile of one Deployment."""

    def __init__(self, deployment: Object, sets: Sequence[Object], view: View, *, now: Moment) -> None:
        self.deployment, self.sets, self.view, self.now = deployment, list(sets), view, now
        self.new = self._find_new()
        self.old = [rs for rs in self.sets if rs is not self.new]
        self.bounds = rollout.bounds_of(deployment)

    def run(self) -> Result:
        deployment = self.deployment
        if meta.is_deleting(deployment):
            return self._write_status(rolling_out=False)
        marked = paused_or_resumed(deployment, self.now)
        if marked is not None:
            status = {**meta.status(deployment), "conditions": marked}
            return result([UpdateStatus(DEPLOYMENTS, {**deployment, "status": status})])
        if self.new is not None and (steps := self._annotate()):
            return result(steps)
        if meta.spec(deployment).get("paused") or rollout.is_scaling(deployment, self.sets):
            steps = self._scale_all(rollout.rescale(deployment, self.new, self.old))
            return result(steps) if steps else self._write_status(rolling_out=False)
        return self._roll() or self._write_status(rolling_out=True)

    def _find_new(self) -> Object | None:
        """The ReplicaSet with the Deployment's template; the oldest where there are several."""
        wanted_template = without_label(meta.spec(self.deployment).get("template") or {}, HASH)
        for rs in rollout.oldest_first(self.sets):
            if without_label(meta.spec(rs).get("template") or {}, HASH) == wanted_template:
                return rs
        return None

    # --- the new ReplicaSet ---------------------------------------------------------------------

    def _next_revision(self) -> int:
        return max((rollout.number(rs, REVISION) for rs in self.old), default=0) + 1

    def _inherited(self) -> dict[str, str]:
        found = meta.annotations(self.deployment)
        return {k: v for k, v in found.items() if k not in _NOT_COPIED}

    def _annotate(self) -> list[Action]:
        """Bring revision and copied annotations of the new ReplicaSet, and the Deployment's revision, up to date."""
        assert self.new is not None
        new, spec = self.new, meta.spec(self.deployment)
        notes = {**meta.annotations(new), **self._inherited()}
        revision = self._next_revision()
        current = rollout.number(new, REVISION)
        if current < revision:
            notes[REVISION] = str(revision)
            if current:
                notes[REVISION_HISTORY] = _history(notes.get(REVISION_HISTORY) or "", str(current))
        steps: list[Action] = []
        ready = spec.get("minReadySeconds")
        if notes != meta.annotations(new) or ready != meta.spec(new).get("minReadySeconds"):
            changed = meta.copy_for_write(new)
            changed["metadata"]["annotations"] = notes
            changed["spec"].pop("minReadySeconds", None)
            if ready is not None:
                changed["spec"]["minReadySeconds"] = ready
            steps.append(Update(SETS, changed))
        known = meta.get_condition(self.deployment, "Progressing") is not None or not has_deadline(self.deployment)
        if not known or meta.annotations(self.deployment).get(REVISION) != notes.get(REVISION):
            found = ("FoundNewReplicaSet", f'Found new replica set "{meta.name(new)}"')
            steps.append(self._note(notes.get(REVISION, "1"), None if known else found))
        return steps

    def _note(self, revision: str, reason: tuple[str, str] | None) -> Patch:
        """The Deployment's own revision, and why it progresses."""
        body: dict[str, Any] = {"metadata": {"uid": meta.uid(self.deployment), "annotations": {REVISION: revision}}}
        if reason is not None:
            body["metadata"]["resourceVersion"] = meta.resource_version(self.deployment)
            body["status"] = {"conditions": progressing(self.deployment, "True", reason, self.now)}
        space, name = meta.namespace(self.deployment), meta.name(self.deployment)
        return Patch(DEPLOYMENTS, space, name, body, subresource="status")

    def _create_new(self) -> Result:
        deployment = self.deployment
        template = meta.spec(deployment).get("template") or {}
        collisions = meta.status(deployment).get("collisionCount") or 0
        digest = safe_hash(without_label(template, HASH), collisions)
        name = f"{meta.name(deployment)}-{digest}"
        other = self.view.get(SETS, meta.namespace(deployment), name)
        if other is not None:  # somebody else's, or another template of the same hash
            status = {**meta.status(deployment), "collisionCount": collisions + 1}
            return result([UpdateStatus(DEPLOYMENTS, {**deployment, "status": status})])
        rolling = rollout.is_rolling(deployment)
        size = rollout.new_replicas(self.bounds, 0, rollout.total(self.old), rolling=rolling)
        selector = copy.deepcopy(meta.spec(deployment).get("selector") or {})
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: digest}
        labelled = with_labels(template, {HASH: digest})
        revision = str(self._next_revision())
        spec: dict[str, Any] = {"replicas": size, "selector": selector, "template": labelled}
        if meta.spec(deployment).get("minReadySeconds") is not None:
            spec["minReadySeconds"] = meta.spec(deployment)["minReadySeconds"]
        rs = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": meta.namespace(deployment),
                "labels": dict(labelled["metadata"]["labels"]),
                "annotations": {**self._inherited(), **self._sizes(), REVISION: revision},
                "ownerReferences": [meta.owner_reference(deployment)],
            },
            "spec": spec,
        }
        failed = f'Failed to create new replica set "{name}": {{error}}'
        create = Create(
            SETS,
            rs,
            done=self._scaled_event("up", name, was=0, size=size) if size else None,
            failed=Event(deployment, "Warning", "ReplicaSetCreateError", failed),
        )
        created = ("NewReplicaSetCreated", f'Created new replica set "{name}"') if has_deadline(deployment) else None
        return result([create], [self._note(revision, created)], refused=partial(self._create_failed, failed))

    def _create_failed(self, text: str, error: str) -> list[Action]:
        if not has_deadline(self.deployment):
            return []
        reason = ("ReplicaSetCreateError", text.replace("{error}", error))
        conditions = progressing(self.deployment, "False", reason, self.now)
        if conditions == meta.status(self.deployment).get("conditions"):
            return []
        status = {**meta.status(self.deployment), "conditions": conditions}
        return [UpdateStatus(DEPLOYMENTS, {**self.deployment, "status": status})]

    # --- sizes ----------------------------------------------------------------------------------

    def _sizes(self) -> dict[str, str]:
        return {DESIRED: str(self.bounds.replicas), MAX: str(self.bounds.most)}

    def _scaled_event(self, way: str, name: str, *, was: int, size: int) -> Event:
        message = f"Scaled {way} replica set {name} from {was} to {size}"
        return Event(self.deployment, "Normal", "ScalingReplicaSet", message)

    def _scale_all(self, scales: Iterable[Scale]) -> list[Action]:
        """Writes for ReplicaSets whose size, or whose notes about the Deployment's size, should change."""
        steps: list[Action] = []
        for rs, size in scales:
            notes = {**meta.annotations(rs), **self._sizes()}
            was = wanted(rs)
            if was == size and notes == meta.annotations(rs):
                continue
            changed = meta.copy_for_write(rs)
            changed["metadata"]["annotations"] = notes
            changed["spec"]["replicas"] = size
            way = "up" if size > was else "down"
            done = self._scaled_event(way, meta.name(rs), was=was, size=size)
            steps.append(Update(SETS, changed, done=done if size != was else None))
        return steps

    def _roll(self) -> Result | None:
        """The next step towards only the new ReplicaSet having pods; None where there is none now."""
        rolling = rollout.is_rolling(self.deployment)
        if not rolling:
            steps = self._scale_all((rs, 0) for rs in self.old if wanted(rs))
            if steps or any(self._has_running_pods(rs) for rs in self.old):
                return result(steps) if steps else None
        if self.new is None:
            return self._create_new()
        size = rollout.new_replicas(self.bounds, wanted(self.new), rollout.total(self.sets), rolling=rolling)
        if size != wanted(self.new):
            return result(self._scale_all([(self.new, size)]))
        steps = self._scale_all(rollout.shrink_old(self.bounds, self.new, self.old)) if rolling else []
        return result(steps) if steps else None

    def _has_running_pods(self, rs: Object) -> bool:
        # Whoever has not seen yet that it wants none may still be making some.
        if meta.status(rs).get("replicas") or (meta.status(rs).get("observedGeneration") or 0) < meta.generation(rs):
            return True
        return any(not pod_is_terminated(pod) for pod in controlled(self.view, "pods", rs))

    # --- status ---------------------------------------------------------------------------------

    def _write_status(self, *, rolling_out: bool) -> Result:
        deployment = self.deployment
        status = status_of(deployment, self.new, self.sets, now=self.now)
        if rolling_out:
            judge_rollout(deployment, self.new, self.sets, status=status, now=self.now)
        writes: list[Action] = []
        if status != meta.status(deployment):
            writes.append(UpdateStatus(DEPLOYMENTS, {**deployment, "status": status}))
        if meta.spec(deployment).get("paused") or (rolling_out and is_complete(deployment, status)):
            writes += self._cleanup()
        return result(writes, requeue_after=deadline_in(deployment, status, self.now))

    def _cleanup(self) -> list[Action]:
        """Old, empty ReplicaSets beyond the history limit."""
        limit = meta.spec(self.deployment).get("revisionHistoryLimit")
        if limit is None:
            return []
        staying = [rs for rs in self.old if not meta.is_deleting(rs)]
        staying.sort(key=lambda rs: (rollout.number(rs, REVISION), meta.name(rs)))
        return [
            Delete(SETS, rs)
            for rs in staying[: max(0, len(staying) - int(limit))]
            if wanted(rs) == 0
            and not meta.status(rs).get("replicas")
            and (meta.status(rs).get("observedGeneration") or 0) >= meta.generation(rs)
        ]


def _history(before: str, revision: str) -> str:
    """The revisions that a ReplicaSet had: the oldest give way where the list grows too long."""
    kept = [*filter(None, before.split(",")), revision]
    while len(text := ",".join(kept)) > HISTORY_LENGTH and len(kept) > 1:
        del kept[0]
    return text

"""Deployment: rolls ReplicaSets of successive templates over into each other.

Source: Kubernetes concepts "Deployments"; annotations, names and events as kube-controller-manager writes them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers import rollout
from rayplane.control_plane.controllers.adoption import claim, orphan_matches
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Patch,
    Result,
    Update,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.deployment_status import deadline_in, is_complete, status_of
from rayplane.control_plane.controllers.replicaset import wanted
from rayplane.control_plane.controllers.rollout import DESIRED, MAX, REVISION, REVISION_HISTORY, Scale
from rayplane.control_plane.controllers.templates import replica_changed, safe_hash, with_labels, without_label

HASH = "pod-template-hash"
SETS = "replicasets.apps"
_NOT_COPIED = frozenset({
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION, REVISION_HISTORY, DESIRED, MAX,
})  # fmt: skip
_set_owner = controller_key("Deployment", "apps")


def _set_keys(rs: Object, view: View) -> Iterable[str]:
    if meta.controller_of(rs) is not None:
        return _set_owner(rs, view)
    return orphan_matches(view, "deployments.apps", rs)


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    """Only deleted or finished pods matter, and only to Deployments that wait for them (Recreate)."""
    ref = meta.controller_of(pod)
    if ref is None or ref.get("kind") != "ReplicaSet":
        return ()
    rs = view.get(SETS, meta.namespace(pod), ref["name"])
    if rs is None:
        return ()
    keys = list(_set_owner(rs, view))
    return [key for key in keys if _recreates(view.get("deployments.apps", *meta.split_key(key)))]


def _recreates(deployment: Object | None) -> bool:
    return deployment is not None and not rollout.is_rolling(deployment)


class DeploymentController(BaseController):
    name = "deployment"
    component = "deployment-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch("deployments.apps"),
            Watch(SETS, _set_keys, delay_s=coalesce_s / 2),
            Watch("pods", _pod_keys, delay_s=coalesce_s, changed=replica_changed),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        deployment = view.get("deployments.apps", *meta.split_key(key))
        if deployment is None:
            return NOTHING
        selector = from_label_selector(meta.spec(deployment).get("selector"))
        if selector.everything:
            about = "This deployment is selecting all pods. A non-empty selector is required."
            return result([Event(deployment, "Warning", "SelectingAll", about)])
        claimed = claim(view, SETS, deployment, selector=selector)
        if claimed.patches:
            return result(claimed.patches)
        return _Sync(deployment, claimed.owned, view, now=now).run()


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
            return self._write_status()
        paused = bool(meta.spec(deployment).get("paused"))
        steps: list[Action] = []
        if self.new is not None:
            steps = self._annotate()
        if not steps and (paused or rollout.is_scaling(deployment, self.sets)):
            steps = self._scale_all(rollout.rescale(deployment, self.new, self.old))
        elif not steps:
            steps = self._roll()
        if steps:
            return result(steps)
        return self._write_status()

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
                history = notes.get(REVISION_HISTORY)
                notes[REVISION_HISTORY] = f"{history},{current}" if history else str(current)
        steps: list[Action] = []
        ready = spec.get("minReadySeconds")
        if notes != meta.annotations(new) or ready != meta.spec(new).get("minReadySeconds"):
            changed = meta.copy_for_write(new)
            changed["metadata"]["annotations"] = notes
            changed["spec"].pop("minReadySeconds", None)
            if ready is not None:
                changed["spec"]["minReadySeconds"] = ready
            steps.append(Update(SETS, changed))
        if meta.annotations(self.deployment).get(REVISION) != notes.get(REVISION):
            steps.append(self._patch_revision(notes.get(REVISION, "1")))
        return steps

    def _patch_revision(self, revision: str) -> Patch:
        body = {"metadata": {"uid": meta.uid(self.deployment), "annotations": {REVISION: revision}}}
        space, name = meta.namespace(self.deployment), meta.name(self.deployment)
        return Patch("deployments.apps", space, name, body, subresource="status")

    def _create_new(self) -> list[Action]:
        deployment = self.deployment
        template = meta.spec(deployment).get("template") or {}
        collisions = meta.status(deployment).get("collisionCount") or 0
        digest = safe_hash(without_label(template, HASH), collisions)
        name = f"{meta.name(deployment)}-{digest}"
        other = self.view.get(SETS, meta.namespace(deployment), name)
        if other is not None:  # somebody else's, or another template of the same hash
            status = {**meta.status(deployment), "collisionCount": collisions + 1}
            return [UpdateStatus("deployments.apps", {**deployment, "status": status})]
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
        return [
            Create(
                SETS,
                rs,
                done=self._scaled_event("up", name, was=0, size=size) if size else None,
                failed=Event(deployment, "Warning", "ReplicaSetCreateError", failed),
            ),
            self._patch_revision(revision),
        ]

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

    def _roll(self) -> list[Action]:
        """The next step towards only the new ReplicaSet having pods."""
        rolling = rollout.is_rolling(self.deployment)
        if not rolling:
            steps = self._scale_all((rs, 0) for rs in self.old if wanted(rs))
            if steps or any(self._has_running_pods(rs) for rs in self.old):
                return steps
        if self.new is None:
            return self._create_new()
        size = rollout.new_replicas(self.bounds, wanted(self.new), rollout.total(self.sets), rolling=rolling)
        if size != wanted(self.new):
            return self._scale_all([(self.new, size)])
        if rolling:
            return self._scale_all(rollout.shrink_old(self.bounds, self.new, self.old))
        return []

    def _has_running_pods(self, rs: Object) -> bool:
        return any(not pod_is_terminated(pod) for pod in controlled(self.view, "pods", rs))

    # --- status ---------------------------------------------------------------------------------

    def _write_status(self) -> Result:
        status = status_of(self.deployment, self.new, self.sets, now=self.now)
        writes: list[Action] = []
        if status != meta.status(self.deployment):
            writes.append(UpdateStatus("deployments.apps", {**self.deployment, "status": status}))
        if not meta.is_deleting(self.deployment) and is_complete(self.deployment, status):
            writes += self._cleanup()
        return result(writes, requeue_after=deadline_in(self.deployment, status, self.now))

    def _cleanup(self) -> list[Action]:
        """Old, empty ReplicaSets beyond the history limit."""
        limit = meta.spec(self.deployment).get("revisionHistoryLimit")
        if limit is None:
            return []
        empty = [
            rs
            for rs in self.old
            if wanted(rs) == 0
            and not meta.status(rs).get("replicas")
            and (meta.status(rs).get("observedGeneration") or 0) >= meta.generation(rs)
            and not meta.is_deleting(rs)
        ]
        surplus = len(self.old) - int(limit)
        if surplus <= 0:
            return []
        empty.sort(key=lambda rs: (rollout.number(rs, REVISION), meta.name(rs)))
        return [Delete(SETS, rs) for rs in empty[:surplus]]

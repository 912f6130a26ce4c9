"""Workflow: makes experiments one after another, side by side, after pauses, and ends them at their deadlines.

Where it is stands in its status, a node for each step that has begun (Chaos Mesh has objects for these, WorkflowNodes).
What a step makes has a name that is made from the step, so that no step is done twice. Source: Chaos Mesh, "Create
Chaos Mesh Workflow".
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import chaos_workflow as flow
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
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
    controller_key,
    result,
    soonest,
)

_WORKFLOWS = mesh.resource(mesh.WORKFLOW)
LABEL = "chaos-mesh.org/workflow"
_NAME_MAX, _HASH_MAX = 37, 10
DEADLINE, ABORTED = "DeadlineExceed", "WorkflowAborted"
"""Why a step is over that did not end by itself."""


class ChaosWorkflowController(CustomController):
    name = "chaosworkflow"
    component = "chaos-controller"

    def __init__(self) -> None:
        made = (
            Watch(mesh.resource(kind), controller_key(mesh.WORKFLOW, mesh.GROUP)) for kind in mesh.MADE_BY_WORKFLOWS
        )
        self.custom = (Watch(_WORKFLOWS), *made)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        workflow = view.get(_WORKFLOWS, *meta.split_key(key))
        if workflow is None or meta.is_deleting(workflow) or meta.status(workflow).get("endTime"):
            return NOTHING
        if any(flow.errors_in(meta.spec(workflow), mesh.MADE_BY_WORKFLOWS, lambda *_: True)):
            return NOTHING  # it was let in before anybody looked at it
        walk = _Walk(workflow, view, now)
        entry = meta.spec(workflow)["entry"]
        if meta.annotations(workflow).get(flow.ABORT) == "true":
            walk.end_all(ABORTED)
        else:
            walk.go(entry, entry)
        status = walk.status(entry)
        writes = [UpdateStatus(_WORKFLOWS, {**workflow, "status": status})] if status != meta.status(workflow) else []
        # A step counts as begun, or as over, once what it makes is there, or is not.
        return result(walk.made, walk.deleted, writes, requeue_after=None if status.get("endTime") else walk.wait_s)


class _Walk:
    """A walk through a workflow's steps from its entry, as far as they have come."""

    def __init__(self, workflow: Object, view: View, now: Moment) -> None:
        self._workflow, self._view, self._now = workflow, view, now
        self._templates = flow.templates_of(meta.spec(workflow))
        self._nodes: dict[str, dict[str, Any]] = {
            one["name"]: dict(one) for one in meta.status(workflow).get("nodes") or ()
        }
        self.made: list[Create] = []
        self.deleted: list[Delete] = []
        self.wait_s: float | None = None

    def go(self, path: str, name: str) -> bool:
        """Take a step as far as it goes now; whether it is over."""
        template = self._templates[name]
        kind = template["templateType"]
        node = self._nodes.setdefault(
            path, {"name": path, "template": name, "type": kind, "startTime": self._now.stamp}
        )
        if node.get("endTime"):
            return True
        if (limit_s := flow.deadline_s(template)) is not None:
            left_s = limit_s - self._now.seconds_since(node["startTime"])
            if left_s <= 0:
                self.end_all(DEADLINE if kind != flow.SUSPEND else "", below=path)
                return True
            self.wait_s = soonest(self.wait_s, left_s)
        if kind in flow.OF_CHILDREN:
            over = self._go_on(path, template["children"], at_once=kind == flow.PARALLEL)
        else:
            over = kind != flow.SUSPEND and self._make(node, template)
        if over:
            node["endTime"] = self._now.stamp
        return over

    def _go_on(self, path: str, children: list[str], *, at_once: bool) -> bool:
        all_over = True
        for number, child in enumerate(children):
            if not self.go(f"{path}/{number}-{child}", child):
                all_over = False
                if not at_once:
                    break
        return all_over

    def _make(self, node: dict[str, Any], template: flow.Template) -> bool:
        """Whether what a step makes is there, and finished."""
        kind, workflow = template["templateType"], self._workflow
        resource, name = mesh.resource(kind), self._name_of(node["name"])
        space = meta.namespace(workflow)
        found = self._view.get(resource, space, name)
        if found is not None:
            return kind in mesh.EXPERIMENTS and is_finished(found)
        node["chaosResource"] = {"apiVersion": mesh.API_VERSION, "kind": kind, "namespace": space, "name": name}
        made = {
            "apiVersion": mesh.API_VERSION,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": space,
                "labels": {LABEL: meta.name(workflow)[:63].rstrip("-.")},
                "ownerReferences": [meta.owner_reference(workflow)],
            },
            "spec": copy.deepcopy(template[mesh.MADE_BY_WORKFLOWS[kind]]),
        }
        done = Event(workflow, "Normal", "ChaosCustomResourceCreated", f"Chaos CR created: {kind} {{name}}")
        failed = Event(workflow, "Warning", "ChaosCustomResourceCreateFailed", "Failed to create chaos CR: {error}")
        self.made.append(Create(resource, made, done=done, failed=failed, exists_ok=True))
        return False

    def _name_of(self, path: str) -> str:
        own = hashlib.sha256(f"{meta.uid(self._workflow)} {path}".encode()).hexdigest()[:_HASH_MAX]
        return f"{meta.name(self._workflow)[:_NAME_MAX].rstrip('-.')}-{own}"

    def end_all(self, why: str, *, below: str = "") -> None:
        """End all steps that go on, `below` and including one, with what they have made."""
        for path, node in self._nodes.items():
            if node.get("endTime") or (below and path != below and not path.startswith(f"{below}/")):
                continue
            node |= {"endTime": self._now.stamp} | ({"reason": why} if why else {})
            if "chaosResource" in node:
                resource = mesh.resource(node["type"])
                found = self._view.get(resource, meta.namespace(self._workflow), node["chaosResource"]["name"])
                if found is not None and not meta.is_deleting(found):
                    self.deleted.append(Delete(resource, found))

    def status(self, entry: str) -> dict[str, Any]:
        now, before = self._now.stamp, meta.status(self._workflow)
        node = self._nodes.get(entry) or {"startTime": now, "endTime": now, "reason": ABORTED}
        ended = node.get("endTime")
        conditions = {"Scheduled": True, "Accomplished": bool(ended)}
        found = {
            **before,
            "entryNode": entry,
            "startTime": node["startTime"],
            "conditions": [{"type": kind, "status": str(holds), "reason": ""} for kind, holds in conditions.items()],
            "nodes": [*self._nodes.values()],
        }
        if ended:
            found |= {"endTime": ended}
            found["conditions"][1]["reason"] = node.get("reason") or "WorkflowAccomplished"
        return found

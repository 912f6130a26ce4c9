"""Flow schemas: whether the priority level that each of them names is there.

Source: Kubernetes reference "API Priority and Fairness", condition `Dangling` of FlowSchema.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

SCHEMAS = "flowschemas.flowcontrol.apiserver.k8s.io"
LEVELS = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"


def _level(schema: Object) -> str:
    return (meta.spec(schema).get("priorityLevelConfiguration") or {}).get("name") or ""


def _schemas(level: Object, view: View) -> Iterable[str]:
    return [meta.name(schema) for schema in view.list(SCHEMAS) if _level(schema) == meta.name(level)]


class FlowSchemaController(BaseController):
    name = "flowschema"
    component = "api-priority-and-fairness-config-controller"
    watches = (Watch(SCHEMAS), Watch(LEVELS, _schemas))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        schema = view.get(SCHEMAS, "", key)
        if schema is None:
            return NOTHING
        level = _level(schema)
        found = view.get(LEVELS, "", level) is not None
        text = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" '
        condition = {
            "type": "Dangling",
            "status": "False" if found else "True",
            "reason": "Found" if found else "NotFound",
            "message": text + ("and it exists" if found else "but there is no such object"),
        }
        conditions = copy.deepcopy(meta.status(schema).get("conditions") or [])
        if not meta.set_condition(conditions, condition, now.stamp):
            return NOTHING
        status = {**meta.status(schema), "conditions": conditions}
        return result([UpdateStatus(SCHEMAS, {**schema, "status": status})])

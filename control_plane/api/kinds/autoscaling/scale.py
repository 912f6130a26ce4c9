"""Scale: the number of replicas of another object, as a body of its own.

Source: Kubernetes API reference, autoscaling/v1 Scale.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.errors import FieldError
from rayplane.control_plane.api.kinds.rules import WORKLOAD_PATHS, ScalePaths
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, spec_and_status
from rayplane.control_plane.api.meta import Object, name

_INT32_MAX = 2**31 - 1
_SHOWN_CHARS_MAX = 200
_GO_TYPES = (
    (bool, "bool"),
    (int, "int64"),
    (float, "float64"),
    (str, "string"),
    (list, "[]interface {}"),
    (dict, "map[string]interface {}"),
)


def _get(obj: Object, path: str) -> Any:
    found: Any = obj
    for part in path.strip(".").split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _number(obj: Object, path: str) -> int:
    """A number of replicas; 0 where there is none. Raises BadRequest where a custom object has something else there."""
    found = _get(obj, path)
    if found is None:
        return 0
    if not isinstance(found, int) or isinstance(found, bool):
        raise _odd(path, found, "int64")
    if abs(found) > _INT32_MAX:
        raise errors.BadRequest(f"{path} accessor error: {found} is out of range")
    return found


def _odd(path: str, found: Any, wanted: str) -> errors.BadRequest:
    called = next((name for kind, name in _GO_TYPES if isinstance(found, kind)), "unknown")
    shown = str(found)[:_SHOWN_CHARS_MAX]
    return errors.BadRequest(f"{path} accessor error: {shown} is of the type {called}, expected {wanted}")


def get_scale(obj: Object, paths: ScalePaths = WORKLOAD_PATHS) -> Object:
    """The autoscaling/v1 Scale of a deployment, replica set, stateful set, RC or custom object.

    Raises BadRequest where a custom object has no numbers, or no text, in the places that its definition names.
    """
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: dict[str, Any] = {"replicas": _number(obj, paths.status)}
    text = _selector_text(obj, paths)
    if text:
        status["selector"] = text
    replicas = _number(obj, paths.spec)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def _selector_text(obj: Object, paths: ScalePaths) -> str:
    selector = _get(obj, paths.selector) if paths.selector else None
    if isinstance(selector, str):
        return selector
    if not selector:
        return ""
    if paths is not WORKLOAD_PATHS:
        raise _odd(paths.selector, selector, "string")
    if obj.get("kind") == "ReplicationController":
        return str(selectors.from_map(selector))
    return selectors.label_selector_text(selector)


def scale_errors(scale: Object) -> list[FieldError]:
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        text = "must be greater than or equal to 0"
        return [errors.invalid("spec.replicas", replicas, text)]
    return []


def set_scale(obj: Object, scale: Object, paths: ScalePaths = WORKLOAD_PATHS) -> None:
    """Write the replicas a Scale asks for into `obj`, in place; Invalid when negative, or when there is no place."""
    found = scale_errors(scale)
    if found:
        raise errors.Invalid.of("Scale", name(obj), found, group="autoscaling")
    *parents, last = paths.spec.strip(".").split(".")
    target: Any = obj
    for part in parents:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            text = f"{paths.spec} leads through something else than an object"
            raise errors.Invalid.of("Scale", name(obj), [errors.invalid("spec.replicas", 0, text)], group="autoscaling")
    target[last] = (scale.get("spec") or {}).get("replicas") or 0


def configuration(obj: Object, scale: Object, paths: ScalePaths = WORKLOAD_PATHS) -> Object:
    """What applying a Scale applies to the object itself: its replicas, where it says any."""
    meta = {field: value for field, value in obj["metadata"].items() if field in ("name", "namespace")}
    config: Object = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": meta}
    if (scale.get("spec") or {}).get("replicas") is not None:
        set_scale(config, scale, paths)
    return config


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    return [name(obj), spec.get("replicas") or 0, status.get("replicas") or 0, age(obj, now)]


PRINTER = Printer((NAME, Column("Desired", "integer"), Column("Available", "integer"), AGE), _row)

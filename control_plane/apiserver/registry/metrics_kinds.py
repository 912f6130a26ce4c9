"""The kinds of `metrics.k8s.io`: what is served of them, how they are described and printed, as by metrics-server."""

from datetime import datetime
from typing import Any

from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.machinery.quantity import parse
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, name

GROUP = "metrics.k8s.io"


def _info(plural: str, kind: str, *, namespaced: bool) -> ResourceInfo:
    return ResourceInfo(
        group=GROUP,
        version="v1beta1",
        kind=kind,
        plural=plural,
        singular="",
        namespaced=namespaced,
        verbs=("get", "list"),
        definition="",
        storage_prefix="",
        stored_api_version=f"{GROUP}/v1beta1",
        list_kind=f"{kind}List",
    )


def _row(obj: Object, _: datetime) -> list[Cell]:
    """Name, CPU, memory, window: of a pod, the sum of its containers."""
    uses = [one["usage"] for one in obj.get("containers") or ()] or [obj.get("usage") or {}]
    cells: list[Cell] = [name(obj)]
    for resource in _RESOURCES:
        cells.append(str(sum((parse(use.get(resource, 0)) for use in uses), parse(0))))
    return [*cells, obj.get("window") or ""]


_RESOURCES = ("cpu", "memory")
PRINTER = Printer((NAME, *(Column(one) for one in _RESOURCES), Column("Window", format="duration")), _row)
_QUANTITIES: dict[str, Any] = {
    "type": "object",
    "description": "What is used, by resource.",
    "additionalProperties": {"type": "string"},
}
_SCHEMA: dict[str, Any] = {
    "timestamp": {"type": "string", "format": "date-time", "description": "When it was measured."},
    "window": {"type": "string", "description": "The span before the timestamp of which it is the mean."},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "NodeMetrics": {"description": "The use of a node's resources.", "properties": {**_SCHEMA, "usage": _QUANTITIES}},
    "PodMetrics": {
        "description": "The use of resources by a pod's containers.",
        "properties": {
            **_SCHEMA,
            "containers": {
                "type": "array",
                "description": "The containers, of one interval.",
                "items": {
                    "type": "object",
                    "required": ["name", "usage"],
                    "properties": {
                        "name": {"type": "string", "description": "The container's name in the pod."},
                        "usage": _QUANTITIES,
                    },
                },
            },
        },
    },
}
"""OpenAPI schemas by kind."""
RESOURCES = (_info("nodes", "NodeMetrics", namespaced=False), _info("pods", "PodMetrics", namespaced=True))

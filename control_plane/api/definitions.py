"""Definitions (CustomResourceDefinitions) of kinds that come with rayplane, and words for their schemas. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rayplane.control_plane.api.meta import Object

Schema = dict[str, Any]
TEXT: Final[Schema] = {"type": "string"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
COUNT: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0}


def object_of(*required: str, **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, **({"required": list(required)} if required else {})}


def list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def map_of(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


def definition(
    group: str,
    version: str,
    kind: str,
    plural: str,
    *,
    spec: Schema,
    status: Schema,
    required: Sequence[str] = (),
    namespaced: bool = True,
) -> Object:
    """A definition of one version, with a status of its own; a new object on every call."""
    schema = object_of(*required, apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec=spec, status=status)
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [served],
        },
    }

"""Definitions (CustomResourceDefinitions) of the kinds by which simulated pods and nodes are described. Pure.

Field names are those of KWOK's `kwok.x-k8s.io/v1alpha1`; `answers`, `text`, `previousText` and `trace` are ours.
"""

from __future__ import annotations

from typing import Any, Final

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.answers import CLUSTER, FIELDS, answer_errors
from rayplane.control_plane.stages.expressions import Errors
from rayplane.control_plane.stages.stage import GROUP, STAGE, read_stage

Schema = dict[str, Any]
PLURALS: Final = {
    STAGE: "stages",
    "Logs": "logs",
    "Exec": "execs",
    "Attach": "attaches",
    "PortForward": "portforwards",
    "ResourceUsage": "resourceusages",
}
_TEXT: Final[Schema] = {"type": "string"}
_YES: Final[Schema] = {"type": "boolean"}
_COUNT: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_AMOUNT: Final[Schema] = {"x-kubernetes-int-or-string": True}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _map(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


_EXPRESSION: Final = _object(expression=_TEXT)
_FROM: Final = _object(cel=_EXPRESSION, jq=_EXPRESSION, expressionFrom=_TEXT)
_JQ: Final = {"key": _TEXT, "operator": _TEXT, "values": _TEXTS}
_USER: Final = _object(username=_TEXT)
_EVENT: Final = _object(type=_TEXT, reason=_TEXT, message=_TEXT)
_VALUE: Final = _list(_object(value=_TEXT))
_FINALIZERS: Final = _object(add=_VALUE, remove=_VALUE, empty=_YES)
_PATCH: Final = _object(subresource=_TEXT, root=_TEXT, template=_TEXT, type=_TEXT, impersonation=_USER)
_APPLY: Final = _object(subresource=_TEXT, template=_TEXT, type=_TEXT, impersonation=_USER)
_COMMON: Final = {"event": _EVENT, "finalizers": _FINALIZERS, "delete": _YES}
_STAGE: Final = _object(
    resourceRef=_object(apiGroup=_TEXT, kind=_TEXT),
    selector=_object(
        matchLabels=_map(_TEXT),
        matchAnnotations=_map(_TEXT),
        matchExpressions=_list(_object(cel=_EXPRESSION, jq=_object(**_JQ), **_JQ)),
    ),
    weight=_COUNT,
    weightFrom=_FROM,
    delay=_object(
        durationMilliseconds=_COUNT,
        durationFrom=_FROM,
        jitterDurationMilliseconds=_COUNT,
        jitterDurationFrom=_FROM,
    ),
    next=_object(**_COMMON, patches=_list(_PATCH), statusTemplate=_TEXT, statusSubresource=_TEXT, statusPatchAs=_USER),
    steps=_list(_object(**_COMMON, patch=_PATCH, apply=_APPLY)),
    immediateNextStage=_YES,
)
_OUTPUT: Final = {"containers": _TEXTS, "logsFile": _TEXT, "text": _TEXT}
_PARTS: Final[dict[str, Schema]] = {
    "Logs": _object(**_OUTPUT, previousLogsFile=_TEXT, previousText=_TEXT, follow=_YES),
    "Attach": _object(**_OUTPUT),
    "Exec": _object(
        containers=_TEXTS,
        local=_object(
            workDir=_TEXT,
            envs=_list(_object(name=_TEXT, value=_TEXT)),
            securityContext=_object(runAsUser=_COUNT, runAsGroup=_COUNT),
        ),
        answers=_list(
            _object(
                command=_TEXTS,
                match=_TEXT,
                stdout=_TEXT,
                stderr=_TEXT,
                exitCode={"type": "integer", "minimum": 0, "maximum": 255},
                delayMilliseconds={**_COUNT, "maximum": 3_600_000},
            )
        ),
    ),
    "PortForward": _object(
        ports=_list({"type": "integer", "minimum": 1, "maximum": 65535}),
        target=_object(port={"type": "integer", "minimum": 1, "maximum": 65535}, address=_TEXT),
        command=_TEXTS,
    ),
    "ResourceUsage": _object(
        containers=_TEXTS,
        usage=_map(_object(value=_AMOUNT, expression=_TEXT, trace=_list(_object(after=_TEXT, value=_AMOUNT)))),
    ),
}


def kinds() -> dict[str, str]:
    """All kinds, and their plurals."""
    own = {STAGE: PLURALS[STAGE]}
    for kind in FIELDS:
        own[kind] = PLURALS[kind]
        own[CLUSTER + kind] = CLUSTER.lower() + PLURALS[kind]
    return own


def resource(kind: str) -> str:
    """The name of a kind's resource for clients."""
    return f"{kinds()[kind]}.{GROUP}"


def definitions() -> list[Object]:
    """A definition of each kind; new objects on every call."""
    return [_definition(kind, plural) for kind, plural in kinds().items()]


def errors_in(o: Object) -> Errors:
    """What is wrong with an object of one of the kinds."""
    kind = o.get("kind") or ""
    return read_stage(o)[1] if kind == STAGE else answer_errors(kind, o)


def _definition(kind: str, plural: str) -> Object:
    own = kind.removeprefix(CLUSTER) if kind != STAGE else kind
    cluster = kind == STAGE or kind.startswith(CLUSTER)
    if own == STAGE:
        spec = _STAGE
    else:
        spec = _object(**{FIELDS[own]: _list(_PARTS[own])})
        if cluster:
            spec["properties"]["selector"] = _object(matchNamespaces=_TEXTS, matchNames=_TEXTS)
    condition = _object(type=_TEXT, status=_TEXT, reason=_TEXT, message=_TEXT, lastTransitionTime=_TEXT)
    schema = _object(
        apiVersion=_TEXT,
        kind=_TEXT,
        metadata={"type": "object"},
        spec=spec,
        status=_object(conditions=_list(condition)),
    )
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Cluster" if cluster else "Namespaced",
            "versions": [version],
        },
    }

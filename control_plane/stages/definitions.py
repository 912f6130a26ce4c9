"""Definitions (CustomResourceDefinitions) of the kinds by which simulated pods and nodes are described. Pure.

Field names are those of KWOK's `kwok.x-k8s.io/v1alpha1`; `answers`, `text`, `previousText` and `trace` are ours.
"""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api.definitions import COUNT, TEXT, TEXTS, Schema, definition, list_of, map_of, object_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.answers import CLUSTER, FIELDS, answer_errors
from rayplane.control_plane.stages.expressions import Errors
from rayplane.control_plane.stages.stage import GROUP, STAGE, read_stage

PLURALS: Final = {
    STAGE: "stages",
    "Logs": "logs",
    "Exec": "execs",
    "Attach": "attaches",
    "PortForward": "portforwards",
    "ResourceUsage": "resourceusages",
}
_YES: Final[Schema] = {"type": "boolean"}
_AMOUNT: Final[Schema] = {"x-kubernetes-int-or-string": True}


_EXPRESSION: Final = object_of(expression=TEXT)
_FROM: Final = object_of(cel=_EXPRESSION, jq=_EXPRESSION, expressionFrom=TEXT)
_JQ: Final = {"key": TEXT, "operator": TEXT, "values": TEXTS}
_USER: Final = object_of(username=TEXT)
_EVENT: Final = object_of(type=TEXT, reason=TEXT, message=TEXT)
_VALUE: Final = list_of(object_of(value=TEXT))
_FINALIZERS: Final = object_of(add=_VALUE, remove=_VALUE, empty=_YES)
_PATCH: Final = object_of(subresource=TEXT, root=TEXT, template=TEXT, type=TEXT, impersonation=_USER)
_APPLY: Final = object_of(subresource=TEXT, template=TEXT, type=TEXT, impersonation=_USER)
_COMMON: Final = {"event": _EVENT, "finalizers": _FINALIZERS, "delete": _YES}
_STAGE: Final = object_of(
    resourceRef=object_of(apiGroup=TEXT, kind=TEXT),
    selector=object_of(
        matchLabels=map_of(TEXT),
        matchAnnotations=map_of(TEXT),
        matchExpressions=list_of(object_of(cel=_EXPRESSION, jq=object_of(**_JQ), **_JQ)),
    ),
    weight=COUNT,
    weightFrom=_FROM,
    delay=object_of(
        durationMilliseconds=COUNT,
        durationFrom=_FROM,
        jitterDurationMilliseconds=COUNT,
        jitterDurationFrom=_FROM,
    ),
    next=object_of(
        **_COMMON, patches=list_of(_PATCH), statusTemplate=TEXT, statusSubresource=TEXT, statusPatchAs=_USER
    ),
    steps=list_of(object_of(**_COMMON, patch=_PATCH, apply=_APPLY)),
    immediateNextStage=_YES,
)
_OUTPUT: Final = {"containers": TEXTS, "logsFile": TEXT, "text": TEXT}
_PARTS: Final[dict[str, Schema]] = {
    "Logs": object_of(**_OUTPUT, previousLogsFile=TEXT, previousText=TEXT, follow=_YES),
    "Attach": object_of(**_OUTPUT),
    "Exec": object_of(
        containers=TEXTS,
        local=object_of(
            workDir=TEXT,
            envs=list_of(object_of(name=TEXT, value=TEXT)),
            securityContext=object_of(runAsUser=COUNT, runAsGroup=COUNT),
        ),
        answers=list_of(
            object_of(
                command=TEXTS,
                match=TEXT,
                stdout=TEXT,
                stderr=TEXT,
                exitCode={"type": "integer", "minimum": 0, "maximum": 255},
                delayMilliseconds={**COUNT, "maximum": 3_600_000},
            )
        ),
    ),
    "PortForward": object_of(
        ports=list_of({"type": "integer", "minimum": 1, "maximum": 65535}),
        target=object_of(port={"type": "integer", "minimum": 1, "maximum": 65535}, address=TEXT),
        command=TEXTS,
    ),
    "ResourceUsage": object_of(
        containers=TEXTS,
        usage=map_of(object_of(value=_AMOUNT, expression=TEXT, trace=list_of(object_of(after=TEXT, value=_AMOUNT)))),
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
        spec = object_of(**{FIELDS[own]: list_of(_PARTS[own])})
        if cluster:
            spec["properties"]["selector"] = object_of(matchNamespaces=TEXTS, matchNames=TEXTS)
    condition = object_of(type=TEXT, status=TEXT, reason=TEXT, message=TEXT, lastTransitionTime=TEXT)
    return definition(
        GROUP,
        "v1alpha1",
        kind,
        plural,
        spec=spec,
        status=object_of(conditions=list_of(condition)),
        namespaced=not cluster,
    )

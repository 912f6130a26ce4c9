"""Experiments in Chaos Mesh's words: definitions of the kinds, and what an object of one of them may say. Pure.

Source: Chaos Mesh's API `chaos-mesh.org/v1alpha1` (its documentation, "Define the scope of chaos experiments",
"Simulate pod chaos", "Schedule"); field names are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, parse_schedule
from rayplane.control_plane.api.errors import ApiError, FieldError, invalid, required
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.durations import DurationError, parse_duration

Schema = dict[str, Any]
GROUP, VERSION = "chaos-mesh.org", "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
POD_CHAOS, NETWORK_CHAOS, SCHEDULE = "PodChaos", "NetworkChaos", "Schedule"
PLURALS: Final = {POD_CHAOS: "podchaos", NETWORK_CHAOS: "networkchaos", SCHEDULE: "schedules"}
#: Kinds of experiments, and the field of a Schedule that has the spec of one.
EXPERIMENTS: Final = {POD_CHAOS: "podChaos", NETWORK_CHAOS: "networkChaos"}
PAUSE: Final = "experiment.chaos-mesh.org/pause"
RECORDS: Final = "chaos-mesh/records"
"""The finalizer that keeps an experiment until what it did is undone."""
POD_KILL, POD_FAILURE, CONTAINER_KILL = "pod-kill", "pod-failure", "container-kill"
#: Done once, and not to be undone.
ONE_SHOT: Final = (POD_KILL, CONTAINER_KILL)
PARTITION, LOSS = "partition", "loss"
#: Of NetworkChaos, those that nodes carry out.
LOSSES: Final = (PARTITION, LOSS)
TO, FROM, BOTH = "to", "from", "both"
ONE, ALL, FIXED = "one", "all", "fixed"
FIXED_PERCENT, RANDOM_MAX_PERCENT = "fixed-percent", "random-max-percent"
FORBID, ALLOW = "Forbid", "Allow"
_FIELDS: Final = ("metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP")


def resource(kind: str) -> str:
    """The name of a kind's resource for clients."""
    return f"{PLURALS[kind]}.{GROUP}"


# --- definitions ----------------------------------------------------------------------------------

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_PAIRS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _object(*required: str, **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, **({"required": list(required)} if required else {})}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


_SELECTOR: Final = _object(
    namespaces=_TEXTS,
    nodes=_TEXTS,
    pods={"type": "object", "additionalProperties": _TEXTS},
    nodeSelectors=_PAIRS,
    fieldSelectors=_PAIRS,
    labelSelectors=_PAIRS,
    expressionSelectors=_list(_object("key", "operator", key=_TEXT, operator=_TEXT, values=_TEXTS)),
    annotationSelectors=_PAIRS,
    podPhaseSelectors=_TEXTS,
)
_SELECTED: Final[dict[str, Schema]] = {
    "selector": _SELECTOR,
    "mode": _enum(ONE, ALL, FIXED, FIXED_PERCENT, RANDOM_MAX_PERCENT),
    "value": _TEXT,
}
_SPECS: Final[dict[str, Schema]] = {
    POD_CHAOS: _object(
        "action",
        "mode",
        "selector",
        **_SELECTED,
        action=_enum(POD_KILL, POD_FAILURE, CONTAINER_KILL),
        containerNames=_TEXTS,
        duration=_TEXT,
        gracePeriod=_COUNT,
        remoteCluster=_TEXT,
    ),
    NETWORK_CHAOS: _object(
        "action",
        "mode",
        "selector",
        **_SELECTED,
        action=_enum("netem", "delay", LOSS, "duplicate", "corrupt", PARTITION, "bandwidth"),
        device=_TEXT,
        targetDevice=_TEXT,
        direction=_enum(TO, FROM, BOTH, ""),
        target=_object("mode", "selector", **_SELECTED),
        externalTargets=_TEXTS,
        duration=_TEXT,
        remoteCluster=_TEXT,
        delay=_object(
            latency=_TEXT,
            correlation=_TEXT,
            jitter=_TEXT,
            reorder=_object(reorder=_TEXT, correlation=_TEXT, gap=_COUNT),
        ),
        loss=_object(loss=_TEXT, correlation=_TEXT),
        duplicate=_object(duplicate=_TEXT, correlation=_TEXT),
        corrupt=_object(corrupt=_TEXT, correlation=_TEXT),
        rate=_object(rate=_TEXT),
        bandwidth=_object(rate=_TEXT, limit=_COUNT, buffer=_COUNT, peakrate=_COUNT, minburst=_COUNT),
    ),
}
_EVENT: Final = _object(type=_TEXT, operation=_TEXT, message=_TEXT, timestamp=_TEXT)
_RECORD: Final = _object(
    id=_TEXT,
    selectorKey=_TEXT,
    phase=_TEXT,
    injectedCount=_COUNT,
    recoveredCount=_COUNT,
    events=_list(_EVENT),
    uid=_TEXT,
)
_STATUS: Final = _object(
    conditions=_list(_object(type=_TEXT, status=_TEXT, reason=_TEXT)),
    experiment=_object(desiredPhase=_TEXT, containerRecords=_list(_RECORD)),
)
_REFERENCE: Final = _object(apiVersion=_TEXT, kind=_TEXT, name=_TEXT, namespace=_TEXT, uid=_TEXT, resourceVersion=_TEXT)


def definitions() -> list[Object]:
    """A definition (CustomResourceDefinition) of each kind; new objects on every call."""
    found = [_definition(kind, _SPECS[kind], _STATUS) for kind in EXPERIMENTS]
    schedule = _object(
        "schedule",
        "type",
        schedule=_TEXT,
        type=_TEXT,
        concurrencyPolicy=_enum(FORBID, ALLOW),
        historyLimit={**_COUNT, "minimum": 1},
        startingDeadlineSeconds={**_COUNT, "nullable": True},
        **{field: _SPECS[kind] for kind, field in EXPERIMENTS.items()},
    )
    status = _object(active=_list(_REFERENCE), time={**_TEXT, "nullable": True})
    return [*found, _definition(SCHEDULE, schedule, status)]


def _definition(kind: str, spec: Schema, status: Schema) -> Object:
    schema = _object("spec", apiVersion=_TEXT, kind=_TEXT, metadata={"type": "object"}, spec=spec, status=status)
    plural = PLURALS[kind]
    version = {
        "name": VERSION,
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
            "scope": "Namespaced",
            "versions": [version],
        },
    }


# --- what objects may say -------------------------------------------------------------------------


def specs_of(o: Object) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The experiment that an object is, or has made: its kind, where its spec stands, and that spec."""
    kind, spec = o.get("kind") or "", meta.spec(o)
    if kind in EXPERIMENTS:
        yield kind, "spec", spec
    elif kind == SCHEDULE and (field := EXPERIMENTS.get(spec.get("type") or "")):
        yield spec["type"], f"spec.{field}", spec.get(field) or {}


def namespaces_of(o: Object) -> set[str]:
    """The namespaces whose pods an object's experiment may hit."""
    found: set[str] = set()
    for _, _, spec in specs_of(o):
        for one in (spec, spec.get("target") or {}):
            selector = one.get("selector") or {}
            found |= {*(selector.get("namespaces") or selector.get("pods") or [meta.namespace(o)])}
    return found


def errors_in(o: Object) -> list[FieldError]:
    """What is wrong with an object of one of the kinds, beyond its schema."""
    return [*_schedule_errors(o), *(error for _, path, spec in specs_of(o) for error in _spec_errors(path, spec))]


def _schedule_errors(o: Object) -> Iterator[FieldError]:
    if o.get("kind") != SCHEDULE:
        return
    spec = meta.spec(o)
    try:
        parse_schedule(spec.get("schedule") or "")
    except CronError as e:
        yield invalid("spec.schedule", spec.get("schedule"), str(e))
    kind = spec.get("type") or ""
    if kind not in EXPERIMENTS:
        yield invalid("spec.type", kind, f"supported here: {', '.join(EXPERIMENTS)}")
    elif not spec.get(EXPERIMENTS[kind]):
        yield required(f"spec.{EXPERIMENTS[kind]}", f"a {kind} is to be made")


def _spec_errors(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    yield from _selected_errors(path, spec)
    duration, action = spec.get("duration"), spec.get("action")
    if duration is not None:
        try:
            if parse_duration(duration) <= 0:
                yield invalid(f"{path}.duration", duration, "must be more than nothing")
        except DurationError as e:
            yield invalid(f"{path}.duration", duration, str(e))
    if action == CONTAINER_KILL and not spec.get("containerNames"):
        yield required(f"{path}.containerNames", "must name the containers to kill")
    yield from _network_errors(path, spec)
    if spec.get("remoteCluster"):
        yield invalid(f"{path}.remoteCluster", spec["remoteCluster"], "no other cluster is known here")


def _network_errors(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    if spec.get("target"):
        yield from _selected_errors(f"{path}.target", spec["target"])
    if spec.get("action") == LOSS:
        try:
            percent(spec)
        except ValueError as e:
            yield invalid(f"{path}.loss.loss", (spec.get("loss") or {}).get("loss"), str(e))
    if spec.get("direction") in (FROM, BOTH) and not (spec.get("target") or spec.get("externalTargets")):
        yield required(f"{path}.target", "must be there where packets come from it")
    for one in spec.get("externalTargets") or ():
        try:
            IPv4Address(one)
        except ValueError:
            yield invalid(f"{path}.externalTargets", one, "supported here: IPv4 addresses")


def percent(spec: Mapping[str, Any]) -> int:
    """How many of a hundred packets a loss means, at least one. Raises ValueError."""
    found = float((spec.get("loss") or {}).get("loss") or "")
    if not 0 < found <= 100:
        raise ValueError("must be more than 0 and at most 100")
    return max(1, round(found))


def _selected_errors(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    """What is wrong with a selector, its mode and value."""
    mode, value, selector = spec.get("mode"), spec.get("value") or "", spec.get("selector") or {}
    if mode in (FIXED, FIXED_PERCENT, RANDOM_MAX_PERCENT):
        most = None if mode == FIXED else 100
        if not value.isascii() or not value.isdigit() or len(value) > 9 or (most is not None and int(value) > most):
            what = "a whole number" if mode == FIXED else "a whole number from 0 to 100"
            yield invalid(f"{path}.value", value, f"must be {what} when mode is {mode}")
    try:
        from_label_selector({"matchExpressions": selector.get("expressionSelectors") or []})
    except ApiError as e:
        yield invalid(f"{path}.selector.expressionSelectors", selector["expressionSelectors"], e.message)
    for field in selector.get("fieldSelectors") or ():
        if field not in _FIELDS:
            yield invalid(f"{path}.selector.fieldSelectors", field, f"supported here: {', '.join(_FIELDS)}")


def is_paused(o: Object) -> bool:
    """Whether its annotation says so."""
    return meta.annotations(o).get(PAUSE) == "true"

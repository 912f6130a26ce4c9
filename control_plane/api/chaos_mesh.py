"""Experiments in Chaos Mesh's words: definitions of the kinds, and what an object of one of them may say. Pure.

Source: Chaos Mesh's API `chaos-mesh.org/v1alpha1` (its documentation, "Define the scope of chaos experiments",
"Simulate pod chaos", "Schedule"); field names are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from rayplane.control_plane.api import chaos_stress, chaos_workflow, meta
from rayplane.control_plane.api.cron import CronError, parse_schedule
from rayplane.control_plane.api.definitions import COUNT, TEXT, TEXTS, Schema, definition, list_of, map_of, object_of
from rayplane.control_plane.api.errors import ApiError, FieldError, invalid, required
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import LATENCY_MAX_MS, RATE_MAX, Netem
from rayplane.control_plane.durations import DurationError, parse_duration

GROUP, VERSION = "chaos-mesh.org", "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
POD_CHAOS, NETWORK_CHAOS, STRESS_CHAOS, SCHEDULE = "PodChaos", "NetworkChaos", "StressChaos", "Schedule"
WORKFLOW = "Workflow"
PLURALS: Final = {
    POD_CHAOS: "podchaos",
    NETWORK_CHAOS: "networkchaos",
    STRESS_CHAOS: "stresschaos",
    SCHEDULE: "schedules",
    WORKFLOW: "workflows",
}
#: Kinds of experiments, and the field of a Schedule that has the spec of one.
EXPERIMENTS: Final = {POD_CHAOS: "podChaos", NETWORK_CHAOS: "networkChaos", STRESS_CHAOS: "stressChaos"}
#: What templates of a Workflow make, and the field of one that has its spec.
MADE_BY_WORKFLOWS: Final = {**EXPERIMENTS, SCHEDULE: "schedule"}
_BY_FAULT = "see `rayplane chaos inject` for what can be done to the cluster's own parts"
#: Kinds that are refused, with their plurals, and what there is instead.
REFUSED: Final = {
    "TimeChaos": ("timechaos", f"no pod has a clock of its own; {_BY_FAULT}, such as clock_jump"),
    "IOChaos": ("iochaos", f"files of pods are not stood between; {_BY_FAULT}, such as slow_disk and full_disk"),
    "HTTPChaos": ("httpchaos", "what pods say is not changed; a NetworkChaos delays, loses and limits it"),
    "DNSChaos": ("dnschaos", "answers to pods are not changed; a NetworkChaos keeps them from arriving"),
    "JVMChaos": ("jvmchaos", "nobody enters a pod's virtual machine"),
    "KernelChaos": ("kernelchaos", "pods share the machine's kernel"),
    "StatusCheck": ("statuschecks", "files of `rayplane chaos run` say what is expected, and judge it"),
}
PAUSE: Final = "experiment.chaos-mesh.org/pause"
RECORDS: Final = "chaos-mesh/records"
"""The finalizer that keeps an experiment until what it did is undone."""
POD_KILL, POD_FAILURE, CONTAINER_KILL = "pod-kill", "pod-failure", "container-kill"
#: Done once, and not to be undone.
ONE_SHOT: Final = (POD_KILL, CONTAINER_KILL)
PARTITION, LOSS, BANDWIDTH = "partition", "loss", "bandwidth"
DELAY, DUPLICATE, CORRUPT, NETEM = "delay", "duplicate", "corrupt", "netem"
TO, FROM, BOTH = "to", "from", "both"
ONE, ALL, FIXED = "one", "all", "fixed"
FIXED_PERCENT, RANDOM_MAX_PERCENT = "fixed-percent", "random-max-percent"
FORBID, ALLOW = "Forbid", "Allow"
_RATE = re.compile("([0-9]{1,9}) *([kmgt]?)bps")
_FIELDS: Final = ("metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP")


def resource(kind: str) -> str:
    """The name of a kind's resource for clients."""
    return f"{PLURALS[kind]}.{GROUP}"


RESOURCES: Final = tuple(f"{plural}.{GROUP}" for plural in (*PLURALS.values(), *(one[0] for one in REFUSED.values())))
"""Names of the resources of all kinds, those that are refused too."""


# --- definitions ----------------------------------------------------------------------------------

_PAIRS: Final = map_of(TEXT)


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_SELECTOR: Final = object_of(
    namespaces=TEXTS,
    nodes=TEXTS,
    pods=map_of(TEXTS),
    nodeSelectors=_PAIRS,
    fieldSelectors=_PAIRS,
    labelSelectors=_PAIRS,
    expressionSelectors=list_of(object_of("key", "operator", key=TEXT, operator=TEXT, values=TEXTS)),
    annotationSelectors=_PAIRS,
    podPhaseSelectors=TEXTS,
)
_SELECTED: Final[dict[str, Schema]] = {
    "selector": _SELECTOR,
    "mode": _enum(ONE, ALL, FIXED, FIXED_PERCENT, RANDOM_MAX_PERCENT),
    "value": TEXT,
}
_SPECS: Final[dict[str, Schema]] = {
    POD_CHAOS: object_of(
        "action",
        "mode",
        "selector",
        **_SELECTED,
        action=_enum(POD_KILL, POD_FAILURE, CONTAINER_KILL),
        containerNames=TEXTS,
        duration=TEXT,
        gracePeriod=COUNT,
        remoteCluster=TEXT,
    ),
    NETWORK_CHAOS: object_of(
        "action",
        "mode",
        "selector",
        **_SELECTED,
        action=_enum(NETEM, DELAY, LOSS, DUPLICATE, CORRUPT, PARTITION, BANDWIDTH),
        device=TEXT,
        targetDevice=TEXT,
        direction=_enum(TO, FROM, BOTH, ""),
        target=object_of("mode", "selector", **_SELECTED),
        externalTargets=TEXTS,
        duration=TEXT,
        remoteCluster=TEXT,
        delay=object_of(
            latency=TEXT,
            correlation=TEXT,
            jitter=TEXT,
            reorder=object_of(reorder=TEXT, correlation=TEXT, gap=COUNT),
        ),
        loss=object_of(loss=TEXT, correlation=TEXT),
        duplicate=object_of(duplicate=TEXT, correlation=TEXT),
        corrupt=object_of(corrupt=TEXT, correlation=TEXT),
        rate=object_of(rate=TEXT),
        bandwidth=object_of(rate=TEXT, limit=COUNT, buffer=COUNT, peakrate=COUNT, minburst=COUNT),
    ),
}
_SPECS[STRESS_CHAOS] = object_of(
    "mode",
    "selector",
    **_SELECTED,
    stressors=chaos_stress.SCHEMA,
    stressngStressors=TEXT,
    containerNames=TEXTS,
    duration=TEXT,
    remoteCluster=TEXT,
)
_EVENT: Final = object_of(type=TEXT, operation=TEXT, message=TEXT, timestamp=TEXT)
_RECORD: Final = object_of(
    id=TEXT,
    selectorKey=TEXT,
    phase=TEXT,
    injectedCount=COUNT,
    recoveredCount=COUNT,
    events=list_of(_EVENT),
    uid=TEXT,
)
_STATUS: Final = object_of(
    conditions=list_of(object_of(type=TEXT, status=TEXT, reason=TEXT)),
    experiment=object_of(desiredPhase=TEXT, containerRecords=list_of(_RECORD)),
)
_REFERENCE: Final = object_of(apiVersion=TEXT, kind=TEXT, name=TEXT, namespace=TEXT, uid=TEXT, resourceVersion=TEXT)


_SCHEDULE: Final = object_of(
    "schedule",
    "type",
    schedule=TEXT,
    type=TEXT,
    concurrencyPolicy=_enum(FORBID, ALLOW),
    historyLimit={**COUNT, "minimum": 1},
    startingDeadlineSeconds={**COUNT, "nullable": True},
    **{field: _SPECS[kind] for kind, field in EXPERIMENTS.items()},
)
_ANYTHING: Final[Schema] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEMPLATE: Final = _ANYTHING | object_of(
    "name",
    "templateType",
    name=TEXT,
    templateType=TEXT,
    deadline=TEXT,
    children=TEXTS,
    schedule=_SCHEDULE,
    **{field: _SPECS[kind] for kind, field in EXPERIMENTS.items()},
)
_NODE: Final = object_of(
    name=TEXT, template=TEXT, type=TEXT, startTime=TEXT, endTime=TEXT, reason=TEXT, chaosResource=_REFERENCE
)


def definitions() -> list[Object]:
    """A definition (CustomResourceDefinition) of each kind; new objects on every call."""
    found = [_definition(kind, _SPECS[kind], _STATUS) for kind in EXPERIMENTS]
    schedule = object_of(active=list_of(_REFERENCE), time={**TEXT, "nullable": True})
    workflow = object_of(
        entryNode=TEXT,
        startTime=TEXT,
        endTime=TEXT,
        conditions=list_of(object_of(type=TEXT, status=TEXT, reason=TEXT, startTime=TEXT)),
        nodes=list_of(_NODE),
    )
    found.append(_definition(SCHEDULE, _SCHEDULE, schedule))
    found.append(
        _definition(WORKFLOW, object_of("entry", "templates", entry=TEXT, templates=list_of(_TEMPLATE)), workflow)
    )
    refused = [definition(GROUP, VERSION, kind, REFUSED[kind][0], spec=_ANYTHING, status=_ANYTHING) for kind in REFUSED]
    return [*found, *refused]


def _definition(kind: str, spec: Schema, status: Schema) -> Object:
    return definition(GROUP, VERSION, kind, PLURALS[kind], spec=spec, status=status, required=["spec"])


# --- what objects may say -------------------------------------------------------------------------


def specs_of(o: Object) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The experiments that an object is, or has made: each one's kind, where its spec stands, and that spec."""
    kind, spec = o.get("kind") or "", meta.spec(o)
    if kind in EXPERIMENTS:
        yield kind, "spec", spec
    elif kind == SCHEDULE:
        yield from _of_schedule("spec", spec)
    elif kind == WORKFLOW:
        for number, template in enumerate(spec.get("templates") or ()):
            path, made = f"spec.templates[{number}]", template.get("templateType") or ""
            if made in EXPERIMENTS:
                yield made, f"{path}.{EXPERIMENTS[made]}", template.get(EXPERIMENTS[made]) or {}
            elif made == SCHEDULE:
                yield from _of_schedule(f"{path}.schedule", template.get("schedule") or {})


def _of_schedule(path: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if field := EXPERIMENTS.get(spec.get("type") or ""):
        yield spec["type"], f"{path}.{field}", spec.get(field) or {}


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
    kind, spec = o.get("kind") or "", meta.spec(o)
    if kind in REFUSED:
        return [invalid("kind", kind, f"is not carried out here: {REFUSED[kind][1]}")]
    found: list[FieldError] = []
    if kind == SCHEDULE:
        found += _schedule_errors("spec", spec)
    elif kind == WORKFLOW:
        found += chaos_workflow.errors_in(spec, MADE_BY_WORKFLOWS, _ends)
        for number, template in enumerate(spec.get("templates") or ()):
            if template.get("templateType") == SCHEDULE:
                found += _schedule_errors(f"spec.templates[{number}].schedule", template.get("schedule") or {})
    return found + [error for made, path, one in specs_of(o) for error in _spec_errors(made, path, one)]


def _ends(kind: str, template: Mapping[str, Any]) -> bool:
    """Whether what a template of a workflow makes ends by itself."""
    made = template.get(MADE_BY_WORKFLOWS[kind]) or {}
    return kind != SCHEDULE and (bool(made.get("duration")) or made.get("action") in ONE_SHOT)


def _schedule_errors(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    try:
        parse_schedule(spec.get("schedule") or "")
    except CronError as e:
        yield invalid(f"{path}.schedule", spec.get("schedule"), str(e))
    kind = spec.get("type") or ""
    if kind not in EXPERIMENTS:
        yield invalid(f"{path}.type", kind, f"supported here: {', '.join(EXPERIMENTS)}")
    elif not spec.get(EXPERIMENTS[kind]):
        yield required(f"{path}.{EXPERIMENTS[kind]}", f"a {kind} is to be made")


def _spec_errors(kind: str, path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
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
    if kind == NETWORK_CHAOS:
        yield from _network_errors(path, spec)
    elif kind == STRESS_CHAOS:
        yield from chaos_stress.errors_in(path, spec)
    if spec.get("remoteCluster"):
        yield invalid(f"{path}.remoteCluster", spec["remoteCluster"], "no other cluster is known here")


def _network_errors(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    if spec.get("target"):
        yield from _selected_errors(f"{path}.target", spec["target"])
    try:
        netem(spec)
    except ValueError as e:
        where, _, why = str(e).partition(": ")
        yield invalid(f"{path}.{where}", _at(spec, where), why)
    if rate := rate_field(spec):
        try:
            bytes_a_second(spec)
        except ValueError as e:
            yield invalid(f"{path}.{rate}.rate", (spec.get(rate) or {}).get("rate"), str(e))
    if spec.get("direction") in (FROM, BOTH) and not (spec.get("target") or spec.get("externalTargets")):
        yield required(f"{path}.target", "must be there where packets come from it")
    for one in spec.get("externalTargets") or ():
        try:
            IPv4Address(one)
        except ValueError:
            yield invalid(f"{path}.externalTargets", one, "supported here: IPv4 addresses")


def percent(spec: Mapping[str, Any]) -> int:
    """How many of a hundred packets a loss without correlation means, at least one. Raises ValueError."""
    return max(1, round(_part(spec, "loss.loss", least=0)))


def netem(spec: Mapping[str, Any]) -> Netem | None:
    """What a NetworkChaos does to each packet; None for a partition, a rate alone, and what only loses packets.

    Raises ValueError that begins with the field which is wrong.
    """
    action = spec.get("action")
    if action not in (NETEM, DELAY, LOSS, DUPLICATE, CORRUPT):
        return None
    found: dict[str, Any] = {}
    wanted = [
        name for name in (DELAY, LOSS, DUPLICATE, CORRUPT) if action == name or (action == NETEM and spec.get(name))
    ]
    if not wanted and not rate_field(spec):
        raise ValueError(f"{DELAY}: {action} needs one of {DELAY}, {LOSS}, {DUPLICATE}, {CORRUPT}, rate")
    for name in wanted:
        if name == DELAY:
            found |= _delay(spec)
        else:
            found[name] = _part(spec, f"{name}.{name}", least=0)
        if name in (LOSS, CORRUPT):
            found[f"{name}_correlation"] = _part(spec, f"{name}.correlation")
    made = Netem(**found)
    return None if not made.disturbs or (action == LOSS and not made.loss_correlation) else made


def _delay(spec: Mapping[str, Any]) -> dict[str, Any]:
    times = {f"{name}_ms": _milliseconds(spec, f"delay.{name}") for name in ("latency", "jitter")}
    if not times["latency_ms"]:
        raise ValueError("delay.latency: must be more than nothing")
    reorder = {"reorder": _part(spec, "delay.reorder.reorder"), "gap": _at(spec, "delay.reorder.gap") or 0}
    correlations = {
        "latency_correlation": _part(spec, "delay.correlation"),
        "reorder_correlation": _part(spec, "delay.reorder.correlation"),
    }
    return times | reorder | correlations


def _at(spec: Mapping[str, Any], path: str) -> Any:
    found: Any = spec
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def _part(spec: Mapping[str, Any], path: str, *, least: float | None = None) -> float:
    """So many of a hundred; with `least` it must be there and be more. Raises ValueError."""
    text = _at(spec, path)
    if text in (None, "") and least is None:
        return 0
    try:
        found = float(text or "")
    except ValueError:
        found = -1
    if not (0 <= found <= 100 if least is None else least < found <= 100):
        raise ValueError(f"{path}: must be {'from 0 to' if least is None else f'more than {least} and at most'} 100")
    return found


def _milliseconds(spec: Mapping[str, Any], path: str) -> float:
    text = _at(spec, path)
    try:
        found = parse_duration(text) * 1000 if text else 0
    except DurationError as e:
        raise ValueError(f"{path}: {e}") from e
    if not 0 <= found <= LATENCY_MAX_MS:
        raise ValueError(f"{path}: must be at most {LATENCY_MAX_MS // 1000}s")
    return found


def rate_field(spec: Mapping[str, Any]) -> str:
    """The field that has a rate; empty for none."""
    if spec.get("action") == BANDWIDTH:
        return BANDWIDTH
    return "rate" if spec.get("action") == NETEM and spec.get("rate") else ""


def bytes_a_second(spec: Mapping[str, Any]) -> int:
    """The rate of a bandwidth. Raises ValueError."""
    found = _RATE.fullmatch(str((spec.get(rate_field(spec)) or {}).get("rate") or "").strip().lower())
    most = f"must be a whole number with bps (bytes a second), kbps or mbps, from 1bps to {RATE_MAX >> 20}mbps"
    if found is None:
        raise ValueError(most)
    rate = int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]
    if not 0 < rate <= RATE_MAX:
        raise ValueError(most)
    return rate


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

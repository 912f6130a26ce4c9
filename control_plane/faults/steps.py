"""The steps of a scenario as files write them, the same on a live cluster and in the simulation. Pure.

    workload: [{apiVersion: apps/v1, kind: Deployment, ...}]   # applied before the first step
    steps:
      - apply: [...]                  # more manifests
      - await: {ready: cluster, within: 60s}
      - await: {deployment: web, replicas: 6, within: 2m}    # just so many, ready and of the newest template
      - await: {deployment: web, ready: 50%}                 # at least so many
      - scale: {statefulset: db, replicas: 5}
      - roll: {deployment: web}       # a new template, as `kubectl rollout restart`
      - delete: {deployment: web}
      - kill: leader                  # any fault, in its form (see `faults.form`)
      - sleep: 30s
      - repeat: 3
        steps: [...]
      - choose: [...]                 # one of these steps
    faults:                           # while the steps are taken
      - {kill: leader, at: 10s}       # so long after the first step has begun
      - {kill: apiserver random, every: 20s}
      - {stop: {target: node-1, for: 5s}, when: {deployment: web, rolled: 50%}}     # as soon as that is so
    expect:
      - {deployment: web, replicas: 6}
      - {writes: {available: 99%, gap: 5s}}   # of the client's own; also reads, app
      - {recovered: 30s}                      # after every fault that is over, so soon

Older words go on: `signal: STOP apiserver` with `for: 3s`, `wait: 1.5`, `wait: healthy` with `timeout: 60`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.faults import reading
from rayplane.control_plane.faults.form import VERBS, read_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import Fault

if TYPE_CHECKING:
    import random

Object = dict[str, Any]

WORKLOADS = {"deployment": "deployments.apps", "statefulset": "statefulsets.apps"}
WITHIN_S = 120.0
HEALTHY_TIMEOUT_S = 60.0
REPEAT_MAX = 10_000
DEPTH_MAX = 10
TIMED_MAX = 1000
REPLICAS, ROLLED, READY = "replicas", "rolled", "ready"
MEASURES = (REPLICAS, ROLLED, READY)
CLUSTER, ACTORS, CLAIMS = "cluster", "actors", "claims"
SERVED = ("reads", "writes", "app")
RECOVERED = "recovered"
SIGNALS = {"KILL": "kill", "STOP": "stop", "CONT": "continue"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A state that is waited for.

    `kind` deployment or statefulset: of `measure` replicas so many are ready, all of the newest template, and no more;
    `ready`: at least so many are, or `percent` of those wanted; `rolled`: so many are of the newest template, and there
    are older ones yet; `claims`: so many bound; `cluster`: all
    nodes are Ready and every leader leads; `actors`: those run that are wanted and no others, and the members, so many
    unless that is 0, are those that vote.
    """

    kind: str
    name: str = ""
    count: int = 0
    namespace: str = "default"
    measure: str = REPLICAS
    percent: bool = False

    def __str__(self) -> str:
        if self.kind == CLUSTER:
            return "the cluster is ready"
        if self.kind == ACTORS:
            return "all actors run, and all members vote" + (f", {self.count} of them" if self.count else "")
        if self.kind == CLAIMS:
            return f"{self.count} claims are bound"
        if self.measure == REPLICAS:
            return f"{self.kind} {self.name} has {self.count} ready replicas"
        share = f"{self.count} %" if self.percent else str(self.count)
        return f"{self.kind} {self.name} has {share} of its replicas {self.measure}"


@dataclass(frozen=True, slots=True)
class Await:
    """The wait until a condition holds."""

    condition: Condition
    within_s: float


@dataclass(frozen=True, slots=True)
class Apply:
    """Manifests that are made, or changed to be so."""

    objects: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A workload that is wanted in another size."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class OfWorkload:
    """A step for the workload of a kind and a name."""

    kind: str
    name: str
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Roll(OfWorkload):
    """A workload that gets a new template, with the same containers."""


@dataclass(frozen=True, slots=True)
class Remove(OfWorkload):
    """A workload that is deleted."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Repeat:
    """Steps that are taken several times."""

    times: int
    steps: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Choose:
    """Several steps, of which one is taken."""

    steps: tuple[Any, ...]


Step = Await | Apply | Scale | Roll | Remove | Sleep | Repeat | Choose | Fault
NOT_FAULTS = (Await, Apply, Scale, Roll, Remove, Sleep, Repeat, Choose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A fault beside the steps: once `at_s` after the first of them began, or every `every_s`, or when a condition
    holds."""

    fault: Fault
    at_s: float | None = None
    every_s: float | None = None
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The availability of `reads`, `writes` or the `app` that is expected: a percentage, and the longest gap."""

    what: str
    percent: float = 0.0
    gap_s: float | None = None

    def __str__(self) -> str:
        gap = "" if self.gap_s is None else f", never away for longer than {self.gap_s:g} s"
        return f"{self.what} are available for {self.percent:g} %{gap}"


@dataclass(frozen=True, slots=True)
class Recovered:
    """The expectation that everything is well again so soon after each fault is over."""

    within_s: float

    def __str__(self) -> str:
        return f"recovered within {self.within_s:g} s of every fault"


Expectation = Condition | Served | Recovered
Reader = Callable[[Object, str, int], Any]
"""Of a step: its mapping, its place, how deep it stands."""
Verbs = Mapping[str, tuple[tuple[str, ...], Reader]]
"""Verbs of steps, the fields that stand beside each, and who reads it."""


def read_steps(found: Any, place: str, verbs: Verbs, depth: int = 0) -> tuple[Any, ...]:
    """Steps of these verbs, and faults. Raises FormError."""
    if depth > DEPTH_MAX:
        raise FormError(place, f"nested deeper than {DEPTH_MAX}")
    return tuple(read_step(one, f"{place}[{i}]", verbs, depth) for i, one in enumerate(reading.items(found, place)))


def read_step(found: Any, place: str, verbs: Verbs, depth: int = 0) -> Any:
    """One step. Raises FormError."""
    step = reading.mapping(found, place)
    known = (*verbs, *VERBS)
    chosen = [v for v in known if v in step]
    if not chosen and len(step) == 1:
        raise FormError(place, f"no action {reading.shown(next(iter(step)))}; use {', '.join(known)}")
    if len(chosen) != 1:
        raise FormError(place, f"give one action of {', '.join(known)}")
    [verb] = chosen
    beside, read = verbs.get(verb, ((), None))
    reading.only(step, {verb, *beside}, place)
    return read(step, place, depth) if read is not None else read_fault(verb, step[verb], f"{place}.{verb}")


def read_condition(data: Object, at: str) -> Condition:
    """A condition. Raises FormError."""
    kinds = [k for k in (*WORKLOADS, CLAIMS, "ready") if k in data]
    if len(kinds) > 1 and kinds[-1] == "ready":
        kinds.pop()  # of a workload it says how many
    if len(kinds) != 1:
        raise FormError(at, f"name one of {', '.join((*WORKLOADS, CLAIMS, 'ready'))}")
    [kind] = kinds
    if kind == "ready":
        reading.only(data, {"ready", *(["members"] if data["ready"] == ACTORS else [])}, at)
        if data["ready"] not in (CLUSTER, ACTORS):
            raise FormError(f"{at}.ready", f"only `{CLUSTER}` and `{ACTORS}` can be awaited so")
        return Condition(data["ready"], count=reading.whole(data.get("members", 0), f"{at}.members"))
    space = str(data.get("namespace", "default"))
    if kind == CLAIMS:
        reading.only(data, {CLAIMS, "namespace"}, at)
        return Condition(CLAIMS, count=reading.whole(data[CLAIMS], f"{at}.{CLAIMS}"), namespace=space)
    reading.only(data, {kind, "namespace", *MEASURES}, at)
    measures = [m for m in MEASURES if m in data]
    if len(measures) > 1:
        raise FormError(at, f"give one of {', '.join(MEASURES)}")
    measure = measures[0] if measures else REPLICAS
    count, percent = _count(data.get(measure), f"{at}.{measure}", percents=measure != REPLICAS)
    return Condition(kind, str(data[kind]), count, space, measure, percent)


def _count(value: Any, at: str, *, percents: bool) -> tuple[int, bool]:
    if percents and isinstance(value, str) and value.endswith("%"):
        return round(_percent(value, at)), True
    return reading.whole(value, at), False


def _percent(value: Any, at: str) -> float:
    text = str(value)
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = -1.0
    if not text.endswith("%") or not 0 <= found <= 100:
        raise FormError(at, f"give a percentage such as 99.5%, not {reading.shown(value)}")
    return found


def read_manifests(body: Any, at: str) -> tuple[Object, ...]:
    """Manifests, one or a list. Raises FormError."""
    objects = reading.items(body, at) if isinstance(body, list) else [body]
    for i, obj in enumerate(objects):
        manifest = reading.mapping(obj, f"{at}[{i}]")
        metadata = manifest.get("metadata")
        named = isinstance(metadata, dict) and metadata.get("name")
        if not (manifest.get("apiVersion") and manifest.get("kind") and named):
            raise FormError(f"{at}[{i}]", "a manifest needs apiVersion, kind and metadata.name")
    return tuple(objects)


def read_timed(found: Any, place: str) -> tuple[Timed, ...]:
    """The section `faults`. Raises FormError."""
    listed = reading.items(found, place)
    if len(listed) > TIMED_MAX:
        raise FormError(place, f"give at most {TIMED_MAX} faults")
    return tuple(_timed(one, f"{place}[{i}]") for i, one in enumerate(listed))


def _timed(found: Any, at: str) -> Timed:
    data = reading.mapping(found, at)
    moments = [word for word in ("at", "every", "when") if word in data]
    verbs = [verb for verb in VERBS if verb in data]
    if len(verbs) != 1:
        raise FormError(at, f"give one of {', '.join(VERBS)}")
    if len(moments) != 1:
        raise FormError(at, "say when: give one of at, every, when")
    [verb], [moment] = verbs, moments
    reading.only(data, {verb, moment}, at)
    fault = read_fault(verb, data[verb], f"{at}.{verb}")
    place = f"{at}.{moment}"
    if moment == "at":
        return Timed(fault=fault, at_s=reading.span(data["at"], place))
    if moment == "every":
        return Timed(fault=fault, every_s=reading.span(data["every"], place, positive=True))
    return Timed(fault=fault, when=read_condition(reading.mapping(data["when"], place), place))


def read_expectations(found: Any, place: str) -> tuple[Expectation, ...]:
    """The section `expect`. Raises FormError."""
    return tuple(_expectation(one, f"{place}[{i}]") for i, one in enumerate(reading.items(found, place)))


def _expectation(found: Any, at: str) -> Expectation:
    data = reading.mapping(found, at)
    if RECOVERED in data:
        reading.only(data, {RECOVERED}, at)
        return Recovered(reading.span(data[RECOVERED], f"{at}.{RECOVERED}"))
    for what in SERVED:
        if what in data:
            reading.only(data, {what}, at)
            body = reading.mapping(data[what], f"{at}.{what}")
            reading.only(body, {"available", "gap"}, f"{at}.{what}")
            percent = _percent(body.get("available", "0%"), f"{at}.{what}.available")
            gap_s = reading.span(body["gap"], f"{at}.{what}.gap") if "gap" in body else None
            return Served(what=what, percent=percent, gap_s=gap_s)
    return read_condition(data, at)


def faults_of(steps: Sequence[Any]) -> Iterator[Fault]:
    """All faults that steps may do."""
    for step in steps:
        if isinstance(step, Repeat | Choose):
            yield from faults_of(step.steps)
        elif not isinstance(step, NOT_FAULTS):
            yield step


def objects_of(steps: Sequence[Any]) -> Iterator[Object]:
    """All objects that steps may apply."""
    for step in steps:
        if isinstance(step, Repeat | Choose):
            yield from objects_of(step.steps)
        elif isinstance(step, Apply):
            yield from step.objects


def unfolded(steps: Sequence[Any], rng: "random.Random") -> Iterator[Any]:
    """Steps one after the other, with all repetitions, and with what chance chooses."""
    for step in steps:
        match step:
            case Repeat(times, inner):
                for _ in range(times):
                    yield from unfolded(inner, rng)
            case Choose(choices):
                yield from unfolded([rng.choice(choices)], rng)
            case _:
                yield step


def describe(step: Any) -> str:
    """A step that is no fault in a few words."""
    match step:
        case Await(condition, _):
            return f"wait until {condition}"
        case Apply(objects):
            return "apply " + ", ".join(f"{o['kind']} {o['metadata']['name']}" for o in objects)
        case Scale(condition):
            return f"scale {condition.kind} {condition.name} to {condition.count}"
        case Roll(kind, name):
            return f"roll {kind} {name}"
        case Remove(kind, name):
            return f"delete {kind} {name}"
        case Sleep(seconds):
            return f"sleep {seconds:g} s"
    return type(step).__name__.lower()


# --- verbs ------------------------------------------------------------------------------------------


def _await(step: Object, place: str, depth: int) -> Await:
    at = f"{place}.await"
    data = dict(reading.mapping(step["await"], at))
    within_s = reading.span(data.pop("within", WITHIN_S), f"{at}.within")
    return Await(read_condition(data, at), within_s)


def _apply(step: Object, place: str, depth: int) -> Apply:
    return Apply(read_manifests(step["apply"], f"{place}.apply"))


def _scale(step: Object, place: str, depth: int) -> Scale:
    at = f"{place}.scale"
    found = read_condition(reading.mapping(step["scale"], at), at)
    if found.kind not in WORKLOADS or found.measure != REPLICAS:
        raise FormError(at, f"name one of {', '.join(WORKLOADS)}, and {REPLICAS}")
    return Scale(found)


def _named(step: Object, verb: str, place: str) -> tuple[str, str, str]:
    at = f"{place}.{verb}"
    data = reading.mapping(step[verb], at)
    reading.only(data, {*WORKLOADS, "namespace"}, at)
    kinds = [k for k in data if k in WORKLOADS]
    if len(kinds) != 1:
        raise FormError(at, f"name one of {', '.join(WORKLOADS)}")
    return kinds[0], str(data[kinds[0]]), str(data.get("namespace", "default"))


def _roll(step: Object, place: str, depth: int) -> Roll:
    return Roll(*_named(step, "roll", place))


def _delete(step: Object, place: str, depth: int) -> Remove:
    return Remove(*_named(step, "delete", place))


def _sleep(step: Object, place: str, depth: int) -> Sleep:
    return Sleep(reading.span(step["sleep"], f"{place}.sleep"))


def _wait(step: Object, place: str, depth: int) -> Await | Sleep:
    if step["wait"] == "healthy":
        within_s = reading.span(step.get("timeout", HEALTHY_TIMEOUT_S), f"{place}.timeout")
        return Await(Condition(CLUSTER), within_s)
    if "timeout" in step:
        raise FormError(f"{place}.timeout", "goes with `wait: healthy`")
    return Sleep(reading.span(step["wait"], f"{place}.wait"))


def _signal(step: Object, place: str, depth: int) -> Fault:
    signal, _, target = str(step["signal"]).partition(" ")
    if signal not in SIGNALS:
        raise FormError(f"{place}.signal", f"{reading.shown(signal)}: write KILL, STOP or CONT, and TARGET [NAME]")
    if "for" not in step:
        return read_fault(SIGNALS[signal], target, f"{place}.signal")
    if signal != "STOP":
        raise FormError(f"{place}.for", "only STOP ends by itself")
    return read_fault("stop", {"target": target, "for": step["for"]}, place)


def folding(verbs: Callable[[], Verbs]) -> Verbs:
    """The verbs of steps that hold steps, of those verbs that a place knows."""

    def inner(found: Any, place: str, depth: int) -> tuple[Any, ...]:
        if not reading.items(found, place):
            raise FormError(place, "give at least one step")
        return read_steps(found, place, verbs(), depth + 1)

    def repeat(step: Object, place: str, depth: int) -> Repeat:
        times = reading.whole(step["repeat"], f"{place}.repeat", 1, REPEAT_MAX)
        return Repeat(times, inner(step.get("steps"), f"{place}.steps", depth))

    def choose(step: Object, place: str, depth: int) -> Choose:
        return Choose(inner(step["choose"], f"{place}.choose", depth))

    return {"repeat": (("steps",), repeat), "choose": ((), choose)}


#: Verbs that every place knows.
COMMON: Verbs = {
    "await": ((), _await),
    "apply": ((), _apply),
    "scale": ((), _scale),
    "roll": ((), _roll),
    "delete": ((), _delete),
    "sleep": ((), _sleep),
    "wait": (("timeout",), _wait),
    "signal": (("for",), _signal),
}

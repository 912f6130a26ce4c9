"""Scenarios: a simulated run and what must hold at its end, as a YAML file that is checked when it is read.

name: failures
duration: 1h                      # of cluster time; the run idles on after its last step
cluster: {members: 3, nodes: 3, timing: kubernetes}        # as the flags of `rayplane up`
network: {latency_mean: 0.6ms, loss: 0.0005}
client: {write_every: 5s, ask_every: 2s}   # writes to etcd, commands to the REST face; what was acknowledged must hold
steps:
  - await: {ready: cluster, within: 60s}
  - apply: [{apiVersion: apps/v1, kind: Deployment, ...}]
  - await: {deployment: web, replicas: 6, within: 2m}
  - kill: leader                  # any fault, in its form (see `faults.form`)
  - kill: {node: node-1, back: 10m}
  - partition: {hosts: [[member-0, apiserver-0]], for: 20s}
  - scale: {statefulset: db, replicas: 5}
  - delete: {deployment: web}
  - add: member                   # or apiserver
  - remove: apiserver-1
  - replace: member-0             # its machine is lost: it dies for good, and another takes its place
  - storm: {for: 1m, every: 4s}   # faults and changes, drawn from the seed
  - storm: {for: 1m, of: [{kill: supervisor}, {kill: member random}, {replace: random}]}   # or of these alone
  - await: {ready: actors, members: 3}   # all that is wanted runs, nothing else, and etcd's voters are its members
  - sleep: 30s
expect:
  - {deployment: web, replicas: 6}
  - {statefulset: db, replicas: 3}
  - {claims: 3}                   # bound PersistentVolumeClaims
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.faults import reading
from rayplane.control_plane.faults.form import VERBS, read_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.rpc.weather import Climate

Object = dict[str, Any]

SCENARIOS = "scenarios"
WORKLOADS = {"deployment": "deployments.apps", "statefulset": "statefulsets.apps"}
CHANGEABLE = ("member", "apiserver")
WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Condition:
    """A state that is waited for.

    `kind` deployment or statefulset: so many ready replicas, all of the newest template, and no more; `claims`: so many
    bound; `cluster`: all nodes are Ready and every leader leads; `actors`: those run that are wanted and no others, and
    the members, so many unless that is 0, are those that vote.
    """

    kind: str
    name: str = ""
    count: int = 0
    namespace: str = "default"

    def __str__(self) -> str:
        if self.kind == "cluster":
            return "the cluster is ready"
        if self.kind == "actors":
            return "all actors run, and all members vote" + (f", {self.count} of them" if self.count else "")
        if self.kind == "claims":
            return f"{self.count} claims are bound"
        return f"{self.kind} {self.name} has {self.count} ready replicas"


@dataclass(frozen=True, slots=True)
class Await:
    condition: Condition
    within_s: float


@dataclass(frozen=True, slots=True)
class Apply:
    objects: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    condition: Condition


@dataclass(frozen=True, slots=True)
class Remove:
    kind: str
    name: str
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the topology. `action`: add (a role), remove or replace (an actor; in a storm also any of a role)."""

    action: str
    target: str


@dataclass(frozen=True, slots=True)
class Rage:
    """A storm: faults and changes, one every `every_s` on average. `of`: those it draws from, where not from all."""

    for_s: float
    every_s: float
    of: tuple[Fault | Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Step = Await | Apply | Scale | Remove | Change | Rage | Sleep | Fault
NOT_FAULTS = (Await, Apply, Scale, Remove, Change, Rage, Sleep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A checked scenario. `source`: how to name it to a user who wants to run it again."""

    name: str
    source: str
    duration_s: float
    cluster: ClusterConfig
    climate: Climate = field(default_factory=Climate)
    write_every_s: float = 5.0
    ask_every_s: float = 5.0
    steps: tuple[Step, ...] = ()
    expect: tuple[Condition, ...] = ()


def load_scenario(path: str | Path) -> Scenario:
    """Read a file, or a scenario that is built in by its name. Raises UsageError that names the place."""
    file = Path(path)
    if not file.exists() and str(path) in builtin_scenarios():
        return parse_scenario(_package().joinpath(f"{path}.yaml").read_text(), source=str(path))
    try:
        return parse_scenario(file.read_text(), source=str(path))
    except (OSError, UnicodeDecodeError) as e:
        known = ", ".join(builtin_scenarios())
        raise UsageError(f"cannot read the scenario {path}: {e}; built in are {known}") from e


def builtin_scenarios() -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in _package().iterdir() if f.name.endswith(".yaml"))


def _package() -> Any:
    return resources.files("rayplane.control_plane.simulation") / SCENARIOS


def parse_scenario(text: str, *, source: str) -> Scenario:
    """A scenario from YAML. Raises UsageError that names the place."""
    try:
        return reading.read(text, lambda data: _scenario(reading.mapping(data, "the scenario"), source))
    except (FormError, UsageError) as e:
        raise UsageError(f"{source}: {e}") from e


def _scenario(data: Object, source: str) -> Scenario:
    known = {"name", "description", "duration", "cluster", "network", "client", "steps", "expect"}
    reading.only(data, known, "the scenario")
    duration = reading.span(data.get("duration", "10m"), "duration", positive=True)
    client = reading.mapping(data.get("client", {}), "client")
    reading.only(client, {"write_every", "ask_every"}, "client")
    keys = ("write_every", "ask_every")
    every = {key: reading.span(client.get(key, "5s"), f"client.{key}", positive=True) for key in keys}
    return Scenario(
        name=str(data.get("name", source)),
        source=source,
        duration_s=duration,
        cluster=_cluster(reading.mapping(data.get("cluster", {}), "cluster")),
        climate=_climate(reading.mapping(data.get("network", {}), "network")),
        write_every_s=every["write_every"],
        ask_every_s=every["ask_every"],
        steps=tuple(_step(s, f"steps[{i}]") for i, s in enumerate(reading.items(data.get("steps", []), "steps"))),
        expect=tuple(
            _condition(reading.mapping(c, f"expect[{i}]"), f"expect[{i}]")
            for i, c in enumerate(reading.items(data.get("expect", []), "expect"))
        ),
    )


def _cluster(data: Object) -> ClusterConfig:
    types = {f.name: f.type for f in fields(ClusterConfig)}
    allowed = set(types) - {"host", "address", "runtime"}
    reading.only(data, allowed, "cluster")
    for key, value in data.items():
        if types[key] is int:
            reading.whole(value, f"cluster.{key}")
    values: dict[str, Any] = {k: v if types[k] is int else str(v) for k, v in data.items()}
    config = ClusterConfig(**({"name": "simulation", "host": PROCESS} | values))
    config.validate()
    return config


def _climate(data: Object) -> Climate:
    spans = {"latency_min": "latency_min_s", "latency_mean": "latency_mean_s", "retransmit": "retransmit_s"}
    reading.only(data, {*spans, "loss"}, "network")
    values = {spans[k]: reading.span(v, f"network.{k}") for k, v in data.items() if k in spans}
    if "loss" in data:
        loss = data["loss"]
        if not isinstance(loss, (int, float)) or not 0 <= loss < 1:
            raise FormError("network.loss", f"give a fraction from 0 to less than 1, not {loss!r}")
        values["loss"] = float(loss)
    return Climate(**values)


def _step(data: Any, at: str) -> Step:
    step = reading.mapping(data, at)
    if len(step) != 1:
        raise FormError(at, f"give one action, not {sorted(map(str, step)) or 'none'}")
    [(action, body)] = step.items()
    if action in VERBS:
        return read_fault(action, body, f"{at}.{action}")
    make = _STEPS.get(action)
    if make is None:
        raise FormError(at, f"no action {action!r:.80}; use {', '.join((*_STEPS, *VERBS))}")
    return make(body, f"{at}.{action}")


def _await(body: Any, at: str) -> Step:
    data = dict(reading.mapping(body, at))
    within = reading.span(data.pop("within", WITHIN_S), f"{at}.within")
    return Await(_condition(data, at), within)


def _apply(body: Any, at: str) -> Step:
    objects = reading.items(body, at) if isinstance(body, list) else [body]
    for i, obj in enumerate(objects):
        manifest = reading.mapping(obj, f"{at}[{i}]")
        metadata = manifest.get("metadata")
        named = isinstance(metadata, dict) and metadata.get("name")
        if not (manifest.get("apiVersion") and manifest.get("kind") and named):
            raise FormError(f"{at}[{i}]", "a manifest needs apiVersion, kind and metadata.name")
    return Apply(tuple(objects))


def _scale(body: Any, at: str) -> Step:
    return Scale(_condition(reading.mapping(body, at), at, only=WORKLOADS))


def _delete(body: Any, at: str) -> Step:
    data = reading.mapping(body, at)
    reading.only(data, {*WORKLOADS, "namespace"}, at)
    kinds = [k for k in data if k in WORKLOADS]
    if len(kinds) != 1:
        raise FormError(at, f"name one of {', '.join(WORKLOADS)}")
    return Remove(kinds[0], str(data[kinds[0]]), str(data.get("namespace", "default")))


def _change(action: str) -> Callable[[Any, str], Step]:
    def read(body: Any, at: str) -> Step:
        if not isinstance(body, str) or (action == "add" and body not in CHANGEABLE):
            what = f"one of {', '.join(CHANGEABLE)}" if action == "add" else "an actor's name"
            raise FormError(at, f"give {what}, not {body!r:.80}")
        return Change(action, body)

    return read


def _storm(body: Any, at: str) -> Step:
    data = reading.mapping(body, at)
    reading.only(data, {"for", "every", "of"}, at)
    every = reading.span(data.get("every", "5s"), f"{at}.every", positive=True)
    of = [read_struck(step, f"{at}.of[{i}]") for i, step in enumerate(reading.items(data.get("of", []), f"{at}.of"))]
    return Rage(reading.span(data.get("for", "1m"), f"{at}.for"), every, tuple(of))


def read_struck(data: Any, at: str, *, who: str = "a storm draws") -> Fault | Change:
    """A fault or a change, in the form of a step."""
    step = _step(data, at)
    if isinstance(step, Await | Apply | Scale | Remove | Rage | Sleep):
        raise FormError(at, f"{who} faults, and members and API servers to add, remove or replace")
    return step


def _sleep(body: Any, at: str) -> Step:
    return Sleep(reading.span(body, at))


_STEPS: dict[Any, Callable[[Any, str], Step]] = {
    "await": _await,
    "apply": _apply,
    "scale": _scale,
    "delete": _delete,
    "add": _change("add"),
    "remove": _change("remove"),
    "replace": _change("replace"),
    "storm": _storm,
    "sleep": _sleep,
}


def _condition(data: Object, at: str, *, only: Mapping[str, str] | None = None) -> Condition:
    kinds = [k for k in (*WORKLOADS, "claims", "ready") if k in data and (only is None or k in only)]
    if len(kinds) != 1:
        names = ", ".join(only or (*WORKLOADS, "claims", "ready"))
        raise FormError(at, f"name one of {names}")
    kind = kinds[0]
    if kind == "ready":
        reading.only(data, {"ready", *(["members"] if data["ready"] == "actors" else [])}, at)
        if data["ready"] not in ("cluster", "actors"):
            raise FormError(f"{at}.ready", "only `cluster` and `actors` can be awaited so")
        return Condition(data["ready"], count=reading.whole(data.get("members", 0), f"{at}.members"))
    if kind == "claims":
        reading.only(data, {"claims", "namespace"}, at)
        count = reading.whole(data["claims"], f"{at}.claims")
        return Condition("claims", count=count, namespace=str(data.get("namespace", "default")))
    reading.only(data, {kind, "replicas", "namespace"}, at)
    count = reading.whole(data.get("replicas"), f"{at}.replicas")
    return Condition(kind, str(data[kind]), count, str(data.get("namespace", "default")))

"""What a simulated run does and what must hold at its end: a YAML file, checked when it is read.

name: failures
duration: 1h                      # of cluster time; the run idles on after its last step
cluster: {members: 3, nodes: 3, timing: kubernetes}        # as the flags of `rayplane up`
network: {latency_mean: 0.6ms, loss: 0.0005}
client: {write_every: 5s, ask_every: 2s}   # writes to etcd, commands to the REST face; what was acknowledged must hold
steps:
  - await: {ready: cluster, within: 60s}
  - apply: [{apiVersion: apps/v1, kind: Deployment, ...}]
  - await: {deployment: web, replicas: 6, within: 2m}
  - kill: leader                  # member | apiserver | scheduler | controllers | node, or an actor's name
  - kill: {node: node-1, back: 10m}        # back: never keeps it away
  - partition: {hosts: [[member-0, apiserver-0]], for: 20s}
  - scale: {statefulset: db, replicas: 5}
  - delete: {deployment: web}
  - add: member                   # or apiserver
  - remove: apiserver-1
  - replace: member-0             # its machine is lost: it dies for good, and another takes its place
  - storm: {for: 1m, every: 4s}   # all of these, drawn from the seed
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

import yaml

from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import DurationError, parse_span
from rayplane.control_plane.simulation.weather import Climate

Object = dict[str, Any]

SCENARIOS = "scenarios"
TARGETS = ("leader", "member", "apiserver", "scheduler", "controllers", "node")
WORKLOADS = {"deployment": "deployments.apps", "statefulset": "statefulsets.apps"}
CHANGEABLE = ("member", "apiserver")
WITHIN_S = 120.0
DURATION_MAX_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Condition:
    """`kind` deployment or statefulset: so many ready replicas, all of the newest template, and no more; `claims`: so
    many bound; `cluster`: all nodes are Ready and every leader leads."""

    kind: str
    name: str = ""
    count: int = 0
    namespace: str = "default"

    def __str__(self) -> str:
        if self.kind == "cluster":
            return "the cluster is ready"
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
class Kill:
    """`target`: a role in charge or any actor's or node's name. `back_s`: None is the supervisor's own time."""

    target: str
    name: str = ""
    back_s: float | None = None
    never_back: bool = False


@dataclass(frozen=True, slots=True)
class Partition:
    groups: tuple[tuple[str, ...], ...]
    for_s: float


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
    """`action`: add (a role), remove or replace (an actor)."""

    action: str
    target: str


@dataclass(frozen=True, slots=True)
class Rage:
    """A storm: faults and changes, one every `every_s` on average."""

    for_s: float
    every_s: float


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Step = Await | Apply | Kill | Partition | Scale | Remove | Change | Rage | Sleep


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
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise UsageError(f"{source}: not YAML: {' '.join(str(e).split())}") from e
    try:
        return _scenario(_mapping(data, "the scenario"), source)
    except UsageError as e:
        raise UsageError(f"{source}: {e}") from e


def _scenario(data: Object, source: str) -> Scenario:
    known = {"name", "description", "duration", "cluster", "network", "client", "steps", "expect"}
    _only(data, known, "the scenario")
    duration = _span(data.get("duration", "10m"), "duration")
    if not 0 < duration <= DURATION_MAX_S:
        raise UsageError("duration: give more than nothing and at most 168h")
    client = _mapping(data.get("client", {}), "client")
    _only(client, {"write_every", "ask_every"}, "client")
    every = {key: _span(client.get(key, "5s"), f"client.{key}") for key in ("write_every", "ask_every")}
    for key, span in every.items():
        if span <= 0:
            raise UsageError(f"client.{key}: give more than nothing")
    return Scenario(
        name=str(data.get("name", source)),
        source=source,
        duration_s=duration,
        cluster=_cluster(_mapping(data.get("cluster", {}), "cluster")),
        climate=_climate(_mapping(data.get("network", {}), "network")),
        write_every_s=every["write_every"],
        ask_every_s=every["ask_every"],
        steps=tuple(_step(s, f"steps[{i}]") for i, s in enumerate(_list(data.get("steps", []), "steps"))),
        expect=tuple(
            _condition(_mapping(c, f"expect[{i}]"), f"expect[{i}]")
            for i, c in enumerate(_list(data.get("expect", []), "expect"))
        ),
    )


def _cluster(data: Object) -> ClusterConfig:
    types = {f.name: f.type for f in fields(ClusterConfig)}
    allowed = set(types) - {"host", "address", "runtime"}
    _only(data, allowed, "cluster")
    for key, value in data.items():
        if types[key] is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise UsageError(f"cluster.{key}: give a whole number, not {value!r}")
    values: dict[str, Any] = {k: v if types[k] is int else str(v) for k, v in data.items()}
    config = ClusterConfig(**({"name": "simulation", "host": PROCESS} | values))
    config.validate()
    return config


def _climate(data: Object) -> Climate:
    spans = {"latency_min": "latency_min_s", "latency_mean": "latency_mean_s", "retransmit": "retransmit_s"}
    _only(data, {*spans, "loss"}, "network")
    values = {spans[k]: _span(v, f"network.{k}") for k, v in data.items() if k in spans}
    if "loss" in data:
        loss = data["loss"]
        if not isinstance(loss, (int, float)) or not 0 <= loss < 1:
            raise UsageError(f"network.loss: give a fraction from 0 to less than 1, not {loss!r}")
        values["loss"] = float(loss)
    return Climate(**values)


def _step(data: Any, at: str) -> Step:
    step = _mapping(data, at)
    if len(step) != 1:
        raise UsageError(f"{at}: give one action, not {sorted(map(str, step)) or 'none'}")
    [(action, body)] = step.items()
    make = _STEPS.get(action)
    if make is None:
        raise UsageError(f"{at}: no action {action!r}; use {', '.join(_STEPS)}")
    return make(body, f"{at}.{action}")


def _await(body: Any, at: str) -> Step:
    data = dict(_mapping(body, at))
    within = _span(data.pop("within", WITHIN_S), f"{at}.within")
    return Await(_condition(data, at), within)


def _apply(body: Any, at: str) -> Step:
    objects = _list(body, at) if isinstance(body, list) else [body]
    for i, obj in enumerate(objects):
        manifest = _mapping(obj, f"{at}[{i}]")
        metadata = manifest.get("metadata")
        named = isinstance(metadata, dict) and metadata.get("name")
        if not (manifest.get("apiVersion") and manifest.get("kind") and named):
            raise UsageError(f"{at}[{i}]: a manifest needs apiVersion, kind and metadata.name")
    return Apply(tuple(objects))


def _kill(body: Any, at: str) -> Step:
    if isinstance(body, str):
        return Kill(body)
    data = _mapping(body, at)
    _only(data, {"target", "back", *TARGETS}, at)
    chosen = [k for k in data if k != "back"]
    if len(chosen) != 1:
        raise UsageError(f"{at}: name one target")
    key = chosen[0]
    target, name = (str(data[key]), "") if key == "target" else (key, str(data[key] or ""))
    back = data.get("back")
    if back == "never":
        return Kill(target, name, never_back=True)
    return Kill(target, name, None if back is None else _span(back, f"{at}.back"))


def _partition(body: Any, at: str) -> Step:
    data = _mapping(body, at)
    _only(data, {"hosts", "for"}, at)
    groups = tuple(
        tuple(str(h) for h in _list(g, f"{at}.hosts[{i}]"))
        for i, g in enumerate(_list(data.get("hosts", []), f"{at}.hosts"))
    )
    if not groups or not all(groups):
        raise UsageError(f"{at}.hosts: give lists of actors that are cut off from all others")
    return Partition(groups, _span(data.get("for", "10s"), f"{at}.for"))


def _scale(body: Any, at: str) -> Step:
    return Scale(_condition(_mapping(body, at), at, only=WORKLOADS))


def _delete(body: Any, at: str) -> Step:
    data = _mapping(body, at)
    _only(data, {*WORKLOADS, "namespace"}, at)
    kinds = [k for k in data if k in WORKLOADS]
    if len(kinds) != 1:
        raise UsageError(f"{at}: name one of {', '.join(WORKLOADS)}")
    return Remove(kinds[0], str(data[kinds[0]]), str(data.get("namespace", "default")))


def _change(action: str) -> Callable[[Any, str], Step]:
    def read(body: Any, at: str) -> Step:
        if not isinstance(body, str) or (action == "add" and body not in CHANGEABLE):
            what = f"one of {', '.join(CHANGEABLE)}" if action == "add" else "an actor's name"
            raise UsageError(f"{at}: give {what}, not {body!r:.80}")
        return Change(action, body)

    return read


def _storm(body: Any, at: str) -> Step:
    data = _mapping(body, at)
    _only(data, {"for", "every"}, at)
    every = _span(data.get("every", "5s"), f"{at}.every")
    if every <= 0:
        raise UsageError(f"{at}.every: give more than nothing")
    return Rage(_span(data.get("for", "1m"), f"{at}.for"), every)


def _sleep(body: Any, at: str) -> Step:
    return Sleep(_span(body, at))


_STEPS: dict[Any, Callable[[Any, str], Step]] = {
    "await": _await,
    "apply": _apply,
    "kill": _kill,
    "partition": _partition,
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
        raise UsageError(f"{at}: name one of {names}")
    kind = kinds[0]
    if kind == "ready":
        _only(data, {"ready"}, at)
        if data["ready"] != "cluster":
            raise UsageError(f"{at}.ready: only `cluster` can be awaited so")
        return Condition("cluster")
    if kind == "claims":
        _only(data, {"claims", "namespace"}, at)
        count = _count(data["claims"], f"{at}.claims")
        return Condition("claims", count=count, namespace=str(data.get("namespace", "default")))
    _only(data, {kind, "replicas", "namespace"}, at)
    count = _count(data.get("replicas"), f"{at}.replicas")
    return Condition(kind, str(data[kind]), count, str(data.get("namespace", "default")))


def _count(value: Any, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{at}: give a whole number, not {value!r}")
    return value


def _span(value: Any, at: str) -> float:
    if not isinstance(value, (str, int, float)):
        raise UsageError(f"{at}: give a time span such as 500ms, 30s, 5m or 1h, not {value!r}")
    try:
        return parse_span(str(value))
    except DurationError as e:
        raise UsageError(f"{at}: {e}") from e


def _mapping(value: Any, at: str) -> Object:
    if not isinstance(value, dict):
        raise UsageError(f"{at}: give a mapping, not {value!r:.80}")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{at}: give a list, not {value!r:.80}")
    return value


def _only(data: Object, known: set[str], at: str) -> None:
    unknown = sorted(str(k) for k in data if k not in known)
    if unknown:
        raise UsageError(f"{at}: no field {unknown[0]!r}; there are {', '.join(sorted(known))}")

"""Scenarios: a simulated run and what must hold at its end, as a YAML file that is checked when it is read.

The sections and steps are those of `faults.steps`, as on a live cluster; what clients had is measured only there.

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
  - storm: {for: 1m, swarm: true}   # or of about half of all kinds, each seed of others
  - await: {ready: actors, members: 3}   # all that is wanted runs, nothing else, and etcd's voters are its members
  - sleep: 30s
expect:
  - {deployment: web, replicas: 6}
  - {statefulset: db, replicas: 3}
  - {claims: 3}                   # bound PersistentVolumeClaims
"""

from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.scenario import FIELDS, SIMULATED
from rayplane.control_plane.faults import reading, steps
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.steps import (
    Apply,
    Await,
    Choose,
    Condition,
    Object,
    Reader,
    Remove,
    Repeat,
    Roll,
    Scale,
    Sleep,
    Timed,
    Verbs,
)
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.rpc.weather import Climate

SCENARIOS = "scenarios"
CHANGEABLE = ("member", "apiserver")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the topology. `action`: add (a role), remove or replace (an actor; in a storm also any of a role)."""

    action: str
    target: str


@dataclass(frozen=True, slots=True)
class Rage:
    """A storm: faults and changes, one every `every_s` on average.

    `of`: those it draws from; `swarm`: of some kinds that the seed draws (see `swarm`); else kills and changes.
    """

    for_s: float
    every_s: float
    of: tuple[Fault | Change, ...] = ()
    swarm: bool = False


Step = Await | Apply | Scale | Roll | Remove | Sleep | Repeat | Choose | Change | Rage | Fault
NOT_FAULTS = (*steps.NOT_FAULTS, Change, Rage)


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
    workload: tuple[Object, ...] = ()
    steps: tuple[Step, ...] = ()
    faults: tuple[Timed, ...] = ()
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
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise UsageError(f"cannot read the scenario {path}: {why}; built in are {known}") from e


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
    reading.only(data, {*FIELDS, *SIMULATED}, "the scenario")
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
        workload=steps.read_manifests(data.get("workload", []), "workload"),
        steps=steps.read_steps(data.get("steps", []), "steps", _verbs()),
        faults=steps.read_timed(data.get("faults", []), "faults"),
        expect=tuple(e for e in steps.read_expectations(data.get("expect", []), "expect") if isinstance(e, Condition)),
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


def _verbs() -> Verbs:
    return {**steps.COMMON, **_OWN, **steps.folding(_verbs)}


def read_struck(data: Any, at: str, *, who: str = "a storm draws") -> Fault | Change:
    """A fault or a change, in the form of a step."""
    step: Any = steps.read_step(data, at, _verbs())
    if isinstance(step, NOT_FAULTS) and not isinstance(step, Change):
        verb = next(iter(data))
        raise FormError(at, f"{who} faults, and members and API servers to add, remove or replace, but no {verb}")
    return step


def _change(action: str) -> Reader:
    def read(step: Object, place: str, depth: int) -> Change:
        body = step[action]
        if not isinstance(body, str) or (action == "add" and body not in CHANGEABLE):
            what = f"one of {', '.join(CHANGEABLE)}" if action == "add" else "an actor's name"
            raise FormError(f"{place}.{action}", f"give {what}, not {body!r:.80}")
        return Change(action, body)

    return read


def _storm(step: Object, place: str, depth: int) -> Rage:
    at = f"{place}.storm"
    data = reading.mapping(step["storm"], at)
    reading.only(data, {"for", "every", "of", "swarm"}, at)
    swarm = data.get("swarm", False)
    if not isinstance(swarm, bool) or (swarm and "of" in data):
        raise FormError(f"{at}.swarm", "give true or false, and true only without `of`")
    every = reading.span(data.get("every", "5s"), f"{at}.every", positive=True)
    of = [read_struck(one, f"{at}.of[{i}]") for i, one in enumerate(reading.items(data.get("of", []), f"{at}.of"))]
    return Rage(reading.span(data.get("for", "1m"), f"{at}.for"), every, tuple(of), swarm)


_OWN: Verbs = {
    "add": ((), _change("add")),
    "remove": ((), _change("remove")),
    "replace": ((), _change("replace")),
    "storm": ((), _storm),
}

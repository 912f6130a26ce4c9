"""Hours of faults on three machines: what a cluster holds of memory, processes, ports and files must not grow."""

import json as encoding
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from rayplane.control_plane.cli.options import run
from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.cluster.trial.trial import Load
from scripts.benchmarks.chaos import DEPLOYMENT, ON_MACHINES, WELL, notes_of
from scripts.benchmarks.clusters import say
from scripts.benchmarks.machine import description, usage_of
from scripts.benchmarks.report import Json, grows, hosts, show
from scripts.benchmarks.trials import Job, Place, on_host, on_machines

SAMPLE_S = 20.0
#: Faults, and how often each comes.
KILLS: dict[str, int] = {
    "kill: leader": 12,
    "kill: follower": 8,
    "kill: apiserver random": 14,
    "kill: scheduler": 8,
    "kill: controllers": 8,
    "kill: node random": 14,
    "kill: lb": 6,
    "kill: supervisor": 4,
    "kill: pod random 3": 8,
}
STOPS: dict[str, int] = {
    "stop: {target: leader, for: 3s}": 4,
    "stop: {target: apiserver random, for: 3s}": 6,
    "stop: {target: node random, for: 15s}": 5,
}
FAULTS: Mapping[str, Mapping[str, int]] = {
    PROCESS: KILLS
    | {
        "partition: {hosts: [[member-0]], for: 3s}": 4,
        "partition: {hosts: [[apiserver-0]], for: 3s}": 6,
        "partition: {hosts: [[node-host-0]], for: 15s}": 5,
    },
    RAY: KILLS | STOPS,
    ON_MACHINES: KILLS | STOPS | {"lose_machine: node random": 3},
}
"""By where the cluster is."""
#: Growth below this, in MB and in files, is none.
NOISE_MB, NOISE_FILES = 24.0, 24
PARTS = 6
"""Of a run: the first and the last are compared, by their medians."""
MEASURES = ("memory_mb", "files", "processes", "ports")
_NUMBER = re.compile(r"-\d+\b")


def soak(
    minutes: Annotated[float, typer.Option(help="How long, at least.")] = 120,
    every_s: Annotated[float, typer.Option(help="Between two faults.")] = 10,
    host: Annotated[str, typer.Option(help="machines (root: three out of namespaces), ray or process.")] = ON_MACHINES,
    seed: Annotated[int, typer.Option(help="Which faults, and whom they hit.")] = 1,
    verdict: Annotated[str, typer.Option(metavar="FILE", help="Write what the trial told to FILE as JSON.")] = "",
    json: Json = "",
) -> None:
    """Break a cluster again and again while it is used. Exits 1 when anything that must hold did not, or the cluster
    holds more in the end than it did at first.
    """
    [one], machine, samples = hosts(host, *FAULTS), description(), Samples()
    text = scenario(FAULTS[one], round(minutes * 60 / every_s), every_s, random.Random(seed))
    job = Job(text, seed, Load(users=2, every_s=0.1))
    told = on_machines(job, samples.look) if one == ON_MACHINES else run(on_host(one, job, samples.look))
    if verdict:
        Path(verdict).write_text(encoding.dumps(told, indent=1))
    if not samples.taken:
        sys.exit(f"bench: no process of the cluster was seen: the trial told {told['verdict']}; see --verdict FILE")
    rows = rows_of(samples.taken)
    notes = [
        f"{len(told['faults'])} faults, {len(samples.taken)} samples of what each component had on all machines;",
        f"first, middle, last: medians of a {PARTS}th of the run each; memory is what is not backed by files",
        *notes_of(told),
    ]
    show("soak", rows, machine, target=json, notes=notes)
    if told["verdict"] != "ok":
        sys.exit("bench: something that must hold did not")
    if grew := [row["component"] for row in rows if row["grows"]]:
        sys.exit(f"bench: more in the end than at first: {', '.join(grew)}")


def scenario(faults: Mapping[str, int], count: int, every_s: float, rng: random.Random) -> str:
    """The file of a trial: so many faults drawn by `rng`, one after the other."""
    drawn = rng.choices([*faults], [*faults.values()], k=max(1, count))
    steps: list[Any] = [*WELL]
    for one in drawn:
        fault = yaml.safe_load(one)
        [body] = fault.values()
        held_s = float(body["for"].removesuffix("s")) if isinstance(body, dict) else 0.0
        steps += [fault, {"sleep": f"{max(1.0, every_s - held_s):g}s"}]
    return yaml.safe_dump({"name": "soak", "workload": [DEPLOYMENT], "steps": [*steps, *WELL]}, sort_keys=False)


@dataclass(slots=True)
class Sample:
    """One moment: of each component what it has on all machines together, by measure."""

    at_s: float
    of_each: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class Samples:
    """What was seen of a cluster over machines."""

    taken: list[Sample] = field(default_factory=list)

    def look(self, place: Place) -> None:
        """Look, if the last time was long ago."""
        now = time.monotonic()
        if self.taken and now - self.taken[-1].at_s < SAMPLE_S:
            return
        found: dict[str, dict[str, float]] = {}
        for used in usage_of(place.pids, memory=True, logs=place.logs).values():
            for name in (component(used.name), ALL):
                each = found.setdefault(name, dict.fromkeys(MEASURES, 0.0))
                each["memory_mb"] += used.anonymous_mb
                each["files"] += used.files
                each["processes"] += 1
                each["ports"] += used.ports
        if found:
            self.taken.append(Sample(now, found))
            say.print(f"{len(self.taken)} samples, {found[ALL]['memory_mb']:.0f} MB, {found[ALL]['files']:.0f} files")


ALL = "all of it"


def component(name: str) -> str:
    """What processes of a kind are called together."""
    return _NUMBER.sub("", name.removeprefix("ray::")).strip()


def rows_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A line for each component that was there at first and in the end, all of them together at last."""
    names = {name: None for sample in (samples[0], samples[-1]) for name in sample.of_each}
    names.pop(ALL, None)
    return [_row(name, samples) for name in sorted(names)] + [_row(ALL, samples)]


def _row(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    row: dict[str, Any] = {"component": name}
    grown = False
    for measure, noise in (("memory_mb", NOISE_MB), ("files", NOISE_FILES)):
        values = [sample.of_each.get(name, {}).get(measure, 0.0) for sample in samples]
        first, middle, last = _medians(values)
        row |= {f"{measure}_first": first, f"{measure}_middle": middle, f"{measure}_last": last}
        row[f"{measure}_per_h"] = round(3600 * _slope([s.at_s for s in samples], values), 1)
        grown = grown or grows(first, last, noise)
    for measure in ("processes", "ports"):
        first, _, last = _medians([sample.of_each.get(name, {}).get(measure, 0.0) for sample in samples])
        row[measure] = f"{first:.0f} {last:.0f}" if first or last else ""
    return row | {"grows": grown}


def _medians(values: Sequence[float]) -> Iterator[float]:
    size = max(1, len(values) // PARTS)
    middle = (len(values) - size) // 2
    for part in (values[:size], values[middle : middle + size], values[-size:]):
        yield round(statistics.median(part), 1)


def _slope(at_s: Sequence[float], values: Sequence[float]) -> float:
    return statistics.linear_regression(at_s, values).slope if len(values) > 1 else 0.0

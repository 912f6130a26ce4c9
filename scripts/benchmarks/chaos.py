"""What clients have of it when parts of a cluster are lost: spans without reads, without writes, and until pods run."""

import json as encoding
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from rayplane.control_plane.cli.options import run
from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.cluster.trial.etcd_promises import ETCD_PROMISES
from rayplane.control_plane.cluster.trial.trial import Load
from rayplane.control_plane.invariants.answers import NothingLost
from rayplane.control_plane.timings import FAST
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Json, hosts, percentile, show
from scripts.benchmarks.trials import SETTINGS, Job, Verdict, on_host, on_machines

ON_MACHINES = "machines"
PODS = 12
EVICTED_S = FAST.nodes.grace_s + FAST.nodes.toleration_s
"""A lost node's pods are evicted then: what is left until they run elsewhere is the cluster's own time."""
SILENT_S = EVICTED_S + 6.0
"""How long a node is silent: until its pods are elsewhere."""
KINDS = ("leader", "apiserver", "node", "machine")
LOSING_NODES = ("node", "machine")
PARTS = {"p50": 50, "p95": 95, "max": 100}


def chaos(
    kills: Annotated[
        str, typer.Option(help="How often a leader, an API server, a node and a machine are lost, with commas between.")
    ] = "5,5,2,0",
    host: Annotated[
        str, typer.Option(help="ray, process, or machines: as root, three out of namespaces; several with commas.")
    ] = RAY,
    users: Annotated[int, typer.Option(help="Clients; each reads and writes on a connection of its own.")] = 4,
    every_ms: Annotated[float, typer.Option(help="Between an answer and the client's next request.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Whom chance hits.")] = 1,
    verdicts: Annotated[str, typer.Option(metavar="FILE", help="Write what the trials told to FILE as JSON.")] = "",
    json: Json = "",
) -> None:
    """Kill parts of a cluster that is used: for how long a client is without an answer, and until pods run elsewhere.

    Exits 1 when an acknowledged write was lost, or anything else that must hold did not.
    """
    machine, chosen = description(), hosts(host, RAY, PROCESS, ON_MACHINES)
    counts = counted(kills, losing_machines=ON_MACHINES in chosen)
    load = Load(users, every_ms / 1000)
    found = {}
    for one in chosen:
        job = Job(scenario(counts, one), seed, load)
        found[one] = on_machines(job) if one == ON_MACHINES else run(on_host(one, job))
    if verdicts:
        with open(verdicts, "w") as file:
            encoding.dump(found, file, indent=1)
    rows = [row for one, verdict in found.items() for row in rows_of(one, verdict)]
    show("chaos", rows, machine, target=json, notes=[*NOTES, *(note for v in found.values() for note in notes_of(v))])
    if any(verdict["verdict"] != "ok" for verdict in found.values()):
        raise typer.Exit(1)


NOTES = (
    "A gap is the longest time between two answers to any one client, through the load balancer, until the next kill;",
    f"elsewhere: until as many pods run beside a lost node as there were, without the {EVICTED_S:g} s until eviction.",
)


def counted(kills: str, *, losing_machines: bool) -> Mapping[str, int]:
    """How often each kind is killed, of the text of `--kills`."""
    words = kills.split(",")
    if len(words) != len(KINDS) or not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"--kills {kills!r}: give {len(KINDS)} numbers, such as 50,50,20,20")
    found = dict(zip(KINDS, map(int, words), strict=True))
    if found["machine"] and not losing_machines:
        raise typer.BadParameter(f"--kills {kills!r}: machines are lost only with --host {ON_MACHINES}")
    return found


def fault_of(kind: str, host: str) -> dict[str, Any]:
    """The step that loses one; a lost node is silent, since the host of one that is killed is back at once."""
    if kind == "machine":
        return {"lose_machine": "node random"}
    if kind != "node":
        return {"kill": "leader" if kind == "leader" else f"{kind} random"}
    if host == PROCESS:
        names = [f"node-host-{number}" for number in range(SETTINGS["nodes"])]
        return {"choose": [{"partition": {"hosts": [[name]], "for": f"{SILENT_S:g}s"}} for name in names]}
    return {"stop": {"target": "node random", "for": f"{SILENT_S:g}s"}}


DEPLOYMENT: Mapping[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {
        "replicas": PODS,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1", "resources": {"requests": {"cpu": "10m"}}}]},
        },
    },
}
WELL: Sequence[Mapping[str, Any]] = (
    {"await": {"ready": "cluster", "within": "4m"}},
    {"await": {"deployment": "web", "replicas": PODS, "within": "2m"}},
    {"sleep": "1s"},
)


def scenario(counts: Mapping[str, int], host: str) -> str:
    """The file of a trial: kills one after the other, each once all is well."""
    blocks = [{"repeat": n, "steps": [fault_of(kind, host), *WELL]} for kind, n in counts.items() if n]
    return yaml.safe_dump({"name": "losses", "workload": [DEPLOYMENT], "steps": [*WELL, *blocks]}, sort_keys=False)


_WORDS = {"kill: leader": "leader", "kill: apiserver random": "apiserver", "lose_machine": "machine"}


def kind_of(fault: str) -> str:
    """The kind of a fault, by its text."""
    return next((kind for words, kind in _WORDS.items() if fault.startswith(words)), "node")


def rows_of(host: str, verdict: Verdict) -> list[dict[str, Any]]:
    """A line for each kind of kill and each span that it costs."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for fault in verdict["faults"]:
        by_kind.setdefault(kind_of(fault["text"]), []).append(fault)
    return [row for kind in KINDS if kind in by_kind for row in _rows(host, kind, by_kind[kind])]


def _rows(host: str, kind: str, faults: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    elsewhere = [f["elsewhere_s"] - EVICTED_S for f in faults if f["elsewhere_s"] is not None]
    spans = {
        "without writes": [fault["gaps_s"]["writes"] for fault in faults],
        "without reads": [fault["gaps_s"]["reads"] for fault in faults],
        "pods elsewhere": elsewhere if kind in LOSING_NODES else [],
        "until all is well": [f["recovered_s"] for f in faults if f["recovered_s"] is not None],
    }
    for what, found in spans.items():
        if found:
            span = {f"{word}_s": round(percentile(found, part), 3) for word, part in PARTS.items()}
            yield {"host": host, "lost": kind, "what": what, "kills": len(found)} | span | {"spans_s": sorted(found)}


def notes_of(verdict: Verdict) -> list[str]:
    """What was acknowledged and lost, and what went wrong."""
    writes = sum(t["asked"] - t["failed"] for t in verdict["availability"] if t["what"] == "writes")
    lost = sum(len(verdict["invariants"][name]) for name in (NothingLost.name, ETCD_PROMISES))
    wrong = [f"{name}: {text}" for name, found in verdict["invariants"].items() for text in found]
    held = sum(not found for found in verdict["invariants"].values())
    return [
        f"{writes} acknowledged writes, {lost} lost; {held} of {len(verdict['invariants'])} invariants held, "
        f"{verdict['seconds']:.0f} s",
        *wrong,
        *verdict["errors"],
        *(f"in vain: {text}" for text in verdict["inVain"]),
    ]

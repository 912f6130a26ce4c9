"""Kills and soaks: the trials that they make can be run, and what trials told becomes figures."""

import random
from typing import Any

import pytest
import typer

from rayplane.control_plane.cluster.scenario import parse
from rayplane.control_plane.cluster.trial.etcd_promises import ETCD_PROMISES
from rayplane.control_plane.faults.vocabulary import Kill, LoseMachine, Partition, Stop
from rayplane.control_plane.invariants.answers import NothingLost
from scripts.benchmarks import chaos, soak


@pytest.mark.parametrize(("host", "loses"), [("ray", Stop), ("process", Partition), ("machines", Stop)])
def test_each_kill_is_a_fault_of_the_trial(host: str, loses: type) -> None:
    counts = {"leader": 2, "apiserver": 1, "node": 1, "machine": int(host == "machines")}
    found = parse(chaos.scenario(counts, host).encode(), "made").all_faults()
    assert [type(fault) for fault in found if isinstance(fault, Kill)] == [Kill, Kill]
    assert any(isinstance(fault, loses) for fault in found)
    assert sum(isinstance(fault, LoseMachine) for fault in found) == counts["machine"]


@pytest.mark.parametrize("kills", ["1,2", "1,2,3,x", "-1,0,0,0", "1,1,1,1"])
def test_kills_that_cannot_be_are_refused(kills: str) -> None:
    with pytest.raises(typer.BadParameter):
        chaos.counted(kills, losing_machines=False)
    assert chaos.counted("4,3,2,1", losing_machines=True)["machine"] == 1


def fault(text: str, writes: float, elsewhere: float | None = None) -> dict[str, Any]:
    gaps = {"writes": writes, "reads": writes / 2}
    return {"text": text, "hit": ["x"], "gaps_s": gaps, "elsewhere_s": elsewhere, "recovered_s": 1.0}


def verdict(**more: Any) -> dict[str, Any]:
    silent = "stop: {target: node random, for: 15s}"
    return {
        "faults": [
            *(fault("kill: leader", n / 10) for n in range(1, 5)),
            fault("kill: apiserver random", 0.05),
            fault(silent, 0.03, chaos.EVICTED_S + 1.5),
            fault(silent, 0.03),
        ],
        "availability": [{"what": "writes", "asked": 90, "failed": 2}, {"what": "reads", "asked": 50, "failed": 0}],
        "invariants": {NothingLost.name: [], ETCD_PROMISES: []},
        "seconds": 60.0,
        "errors": [],
        "inVain": [],
    } | more


def test_spans_are_told_by_what_was_lost() -> None:
    rows = {(row["lost"], row["what"]): row for row in chaos.rows_of("ray", verdict())}
    leader = rows["leader", "without writes"]
    assert (leader["kills"], leader["p50_s"], leader["p95_s"], leader["max_s"]) == (4, 0.2, 0.4, 0.4)
    assert rows["apiserver", "without reads"]["max_s"] == 0.025
    elsewhere = rows["node", "pods elsewhere"]
    assert (elsewhere["kills"], elsewhere["max_s"]) == (1, 1.5), "the time until eviction is not the cluster's"
    assert ("leader", "pods elsewhere") not in rows


def test_lost_writes_are_told() -> None:
    assert chaos.notes_of(verdict())[0].startswith("88 acknowledged writes, 0 lost; 2 of 2")
    lost, *wrong = chaos.notes_of(verdict(invariants={NothingLost.name: ["a"], ETCD_PROMISES: ["b"]}, errors=["c"]))
    assert lost.startswith("88 acknowledged writes, 2 lost; 0 of 2") and wrong[-1] == "c" and len(wrong) == 3


@pytest.mark.parametrize("host", soak.FAULTS)
def test_a_soak_is_drawn_from_its_seed(host: str) -> None:
    one, same, other = (soak.scenario(soak.FAULTS[host], 60, 10, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(parse(one.encode(), "made").all_faults()) == 60


def samples(**courses: list[float]) -> list[soak.Sample]:
    """One an hour; `courses`: megabytes of components."""
    spans = zip(*courses.values(), strict=True)
    return [
        soak.Sample(
            3600.0 * hour,
            {
                name: {"memory_mb": mb, "files": 10, "processes": 2, "ports": 0}
                for name, mb in zip([*courses, soak.ALL], [*values, sum(values)], strict=True)
            },
        )
        for hour, values in enumerate(spans)
    ]


def test_what_grows_is_told_and_what_swings_is_not() -> None:
    leak, swing = [100.0 + 20 * hour for hour in range(13)], [100.0, 130.0] * 6 + [100.0]
    rows = {row["component"]: row for row in soak.rows_of(samples(member=leak, apiserver=swing))}
    assert rows["member"]["grows"] and not rows["apiserver"]["grows"]
    assert rows["member"]["memory_mb_per_h"] == 20.0
    assert (rows["member"]["memory_mb_first"], rows["member"]["memory_mb_last"]) == (110.0, 330.0)
    assert [*rows][-1] == soak.ALL and rows["member"]["processes"] == "2 2"


@pytest.mark.parametrize(("name", "of"), [("member-2", "member"), ("ray::IDLE", "IDLE"), ("node-host-11", "node-host")])
def test_components_of_a_kind_are_told_together(name: str, of: str) -> None:
    assert soak.component(name) == of

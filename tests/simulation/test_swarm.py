"""Swarms: each seed draws its kinds of faults, and tells what it came to."""

import random

import pytest

from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.simulation import Setup, load_scenario, parse_scenario, simulate
from rayplane.control_plane.simulation.coverage import MACHINES, Covered
from rayplane.control_plane.simulation.scenario import Change
from rayplane.control_plane.simulation.swarm import KINDS, draw, draw_kinds
from rayplane.storage.env import failpoints

pytestmark = pytest.mark.timeout(600)

MEMBERS = [(Role.MEMBER, "member-0"), (Role.MEMBER, "member-1")]
NAMES = [*MEMBERS, (Role.APISERVER, "apiserver-0"), (Role.NODE_HOST, "node-host-0")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Change])
def test_each_kind_is_drawn_as_it_is_written(kind: type) -> None:
    drawn = [draw(random.Random(seed), kind, NAMES) for seed in range(50)]
    assert {type(fault) for fault in drawn} == {kind}
    for fault in drawn:
        text = f"cluster: {{nodes: 1}}\nsteps: [{{{as_step(fault)}}}]"
        assert parse_scenario(text, source="drawn").steps == (fault,)
    assert len(set(drawn)) > 1


def test_seeds_draw_other_kinds_and_each_some() -> None:
    drawn = [draw_kinds(random.Random(seed)) for seed in range(200)]
    assert all(drawn)
    assert len(set(drawn)) > 150
    assert {kind for kinds in drawn for kind in kinds} == set(KINDS)


def test_coverage_tells_what_was_come_to_and_what_was_not() -> None:
    text = "duration: 3s\ncluster: {timing: fast, nodes: 1, apiservers: 1}\nsteps: [{await: {ready: cluster}}]"
    result = simulate(parse_scenario(text, source="tiny"), 1, setup=Setup(coverage=True))
    assert result.ok, str(result)
    covered = Covered()
    covered.add(result.facts)
    lines = "\n".join(covered.lines())
    assert "candidate -> leader" in lines
    assert "wal.before_sync" not in lines and "defrag.before" in lines
    assert failpoints.hits() == {}, "nothing stays armed"
    assert not any("__setattr__" in vars(machine.owner) for machine in MACHINES)
    assert simulate(parse_scenario(text, source="tiny"), 1).trace_hash == result.trace_hash


@pytest.mark.turn(1, of=2)
def test_a_swarm_is_borne_and_repeated_by_its_plan() -> None:
    first = simulate(load_scenario("swarm"), 3)
    assert first.ok, str(first)
    assert len(first.plan.strikes) > 5
    assert simulate(load_scenario("swarm"), 3, setup=Setup(plan=first.plan)).trace_hash == first.trace_hash

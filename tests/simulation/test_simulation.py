"""Whole clusters in virtual time: the same again for the same seed, and every fault of the checks' making is found."""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rayplane
from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.controllers.manager.runner import ControllerRunner
from rayplane.control_plane.simulation import Planted, Setup, SimulationResult, load_scenario, parse_scenario, simulate
from rayplane.control_plane.simulation.trace import Trace
from rayplane.storage.env import SimulatedDisk
from rayplane.storage.env.simulated import SimulatedFile
from tests.tiers import todays_part

# Whole clusters take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)

SHORT = """
duration: 1s
cluster: {timing: fast, nodes: 2}
client: {write_every: 100ms}
steps:
  - await: {ready: cluster}
  - apply:
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: 4
        selector: {matchLabels: {app: web}}
        template:
          metadata: {labels: {app: web}}
          spec: {containers: [{name: web, image: web}]}
  - kill: leader
  - await: {deployment: web, replicas: 4}
expect:
  - {deployment: web, replicas: 4}
"""

_AGAIN = """
import sys
from rayplane.control_plane.simulation import parse_scenario, simulate
print(simulate(parse_scenario(sys.stdin.read(), source="short"), 3).trace_hash)
"""


@pytest.mark.turn(0, of=2)
@pytest.mark.processes
def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    scenario = parse_scenario(SHORT, source="short")
    before = simulate(scenario, 4)
    # Not the first run of this process: nothing that an earlier one left in it makes a difference.
    result = simulate(scenario, 3)
    assert result.ok, str(result)
    assert before.trace_hash != result.trace_hash
    # This process hashes by chance.
    assert _again(sys.executable, {"PYTHONHASHSEED": "1"}) == result.trace_hash


def _again(python: str, environment: dict[str, str]) -> str:
    """The trace of the same run, in a process of its own."""
    again = subprocess.run(
        [python, "-c", _AGAIN],
        input=SHORT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return again.stdout.strip()


@pytest.mark.processes
def test_the_same_seed_gives_the_same_trace_on_every_python() -> None:
    path = {"PYTHONPATH": str(Path(rayplane.__path__[0]).parent)}
    others = [python for python in _other_pythons() if _has_all(python, path)]
    if not others:
        pytest.skip("no other Python has rayplane's dependencies: name some in RAYPLANE_PYTHONS")
    here = simulate(parse_scenario(SHORT, source="short"), 3).trace_hash
    assert {python: _again(python, path) for python in others} == dict.fromkeys(others, here)


def test_no_message_says_which_python_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    tell = Trace.message

    def message(self: Trace, source: str, target: str, data: bytes) -> None:
        said.extend([data] if b"Python/" in data else [])
        tell(self, source, target, data)

    monkeypatch.setattr(Trace, "message", message)
    scenario = parse_scenario(SHORT, source="short")
    result = simulate(replace(scenario, steps=scenario.steps[:1], expect=(), duration_s=1.0), 3)
    assert result.ok, str(result)
    assert not said


def _other_pythons() -> list[str]:
    """Of other versions: those that are named, and those on the path."""
    named = os.environ.get("RAYPLANE_PYTHONS", "").split(os.pathsep)
    usual = [f"python3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]
    return [found for name in (*named, *usual) if name and (found := shutil.which(name)) is not None]


def _has_all(python: str, environment: dict[str, str]) -> bool:
    command = [python, "-c", "import rayplane.control_plane.simulation"]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | environment).returncode == 0


def test_nothing_of_a_run_outlives_it() -> None:
    def runners() -> int:
        gc.collect()
        return sum(isinstance(one, ControllerRunner) for one in gc.get_objects())

    before, loop = runners(), asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # as in a program that has one
    assert simulate(parse_scenario(SHORT, source="short"), 3).ok
    loop.close()
    assert runners() <= before


@pytest.mark.parametrize("settled", [False, True])
def test_a_run_leaves_the_collector_as_it_was(settled: bool) -> None:
    scenario = parse_scenario("duration: 1s\nsteps: [{sleep: 1s}]", source="none")
    (gc.freeze if settled else gc.unfreeze)()
    try:
        assert simulate(scenario, 3, setup=Setup(until="0.01s")).ok
        assert (gc.get_freeze_count() > 0) is settled
        assert gc.isenabled()
    finally:
        gc.freeze()


@pytest.mark.turn(1, of=2)
def test_all_failures_of_an_hour() -> None:
    """The last of them ends when the node is back after a quarter; the rest of the scenario's hour is idle."""
    result = simulate(replace(load_scenario("failures"), duration_s=960), 1)
    assert result.ok, str(result)
    assert result.cluster_s >= 960
    assert result.acknowledged > 150


class _LyingFile(SimulatedFile):
    """A file that says that bytes are durable as soon as they are written."""

    async def sync(self) -> None:
        self._check()


class _LyingDisk(SimulatedDisk):
    """A disk that acknowledges without keeping."""

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> SimulatedFile:
        honest = super().append_file(path, preallocate=preallocate, at=at)
        return _LyingFile(self, honest._path, honest._inode)


def _kill_all_members(planted: Planted | None) -> Iterator[SimulationResult]:
    """Every member loses power at the same moment; two seeds, as a crash may spare what was not synced."""
    text = """
duration: 1s
cluster: {timing: fast, nodes: 1, apiservers: 1, schedulers: 1, controllers: 1}
client: {write_every: 50ms}
steps:
  - await: {ready: cluster}
  - sleep: 5s
  - kill: member-0
  - kill: member-1
  - kill: member-2
  - sleep: 5s
  - await: {ready: cluster, within: 15s}
"""
    return (simulate(parse_scenario(text, source="power"), seed, planted=planted) for seed in (1, 2))


@pytest.mark.turn(0, of=2)
def test_an_honest_disk_loses_nothing_when_all_members_lose_power() -> None:
    for result in _kill_all_members(None):
        assert result.ok, str(result)


@pytest.mark.turn(1, of=2)
def test_a_disk_that_acknowledges_without_keeping_is_found() -> None:
    planted = Planted(disks={f"member-{n}": _LyingDisk for n in range(3)})
    results = [*_kill_all_members(planted)]
    assert not any(r.ok for r in results)
    text = str(results[0])
    assert "again: rayplane simulate power --seed 1" in text
    assert "last events:" in text


@pytest.mark.turn(0, of=2)
def test_a_member_that_answers_before_it_syncs_is_found() -> None:
    def hasty(name: str, component: Component) -> None:
        config = getattr(component, "config", None)
        if name.startswith("member-") and config is not None:
            _answer_first(component)

    failures = [f for r in _kill_all_members(Planted(wrap=hasty)) for f in r.failures]
    assert any("is lost" in f or "cannot go on" in f for f in failures), failures


def _answer_first(member: Any) -> None:
    """Make the member's log call everything durable when it is only written."""
    disk = member._env.disk
    honest = disk.append_file

    def append_file(path: str, *, preallocate: int = 0, at: int | None = None) -> SimulatedFile:
        file = honest(path, preallocate=preallocate, at=at)
        return _LyingFile(disk, file._path, file._inode)

    disk.append_file = append_file


def test_a_failed_expectation_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.control_plane.simulation.run.FINAL_TIMEOUT_S", 5.0)
    scenario = parse_scenario(SHORT, source="short")
    wrong = replace(scenario, steps=scenario.steps[:1])
    result = simulate(wrong, 1)
    assert not result.ok
    assert "deployment web has 4 ready replicas; it does not exist" in result.failures[0]


@pytest.mark.parametrize("moment_ms", todays_part(2, [40, 120]))
def test_claims_go_with_their_set_when_the_controllers_die(moment_ms: int) -> None:
    """At 40 ms the claims were made and the controllers died before they had written whose they are."""
    text = f"""
duration: 1s
cluster: {{timing: fast, nodes: 3, controllers: 2}}
client: {{write_every: 5s}}
steps:
  - await: {{ready: cluster, within: 60s}}
  - apply:
      - apiVersion: apps/v1
        kind: StatefulSet
        metadata: {{name: queue, namespace: default}}
        spec:
          replicas: 4
          podManagementPolicy: Parallel
          persistentVolumeClaimRetentionPolicy: {{whenDeleted: Delete}}
          selector: {{matchLabels: {{app: queue}}}}
          template:
            metadata: {{labels: {{app: queue}}}}
            spec: {{containers: [{{name: queue, image: "queue:1", volumeMounts: [{{name: data, mountPath: /data}}]}}]}}
          volumeClaimTemplates:
            - metadata: {{name: data}}
              spec:
                accessModes: [ReadWriteOnce]
                storageClassName: replicated
                resources: {{requests: {{storage: 1Gi}}}}
  - sleep: {moment_ms}ms
  - kill: controllers
  - delete: {{statefulset: queue}}
  - sleep: 30s
expect:
  - {{claims: 0}}
"""
    result = simulate(parse_scenario(text, source="claims"), 1)
    assert result.ok, str(result)

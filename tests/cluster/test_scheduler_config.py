"""What a cluster's schedulers are given: profiles of their own, or those of a file, kept until others are asked for."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayplane.control_plane.cli.app import app
from rayplane.control_plane.cluster.components import build
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.launch import going_on
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.scheduler import Scheduler, SchedulerConfig, Strategy
from rayplane.storage.env import Env, LocalDisk, SystemClock

FILE = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
podMaxBackoffSeconds: 30
parallelism: 4
profiles:
- schedulerName: mine
"""


def given(config: ClusterConfig, tmp_path: Path) -> SchedulerConfig:
    """What a scheduler of such a cluster is made with, after a restart of all there is."""
    kept = ClusterConfig.from_json(json.loads(json.dumps(config.to_json())))
    machine = Machine("10.0.0.1", "a")
    placed = Instance("scheduler-0", Role.SCHEDULER, machine, {})
    server = Instance("apiserver-0", Role.APISERVER, machine, {"grpc": 2, "https": 3})
    maker = SpecMaker(config=kept, plan=AddressPlan(0), secrets=None, state_dir=str(tmp_path))
    spec = maker.make(placed, Topology((placed, server), "run"), restarted=True)
    env = Env(SystemClock(), random.Random(1), LocalDisk(tmp_path))
    made = build(spec, env, MemoryNetwork(Fabric(), "a"), tls_dir=None)
    assert isinstance(made, Scheduler)
    return made.config


def strategies(config: ClusterConfig, tmp_path: Path) -> dict[str, Strategy]:
    return {p.name: p.args["NodeResourcesFit"].strategy for p in given(config, tmp_path).profiles}


def test_pack_is_what_is_done_unless_spread_is_asked_for(tmp_path: Path) -> None:
    usual = {"default-scheduler": Strategy.MOST_ALLOCATED, "spread-scheduler": Strategy.LEAST_ALLOCATED}
    assert strategies(ClusterConfig(), tmp_path) == strategies(ClusterConfig(scheduling="pack"), tmp_path) == usual
    spread = ClusterConfig(scheduling="spread")
    assert strategies(spread, tmp_path)["default-scheduler"] is Strategy.LEAST_ALLOCATED
    assert going_on(spread, ClusterConfig()).scheduling == "spread", "a restart keeps it"
    assert going_on(spread, ClusterConfig(scheduling="pack")).scheduling == "pack"


def test_a_file_takes_the_place_of_the_profiles(tmp_path: Path) -> None:
    config = ClusterConfig(scheduler_config=FILE)
    config.validate()
    found = given(config, tmp_path)
    assert [p.name for p in found.profiles] == ["mine"] and found.backoff.max_s == 30.0
    assert going_on(config, ClusterConfig()).scheduler_config == FILE
    assert going_on(config, ClusterConfig(scheduler_config="none")).scheduler_config == ""


def test_a_file_and_a_choice_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="--scheduling: with a --scheduler-config"):
        ClusterConfig(scheduling="spread", scheduler_config=FILE).validate()
    with pytest.raises(UsageError, match="add --scheduler-config none"):
        going_on(ClusterConfig(scheduler_config=FILE), ClusterConfig(scheduling="spread"))
    asked = ClusterConfig(scheduling="spread", scheduler_config="none")
    asked.validate()
    found = going_on(ClusterConfig(scheduler_config=FILE), asked)
    assert (found.scheduling, found.scheduler_config) == ("spread", "")


def test_the_command_line_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text(FILE + "  plugins: {filter: {enabled: [{name: Nope}]}}\n")
    found = CliRunner().invoke(app, ["up", "--state-dir", str(tmp_path / "s"), "--scheduler-config", str(file)])
    assert found.exit_code != 0
    said = str(found.exception)
    assert "--scheduler-config is no KubeSchedulerConfiguration: profiles[0].plugins.filter.enabled[0].name" in said
    found = CliRunner().invoke(app, ["up", "--state-dir", str(tmp_path / "s"), "--scheduling", "scatter"])
    assert "--scheduling 'scatter': use pack or spread" in str(found.exception)

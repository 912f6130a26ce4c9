"""What the command line does, Python does: every command has a counterpart, or a reason for having none."""

import inspect
from functools import reduce

import pytest

import rayplane
from rayplane.control_plane.testing.awaited import Awaited
from rayplane.control_plane.testing.chaos import AsyncChaos, Chaos
from rayplane.control_plane.testing.cluster import Options
from tests.cli.test_json import commands
from tests.cli.whole import whole

SCREEN = "for people at a terminal or in a browser"
A_DOCUMENT = "prints a document that depends on no cluster"
RUNS_ON = "is a program of its own that runs until it is ended"
OTHERS = "clusters for suites in other languages; those in Python have Cluster.up and the fixtures"
WITHOUT = {
    **dict.fromkeys(("top", "learn", "dashboard", "debug"), SCREEN),
    **dict.fromkeys(("stages", "completion", "chaos schema"), A_DOCUMENT),
    **dict.fromkeys(("join", "operate"), RUNS_ON),
    "replay": "tells a file's story to people; programs read its JSON",
    **{f"test-env {one}": OTHERS for one in ("run", "start", "stop", "assets")},
}
#: Where a name of `rayplane` is called otherwise than the command.
COUNTERPARTS = {
    "endpoints": "Cluster.endpoints",
    "kubeconfig": "Cluster.kubeconfig",
    "backup": "Cluster.snapshot",
    "simulate": "testing.simulation",
    **{one: f"Client.{one}" for one in ("apply", "delete", "logs", "exec", "scale")},
    "chaos continue": "Chaos.go_on",
    "chaos list": "Chaos.faults",
    "chaos run": "Cluster.trial",
    **{f"chaos {one}": f"Chaos.{one}" for one in ("kill", "stop", "inject", "end", "heal")},
    "image list": "Cluster.images",
    "image rm": "Cluster.remove_images",
    "image prune": "Cluster.prune_images",
    "token list": "Cluster.tokens",
}
#: Flags of `up` that Options call otherwise, or that are arguments beside them.
FLAGS = {
    **dict.fromkeys(("min_nodes", "max_nodes"), "autoscale"),
    "scale_down_unneeded_time": "unneeded_time",
    "authentication_token_webhook_config_file": "authentication_webhook",
    "admission_control_config_file": "admission_config",
}
BESIDE = {"name", "host", "state", "output"}
NAMES = {"Cluster": rayplane.Cluster, "Client": rayplane.Client, "Chaos": Chaos, "testing": rayplane.testing}


def counterpart(command: str) -> str:
    group, _, verb = command.rpartition(" ")
    return COUNTERPARTS.get(command) or f"Cluster.{f'{verb}_{group}' if group else verb.replace('-', '_')}"


FOUND = [name for name, _ in commands(whole())]


@pytest.mark.parametrize("command", [one for one in FOUND if one not in WITHOUT])
def test_a_command_has_a_counterpart_that_says_what_it_does(command: str) -> None:
    first, *rest = counterpart(command).split(".")
    found = reduce(getattr, rest, NAMES[first])
    assert inspect.getdoc(found)


def test_each_flag_of_up_is_an_option_of_a_cluster() -> None:
    up = whole().commands["up"]
    flags = {str(one.name) for one in up.params} - BESIDE
    assert {FLAGS.get(one, one) for one in flags} <= Options.__annotations__.keys() | Options.__optional_keys__


def test_no_reason_is_for_a_command_that_is_gone() -> None:
    assert {*WITHOUT, *COUNTERPARTS} <= {*FOUND}


@pytest.mark.parametrize(("blocking", "awaited"), [(rayplane.Cluster, rayplane.AsyncCluster), (Chaos, AsyncChaos)])
def test_whatever_blocks_can_be_awaited(blocking: type, awaited: type) -> None:
    own = {"stop", "start_as_fork", "directory", "environment", "state_dir"}  # down, fork, and paths that block nobody
    for name in {one for one in dir(blocking) if not one.startswith("_")} - own:
        other = inspect.getattr_static(awaited, name)
        if isinstance(other, Awaited):
            assert other.method is getattr(blocking, name)

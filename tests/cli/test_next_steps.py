"""What is said and offered before anything runs: `rayplane` alone, completion, `kubectl rayplane`, colours."""

import errno
import io
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

import rayplane
from rayplane.control_plane.api.errors import Conflict, NotFound, ServiceUnavailable, Timeout
from rayplane.control_plane.cli import app, names
from rayplane.control_plane.cli import dashboard as cli_dashboard
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.kubectl_plugin import chosen
from rayplane.control_plane.cli.printing import BAD, HEAD, PLAIN, TableWriter
from rayplane.control_plane.cli.session import Terminal
from rayplane.control_plane.cli.welcome import welcome
from rayplane.control_plane.cluster import upgrade
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.environments import Build
from rayplane.control_plane.cluster.errors import ClusterError, NotUp
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.simulation import builtin_scenarios
from tests.cli.whole import whole
from tests.fakes import FakeClient
from tests.house.documents import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def made(home: Path, name: str, port: int, *, running: bool = True) -> StateDir:
    directory = StateDir.of(name, str(home / ".rayplane" / name))
    directory.path.mkdir(parents=True)
    supervisor = Instance("supervisor", Role.SUPERVISOR, Machine(), {"grpc": port})
    node = Instance("node-host-0", Role.NODE_HOST, Machine(), nodes=("node-0",))
    topology = Topology(run="one", instances=(supervisor, node))
    config = ClusterConfig(name=name, host="process")
    state = ClusterState(config=config, plan=AddressPlan(0), topology=topology, running=running, host={})
    directory.write(state)
    return directory


def test_without_a_cluster_it_says_how_to_begin(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 0
    said = capsys.readouterr().out
    assert "No cluster is here yet" in said and "rayplane up --host process" in said and "rayplane --help" in said


def test_each_cluster_is_told_with_what_can_be_done_next(home: Path, port: int) -> None:
    made(home, "web", port)
    made(home, "old", port, running=False)
    broken = home / ".rayplane" / "broken"
    broken.mkdir()
    (broken / "cluster.json").write_text("{")
    said = "\n".join(welcome(home))
    assert "Cluster 'web' runs." in said and "rayplane get pods -A --name web" in said
    assert "Cluster 'old' is down" in said and "rayplane up --name old" in said
    assert "is damaged" in said


def test_a_cluster_whose_processes_are_gone_is_not_told_as_running(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    made(home, "web", port)
    assert "should run, and does not answer" in "\n".join(welcome(home))


def test_a_wrong_name_is_told_with_those_that_run(home: Path, port: int) -> None:
    made(home, "web", port)
    with pytest.raises(NotUp, match="or give the --name of one that is: web"):
        StateDir.of("wep", None).read_running()


@pytest.mark.parametrize("command", ["top", "dashboard", "get pods"])
def test_what_is_not_up_yet_is_told_before_it_is_reached_for(
    command: str, home: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = made(home, "web", port)
    directory.write(replace(directory.read_running(), topology=Topology(())))
    monkeypatch.setattr(cli_dashboard, "_serve", Mock(side_effect=AssertionError("it is served")))
    assert app.run([*command.split(), "--name", "web"]) == 1
    assert "is not up yet; wait for `rayplane up --name web`" in capsys.readouterr().err


async def test_nothing_is_replaced_in_a_cluster_that_is_not_up_yet(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(home, "web", port)
    directory.write(replace(directory.read_running(), topology=Topology(())))
    monkeypatch.setattr(upgrade, "build_of", lambda _: Build.own())
    with pytest.raises(NotUp, match="is not up yet"):
        await upgrade.checked(directory, "python", lambda _: None)


@pytest.mark.parametrize(("name", "flags"), [("web", " --name web"), ("default", "")])
def test_what_is_advised_means_the_cluster_that_was_asked_for(
    name: str, flags: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A purge of another cluster would be the worst advice."""
    directory = StateDir.of(name, None)
    directory.create()
    (directory.path / "cluster.json").write_text("{")
    assert app.run(["get", "pods", "--name", name]) == 1
    err = capsys.readouterr().err
    assert f"`rayplane down --purge{flags}`" in err
    assert app.run(["down", "--purge", "--name", name]) == 0
    assert not directory.path.exists()
    assert app.run(["get", "pods", "--name", name]) == 1
    assert f"run `rayplane up{flags}`" in capsys.readouterr().err


# --- completion -----------------------------------------------------------------------------------


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_RAYPLANE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        app.run([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rayplane chaos ki", ["kill"]),
        ("rayplane get replicase", ["replicasets"]),
        ("rayplane get pods --show", ["--show-labels"]),
        ("rayplane status --name w", ["web"]),
        ("rayplane logs-of --name up sup", ["supervisor"]),
        ("rayplane chaos kill --name up sc", ["scheduler"]),
        ("rayplane chaos stop --name up s", ["scheduler", "supervisor"]),
        ("rayplane remove node --name up no", ["node-0"]),
        ("rayplane remove member --name up ", []),
        ("rayplane chaos kill --name up node ", ["node-0", "random"]),
        ("rayplane chaos kill --name up leader ran", ["random"]),
        ("rayplane drain machine --name up ", ["127.0.0.1"]),
        ("rayplane get nodes,replicase", ["nodes,replicasets"]),
        ("rayplane get pods -o ", ["json", "name", "wide", "yaml"]),
        ("rayplane up --timing sp", ["sparse"]),
        ("rayplane fork w", ["web"]),
        ("rayplane stages k", ["keda"]),
        ("rayplane simulate ", builtin_scenarios()),
        ("rayplane debug 1 --scenario q", ["quick"]),
        # Nobody answers there, which is nothing to complete.
        ("rayplane get pods -n we", []),
        ("rayplane why replicase", ["replicasets"]),
        ("rayplane get pods we", []),
        ("rayplane logs we", []),
    ],
)
def test_commands_kinds_and_clusters_are_completed(
    line: str, found: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".rayplane" / "web").mkdir(parents=True)
    (home / ".rayplane" / "web" / "cluster.json").write_text("{}")
    made(home, "up", 1)
    assert completed(line, monkeypatch, capsys) == found


def test_a_name_that_would_be_a_command_of_the_shell_is_not_offered(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def listed(*_: object) -> list[str]:
        return ["system:node", "$(touch${IFS}x)", "`x`", "a;b"]

    monkeypatch.setattr(names, "listed", listed)
    assert completed("rayplane get clusterroles ", monkeypatch, capsys) == ["system:node"]
    assert completed("rayplane get clusterroles/", monkeypatch, capsys) == ["clusterroles/system:node"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_ask(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert "_RAYPLANE_COMPLETE=complete_" in capsys.readouterr().out


@pytest.mark.processes
@pytest.mark.parametrize(
    ("line", "answer", "replies"),
    [
        ("rayplane get pods --na", "--name\tThe cluster's.\n--namespace\tIts.", "--name|--namespace|"),
        ("rayplane get pods --name=w", "web", "web|"),
        # Readline's own last word is what stands behind the colon.
        ("rayplane get clusterroles system:no", "system:node", "node|"),
    ],
)
def test_bash_is_given_what_goes_on_from_its_own_last_word(
    line: str, answer: str, replies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["completion", "bash"]) == 0
    program = tmp_path / "rayplane"
    said = f"[ \"$_TYPER_COMPLETE_ARGS\" = '{line}' ] && printf '%b\\n' \"{answer}\""
    program.write_text(f"#!/bin/sh\n{said}\n")
    program.chmod(0o755)
    asked = f"COMP_LINE='{line}x' COMP_POINT={len(line)}; _rayplane_completion {program}"
    script = f"{capsys.readouterr().out}\n{asked}; printf '%s|' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (replies, "")


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["get", "-h"]])
def test_what_people_ask_every_program_is_answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(words) == 0
    said = capsys.readouterr().out
    assert said == f"rayplane {rayplane.__version__}\n" if words == ["--version"] else "Usage: rayplane" in said


# --- kubectl rayplane -----------------------------------------------------------------------------


def kubeconfig(file: Path, server: str, context: str = "it") -> Path:
    cluster = {"name": "c", "cluster": {"server": server}}
    contexts = [{"name": context, "context": {"cluster": "c"}}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"current-context": context, "contexts": contexts, "clusters": [cluster]}))
    return file


def test_the_plug_in_finds_the_cluster_that_kubectl_talks_to(home: Path, port: int) -> None:
    for name, server in (("web", "https://127.1.0.1:6443"), ("other", "https://127.2.0.1:6443")):
        kubeconfig(made(home, name, port).kubeconfig, server)
    merged = kubeconfig(home / ".kube" / "config", "https://127.2.0.1:6443")
    assert chosen(["get", "pods"], {}, home) == {"RAYPLANE_NAME": "other", "RAYPLANE_STATE_DIR": ""}
    own = home / ".rayplane" / "web" / "kubeconfig"
    assert chosen(["get", "pods"], {"KUBECONFIG": f"{own}:{merged}"}, home)["RAYPLANE_NAME"] == "web"
    assert chosen(["get", "pods", "--name=x"], {}, home) == {}
    program = ["exec", "web", "--", "mysql", "--name=x", "--help"]
    assert chosen(program, {}, home)["RAYPLANE_NAME"] == "other", "what follows -- is not for us"
    kubeconfig(merged, "https://elsewhere:6443")
    with pytest.raises(ClusterError, match="context 'it' leads to https://elsewhere:6443, which is no cluster of"):
        chosen(["get", "pods"], {}, home)


def test_the_plug_in_finds_a_cluster_with_a_directory_of_its_own(home: Path, port: int, tmp_path: Path) -> None:
    directory = tmp_path / "elsewhere"
    made(home, "web", port).path.rename(directory)
    own = kubeconfig(directory / "kubeconfig", "https://127.1.0.1:6443")
    found = {"RAYPLANE_NAME": "", "RAYPLANE_STATE_DIR": str(directory)}
    assert chosen(["status"], {"KUBECONFIG": str(own)}, home) == found


def commands(group: Any, *before: str) -> Iterator[tuple[list[str], set[str]]]:
    """Each command, with its options."""
    for name in group.list_commands(None):
        one = group.get_command(None, name)
        if hasattr(one, "list_commands"):
            yield from commands(one, *before, name)
        else:
            yield [*before, name], {option for parameter in one.params for option in parameter.opts}


def test_the_plug_in_asks_for_a_cluster_where_one_is_taken(home: Path) -> None:
    kubeconfig(home / ".kube" / "config", "https://elsewhere:6443")
    for command, options in commands(whole()):
        if "--state-dir" not in options or command[0] in ("up", "test-env"):
            assert chosen(command, {}, home) == {}, command
        else:
            with pytest.raises(ClusterError, match="which is no cluster of"):
                chosen(command, {}, home)


@pytest.mark.processes
def test_kubectl_completes_behind_the_plug_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kubectl itself, and the entry points as they are installed: it calls one for the words behind the other."""
    kubeconfig(home / ".kube" / "config", "https://127.1.0.1:6443")
    kubeconfig(made(home, "web", 1).kubeconfig, "https://127.1.0.1:6443")
    kubectl = shutil.which("kubectl")
    assert kubectl
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("kubectl-rayplane", "kubectl_complete-rayplane"):
        module, _, function = scripts[name].partition(":")
        (home / name).write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        (home / name).chmod(0o755)
    command = [kubectl, "__complete", "rayplane", "remove", "node", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["node-0", ":4"]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["ge"], ["get\tShow objects.", ":4"]),
        (["chaos", "ki"], ["kill\tSend a signal to an actor's process; the...", ":4"]),
        (["get", "replicase"], ["replicasets", ":4"]),
        # A shell completes files.
        (["apply", "-f", ""], [":0"]),
    ],
)
def test_the_plug_in_tells_kubectl_candidates_and_what_to_do_with_them(
    words: list[str], lines: list[str], home: Path
) -> None:
    assert app.completed(words) == lines


# --- which cluster is meant -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "environment", "refused"),
    [
        ("down --purge --name other --state-dir DIR", "", True),
        ("down --state-dir DIR --name other", "", True),
        ("status --name other", "RAYPLANE_STATE_DIR=DIR", True),
        ("status", "RAYPLANE_STATE_DIR=DIR RAYPLANE_NAME=other", True),
        # Who gives a directory alone means the cluster that is there.
        ("status --state-dir DIR", "RAYPLANE_NAME=other", False),
        ("status --state-dir DIR", "", False),
        ("status --state-dir DIR --name web", "RAYPLANE_NAME=other", False),
    ],
)
def test_a_name_and_a_directory_of_two_clusters_are_refused(
    command: str,
    environment: str,
    refused: bool,
    home: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = made(home, "web", port, running=False).path
    for pair in environment.split():
        variable, _, value = pair.partition("=")
        monkeypatch.setenv(variable, value.replace("DIR", str(directory)))
    code = app.run(command.replace("DIR", str(directory)).split())
    said = capsys.readouterr().err
    assert (code == 2 and "is called 'web', not 'other'" in said) == refused, said
    assert (directory / "cluster.json").is_file()


def test_what_the_plug_in_cannot_find_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["get", "pods"], "kubectl rayplane") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no current context" in err and "rayplane kubeconfig" in err and "--name" in err


@pytest.mark.parametrize(
    "text",
    [
        *("clusters: x", "clusters: [1]", "clusters: [{name: c, cluster: [1]}]", "contexts: 3", "contexts: [{}]", "[]"),
        *("current-context: [1]\ncontexts: [{name: [1]}]", "contexts: [{name: it, context: x}]", "a: [", "\0"),
    ],
)
def test_a_kubeconfig_of_any_form_is_one_line(text: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".kube").mkdir()
    (home / ".kube" / "config").write_text(text)
    assert app.run(["get", "pods"], "kubectl rayplane") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--name" in err


# --- what failed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (NotFound.of("deployments", "x", group="apps"), "`rayplane get deployments -A` shows what there is"),
        (Conflict("it has changed"), "look, and try again"),
        (ServiceUnavailable("no server answered"), "`rayplane status` says what is wrong"),
        (Timeout("no answer"), "it may have been done"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "check its name"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "check whose it is"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "choose another port"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "make room there"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "temporarily unavailable"),
    ],
)
def test_what_the_servers_or_the_system_refuse_is_one_line_with_what_to_do(
    error: Exception, advice: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(StateDir, "read_running", refused)
    assert app.run(["status"]) == 1
    err = capsys.readouterr().err
    assert advice in err and err.count("\n") == 1 and "Errno" not in err


async def test_a_kind_that_nobody_serves_is_told_with_one_that_is_meant() -> None:
    kinds = Kinds(FakeClient())  # type: ignore[arg-type]
    for word, advice in (
        ("podz", "did you mean pod?"),
        ("Deplyment", "did you mean deployment?"),
        ("qqq", "get crds"),
    ):
        with pytest.raises(ClusterError) as refused:
            await kinds.resolve(word)
        assert advice in str(refused.value)


# --- colours --------------------------------------------------------------------------------------

TABLE = {
    "columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Ready"}, {"name": "Status"}],
    "rows": [{"cells": ["web", "1/1", "Running"]}, {"cells": ["api", "0/1", "Error"]}],
}


def test_what_is_not_as_it_should_be_is_red_where_there_are_colours() -> None:
    out = io.BytesIO()
    terminal = Terminal(out, out, colours=True)
    lines = TableWriter().lines(TABLE, [{}, {}])
    for line in lines:
        terminal.line(*line)
    assert [line.style for line in lines] == [HEAD, "", BAD]
    assert out.getvalue().decode().splitlines()[2] == f"{BAD}api    0/1     Error{PLAIN}"
    out.truncate(0)
    for line in lines:
        replace(terminal, colours=False).line(*line)
    assert b"\x1b" not in out.getvalue()

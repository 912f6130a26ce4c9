"""`rayplane test-env`: clusters for test suites in any language."""

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.interrupts import interrupting
from rayplane.control_plane.cli.options import progress, run
from rayplane.control_plane.cluster import envtest
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.guardian import DOWN, UP, guard
from rayplane.control_plane.cluster.ours import TEST_ENV
from rayplane.control_plane.cluster.state import StateDir
from rayplane.storage.env.private import write_private

app = typer.Typer(help="Clusters for test suites in any language.")
_STATE = "RAYPLANE_STATE_DIR"
_STDOUT = "-"

Nodes = Annotated[int, typer.Option(help="Simulated nodes.")]
Json = Annotated[bool, typer.Option("--json", help="Variables as a JSON object, not as lines of a shell.")]


def register(whole: typer.Typer) -> None:
    whole.add_typer(app, name="test-env")


@app.command(name="run")
def run_tests(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGS]...", help="What runs the tests.")],
    nodes: Nodes = 1,
) -> None:
    """Run a command with a cluster of its own, which ends with it; its exit code.

    KUBECONFIG is set for it, and USE_EXISTING_CLUSTER, which envtest of controller-runtime goes by.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no program {command[0]!r}: `rayplane test-env run -- COMMAND ARGS`")
    config = _config(nodes)
    directory = _new_place(config)
    with _guarded(config, directory):
        code = run(_exit_code(command, os.environ | _variables(directory, config.name)))
    raise typer.Exit(code)


@app.command()
def start(
    nodes: Nodes = 1,
    kubeconfig: Annotated[
        str, typer.Option(help="Write the kubeconfig to this file too; `-`: print it and nothing else.")
    ] = "",
    parent: Annotated[int, typer.Option(help="Process that the cluster ends with.  [default: who runs this]")] = 0,
    as_json: Json = False,
) -> None:
    """Start a cluster and print its variables: `eval "$(rayplane test-env start)"`.

    It is deleted when the process is gone that runs this, or by `rayplane test-env stop`.
    """
    from rayplane.control_plane.cli.options import errors

    if kubeconfig == _STDOUT and as_json:
        raise UsageError("--kubeconfig - prints the kubeconfig and nothing else: leave --json out")
    config, owner = _config(nodes), parent or os.getppid()
    program = _program(owner)
    directory = _new_place(config)
    with _guarded(config, directory, parent=owner):
        if kubeconfig == _STDOUT:
            print(directory.kubeconfig.read_text(), end="")
        else:
            if kubeconfig:
                write_private(Path(kubeconfig), directory.kubeconfig.read_bytes())
            _tell(_variables(directory, config.name), as_json=as_json)
    errors.print(f"the cluster ends with process {owner} ({program}), or by `rayplane test-env stop`", markup=False)


@app.command()
def stop(
    state: Annotated[
        str, typer.Option("--state-dir", envvar=_STATE, help="Where its state is, as `start` has printed it.")
    ] = "",
) -> None:
    """End and delete the cluster that `start` has started. Nothing is done when it is gone already."""
    if not state:
        raise UsageError(
            f'which cluster is not said: give --state-dir, or {_STATE} by `eval "$(rayplane test-env start)"`'
        )
    from rayplane.control_plane.cluster import launch

    directory = StateDir(Path(state).absolute())
    if (directory.path / TEST_ENV).exists():
        run(launch.down(directory, lambda _: None, purge=True))
    elif (found := directory.read()) is not None:
        raise ClusterError(
            f"cluster {found.config.name!r} in {directory.path} is none of `rayplane test-env start`: "
            f"`rayplane down{directory.flags(found.config.name)}` ends it"
        )


@app.command()
def assets(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to.  [default: below ~/.cache]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write etcd, kube-apiserver and kubectl for envtest of controller-runtime, and print its variables.

    `eval "$(rayplane test-env assets)"`, and `go test ./...` runs on rayplane. As with envtest's own there are no
    controllers, no scheduler and no nodes.
    """
    _tell(envtest.write_programs((directory or envtest.usual_place()).absolute()), as_json=as_json)


def _config(nodes: int) -> ClusterConfig:
    config = ClusterConfig(
        name=f"test-env-{secrets.token_hex(4)}",
        host=PROCESS,
        members=1,
        apiservers=1,
        schedulers=1,
        controllers=1,
        nodes=nodes,
    )
    config.validate()
    return config


def _new_place(config: ClusterConfig) -> StateDir:
    return StateDir.of(config.name, tempfile.mkdtemp(prefix="rayplane-"))


def _program(pid: int) -> str:
    """What a process runs. UsageError where its end cannot be waited for."""
    try:
        os.close(os.pidfd_open(pid))
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, OverflowError) as e:
        raise UsageError(
            f"--parent {pid} is no process whose end can be waited for; give that of your tests, such as $$ in a shell"
        ) from e


@contextlib.contextmanager
def _guarded(config: ClusterConfig, directory: StateDir, *, parent: int = 0) -> Iterator[None]:
    """A cluster, up: it is deleted in the end, but when all went well it stays as long as `parent`, if any."""
    from rayplane.control_plane.cli.options import errors

    guardian = guard(directory.path, purge=True, parent=parent)
    assert guardian.stdin is not None
    word = b""
    try:
        try:
            run(_up(config, directory))
        except ClusterError:
            # What was started has ended, and the message may point to a log.
            word = DOWN
            raise
        yield
        word = UP if parent else b""
    finally:
        if word == UP:
            with guardian.stdin as line:
                line.write(UP)
            guardian.returncode = 0  # it goes on, and nobody here waits for it
        elif _ended(guardian, word) != 0:
            errors.print(f"the cluster may still be up: run `rayplane down --purge --state-dir {directory.path}`")


def _ended(guardian: "subprocess.Popen[bytes]", word: bytes) -> int:
    """The exit code of a guardian that is told that nobody wants the cluster any more."""
    guardian.communicate(word)
    return guardian.returncode


async def _up(config: ClusterConfig, directory: StateDir) -> None:
    from rayplane.control_plane.cluster import launch

    with progress(quiet=True) as say:
        await launch.up(config, directory, say)
    write_private(directory.path / TEST_ENV, b"")


def _variables(directory: StateDir, name: str) -> dict[str, str]:
    return {
        "KUBECONFIG": str(directory.kubeconfig),
        "USE_EXISTING_CLUSTER": "true",
        "RAYPLANE_NAME": name,
        _STATE: str(directory.path),
    }


async def _exit_code(command: list[str], environment: Mapping[str, str]) -> int:
    """The exit code of a command, as shells have it. However often signals come, its end is waited for."""
    code = await asyncio.to_thread(_begun(command, environment).wait)
    return code if code >= 0 else 128 - code


def _begun(command: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """A command that the other signals that interrupt are passed on to; a terminal's Ctrl-C it gets as well."""
    process = subprocess.Popen(command, env=environment)
    loop = asyncio.get_running_loop()
    for number in interrupting():
        loop.add_signal_handler(number, process.send_signal, number)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    return process


def _tell(variables: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(variables, indent=2))
        return
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")

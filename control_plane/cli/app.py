"""All commands, and one line on standard error when one fails."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import rayplane
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli import (
    advance,
    backups,
    chaos,
    cluster,
    completion,
    dashboard,
    explain,
    images,
    joining,
    kubectl_plugin,
    logs_of,
    machines,
    objects,
    operate,
    plan,
    replay,
    simulate,
    stages,
    test_env,
    trace,
    travel,
    upgrade,
    welcome,
    why,
)
from rayplane.control_plane.cli.learn import command as learn
from rayplane.control_plane.cli.options import EXIT_INTERRUPTED
from rayplane.control_plane.cli.printing import advised
from rayplane.control_plane.cli.top import command as top
from rayplane.control_plane.cluster.errors import ClusterError, UsageError, refusal
from rayplane.control_plane.rpc import RpcError
from rayplane.node.errors import NodeError
from rayplane.storage.backup import BackupError
from rayplane.storage.env import DiskError
from rayplane.storage.env.private import UMASK

app = typer.Typer(
    name="rayplane",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cluster.register(app)
advance.register(app)
backups.register(app)
machines.register(app)
chaos.register(app)
logs_of.register(app)
simulate.register(app)
replay.register(app)
operate.register(app)
objects.register(app)
trace.register(app)
why.register(app)
explain.register(app)
plan.register(app)
images.register(app)
upgrade.register(app)
joining.register(app)
dashboard.register(app)
completion.register(app)
travel.register(app)
test_env.register(app)
top.register(app)
stages.register(app)
learn.register(app, lambda arguments: run(arguments))


@app.callback(invoke_without_command=True)
def without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """A Kubernetes control plane of actors, on Ray or in one process. Without a command it says what to do next."""
    if version:
        typer.echo(f"rayplane {rayplane.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        for line in welcome.welcome(Path.home()):
            typer.echo(line)


EXIT_FAILED, EXIT_USAGE = 1, 2
_FAILURES = (
    *(typer.Abort, KeyboardInterrupt, typer.TyperException),
    *(ClusterError, BackupError, DiskError, ApiError, RpcError, NodeError, OSError),
)


def run(arguments: list[str], program: str = "rayplane") -> int:
    """Run a command; its exit code."""
    os.umask(UMASK)  # what it writes are keys, states and backups
    try:
        if program != "rayplane":
            os.environ.update(kubectl_plugin.chosen(arguments, os.environ, Path.home()))
        code = app(args=arguments, prog_name=program, standalone_mode=False)
    except BrokenPipeError:
        # The reader of our output has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except _FAILURES as e:
        return _failed(e)
    if code == EXIT_INTERRUPTED:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _failed(error: BaseException) -> int:
    """Say in one line what went wrong; the exit code."""
    match error:
        case typer.Abort() | KeyboardInterrupt():
            return _fail("interrupted", EXIT_INTERRUPTED)
        case typer.TyperException():
            path = getattr(getattr(error, "ctx", None), "command_path", "rayplane")
            return _fail(f"{_usage_text(error)}; see `{path} --help`", EXIT_USAGE)
        case UsageError():
            return _fail(str(error), EXIT_USAGE)
        case ApiError():
            return _fail(advised(error), EXIT_FAILED, program="")
        case RpcError():
            return _fail(error.message, EXIT_USAGE if error.code.name == "INVALID_ARGUMENT" else EXIT_FAILED)
        case OSError():
            return _fail(_system_text(error), EXIT_FAILED)
        case _:
            return _fail(str(error), EXIT_FAILED)


def _system_text(error: OSError) -> str:
    """What the system refused, and of which file."""
    return f"{error.filename}: {refusal(error)}" if error.filename else refusal(error)


def _usage_text(error: typer.TyperException) -> str:
    """What is wrong with the command's words, and where, without the usage lines."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return text.rstrip(".").replace("Value error, ", "")


def _fail(message: str, code: int, *, program: str = "rayplane: ") -> int:
    print(program + " ".join(message.split()), file=sys.stderr)
    return code

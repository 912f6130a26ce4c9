"""All commands, each loaded when it is used, and one line on standard error when one fails."""

import contextlib
import os
import sys
from importlib import import_module, resources
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import rayplane
from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.interrupts import EXIT_INTERRUPTED
from rayplane.control_plane.cli.parameters import take_as_they_are
from rayplane.control_plane.cluster.errors import ClusterError, UsageError, refusal
from rayplane.storage.process import UMASK

_PACKAGE = "rayplane.control_plane.cli"


class Commands(TyperGroup):
    """The commands that `commands.tsv` lists, by name, module and help: loaded is only the one that is used.

    To load all of them takes ten times as long as most of them take, and a shell asks with each press of TAB.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._modules: dict[str, str] = {}
        for line in (resources.files(_PACKAGE) / "commands.tsv").read_text().splitlines():
            name, self._modules[name], text = line.split("\t")
            self.add_command(TyperCommand(name, help=text, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and self.load(ctx, str(listed.name)), rest

    def get_params(self, ctx: Any) -> Any:
        take_as_they_are(found := super().get_params(ctx))
        return found

    def load(self, ctx: Any, name: str) -> Any:
        """The command itself, with what it takes."""
        part = typer.Typer(rich_markup_mode=None)
        import_module(f"{_PACKAGE}.{self._modules[name]}").register(part)
        command = typer.main.get_group(part).commands[name]
        for one in (command, *getattr(command, "commands", {}).values()):
            take_as_they_are(one.get_params(ctx))
        return command


app = typer.Typer(
    name="rayplane",
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        from rayplane.control_plane.cli.welcome import welcome

        for line in welcome(Path.home()):
            typer.echo(line)


EXIT_FAILED, EXIT_USAGE = 1, 2


def run(arguments: list[str], program: str = "rayplane") -> int:
    """Run a command; its exit code."""
    os.umask(UMASK)  # what it writes are keys, states and backups
    completion.begin()
    try:
        if program != "rayplane":
            from rayplane.control_plane.cli import kubectl_plugin

            os.environ.update(kubectl_plugin.chosen(arguments, os.environ, Path.home()))
        code = app(args=arguments, prog_name=program, standalone_mode=False)
    except BrokenPipeError:
        # The reader of our output has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (Exception, KeyboardInterrupt) as e:
        if (failed := _failed(e)) is None:
            raise
        return failed
    if code == EXIT_INTERRUPTED:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


_NO_FILES, _FILES = ":4", ":0"


def completed(words: list[str]) -> list[str]:
    """Lines that tell kubectl what goes on from the last of the words behind `kubectl rayplane`, as cobra has them.

    Source: cobra's ShellCompDirective, kubectl/pkg/cmd/plugin (plugin_completion).
    """
    completion.begin()
    if len(words) > 1:  # behind a command, which may have names of the cluster that kubectl is talking to
        from rayplane.control_plane.cli import kubectl_plugin

        with contextlib.suppress(ClusterError):
            os.environ.update(kubectl_plugin.chosen(words, os.environ, Path.home()))
    found = completion.candidates(typer.main.get_command(app), words)
    return [*found, _NO_FILES if found else _FILES]


def _failed(error: BaseException) -> int | None:
    """Say in one line what went wrong; the exit code. None, and nothing said, where that is a fault of ours."""
    match error:
        case typer.Abort() | KeyboardInterrupt():
            return _fail("interrupted", EXIT_INTERRUPTED)
        case typer.TyperException():
            path = getattr(getattr(error, "ctx", None), "command_path", "rayplane")
            return _fail(f"{_usage_text(error)}; see `{path} --help`", EXIT_USAGE)
        case UsageError():
            return _fail(str(error), EXIT_USAGE)
        case ClusterError():
            return _fail(str(error), EXIT_FAILED)
        case OSError():
            return _fail(_system_text(error), EXIT_FAILED)
        case _:
            return _failed_within(error)


def _failed_within(error: BaseException) -> int | None:
    """The same of errors whose modules the command that raised them has loaded, and only it needs."""
    from rayplane.control_plane.api.errors import ApiError
    from rayplane.control_plane.cli.printing import advised
    from rayplane.control_plane.rpc import RpcError
    from rayplane.node.errors import NodeError
    from rayplane.storage.errors import StorageError

    match error:
        case ApiError():
            return _fail(advised(error), EXIT_FAILED, program="")
        case RpcError():
            return _fail(error.message, EXIT_USAGE if error.code.name == "INVALID_ARGUMENT" else EXIT_FAILED)
        case StorageError() | NodeError():
            return _fail(str(error), EXIT_FAILED)
        case _:
            return None


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

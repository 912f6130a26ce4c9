"""Options that every command has, and how commands run."""

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.interrupts import interrupting
from rayplane.control_plane.cluster.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rayplane.control_plane.cluster.state import StateDir

T = TypeVar("T")


COMMAND_LINE = "COMMANDLINE"


def source(context: typer.Context, parameter: str) -> str:
    """Where the value of a parameter is from: the name that click has for it."""
    return str(getattr(context.get_parameter_source(parameter), "name", ""))


def _agreeing(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """The value of a `Name` or `State`. Raises UsageError where the two that were said are of different clusters.

    A directory that was given says more than a name that only the environment has.
    """
    said = {**context.params, parameter.name: value}
    name, state = said.get("name"), said.get("state")
    if name and state and not context.resilient_parsing:
        of_name, of_state = source(context, "name"), source(context, "state")
        if of_name in (COMMAND_LINE, of_state):
            state_dir(name, state).check_called(name)
    return value


Name = Annotated[
    str,
    typer.Option(
        "--name",
        envvar="RAYPLANE_NAME",
        help="The cluster's name.",
        autocompletion=completion.clusters,
        callback=_agreeing,
    ),
]
State = Annotated[
    str | None,
    typer.Option(
        "--state-dir",
        envvar="RAYPLANE_STATE_DIR",
        help="Where its state is kept.  [default: ~/.rayplane/NAME]",
        callback=_agreeing,
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "-o", "--output", help="Empty for people, `json` for programs.", autocompletion=completion.one_of("json")
    ),
]

Autoscale = Annotated[
    bool | None,
    typer.Option(
        "--autoscale/--no-autoscale",
        help="Nodes come when pods find none, with machines that Ray's autoscaler is asked for, and go when needless; "
        "kept.",
    ),
]
MinNodes = Annotated[int | None, typer.Option(help="With --autoscale, the fewest nodes.  [default: as --nodes]")]
MaxNodes = Annotated[int, typer.Option(help="With --autoscale, the most nodes.")]
UnneededTime = Annotated[
    str, typer.Option(help="With --autoscale, after which time a needless node goes, such as 10m; kept.")
]

Ui = Annotated[
    str,
    typer.Option(
        help="Whether API servers have the dashboard's page below `/ui/`: `on`, `off`; kept.",
        autocompletion=completion.one_of("on", "off"),
    ),
]

#: As wide as any table: what a pipe or a file takes has no edge at which addresses would be cut.
_WIDTH = 1000


class _Made:
    """A console of rich's, made when it is used first: what shells ask, and help, would take twice as long with it."""

    def __init__(self, make: "Callable[[], Console]") -> None:
        self._made = functools.cache(make)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made(), name)


def _console() -> "Console":
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def _errors() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


console = cast("Console", _Made(_console))
errors = cast("Console", _Made(_errors))


def state_dir(name: str, path: str | None) -> "StateDir":
    from rayplane.control_plane.cluster.state import StateDir

    return StateDir.of(name, path)


def node_limits(autoscale: bool | None, least: int | None, most: int, *, nodes: int) -> str:
    """The limits of an autoscaler as a configuration has them; empty where nothing is said of one."""
    from rayplane.control_plane.cluster.config import NONE

    if autoscale is None:
        return ""
    least = nodes if least is None else least
    return f"{least}:{most}" if autoscale else NONE


def wants_json(output: str) -> bool:
    """Whether the output is for programs. Raises UsageError."""
    if output not in ("", "json"):
        raise UsageError(f"-o {output!r}: use json")
    return output == "json"


def tell(found: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """How a command ended: for programs what it found or did, for people a line or several."""
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        console.print(text, markup=False)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what `interrupting` names interrupts like Ctrl-C, so that what was started is ended."""
    import asyncio

    others = {number: signal.getsignal(number) for number in interrupting()}

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        for number in others:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        # The loop leaves the system's, by which a process ends at once.
        for number, handler in others.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator["Progress"]:
    """A status line on a terminal, a line per step elsewhere; none there if `quiet`, for output is for programs."""
    with errors.status("") as status:
        yield Progress(status, quiet=quiet)


class Progress:
    """A callback that is told what is being done now."""

    def __init__(self, status: Any, *, quiet: bool = False) -> None:
        self._status = status
        self._quiet = quiet
        self._last = ""

    def __call__(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        self._status.update(text)
        if not (errors.is_terminal or self._quiet):
            console.print(text)

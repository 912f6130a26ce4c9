"""The command `rayplane upgrade`: another build in the place of the one that a cluster runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.options import Name, State, console, progress, run, state_dir
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.upgrade import Outlook, outlook
from rayplane.control_plane.cluster.upgrade import upgrade as take_steps


def register(app: typer.Typer) -> None:
    app.command()(upgrade)


def upgrade(
    name: Name = "default",
    python: Annotated[
        str, typer.Option(help="Python of an environment that has the other rayplane; the one of this command.")
    ] = "",
    source: Annotated[
        Path | None, typer.Option("--from", help="That environment itself: a directory with `bin/python`.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the steps, take none.")] = False,
    state: State = None,
) -> None:
    """Replace the parts of a running cluster one by one with those of another build, waiting for health in between.

    The environment is to be on every machine at the same path. After a step that failed the same command goes on there.
    """
    directory, wanted = state_dir(name, state), _python(python, source)
    if dry_run:
        with progress() as say:
            found = run(outlook(directory, wanted, say))
        _print(found)
        return
    with progress() as say:
        steps = run(take_steps(directory, wanted, say))
    after = run(outlook(directory, wanted))
    console.print(f"rayplane {after.wanted.version}: {steps} steps" if steps else "nothing to do")
    if after.kept:
        console.print(after.kept)


def _python(python: str, source: Path | None) -> str:
    """The path of the wanted Python, as it was given: an environment is told by the link that it has of its own."""
    if python and source is not None:
        raise UsageError("give either --python or --from")
    path = Path(python) if python else source / "bin" / "python" if source is not None else Path(sys.executable)
    if not path.is_file():
        raise UsageError(f"there is no Python at {path}; give that of an environment with --python, or it with --from")
    return str(path.absolute())


def _print(found: Outlook) -> None:
    for number, step in enumerate(found.steps, 1):
        console.print(f"{number}. {step}")
    if not found.steps:
        console.print(f"everything runs in {found.wanted.python} (rayplane {found.wanted.version})")
    if found.kept:
        console.print(found.kept)

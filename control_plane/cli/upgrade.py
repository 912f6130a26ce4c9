"""The command `rayplane upgrade`: another build in the place of the one that a cluster runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli.options import Name, Output, State, progress, run, state_dir, tell, wants_json
from rayplane.control_plane.cluster.errors import UsageError

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.upgrade import Outlook


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
    output: Output = "",
    state: State = None,
) -> None:
    """Replace the parts of a running cluster one by one with those of another build, waiting for health in between.

    The environment is to be on every machine at the same path. After a step that failed the same command goes on there.
    """
    from rayplane.control_plane.cluster.upgrade import outlook
    from rayplane.control_plane.cluster.upgrade import upgrade as take_steps

    as_json, directory, wanted = wants_json(output), state_dir(name, state), _python(python, source)
    with progress(quiet=as_json) as say:
        taken = 0 if dry_run else run(take_steps(directory, wanted, say))
        found = run(outlook(directory, wanted, say))
    did = f"rayplane {found.wanted.version}: {taken} steps" if taken else "nothing to do"
    lines = _planned(found) if dry_run else [did, *filter(None, [found.kept])]
    about = {"version": found.wanted.version, "python": found.wanted.python, "kept": found.kept}
    left = [str(step) for step in found.steps]
    tell(about | {"taken": taken, "left": left}, "\n".join(lines), as_json=as_json)


def _python(python: str, source: Path | None) -> str:
    """The path of the wanted Python, as it was given: an environment is told by the link that it has of its own."""
    if python and source is not None:
        raise UsageError("give either --python or --from")
    path = Path(python) if python else source / "bin" / "python" if source is not None else Path(sys.executable)
    if not path.is_file():
        raise UsageError(f"there is no Python at {path}; give that of an environment with --python, or it with --from")
    return str(path.absolute())


def _planned(found: "Outlook") -> list[str]:
    steps = [f"{number}. {step}" for number, step in enumerate(found.steps, 1)]
    done = f"everything runs in {found.wanted.python} (rayplane {found.wanted.version})"
    return [*(steps or [done]), *filter(None, [found.kept])]

"""The command that runs a whole cluster in virtual time."""

from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.options import console, errors
from rayplane.control_plane.cluster.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    scenario: Annotated[Path, typer.Argument(help="A scenario file, or the name of one that is built in.")],
    seed: Annotated[int, typer.Option(help="Everything random comes from this.")] = 1,
    seeds: Annotated[int, typer.Option(help="How many seeds to run, from --seed on.")] = 1,
) -> None:
    """Run a cluster and its faults in one process, in virtual time, the same for the same seed."""
    from rayplane.control_plane import simulation

    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: use 1 or more")
    loaded = simulation.load_scenario(scenario)
    failed = 0
    for number in range(seed, seed + seeds):
        with errors.status(f"seed {number}"):
            result = simulation.simulate(loaded, number)
        console.print(str(result))
        failed += not result.ok
    if failed:
        raise typer.Exit(1)

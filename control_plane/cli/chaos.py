"""Commands that break things on purpose."""

import asyncio
import random
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import Name, State, console, run, state_dir
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.chaos import SIGNALS, LiveInjector
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.faults.form import as_command, read_fault
from rayplane.control_plane.faults.injector import hold
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import ROLES, Continue, Stop, Target

Whom = Annotated[str, typer.Argument(metavar="TARGET", help=f"{', '.join(ROLES)}, or an actor's name.")]
Actor = Annotated[str, typer.Argument(metavar="[NAME]", help="Which one, or `random`; the one in charge by default.")]


class Signal(StrEnum):
    """The signal that is sent."""

    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Break things on purpose.", rich_markup_mode=None)
    group.command()(kill)
    group.command()(stop)
    group.command(name="continue")(go_on)
    group.command(name="run")(run_scenario)
    app.add_typer(group, name="chaos")


def kill(
    target: Whom,
    actor: Actor = "",
    signal: Annotated[Signal, typer.Option("--signal", help="What to send.")] = Signal.KILL,
    name: Name = "default",
    state: State = None,
) -> None:
    """Send a signal to an actor's process; the supervisor brings back what should come back."""
    verb = {"KILL": "kill", "STOP": "stop", "CONT": "continue"}[signal.value]
    _inject(state_dir(name, state), verb, {"target": f"{target} {actor}"})


def stop(
    target: Whom,
    actor: Actor = "",
    for_: Annotated[str, typer.Option("--for", metavar="SPAN", help="Continue it then, such as 3s.")] = "0",
    name: Name = "default",
    state: State = None,
) -> None:
    """Let an actor's process stand still, as on a machine that hangs."""
    _inject(state_dir(name, state), "stop", {"target": f"{target} {actor}", "for": for_})


def go_on(target: Whom, actor: Actor = "", name: Name = "default", state: State = None) -> None:
    """Let an actor's process that stands still go on."""
    _inject(state_dir(name, state), "continue", {"target": f"{target} {actor}"})


def _inject(directory: StateDir, verb: str, body: dict[str, Any]) -> None:
    try:
        fault = read_fault(verb, body, verb)
    except FormError as e:
        raise UsageError(str(e)) from e

    async def call() -> None:
        async with access(directory) as admin:
            injector = LiveInjector(admin, random.Random())
            if refused := injector.refusal(fault):
                raise UsageError(refused)
            hit = await injector.strike(fault)
            for victim, pid in hit:
                console.print(f"{victim} (process {pid}) got SIG{SIGNALS[type(fault)]}")
                if isinstance(fault, Stop) and not fault.for_s:
                    console.print(f"let it go on: {as_command(Continue(Target(name=victim)))}")
            await hold(injector, fault, tuple(victim for victim, _ in hit))

    run(call())


def run_scenario(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="The steps to take.")],
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.  [default: the file's]")] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Take the steps of a file on the running cluster, and tell of each."""
    from rayplane.control_plane.cluster import scenario

    try:
        found = scenario.parse(file.read_bytes(), str(file))
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror}") from e
    directory = state_dir(name, state)
    chosen = found.seed if seed is None else seed

    async def call() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()

        def say(text: str) -> None:
            console.print(f"{loop.time() - start:7.1f} s  {text}")

        async with access(directory) as admin:
            say(f"seed {chosen}")
            rng = random.Random(chosen)
            runner = scenario.Runner(LiveInjector(admin, rng), lambda: scenario.unhealthy(admin), rng, say)
            await runner.run(found.steps)
            say("done")

    run(call())

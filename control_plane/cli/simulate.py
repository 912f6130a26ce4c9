"""Commands that run a whole cluster in virtual time."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import console, errors
from rayplane.control_plane.cli.recordings import check_files, write_recording
from rayplane.control_plane.cluster.errors import UsageError, refusal

if TYPE_CHECKING:
    from rayplane.control_plane.simulation import Order, Setup, SimulationResult, Tally
    from rayplane.control_plane.simulation.coverage import Covered
    from rayplane.control_plane.simulation.taping import Taping

Scenario = Annotated[
    Path,
    typer.Argument(help="A scenario file, or the name of one that is built in.", autocompletion=completion.scenarios),
]
Seed = Annotated[int | None, typer.Option(help="Everything random comes from this.  [default: the plan's, or 1]")]
PlanFile = Annotated[Path | None, typer.Option(help="Let the faults of this file strike, and no others.")]
Load = Annotated[Path | None, typer.Option(help="Operators and invariants in Python, to run in the simulation.")]


def register(app: typer.Typer) -> None:
    app.command()(simulate)
    app.command()(debug)


def simulate(
    scenario: Scenario,
    seed: Seed = None,
    seeds: Annotated[int, typer.Option(help="How many seeds to run, from --seed on.")] = 1,
    jobs: Annotated[int | None, typer.Option(help="How many at once.  [default: one a core]")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the seeds over a Ray cluster.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Of that: HOST:PORT, `auto`, or `local` for one of its own.  [default: auto]")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Run all seeds, whichever fail.")] = False,
    load: Load = None,
    plan: PlanFile = None,
    save_plan: Annotated[Path | None, typer.Option(help="Write what struck, in the first that fails.")] = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Look for a smaller plan with the same failure.")] = False,
    until: Annotated[str, typer.Option(help="End at a time (90s) or an event (`kill member-0`).")] = "",
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Record the first that fails, or the first."),
    ] = None,
    trace: Annotated[str, typer.Option(help="Tell all that one component does.")] = "",
    coverage: Annotated[bool, typer.Option("--coverage", help="Tell which failpoints and states were seen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each run.")] = False,
) -> None:
    """Run a cluster and its faults in one process, in virtual time, the same for the same seed."""
    from rayplane.control_plane import simulation
    from rayplane.control_plane.simulation.coverage import Covered
    from rayplane.control_plane.simulation.sweep import Ways, cores, sweep
    from rayplane.control_plane.simulation.taping import Taping

    covered = Covered()
    show = _printer(as_json, covered)
    _check(seeds, jobs, ray=ray, address=address, looks=bool(until or trace))
    check_files(save_plan, record)
    order, planned = _order(scenario, plan, load)
    order = replace(order, setup=replace(order.setup, until=until, trace=trace, coverage=coverage))
    first = next(number for number in (seed, planned, 1) if number is not None)
    numbers = range(first, first + seeds)
    taping = Taping(order.scenario, first) if record is not None else None
    if seeds == 1 and not ray:
        last = order.run(first, lambda text: errors.print(text, markup=False), taping)
        show(last)
    else:
        ways = Ways(jobs=min(seeds, jobs or cores()), ray=(address or "auto") if ray else "")
        results = sweep(order, numbers, ways, keep_going=keep_going)
        last = _run(results, seeds, show)
        if taping is not None:
            taping = _again(order, last.seed)
    if until and not last.ended_at:
        errors.print(f"--until: {until} did not come, and the run went on to its own end", markup=False)
    if record is not None and taping is not None:
        write_recording(record, taping.file)
    if load is not None:
        _same_again(order, last, load)
    if coverage:
        errors.print("\n".join(covered.lines()), markup=False)
    if shrink and not last.ok:
        last = _shrunk(order, last, save_plan, show)
    elif save_plan is not None:
        _write(save_plan, simulation.write_plan(last.plan))
    if not last.ok:
        raise typer.Exit(1)


def debug(
    seed: Annotated[int, typer.Argument(help="Everything random comes from this.")],
    scenario: Annotated[
        Path,
        typer.Option(help="A scenario file, or the name of one that is built in.", autocompletion=completion.scenarios),
    ] = Path("quick"),
    load: Load = None,
    plan: PlanFile = None,
) -> None:
    """Step through a run: commands come from standard input, `help` tells them."""
    from rayplane.control_plane import simulation
    from rayplane.control_plane.simulation.debugger import PROMPT, Debugger

    order, _ = _order(scenario, plan, load)

    def read() -> str | None:
        if sys.stdin.isatty():
            console.print(PROMPT, end="", markup=False)
        return sys.stdin.readline() or None

    def fork(by_hand: tuple[simulation.Strike, ...], fork: simulation.Fork) -> str:
        return str(order.forked(by_hand, fork).run_apart(seed)).splitlines()[0]

    debugger = Debugger(read, lambda text: console.print(text, markup=False), fork)
    result = simulation.simulate(order.scenario, seed, setup=order.setup, control=debugger)
    console.print(str(result), markup=False)
    if not result.ok:
        raise typer.Exit(1)


def _again(order: "Order", seed: int) -> "Taping":
    """The recording of a run of a sweep, which is the same again."""
    from rayplane.control_plane.simulation.taping import Taping

    taping = Taping(order.scenario, seed)
    order.run(seed, control=taping)
    return taping


def _check(seeds: int, jobs: int | None, *, ray: bool, address: str | None, looks: bool) -> None:
    """Raise UsageError for options that do not go together."""
    for option, number in (("--seeds", seeds), ("--jobs", jobs)):
        if number is not None and number < 1:
            raise UsageError(f"{option} {number}: use 1 or more")
    if address is not None and not ray:
        raise UsageError("--address is that of a Ray cluster: add --ray")
    if looks and (seeds > 1 or ray):
        raise UsageError("--until and --trace look at one seed, here")
    if ray and jobs is not None:
        raise UsageError("--jobs is of this machine: a Ray cluster takes as many at once as it has cores")


def _order(scenario: Path, plan: Path | None, load: Path | None) -> "tuple[Order, int | None]":
    """What is common to all runs, and the plan's seed."""
    from rayplane.control_plane import simulation

    found = simulation.load_scenario(scenario)
    setup, seed = simulation.Setup(), None
    if load is not None:
        setup = replace(setup, load=simulation.read_file(str(load)))
    if plan is not None:
        strikes = simulation.read_plan(_text(plan), source=str(plan))
        setup, seed = replace(setup, plan=strikes), strikes.seed
        if Path(strikes.scenario).name != Path(found.source).name:
            errors.print(f"{plan} is of {strikes.scenario or 'no scenario'}: its steps may be others.", markup=False)
    return simulation.Order(found, replace(setup, options=_options(setup, plan))), seed


def _options(setup: "Setup", plan: Path | None) -> tuple[str, ...]:
    """The command line's words for code that is loaded, and for a plan."""
    load = ("--load", setup.load.file) if setup.load is not None else ()
    return (*load, "--plan", str(plan)) if plan is not None else load


def _run(
    results: "Generator[SimulationResult]", seeds: int, show: Callable[["SimulationResult"], None]
) -> "SimulationResult":
    """Show all; the first result that failed, else the first."""
    from rayplane.control_plane.simulation import Tally

    tally, chosen = Tally(), None
    with errors.status(_progress(tally, seeds)) as status, contextlib.closing(results):
        for result in results:
            tally.add(result)
            status.update(_progress(tally, seeds))
            show(result)
            chosen = result if chosen is None or (chosen.ok and not result.ok) else chosen
    assert chosen is not None
    errors.print(f"{_progress(tally, seeds)}; {tally.cluster_s / max(tally.real_s, 1e-9):.0f} virtual s a second")
    return chosen


def _same_again(order: "Order", first: "SimulationResult", load: Path) -> None:
    """Raise UsageError when a user's code takes another way with the same seed: no failure of it could be repeated."""
    # Elsewhere and with sets in another order, as it would be when somebody repeats it.
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    if order.run_apart(first.seed, {"PYTHONHASHSEED": other}).trace_hash != first.trace_hash:
        what = "it goes by the order of a set, or something that it imports asks the machine for time, chance or files"
        raise UsageError(f"{load} does not do the same again with seed {first.seed}: {what}")


def _shrunk(
    order: "Order", failed: "SimulationResult", file: Path | None, show: Callable[["SimulationResult"], None]
) -> "SimulationResult":
    """Look for the smallest plan that fails alike, and show it."""
    from rayplane.control_plane import simulation

    with errors.status("the same failure with fewer faults") as status:
        smaller = simulation.shrunk(order, failed, status.update)
    if smaller is None:
        errors.print("The faults of this run alone do not bring the failure back: no smaller plan was looked for.")
        if file is not None:
            _write(file, simulation.write_plan(failed.plan))
        return failed
    name = file or Path(f"plan-{failed.seed}.yaml")
    _write(name, simulation.write_plan(smaller.plan))
    errors.print(f"{len(smaller.plan.strikes)} of {len(failed.plan.strikes)} faults are enough: {name}", markup=False)
    again = replace(smaller, options=_options(order.setup, name))
    show(again)
    return again


def _progress(tally: "Tally", seeds: int) -> str:
    return f"{tally.done} of {seeds} seeds, {tally.failed} failed"


def _printer(as_json: bool, covered: "Covered") -> Callable[["SimulationResult"], None]:
    """What shows a result, and keeps what it came to."""

    def show(result: "SimulationResult") -> None:
        covered.add(result.facts)
        if as_json:
            print(json.dumps(result.as_json()), flush=True)
        else:
            console.print(str(result), markup=False)

    return show


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as e:
        raise UsageError(f"cannot read {file}: {refusal(e)}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{file} is no text: check its name") from e


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as e:
        raise UsageError(f"cannot write {file}: {refusal(e)}") from e

"""Commands that break things on purpose."""

import contextlib
import random
from datetime import UTC
from enum import StrEnum
from json import dumps, loads
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import Name, Output, State, console, errors, run, state_dir, tell, wants_json
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import UsageError, refusal
from rayplane.control_plane.durations import human_duration
from rayplane.control_plane.faults.vocabulary import OBJECTS, RAY, TARGETS, Continue, Kill, Stop, Target

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.state import StateDir
    from rayplane.proto.rayplane.v1 import chaos_pb2

Whom = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help=f"{', '.join(TARGETS)}, an actor's name, gcs or raylet.",
        autocompletion=completion.targets,
    ),
]
Actor = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="Which one, or `random`; the one in charge by default.",
        autocompletion=completion.whom,
    ),
]


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
    group.command()(inject)
    group.command(name="list")(list_faults)
    group.command()(end)
    group.command(name="run")(run_scenario)
    group.command(name="heal")(heal_all)
    group.command(name="schema")(schema_of_files)
    app.add_typer(group, name="chaos")


def kill(
    target: Whom,
    actor: Actor = "",
    signal: Annotated[Signal, typer.Option("--signal", help="What to send.")] = Signal.KILL,
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Send a signal to an actor's process; the supervisor brings back what should come back.

    With gcs or raylet all of a Ray of our own ends: this command brings the cluster up again from its data.
    """
    verb = {"KILL": "kill", "STOP": "stop", "CONT": "continue"}[signal.value]
    _inject(state_dir(name, state), verb, {"target": f"{target} {actor}"}, as_json=wants_json(output))


def stop(
    target: Whom,
    actor: Actor = "",
    for_: Annotated[str, typer.Option("--for", metavar="SPAN", help="Continue it then, such as 3s.")] = "0",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Let an actor's process stand still, as on a machine that hangs."""
    body = {"target": f"{target} {actor}", "for": for_}
    _inject(state_dir(name, state), "stop", body, as_json=wants_json(output))


def go_on(target: Whom, actor: Actor = "", output: Output = "", name: Name = "default", state: State = None) -> None:
    """Let an actor's process that stands still go on."""
    _inject(state_dir(name, state), "continue", {"target": f"{target} {actor}"}, as_json=wants_json(output))


def _inject(directory: "StateDir", verb: str, body: dict[str, Any], *, as_json: bool) -> None:
    from rayplane.control_plane.cluster.chaos import LiveInjector
    from rayplane.control_plane.cluster.config import PROCESS
    from rayplane.control_plane.faults.form import as_command, as_step, read_fault
    from rayplane.control_plane.faults.injector import hold
    from rayplane.control_plane.faults.reading import FormError

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
            victims = tuple(victim for victim, _ in hit)
            told = []
            for victim, pid in hit:
                told.append(_struck(fault, victim, pid, alone=admin.state.config.host != PROCESS))
                if isinstance(fault, Stop) and not fault.for_s:
                    told.append(f"let it go on: {as_command(Continue(Target(name=victim)))}")
            tell({"fault": as_step(fault), "hit": victims}, "\n".join(told), as_json=as_json)
            await hold(injector, fault, victims)

    run(call())


def _struck(fault: Any, victim: str, pid: int, *, alone: bool) -> str:
    """`alone`: actors have processes of their own."""
    from rayplane.control_plane.cluster.chaos import SIGNALS

    if fault.target.role in OBJECTS:
        return f"{victim} is lost; whoever keeps it makes it anew"
    if not alone:
        return f"{victim} was killed; it shares the process of all actors, which goes on"
    hit = f"{victim} (process {pid})" if pid else victim
    got = f"{hit} got SIG{SIGNALS[type(fault)]}"
    took_all = victim in RAY and isinstance(fault, Kill)
    return f"{got}; every actor ended with it, and is up again from its data" if took_all else got


def inject(
    fault: Annotated[str, typer.Argument(metavar="FAULT", help="A step of a file: `stop: {target: leader, for: 9s}`.")],
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Begin a fault that the cluster ends itself at its time, whatever becomes of this command."""
    from rayplane.control_plane.cluster.chaos import KILL_TIMEOUT_S
    from rayplane.control_plane.faults.form import COMMAND, parse_fault
    from rayplane.control_plane.faults.reading import FormError
    from rayplane.proto.rayplane.v1 import chaos_pb2

    try:
        parse_fault(fault)
    except FormError as e:
        raise UsageError(str(e)) from e

    async def call() -> Any:
        async with access(state_dir(name, state)) as admin:
            return await admin.faults.Begin(chaos_pb2.BeginRequest(fault=fault), timeout=KILL_TIMEOUT_S)

    as_json = wants_json(output)
    begun = run(call())
    hit = f" -> {', '.join(begun.hit)}" if begun.hit else ""
    lasts = f", ends by itself; now: {COMMAND} end {begun.id}" if begun.id else ""
    tell(_fields(begun), f"{begun.fault}{hit}{lasts}", as_json=as_json)


def list_faults(output: Output = "", name: Name = "default", state: State = None) -> None:
    """List the faults that last, with their ends."""
    from rayplane.control_plane.cluster.chaos import KILL_TIMEOUT_S
    from rayplane.proto.rayplane.v1 import chaos_pb2

    async def call() -> Any:
        async with access(state_dir(name, state)) as admin:
            return await admin.faults.List(chaos_pb2.ListFaultsRequest(), timeout=KILL_TIMEOUT_S)

    as_json = wants_json(output)
    found = run(call()).faults
    if as_json:
        tell({"faults": [_fields(one) for one in found]}, "", as_json=True)
        return
    if not found:
        console.print("no fault stands")
        return
    now = state_dir(name, state).clock.now()
    for one in found:
        left_s = (one.ends.ToDatetime(UTC) - now).total_seconds()
        hit = f" -> {', '.join(one.hit)}" if one.hit else ""
        ends = f"not ended yet: {one.failed}" if one.failed else f"ends in {human_duration(max(0.0, left_s))}"
        _plain(f"{one.id}  {one.fault}{hit}  (by {one.by}; {ends})")


def end(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `list` tells it.")],
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """End a fault before its time."""
    from rayplane.control_plane.cluster.chaos import end_standing

    async def call() -> Any:
        async with access(state_dir(name, state)) as admin:
            return await end_standing(admin.faults, id)

    as_json = wants_json(output)
    over = run(call())
    tell(_fields(over), f"over: {over.fault}", as_json=as_json)


def _fields(fault: "chaos_pb2.ActiveFault") -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(fault)


Told = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict there too.")]


def run_scenario(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="The workload, the faults, what is expected.")],
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.  [default: the file's]")] = None,
    load: Annotated[Path | None, typer.Option(metavar="FILE.py", help="Invariants of your own: INVARIANTS.")] = None,
    json: Told = None,
    junit: Told = None,
    html: Told = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record it for `rayplane dashboard --open FILE`.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what the scenario makes.")] = False,
    inside: Annotated[bool, typer.Option("--inside", help="Let the cluster carry it out, over gRPC.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Put the running cluster to a trial: its faults are healed in the end, and a verdict says what held.

    With --inside its supervisor does, as for any caller of rayplane.v1.Chaos/Run with the right to create trials, and
    faults.
    """
    from rayplane.control_plane.cli.recordings import check_files, write_recording
    from rayplane.control_plane.cluster import scenario
    from rayplane.control_plane.cluster.trial import report
    from rayplane.control_plane.cluster.trial.taping import recorded
    from rayplane.control_plane.cluster.trial.trial import Trial, heal
    from rayplane.proto.rayplane.v1 import chaos_pb2

    check_files(json, junit, html, record)
    try:
        found = scenario.parse(file.read_bytes(), str(file))
    except OSError as e:
        raise UsageError(f"cannot read {file}: {refusal(e)}") from e
    if inside:
        if load or junit or html:
            raise UsageError("--inside: the cluster loads no files, and tells the verdict as JSON only")
        request = chaos_pb2.TrialRequest(
            scenario=file.read_text(), seed=found.seed if seed is None else seed, keep=keep
        )
        _run_inside(state_dir(name, state), request, json, record)
        return
    checks = report.checks_in(load) if load is not None else ()
    chosen = found.seed if seed is None else seed

    async def call() -> tuple[report.Verdict, bytes]:
        async with access(state_dir(name, state)) as admin:
            _say_healed(*await heal(admin))
            console.print(f"seed {chosen}")
            trial = Trial(admin, found, chosen, _plain, checks, keep=keep)
            if record is not None:
                return await recorded(trial, admin, found, chosen)
            return await trial.run(), b""

    verdict, tape = run(call())
    for line in report.table(verdict):
        _plain(line)
    report.write(verdict, {report.JSON: json, report.JUNIT: junit, report.HTML: html})
    if record is not None:
        write_recording(record, tape)
    if not verdict.ok:
        raise typer.Exit(1)


def _run_inside(
    directory: "StateDir", request: "chaos_pb2.TrialRequest", target: Path | None, record: Path | None
) -> None:
    from rayplane.control_plane.cli.recordings import write_recording
    from rayplane.control_plane.cluster.heard import heard

    request.id, request.record = token_hex(8), record is not None

    async def call() -> tuple[str, bytes]:
        verdict, tape = "", bytearray()
        async with access(directory) as admin, contextlib.aclosing(heard(admin, request)) as told:
            async for one in told:
                verdict = one.verdict or verdict
                tape += one.recording
                if one.event:
                    _plain(one.event)
        return verdict, bytes(tape)

    verdict, tape = run(call())
    if target is not None:
        target.write_text(verdict)
    if record is not None:
        write_recording(record, tape)
    if not verdict or loads(verdict)["verdict"] != "ok":
        raise typer.Exit(1)


def heal_all(output: Output = "", name: Name = "default", state: State = None) -> None:
    """End whatever is broken: faults that stand, and what a trial that was killed has left."""
    from rayplane.control_plane.cluster.chaos import heal_standing
    from rayplane.control_plane.cluster.trial.trial import heal

    async def call() -> tuple[list[str], list[str]]:
        async with access(state_dir(name, state)) as admin:
            left, failed = await heal(admin)
            over, standing = await heal_standing(admin.faults)
        left += [one.fault for one in (*over, *standing)]
        return left, [*failed, *(f"{one.fault}: {one.failed}; it is tried again" for one in standing)]

    as_json = wants_json(output)
    left, failed = run(call())
    if as_json:
        tell({"found": left, "not_healed": failed}, "", as_json=True)
    else:
        _say_healed(left, failed)
        if not left:
            console.print("nothing is broken")
    if failed:
        raise typer.Exit(1)


def _say_healed(left: list[str], failed: list[str]) -> None:
    for one in left:
        _plain(f"was left broken: {one}")
    for why in failed:
        errors.print(f"not healed: {why}", markup=False)


def _plain(text: str) -> None:
    """Faults are written with brackets, which are no markup."""
    console.print(text, markup=False)


def schema_of_files() -> None:
    """Print the JSON schema of scenario files, for editors."""
    from rayplane.control_plane.faults.schema import schema

    _plain(dumps(schema(), indent=1))

"""The command `plan`: how many nodes workloads need."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli.option_files import text_of
from rayplane.control_plane.cli.options import Name, Output, State, console, progress, run, state_dir, wants_json
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import NONE, PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from rayplane.control_plane.planning.planner import Answer

LOSSES_SHOWN = 10
Files = Annotated[list[str], typer.Option("-f", "--filename", help="File or directory of objects; `-`: standard input")]


def register(app: typer.Typer) -> None:
    app.command(name="plan")(plan)


def plan(
    files: Files = [],  # noqa: B006 (typer wants a list)
    running: Annotated[
        bool, typer.Option("--running", help="Beside what the running cluster has, on its nodes and more.")
    ] = False,
    times: Annotated[float, typer.Option(help="So many times the replicas that the objects say.")] = 1.0,
    node_cpu: Annotated[str, typer.Option(help="Of a new node.  [default: 4, or as --running has it]")] = "",
    node_memory: Annotated[str, typer.Option(help="Of a new node.  [default: 8Gi, or as --running has it]")] = "",
    zones: Annotated[int, typer.Option(help="Spread new nodes over so many; 0: over those there are.")] = 0,
    max_nodes: Annotated[int, typer.Option(help="The most nodes there may be.")] = 1000,
    survive: Annotated[str, typer.Option(help="Any one `node`, or any one `zone`, may be lost.")] = "",
    scheduling: Annotated[str, typer.Option(help="What the scheduler does: `pack` or `spread`.")] = "",
    scheduler_config: Annotated[str, typer.Option(help="File with its KubeSchedulerConfiguration.")] = "",
    name: Name = "default",
    output: Output = "",
    state: State = None,
) -> None:
    """Say how many nodes workloads need, by the scheduler's own rules, and whose pods have no place when one is lost.

    Nothing is written anywhere. Exits with 1 when some pods find no place.
    """
    from rayplane.control_plane.cluster import manifests
    from rayplane.control_plane.planning import planner

    as_json = wants_json(output)
    if not (files or running):
        raise UsageError("say of what: -f FILE, --running, or both")
    objects = [one.object for one in manifests.load(files)] if files else []
    question = planner.Question(
        objects=objects,
        times=times,
        zones=zones,
        nodes_max=max_nodes,
        survive=survive,
        node_cpu=node_cpu,
        node_memory=node_memory,
    )
    said = {"scheduling": scheduling, "scheduler_config": text_of("--scheduler-config", scheduler_config)}
    chosen: dict[str, Any] = {field: "" if value == NONE else value for field, value in said.items() if value}

    async def ask() -> "planner.Answer":
        if not running:
            return await planner.plan_anew(ClusterConfig(host=PROCESS, **chosen), question)
        async with access(state_dir(name, state)) as admin:
            return await planner.plan_beside(admin.api, replace(admin.state.config, **chosen), question)

    with progress(quiet=as_json) as say:
        say("placing pods")
        found = run(ask())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        for line in lines(found, survive or "node"):
            console.print(line, markup=False)
    if found.plan.unplaced or (survive and found.plan.losses):
        raise typer.Exit(1)


def lines(answer: "Answer", lost: str) -> "Iterator[str | Table]":
    """The answer for people. `lost`: what is to be survived, a node or a zone."""
    made = answer.plan
    new = f", {len(made.added)} of them new" if len(made.added) < len(made.nodes) else ""
    yield f"{_counted(len(made.nodes), 'node')}{new}; by the sum of what pods ask for {made.lower_bound} at least"
    if made.nodes:
        yield _nodes(answer)
    for one in made.unplaced:
        yield f"without a place: {_counted(one.count, 'pod')} of {one.workload}: {one.message}"
    for loss in made.losses[:LOSSES_SHOWN]:
        pods = ", ".join(f"{count} of {workload}" for workload, count in loss.homeless.items())
        yield f"when {loss.name} is lost, no other place is there for {pods}"
    if len(made.losses) > LOSSES_SHOWN:
        yield f"and so it is when any of {len(made.losses) - LOSSES_SHOWN} others is lost"
    if made.nodes and not made.losses:
        yield f"any one {lost} may be lost: its pods find room elsewhere"
    for left in answer.left_out:
        yield f"left out: {left}"


def _nodes(answer: "Answer") -> "Table":
    """Nodes that hold the same, as one row."""
    from rich.table import Table

    table = Table("NODES", "ZONE", "CPU", "MEMORY", "PODS", "HOLD", box=None)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, node in answer.plan.nodes.items():
        room, held = node.allocatable, node.requested
        used = {what: sum(need[what] for need in held.values()) for what in ("pods", "cpu", "memory")}
        row = (
            node.zone,
            f"{used['cpu'] / 1000:g}/{room['cpu'] / 1000:g}",
            f"{_gib(used['memory'])}/{_gib(room['memory'])}",
            f"{used['pods']}/{room['pods']}",
            ", ".join(f"{need['pods']} {workload}" for workload, need in held.items()),
        )
        alike.setdefault(row, []).append(name)
    for cells, names in alike.items():
        table.add_row(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", *cells)
    return table


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _gib(amount: int) -> str:
    return f"{round(amount / 2**30, 1):g}Gi"

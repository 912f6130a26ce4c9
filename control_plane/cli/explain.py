"""Command that explains where pods are, or are not: `explain pod`, which shows what the scheduler made of each node."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.objects import Namespace
from rayplane.control_plane.cli.options import Name, Output, State, run, state_dir, wants_json
from rayplane.control_plane.cluster.access import access

if TYPE_CHECKING:
    from rich.table import Table

    from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb


class What(StrEnum):
    """The kinds of objects that can be explained."""

    POD = "pod"


def register(app: typer.Typer) -> None:
    app.command(name="explain")(explain)


def explain(
    what: Annotated[What, typer.Argument(help="`pod`.")],
    pod: Annotated[str, typer.Argument(metavar="POD", help="Its name.", autocompletion=completion.pods)],
    namespace: Namespace = "",
    name: Name = "default",
    output: Output = "",
    state: State = None,
) -> None:
    """Show why a pod is on its node, or on none: what each filter and score said of each node, when it was decided and
    as it would be decided now.
    """
    from google.protobuf.json_format import MessageToDict

    from rayplane.control_plane.cli.options import console
    from rayplane.control_plane.cluster.asking import explained
    from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb

    as_json = wants_json(output)
    del what  # there is one kind
    request = pb.ExplainRequest(namespace=namespace or "default", name=pod)

    async def ask() -> pb.ExplainResponse:
        async with access(state_dir(name, state)) as admin:
            return await explained(admin, request)

    found = run(ask())
    if as_json:
        print(json.dumps(MessageToDict(found, always_print_fields_with_no_presence=True), indent=2))
        return
    for line in lines(request, found):
        console.print(line, markup=False)


def lines(request: "pb.ExplainRequest", found: "pb.ExplainResponse") -> "Sequence[str | Table]":
    """The answer for people."""
    key = f"{request.namespace}/{request.name}"
    if found.node:
        said: list[str | Table] = [f"{key} is on {found.node}"]
    else:
        attempts = f", {found.attempts} attempts so far" if found.attempts else ""
        waits = f"; waits for what {', '.join(found.waits_for)} may find otherwise" if found.waits_for else ""
        said = [f"{key} has no node: {found.queue or 'not queued'}{attempts}{waits}"]
    for decision in found.past:
        times = f", {decision.times} times" if decision.times > 1 else ""
        said += ["", f"decided at {decision.time}{times}: {_outcome(decision)}"]
        said += ["  (which node was refused by whom was not noted)"] if decision.summary else [verdicts(decision)]
    if not found.past and (found.node or found.attempts):
        said += ["", "how it was decided is not known any more"]
    if found.HasField("now"):
        again = " if it had no node" if found.node else ""
        said += ["", f"now{again} it would be: {_outcome(found.now)}", verdicts(found.now)]
    return said


def _outcome(decision: "pb.Decision") -> str:
    if decision.node:
        return decision.node
    made = f" (pods on {decision.nominated} are ended to make room)" if decision.nominated else ""
    return f"{decision.message}{made}"


def verdicts(decision: "pb.Decision") -> "Table":
    """One row for each node: first those that would do, the best first."""
    from rich.table import Table

    plugins = sorted({plugin for one in decision.nodes for plugin in one.scores})
    table = Table("NODE", "TOTAL", *plugins, "REFUSED BY", "REASON", box=None)
    for one in sorted(decision.nodes, key=lambda one: (bool(one.plugin), -one.total, one.node)):
        points = ["" if one.plugin else f"{one.scores.get(plugin, 0):g}" for plugin in plugins]
        reasons = ", ".join(one.reasons)
        table.add_row(one.node, "" if one.plugin else f"{one.total:g}", *points, one.plugin, reasons)
    return table

"""Command on the work of controllers: `why`, which tells who acted on an object, from which change, or who waits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import Name, Output, State, run, state_dir, wants_json
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.errors import NobodyAnswers, NotThere, UsageError

if TYPE_CHECKING:
    from rayplane.control_plane.cli import waiting
    from rayplane.proto.rayplane.v1 import controllers_pb2 as pb


def register(app: typer.Typer) -> None:
    app.command(name="why")(why)


def why(
    what: Annotated[
        list[str],
        typer.Argument(help="KIND NAME or KIND/NAME; kinds as kubectl knows them.", autocompletion=completion.objects),
    ],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Where it is.", autocompletion=completion.namespaces)
    ] = "default",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Tell which controllers acted on an object, in which order, from which change; and where nothing happens, why:
    nobody looked, there was nothing to do, it waits until then, or it failed with that error.
    """
    from google.protobuf.json_format import MessageToDict

    from rayplane.control_plane.cli.options import console
    from rayplane.control_plane.cli.printing import plain
    from rayplane.control_plane.cluster.stories import lines

    as_json = wants_json(output)
    asked, answers, silent, lacks = run(_ask(state_dir(name, state), what, namespace))
    if as_json:
        replicas = [MessageToDict(answer, always_print_fields_with_no_presence=True) for answer in answers]
        told = {"object": asked, "replicas": replicas, "silent": dict(silent), **lacks.to_json()}
        print(json.dumps(told, indent=2))
        return
    for line in (*lines(asked, answers, silent), *lacks.lines()):
        console.print(plain(line), markup=False)


async def _ask(
    directory: Any, what: Sequence[str], namespace: str
) -> "tuple[dict[str, str], list[pb.WhyResponse], Mapping[str, str], waiting.Lacks]":
    """What was asked for, and what the replicas say; of those that say nothing, why; and what a pod lacks."""
    from rayplane.control_plane.cli import waiting
    from rayplane.control_plane.cluster.asking import story

    async with access(directory) as admin:
        request = await _request(admin, what, namespace)
        found = await story(admin, request)
        lacks = await _lacks(admin, request) if request.resource == "pods" else waiting.Lacks()
    asked = {"resource": request.resource, "namespace": request.namespace, "name": request.name}
    return asked, found.answers, found.silent, lacks


async def _lacks(admin: Access, pod: "pb.WhyRequest") -> "waiting.Lacks":
    from rayplane.control_plane.cli import waiting
    from rayplane.control_plane.cluster.asking import explained
    from rayplane.proto.rayplane.v1 import scheduler_pb2

    found = await waiting.lacks(admin.api, pod.namespace, pod.name)
    if found.unscheduled:
        try:
            await explained(admin, scheduler_pb2.ExplainRequest(namespace=pod.namespace, name=pod.name))
        except (NotThere, NobodyAnswers) as e:
            return replace(found, unexplained=str(e))
    return found


async def _request(admin: Access, what: Sequence[str], namespace: str) -> "pb.WhyRequest":
    from rayplane.control_plane.cli.kinds import Kinds
    from rayplane.proto.rayplane.v1 import controllers_pb2 as pb

    chosen = await Kinds(admin.api).choose(what)
    if len(chosen) != 1 or len(chosen[0].names) != 1:
        raise UsageError("name one object: KIND NAME or KIND/NAME")
    info, (own,) = chosen[0].info, chosen[0].names
    return pb.WhyRequest(resource=info.name, namespace=namespace if info.namespaced else "", name=own)

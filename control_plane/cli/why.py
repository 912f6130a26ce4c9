"""Command on the work of controllers: `why`, which tells who acted on an object, from which change, or who waits."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api import meta
from rayplane.control_plane.cli import waiting
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.options import Name, Output, State, console, run, state_dir, wants_json
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.asking import story
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import human_duration
from rayplane.proto.rayplane.v1 import controllers_pb2 as pb

_DONE = {
    "create": "created",
    "update": "changed",
    "updatestatus": "wrote the status of",
    "patch": "patched",
    "delete": "deleted",
}
_ASKED = {"update": "change", "updatestatus": "write the status of"}


def register(app: typer.Typer) -> None:
    app.command(name="why")(why)


def why(
    what: Annotated[list[str], typer.Argument(help="KIND NAME or KIND/NAME; kinds as kubectl knows them.")],
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Where it is.")] = "default",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Tell which controllers acted on an object, in which order, from which change; and where nothing happens, why:
    nobody looked, there was nothing to do, it waits until then, or it failed with that error.
    """
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
) -> tuple[dict[str, str], list[pb.WhyResponse], Mapping[str, str], waiting.Lacks]:
    """What was asked for, and what the replicas say; of those that say nothing, why; and what a pod lacks."""
    async with access(directory) as admin:
        request = await _request(admin, what, namespace)
        found = await story(admin, request)
        of_pod = request.resource == "pods"
        lacks = await waiting.lacks(admin.api, request.namespace, request.name) if of_pod else waiting.Lacks()
    asked = {"resource": request.resource, "namespace": request.namespace, "name": request.name}
    return asked, found.answers, found.silent, lacks


async def _request(admin: Access, what: Sequence[str], namespace: str) -> pb.WhyRequest:
    chosen = await Kinds(admin.api).choose(what)
    if len(chosen) != 1 or len(chosen[0].names) != 1:
        raise UsageError("name one object: KIND NAME or KIND/NAME")
    info, (own,) = chosen[0].info, chosen[0].names
    return pb.WhyRequest(resource=info.name, namespace=namespace if info.namespaced else "", name=own)


# --- in words -----------------------------------------------------------------------------------


def lines(asked: dict[str, str], answers: Sequence[pb.WhyResponse], silent: Mapping[str, str]) -> Iterator[str]:
    """What the replicas say, for people."""
    own = asked["resource"], f"{asked['namespace']}/{asked['name']}".lstrip("/")
    looks = [(answer.replica, look) for answer in answers for look in answer.looks]
    last: dict[tuple[str, str], pb.Look] = {}
    for replica, look in sorted(looks, key=lambda one: one[1].at):
        before = last.get((look.controller, look.key))
        last[look.controller, look.key] = look
        yield from _look(replica if len(answers) > 1 else "", look, before, own)
    leader = next((answer for answer in answers if answer.leads), None)
    for replica, error in silent.items():
        yield f"{replica} does not answer: {error}"
    if any(answer.forgotten for answer in answers):
        yield "What was not looked at for long may be forgotten."
    if leader is None:
        names = ", ".join(answer.replica for answer in answers)
        yield f"Nobody leads now ({names}): no controller runs until one takes the lease kube-controller-manager."
        return
    yield from _now(leader, own, any(answer.looks for answer in answers))


def _look(replica: str, look: pb.Look, before: pb.Look | None, own: tuple[str, str]) -> Iterator[str]:
    by = f"{look.controller} ({replica})" if replica else look.controller
    times = f", {look.times} times" if look.times > 1 else ""
    of = "" if look.key == own[1] else f" for {look.key}"
    yield f"{_clock(look.at)}  {by}{of}: {_why(look, before)}{times}"
    for text, count in Counter(map(_write, look.writes)).items():
        yield f"    {text}" + (f", {count} times" if count > 1 else "")
    if look.writes_left_out:
        yield f"    and {look.writes_left_out} writes more"
    if look.error and look.error not in {write.error for write in look.writes}:
        yield f"    failed: {look.error}"
    elif not look.writes and not look.error:
        yield "    nothing to do"
    if look.HasField("requeue_after_s"):
        yield f"    looks again after {_span(look.requeue_after_s)}"


def _write(write: pb.Write) -> str:
    of = f"{write.resource} {write.object}"
    if write.error:
        return f"was refused to {_ASKED.get(write.verb, write.verb)} {of}: {write.error}"
    version = f" @{write.resource_version}" if write.resource_version else ""
    return f"{_DONE.get(write.verb, write.verb)} {of}{version}"


def _why(look: pb.Look, before: pb.Look | None) -> str:
    """What made a controller look."""
    if not look.changes:
        if before is not None and before.error:
            return "it tried again"
        return "its own writes were to be seen" if before is not None and before.writes else "its time had come"
    told = [f"{c.resource} {c.object} {c.kind.lower()} @{c.resource_version}" for c in look.changes]
    more = f" and {look.changes_left_out} changes more" if look.changes_left_out else ""
    return ", ".join(told) + more


def _now(leader: pb.WhyResponse, own: tuple[str, str], any_looks: bool) -> Iterator[str]:
    yield f"{leader.replica} leads since {_clock(leader.since)}."
    if not leader.watchers:
        yield f"No controller watches {own[0]}."
        return
    if not any_looks:
        yield f"Nobody has acted on it. Controllers that watch {own[0]}: {', '.join(leader.watchers)}."
    if leader.HasField("cached"):
        yield f"They see it @{leader.cached}."
    else:
        yield "They see no such object: check its name and namespace, or it was deleted."
    for standing in leader.standings:
        yield f"  {standing.controller} {standing.key}: {_standing(standing)}"


def _standing(standing: pb.Standing) -> str:
    parts = []
    if not standing.looked:
        parts.append("never looked")
    if standing.failures:
        parts.append(f"failed {standing.failures} times in a row")
    if standing.HasField("working_s"):
        parts.append(f"works on it for {_span(standing.working_s)}")
    if standing.HasField("queued_s"):
        parts.append(f"waits for a worker for {_span(standing.queued_s)}")
    if standing.HasField("held_for_s"):
        parts.append("waits until the caches show what it wrote")
    if standing.HasField("due_in_s"):
        parts.append(f"looks again in {_span(standing.due_in_s)}")
    return ", ".join(parts) or "waits for a change"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else human_duration(seconds)


def _clock(stamp: str) -> str:
    moment: datetime = meta.parse_time(stamp)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"

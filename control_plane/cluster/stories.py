"""Stories of controllers in words: who looked at an object and why, what was written, what is waited for. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rayplane.control_plane.api import meta
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
    for text, count in Counter(map(written, look.writes)).items():
        yield f"    {text}" + (f", {count} times" if count > 1 else "")
    if look.writes_left_out:
        yield f"    and {look.writes_left_out} writes more"
    if look.error and look.error not in {write.error for write in look.writes}:
        yield f"    failed: {look.error}"
    elif not look.writes and not look.error:
        yield "    nothing to do"
    if look.HasField("requeue_after_s"):
        yield f"    looks again after {_span(look.requeue_after_s)}"


def written(write: pb.Write) -> str:
    """What was done, or refused: `created replicasets.apps shop/web @12`."""
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

"""The past as the commands of `travel` tell and write it: what was, and objects as they were then."""

from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.changes import Change
from rayplane.control_plane.cli.printing import error_line
from rayplane.control_plane.cli.session import Session
from rayplane.control_plane.cluster import rewind as rewinding
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.history import (
    Instant,
    Resource,
    changes_between,
    instant,
    objects_at,
    present,
    resources,
    unread_kinds,
)

TEXT_MAX = 100
SIGNS = {"created": "+", "deleted": "-", "replaced": "!", "changed": "~"}
DEEDS = {"create": "created", "update": "updated", "delete": "deleted", "replace": "replaced"}


async def diff(
    session: Session, kinds: Sequence[str] | None, namespace: str, *, since: str, to: str, as_json: bool
) -> int:
    """Tell what became of objects between two instants."""
    old, new = await _instant(session, since), await _instant(session, to)
    found = await changes_between(session.api, session.etcd, await _wanted(session, kinds), old, new, namespace)
    unread = await _unread(session, kinds, old, new)
    if as_json:
        value = {"from": old.to_json(), "to": new.to_json(), "changes": [one.to_json() for one in found]}
        value["unread"] = unread
        session.terminal.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
        return 0
    for line in lines(found):
        session.terminal.line(line)
    if not found:
        session.terminal.error(f"Nothing changed from {old} to {new}.")
    return 0


async def rewind(session: Session, kinds: Sequence[str] | None, namespace: str, *, to: str, dry_run: bool) -> int:
    """Write objects again as they were at an instant."""
    then, wanted = await instant(session.etcd, to, session.clock.now()), await _wanted(session, kinds)
    now = await present(session.etcd)
    await _unread(session, kinds, then)
    olds, news = [await objects_at(session.api, wanted, one.revision, namespace) for one in (then, now)]
    held, alive = await _holders(session, now), await _owners(session, olds, now)
    planned = rewinding.plan(olds, news, system=bool(namespace), held=held, alive=alive)
    for (kind, reason), count in sorted(planned.left.items()):
        session.terminal.error(f"left as they are: {count} of kind {kind}, which {reason}")
    if not planned.steps:
        session.terminal.error(f"Nothing to write: all else is as it was at {then}.")
    return await _rewound(session, planned.steps, dry_run=dry_run)


def _tell(session: Session, step: rewinding.Step, only: str = "") -> None:
    obj, deed = step.obj, f"{only}{DEEDS[step.deed]}"
    session.changed(str(obj["kind"]), meta.namespace(obj), meta.name(obj), deed, f"{_place(obj)} {deed}")


async def _holders(session: Session, now: Instant) -> set[str]:
    """The uids of what claims would go with; these may be of any kind, and of any that is between."""
    [(_, claims)] = await objects_at(session.api, [rewinding.CLAIMS], now.revision)
    everything = await objects_at(session.api, await resources(session.api), now.revision) if claims else []
    return rewinding.holders(claims, everything)


async def _owners(session: Session, olds: rewinding.Found, now: Instant) -> set[str]:
    """The uids of what there is now of the kinds that objects belonged to."""
    wanted = set()
    for version, kind in rewinding.owners(olds):
        with suppress(ClusterError):  # a kind that is gone, with all that were of it
            wanted.add(Resource.of(await session.kinds.of({"apiVersion": version, "kind": kind})))
    return {meta.uid(o) for _, objs in await objects_at(session.api, wanted, now.revision) for o in objs}


async def _rewound(session: Session, steps: Sequence[rewinding.Step], *, dry_run: bool) -> int:
    if dry_run:
        for step in steps:
            _tell(session, step, "would be ")
        return 0
    failed = 0
    async with aclosing(rewinding.carry_out(session.api, steps)) as outcomes:
        async for step, error in outcomes:
            failed += error is not None
            if error is None:
                _tell(session, step)
            else:
                session.terminal.error(f"{_place(step.obj)} not {DEEDS[step.deed]}: {error_line(error)}")
    if failed:
        text = f"{failed} of {len(steps)} writes failed; run it again to try those, but for what is refused as invalid"
        session.terminal.error(text)
    return 1 if failed else 0


async def _instant(session: Session, text: str) -> Instant:
    return await instant(session.etcd, text, session.clock.now()) if text else await present(session.etcd)


async def _wanted(session: Session, kinds: Sequence[str] | None) -> list[Resource]:
    if not kinds:
        return await resources(session.api)
    found = [info for text in kinds for word in text.split(",") for info in await session.kinds.resolve(word)]
    return [Resource.of(info) for info in dict.fromkeys(found)]


async def _unread(session: Session, kinds: Sequence[str] | None, *instants: Instant) -> list[str]:
    """Tell which kinds nobody can read any more."""
    found = [] if kinds else await unread_kinds(session.api, *instants)
    for name in found:
        session.terminal.error(f"objects of {name} cannot be read: its definition has been deleted since")
    return found


def lines(found: Sequence[Change]) -> list[str]:
    """Changes for people: a line for each object, and one for each of its fields."""
    said = []
    for one in found:
        place = "/".join(part for part in (one.namespace, one.name) if part)
        said.append(f"{SIGNS[one.what]} {one.kind} {place} {one.what}{_by(one.by, one.at)}")
        said += [f"    {f.path}: {_text(f.before)} -> {_text(f.after)}{_by(f.by, f.at)}" for f in one.fields]
    return said


def _by(who: str, when: str) -> str:
    return (f" by {who}" if who else "") + (f" at {when}" if when else "")


def _text(value: Any) -> str:
    """A value in one line, cut where it is long; `-` for nothing."""
    text = "-" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"


def _place(obj: meta.Object) -> str:
    return "/".join(part for part in (str(obj["kind"]), meta.namespace(obj), meta.name(obj)) if part)

"""An object among its owners and what stands below it, as lines. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

EACH_MAX = 200
"""Objects that are told below one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An object, and in few words how it is."""

    kind: str
    object: Object
    state: str = ""


def tree(above: Sequence[Standing], asked: Standing, below: Iterable[Standing], selected: Sequence[Standing]) -> str:
    """The owners from the topmost on, what is asked for with a star, and below it all that has it as an owner.

    `selected`: what stands below it though it owns nothing, such as the pods of a Service.
    """
    owned: dict[str, list[Standing]] = defaultdict(list)
    for one in below:
        for owner in meta.metadata(one.object).get("ownerReferences") or ():
            owned[str(owner.get("uid", ""))].append(one)
    if selected:
        owned[meta.uid(asked.object)] = list(selected)
    lines = [f"{'    ' * depth}{_line(one)}" for depth, one in enumerate(above)]
    lines.append(f"{'    ' * len(above)}{_line(asked)} *")
    told = {meta.uid(one.object) for one in (*above, asked)}
    return "\n".join((*lines, *_below(owned, meta.uid(asked.object), len(above) + 1, told)))


def _below(owned: dict[str, list[Standing]], uid: str, depth: int, told: set[str]) -> Iterator[str]:
    """Each once: owners are what clients write, so what is below may own what is above."""
    fresh = [one for one in owned.get(uid, ()) if meta.uid(one.object) not in told]
    fresh.sort(key=lambda one: (one.kind, meta.name(one.object)))
    told.update(meta.uid(one.object) for one in fresh)
    for one in fresh[:EACH_MAX]:
        yield f"{'    ' * depth}{_line(one)}"
        yield from _below(owned, meta.uid(one.object), depth + 1, told)
    if len(fresh) > EACH_MAX:
        yield f"{'    ' * depth}and {len(fresh) - EACH_MAX} more"


def _line(one: Standing) -> str:
    return f"{one.kind} {meta.name(one.object)}  {one.state}".rstrip()

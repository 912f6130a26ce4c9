"""Stages of a Dockerfile: from one FROM to the next. Pure.

Source: Docker's Dockerfile reference, "FROM", "Understand how ARG and FROM interact", "Automatic platform ARGs".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayplane.node.images.dockerfile import PASSED_OVER, Instruction, Plan, expand
from rayplane.node.images.errors import BadImage

SCRATCH = "scratch"
STAGES_MAX = 100
_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage. `base`: the number of an earlier stage, or the name of an image; `reads`: what its COPYs are from, by
    name as it is written, in the same way.
    """

    name: str
    base: int | str
    instructions: tuple[Instruction, ...]
    reads: Mapping[str, int | str]
    outer: Mapping[str, str]


def platform_arguments(architecture: str) -> dict[str, str]:
    """ARGs that tell of the platform: it is this machine's, wherever one is asked for."""
    whole = f"linux/{architecture}"
    both = {"PLATFORM": whole, "OS": "linux", "ARCH": architecture, "VARIANT": ""}
    return {f"{who}{name}": value for who in ("TARGET", "BUILD") for name, value in both.items()}


def read_stages(instructions: Sequence[Instruction], arguments: Mapping[str, str], architecture: str) -> list[Stage]:
    """Raises BadImage."""
    parts = [one for one in instructions if one.name not in PASSED_OVER]
    begins = [at for at, one in enumerate(parts) if one.name == "FROM"]
    if not begins or any(one.name != "ARG" for one in parts[: begins[0]]):
        raise BadImage("a Dockerfile begins with FROM, after ARGs at most")
    if len(begins) > STAGES_MAX:
        raise parts[begins[STAGES_MAX]].wrong(f"a Dockerfile has at most {STAGES_MAX} stages")
    known = platform_arguments(architecture)
    before = Plan(parts[: begins[0]], arguments, known)
    for _ in before.steps():
        pass
    outer = {**known, **before.arguments}
    found: list[Stage] = []
    for at, end in zip(begins, (*begins[1:], len(parts)), strict=True):
        found.append(_stage(parts[at], parts[at + 1 : end], found, outer, f"linux/{architecture}"))
    return found


def _stage(
    first: Instruction, rest: Sequence[Instruction], before: Sequence[Stage], outer: Mapping[str, str], platform: str
) -> Stage:
    wanted = expand(first.flags.get("platform", ""), outer) or platform
    if wanted != platform and not wanted.startswith(f"{platform}/"):
        raise first.wrong(f"--platform={wanted}: images are built for this machine, which is {platform}")
    words = expand(first.text, outer).split()
    name = ""
    if len(words) == 3 and words[1].upper() == "AS":
        name = words[2].lower()
        if not _NAME.fullmatch(name):
            raise first.wrong(f"{words[2][:100]!r} is no name of a stage: use letters, digits, '-', '_' and '.'")
    elif len(words) != 1:
        raise first.wrong("name one image, a stage before, or scratch")
    base = _named(words[0], before)
    copies = [one for one in rest if "from" in one.flags]
    reads = {one.flags["from"]: _read(one, before) for one in copies}
    return Stage(name, words[0] if base is None else base, tuple(rest), reads, outer)


def _named(name: str, stages: Sequence[Stage]) -> int | None:
    """The number of the last stage of that name."""
    return next((n for n in reversed(range(len(stages))) if stages[n].name == name.lower()), None) if name else None


def _read(one: Instruction, before: Sequence[Stage]) -> int | str:
    said = one.flags["from"]
    if not said:
        raise one.wrong("--from names a stage, or an image")
    if said.isascii() and said.isdigit():
        if int(said[:9]) >= len(before):
            raise one.wrong(f"--from={said}: there is no such stage before this one")
        return int(said[:9])
    found = _named(said, before)
    return said if found is None else found


def needed(stages: Sequence[Stage], target: str) -> list[int]:
    """The stages that are to be built for one, in order, itself the last. Raises BadImage."""
    last: int | None = len(stages) - 1
    if target:
        last = int(target) if target.isascii() and target.isdigit() and len(target) < 4 else _named(target, stages)
        if last is None or last >= len(stages):
            names = ", ".join(one.name or str(number) for number, one in enumerate(stages))
            raise BadImage(f"--target {target[:100]!r}: the Dockerfile's stages are {names}")
    assert last is not None
    found, pending = set[int](), [last]
    while pending:
        number = pending.pop()
        if number not in found:
            found.add(number)
            pending += [one for one in (stages[number].base, *stages[number].reads.values()) if isinstance(one, int)]
    return sorted(found)


def images_of(stages: Sequence[Stage], numbers: Sequence[int]) -> list[str]:
    """The images that stages begin with or copy from, by their names as they are written."""
    every = [one for number in numbers for one in (stages[number].base, *stages[number].reads.values())]
    return [*dict.fromkeys(one for one in every if isinstance(one, str) and one != SCRATCH)]

"""The stressors of a StressChaos: what they may say, and what comes of it beside a container. Pure.

Source: Chaos Mesh, "Simulate stress scenarios"; field names are theirs. Sizes are in units of 1024, with or without i.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rayplane.control_plane.api.definitions import COUNT, TEXT, TEXTS, Schema, object_of
from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.pods.marks import STRESS_MAX, WORKERS_MAX, Stress

_INTEGER: Final[Schema] = {"type": "integer"}
SCHEMA: Final = object_of(
    cpu=object_of(workers=COUNT, load=COUNT, options=TEXTS),
    memory=object_of(workers=COUNT, size=TEXT, oomScoreAdj=_INTEGER, options=TEXTS),
)
_PARTS: Final = ("cpu", "memory")
_SIZE = re.compile("([0-9]{1,12}(?:[.][0-9]{1,3})?) *([kmgt]?)i?b?")
_PERCENT = re.compile("([0-9]{1,3}(?:[.][0-9]{1,3})?) *%")
_WHOLE = 100


def errors_in(path: str, spec: Mapping[str, Any]) -> Iterator[FieldError]:
    """What is wrong with what the spec of a StressChaos says beyond its schema."""
    if spec.get("stressngStressors"):
        text = "there is no stress-ng here: say it as stressors"
        yield invalid(f"{path}.stressngStressors", spec["stressngStressors"], text)
    stressors = spec.get("stressors") or {}
    if not any(part in stressors for part in _PARTS):
        yield required(f"{path}.stressors", f"must have one of {', '.join(_PARTS)}")
    for part in (part for part in _PARTS if part in stressors):
        yield from _part_errors(f"{path}.stressors.{part}", stressors[part] or {})
    if "memory" in stressors:
        try:
            size_of(stressors["memory"] or {}, _WHOLE)
        except ValueError as e:
            yield invalid(f"{path}.stressors.memory.size", (stressors["memory"] or {}).get("size"), str(e))


def _part_errors(path: str, part: Mapping[str, Any]) -> Iterator[FieldError]:
    if not 1 <= (workers := part.get("workers") or 1) <= WORKERS_MAX:
        yield invalid(f"{path}.workers", workers, f"must be from 1 to {WORKERS_MAX}")
    if (load := part.get("load") or 0) > _WHOLE:
        yield invalid(f"{path}.load", load, "must be from 0 to 100")
    if part.get("options"):
        yield invalid(f"{path}.options", part["options"], "options of stress-ng mean nothing here")
    if part.get("oomScoreAdj"):
        yield invalid(f"{path}.oomScoreAdj", part["oomScoreAdj"], "nobody's score is changed here")


def stress_of(spec: Mapping[str, Any], whole: int) -> Stress:
    """The work beside each container. `whole`: bytes that a container may have. Raises ValueError."""
    stressors = spec.get("stressors") or {}
    cpu, memory = stressors.get("cpu"), stressors.get("memory")
    made: dict[str, int] = {}
    if cpu is not None:
        made |= {"burning": cpu.get("workers") or 1, "load": cpu.get("load", _WHOLE)}
    if memory is not None:
        made |= {"holding": memory.get("workers") or 1, "memory": size_of(memory, whole)}
    return Stress(**made)


def size_of(memory: Mapping[str, Any], whole: int) -> int:
    """Bytes that all workers hold together. Raises ValueError."""
    text = str(memory.get("size") or "").strip().lower()
    if found := _PERCENT.fullmatch(text):
        share = float(found[1])
        if 0 < share <= _WHOLE:
            return int(whole * share / _WHOLE)
    elif found := _SIZE.fullmatch(text):
        size = int(float(found[1]) * (1 << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]))
        if 0 < size <= STRESS_MAX:
            return size
    raise ValueError(
        "must be a size such as 256MB, of at most 1TB, or a share such as 25% of what the container may have"
    )

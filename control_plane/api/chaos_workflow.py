"""Workflows of experiments: what their templates are, and what is wrong with them. Pure.

Source: Chaos Mesh, "Create Chaos Mesh Workflow"; field names are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.durations import DurationError, parse_duration

SERIAL, PARALLEL, SUSPEND = "Serial", "Parallel", "Suspend"
OF_CHILDREN: Final = (SERIAL, PARALLEL)
ABORT: Final = "workflow.chaos-mesh.org/abort"
NODES_MAX = 256
"""Steps of one workflow; a template that is used twice counts twice."""
Template = Mapping[str, Any]


def templates_of(spec: Mapping[str, Any]) -> dict[str, Template]:
    return {one.get("name") or "": one for one in spec.get("templates") or ()}


def deadline_s(template: Template) -> float | None:
    """Seconds after which it is over, however far it is; None: never. Raises DurationError."""
    return parse_duration(template["deadline"]) if template.get("deadline") else None


def errors_in(
    spec: Mapping[str, Any], kinds: Mapping[str, str], ends: Callable[[str, Template], bool]
) -> Iterator[FieldError]:
    """What is wrong with a workflow's spec, but for the experiments in it.

    `kinds`: fields of a template by the types that are carried out; `ends`: whether what such a template makes comes to
    an end by itself.
    """
    templates = templates_of(spec)
    found = spec.get("templates") or []
    if len(templates) != len(found):
        yield invalid("spec.templates", "", "names must be there, each once")
    for number, one in enumerate(found):
        yield from _template_errors(f"spec.templates[{number}]", one, templates, kinds, ends)
    if (entry := spec.get("entry") or "") not in templates:
        yield invalid("spec.entry", entry, "must be the name of a template")
    elif _count(entry, templates, NODES_MAX, ()) > NODES_MAX:
        yield invalid(
            "spec.entry", entry, f"templates must not contain themselves, nor come to more than {NODES_MAX} steps"
        )


def _template_errors(
    path: str,
    one: Template,
    templates: Mapping[str, Template],
    kinds: Mapping[str, str],
    ends: Callable[[str, Template], bool],
) -> Iterator[FieldError]:
    kind = one.get("templateType") or ""
    try:
        limit_s = deadline_s(one)
    except DurationError as e:
        limit_s = 0
        yield invalid(f"{path}.deadline", one.get("deadline"), str(e))
    if kind not in (*OF_CHILDREN, SUSPEND, *kinds):
        known = ", ".join((*OF_CHILDREN, SUSPEND, *kinds))
        yield invalid(f"{path}.templateType", kind, f"is not carried out here; supported: {known}")
    elif kind in OF_CHILDREN:
        children = one.get("children") or []
        if not children:
            yield required(f"{path}.children", "must name other templates")
        for child in children:
            if child not in templates:
                yield invalid(f"{path}.children", child, "must be the name of a template")
    elif kind in kinds and not one.get(kinds[kind]):
        yield required(f"{path}.{kinds[kind]}", f"a {kind} is to be made")
    elif limit_s is None and (kind == SUSPEND or not ends(kind, one)):
        yield required(f"{path}.deadline", "must say how long it lasts")


def _count(name: str, templates: Mapping[str, Template], most: int, above: tuple[str, ...]) -> int:
    """Steps of a template with all that it contains; more than `most` for what contains itself."""
    one = templates.get(name) or {}
    if name in above:
        return most + 1
    total = 1
    for child in (one.get("children") or ()) if one.get("templateType") in OF_CHILDREN else ():
        total += _count(child, templates, most, (*above, name))
        if total > most:
            return total
    return total

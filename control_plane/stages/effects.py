"""Effects of a stage on an object: what is to be written, told, made and deleted, in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import schema, yaml_reader
from rayplane.control_plane.api.machinery.patching import apply_patch
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.stage import Apply, Delete, Finalizers, Patch, PatchType, Stage, Tell
from rayplane.control_plane.stages.templates import Given

STATUS_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """The object's status from now on."""

    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChangeObject:
    """A patch of the object beside its status."""

    type: PatchType
    body: Any


@dataclass(frozen=True, slots=True)
class MakeObject:
    """Another object to be applied, or patched; `subresource` is empty for it as a whole."""

    type: PatchType
    object: Object
    subresource: str


Effect = Tell | WriteStatus | ChangeObject | MakeObject | Delete


def play(stage: Stage, o: Object, given: Given) -> list[Effect]:
    """The effects of a stage on `o`, which is not changed. Raises Failed.

    Each step sees the object as the steps before it leave its status. After a deletion nothing but Events is left.
    """
    effects: list[Effect] = []
    deleted = False
    for step in stage.steps:
        if isinstance(step, Tell):
            effects.append(step)
        elif deleted:
            continue
        elif isinstance(step, Delete):
            deleted = True
            effects.append(step)
        elif isinstance(step, Finalizers):
            effects += _finalizers(step, o)
        elif isinstance(step, Apply):
            effects.append(_made(step, o, given))
        else:
            effect = _patched(step, o, given)
            effects.append(effect)
            if isinstance(effect, WriteStatus):
                o = {**o, "status": effect.status}
    return effects


def _patched(step: Patch, o: Object, given: Given) -> WriteStatus | ChangeObject:
    body = _read(step.template.render(o, given), "the patch")
    if step.root:
        body = _rooted(step, body)
    if step.subresource != "status":
        return ChangeObject(step.type, body)
    definition = schema.definition_of(o.get("apiVersion") or "v1", o.get("kind") or stage_kind(o))
    try:
        status = apply_patch(step.type, o, body, definition).get("status") or {}
    except (ApiError, KeyError, TypeError) as e:
        raise Failed(f"the status cannot be patched: {e}") from None
    if not isinstance(status, dict) or len(orjson.dumps(status)) > STATUS_BYTES_MAX:
        raise Failed(f"the patch makes no status, or one of more than {STATUS_BYTES_MAX} bytes")
    return WriteStatus(status)


def stage_kind(o: Object) -> str:
    """The kind of an object that comes out of a list, and so does not say it."""
    return "Node" if not meta.namespace(o) else "Pod"


def _rooted(step: Patch, body: Any) -> Any:
    if step.type != "json":
        return {step.root: body}
    if not isinstance(body, list) or not all(isinstance(one, dict) for one in body):
        raise Failed("a JSON patch is a list of operations")
    return [{**one, "path": f"/{step.root}{one.get('path') or ''}"} for one in body]


def _made(step: Apply, o: Object, given: Given) -> MakeObject:
    made = _read(step.template.render(o, given), "the object")
    metadata = made.get("metadata") if isinstance(made, dict) else None
    if not isinstance(metadata, dict) or not made.get("kind") or not made.get("apiVersion"):
        raise Failed("what is to be made needs apiVersion, kind and metadata")
    if not isinstance(metadata.get("name"), str):
        raise Failed("what is to be made needs a name")
    metadata.setdefault("namespace", meta.namespace(o))
    return MakeObject(step.type, made, step.subresource)


def _read(text: str, what: str) -> Any:
    try:
        return yaml_reader.parse(text.encode())
    except (ValueError, RecursionError) as e:
        raise Failed(f"{what} is no YAML: {e}") from None


def _finalizers(step: Finalizers, o: Object) -> list[Effect]:
    own = meta.finalizers(o)
    kept = [] if step.empty else [one for one in own if one not in step.remove]
    kept += [one for one in step.add if one not in kept]
    if kept == own:
        return []
    # Two stages, or a controller, may change them at once.
    version = {"resourceVersion": meta.resource_version(o)} if meta.resource_version(o) else {}
    return [ChangeObject("merge", {"metadata": {**version, "finalizers": kept}})]

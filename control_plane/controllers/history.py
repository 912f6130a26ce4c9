"""ControllerRevisions: the recorded templates of StatefulSets and DaemonSets (`kubectl rollout history`, `undo`).

Source: Kubernetes API reference apps/v1 ControllerRevision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apps.daemon_set import TEMPLATE_GENERATION
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Create,
    Delete,
    Update,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import Claim, claim, selector_of
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.templates import normalized, safe_hash

REVISIONS = "controllerrevisions.apps"
_NOT_COPIED = frozenset({TEMPLATE_GENERATION})
_TEMPLATES = definition_of("v1", "PodTemplate")


def revision_data(owner: Object) -> dict[str, Any]:
    """The part of the spec a revision keeps: a patch that restores the template."""
    template = normalized(meta.spec(owner).get("template") or {})
    return {"spec": {"template": {**copy.deepcopy(template), "$patch": "replace"}}}


def number_of(revision: Object) -> int:
    return int(revision.get("revision") or 0)


def recorded(view: View, owner: Object, *, owners: str, release: bool) -> Claim:
    """The owner's revisions, and those without an owner that its selector would have: they outlive a set that is
    deleted without its dependents, and the next of its name goes on with them."""
    selector = selector_of(owner)
    return claim(view, REVISIONS, owner, owners=owners, selector=selector, release=release)


def in_order(revisions: Iterable[Object]) -> list[Object]:
    return sorted(revisions, key=lambda r: (number_of(r), meta.name(r)))


def find_equal(revisions: Sequence[Object], data: dict[str, Any]) -> Object | None:
    """The newest revision with this data.

    A template of today may have defaults that were unknown when it was recorded: that alone makes no new revision, for
    a new revision would restart all pods.
    """
    wanted, newest_first = _template(data), in_order(revisions)[::-1]
    for view in (_as_written, _as_understood):
        for revision in newest_first:
            if view(_template(revision.get("data"))) == view(wanted):
                return revision
    return None


def template_of(revision: Object) -> dict[str, Any]:
    """The template that a revision recorded; empty where it has none, as users may write revisions too."""
    template = _template(revision.get("data"))
    return template if _conformed(copy.deepcopy(template)) is not None else {}


def _template(data: Any) -> dict[str, Any]:
    """The template in a revision's data, which may be any JSON."""
    spec = data.get("spec") if isinstance(data, Mapping) else None
    template = spec.get("template") if isinstance(spec, Mapping) else None
    if not isinstance(template, Mapping) or not isinstance(template.get("metadata") or {}, Mapping):
        return {}
    return {name: value for name, value in template.items() if name != "$patch"}


def _conformed(template: dict[str, Any]) -> dict[str, Any] | None:
    """The template in the shape of the schema, changed in place; None where it cannot be brought into it."""
    assert _TEMPLATES is not None
    try:
        conform({"template": template}, _TEMPLATES)
    except DecodeError:
        return None
    return template


def _as_written(template: dict[str, Any]) -> dict[str, Any]:
    return normalized(template)


def _as_understood(template: dict[str, Any]) -> dict[str, Any]:
    full = _conformed(copy.deepcopy(normalized(template)))
    if full is None:
        return template
    default_pod_template(full)
    return full


def doubles(revisions: Sequence[Object], current: Object) -> list[Object]:
    """Other revisions of the same template as the current one, as written."""
    wanted = _as_written(_template(current.get("data")))
    others = (one for one in in_order(revisions) if meta.uid(one) != meta.uid(current))
    return [one for one in others if _as_written(_template(one.get("data"))) == wanted]


def new_revision(
    owner: Object, revisions: Sequence[Object], *, view: View, owners: str, hash_label: str
) -> Create | UpdateStatus:
    """A write for the revision of the owner's present template; where another has its name, one of the owner's status
    that gives it another name next time."""
    # Always the same bytes for the same template, in whatever order its fields were written.
    data = orjson.loads(orjson.dumps(revision_data(owner), option=orjson.OPT_SORT_KEYS))
    collisions = meta.status(owner).get("collisionCount") or 0
    digest = safe_hash(data, collisions)
    name = f"{meta.name(owner)[:223]}-{digest}"
    if view.get(REVISIONS, meta.namespace(owner), name) is not None:
        return UpdateStatus(owners, {**owner, "status": {**meta.status(owner), "collisionCount": collisions + 1}})
    labels = (meta.spec(owner).get("template") or {}).get("metadata", {}).get("labels") or {}
    notes = {k: v for k, v in meta.annotations(owner).items() if k not in _NOT_COPIED}
    own: dict[str, Any] = {
        "name": name,
        "namespace": meta.namespace(owner),
        "labels": {**labels, hash_label: digest},
        "ownerReferences": [meta.owner_reference(owner)],
    }
    if notes:
        own["annotations"] = notes
    obj = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": own,
        "data": data,
        "revision": next_number(revisions),
    }
    return Create(REVISIONS, obj)


def next_number(revisions: Sequence[Object]) -> int:
    return max((number_of(r) for r in revisions), default=0) + 1


def renumbered(revision: Object, number: int) -> Update:
    """An old revision that is current again becomes the newest."""
    return Update(REVISIONS, {**revision, "revision": number})


def surplus(revisions: Sequence[Object], *, live: set[str], limit: int | None, counted: int = 0) -> list[Delete]:
    """Deletes for the oldest revisions nobody uses beyond the history limit.

    `counted`: of those in use, as many as count towards the limit.
    """
    if limit is None:
        return []
    idle = [r for r in in_order(revisions) if meta.name(r) not in live and not meta.is_deleting(r)]
    return [Delete(REVISIONS, r) for r in idle[: max(0, len(idle) + counted - limit)]]

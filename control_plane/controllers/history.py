"""ControllerRevisions: the recorded templates of StatefulSets and DaemonSets (`kubectl rollout history`, `undo`).

Source: Kubernetes API reference apps/v1 ControllerRevision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apps.daemon_set import TEMPLATE_GENERATION
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Create, Delete, Update
from rayplane.control_plane.controllers.templates import normalized, safe_hash

REVISIONS = "controllerrevisions.apps"
_NOT_COPIED = frozenset({TEMPLATE_GENERATION})


def revision_data(owner: Object) -> dict[str, Any]:
    """The part of the spec a revision keeps: a patch that restores the template."""
    template = normalized(meta.spec(owner).get("template") or {})
    return {"spec": {"template": {**copy.deepcopy(template), "$patch": "replace"}}}


def number_of(revision: Object) -> int:
    return int(revision.get("revision") or 0)


def in_order(revisions: Iterable[Object]) -> list[Object]:
    return sorted(revisions, key=lambda r: (number_of(r), meta.name(r)))


def find_equal(revisions: Sequence[Object], data: dict[str, Any]) -> Object | None:
    """The newest revision with this data."""
    for revision in reversed(in_order(revisions)):
        if _comparable(revision.get("data") or {}) == _comparable(data):
            return revision
    return None


def _comparable(data: dict[str, Any]) -> dict[str, Any]:
    return normalized((data.get("spec") or {}).get("template") or {})


def new_revision(owner: Object, revisions: Sequence[Object], *, hash_label: str, collisions: int = 0) -> Create:
    """A write for the revision of the owner's present template."""
    data = revision_data(owner)
    digest = safe_hash(data, collisions)
    labels = (meta.spec(owner).get("template") or {}).get("metadata", {}).get("labels") or {}
    notes = {k: v for k, v in meta.annotations(owner).items() if k not in _NOT_COPIED}
    own: dict[str, Any] = {
        "name": f"{meta.name(owner)[:223]}-{digest}",
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


def surplus(revisions: Sequence[Object], *, live: set[str], limit: int | None) -> list[Delete]:
    """Deletes for the oldest revisions nobody uses beyond the history limit."""
    if limit is None:
        return []
    idle = [r for r in in_order(revisions) if meta.name(r) not in live and not meta.is_deleting(r)]
    return [Delete(REVISIONS, r) for r in idle[: max(0, len(idle) - limit)]]

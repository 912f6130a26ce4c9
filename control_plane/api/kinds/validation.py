"""Validation of objects, in Kubernetes' words.

Owns: what an object may look like when it is created, and what an update of it may change: metadata for every kind,
the rest by the kind's rules. Does not own: the schema (unknown fields, wrong types are refused before), admission rules
that need other objects. Objects must have been defaulted.

Concurrency: pure functions; nothing is changed and nothing kept but caches of checked names.
"""

from __future__ import annotations

from typing import Final, Protocol

from rayplane.control_plane.api.errors import FieldError
from rayplane.control_plane.api.kinds.metadata import (
    validate_finalizers,
    validate_metadata,
    validate_metadata_update,
)
from rayplane.control_plane.api.kinds.registry import Resource as Kind
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.kinds.rules import CLIENTS_METADATA, NO_STATUS_RULES
from rayplane.control_plane.api.meta import Object


class Resource(Kind, Protocol):
    """The facts of a resource that are needed here (see `machinery.resources.ResourceInfo`)."""

    @property
    def namespaced(self) -> bool: ...


_ANY_FINALIZERS: Final = frozenset(
    {"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "coordination.k8s.io"}
)
"""Groups of Kubernetes whose objects may have finalizers of any name."""


def _finalizers(obj: Object, old: Object | None, info: Resource) -> list[FieldError]:
    """What is wrong with the finalizers that an object gets; others' kinds may have any."""
    kubernetes = "." not in info.group or (info.group.endswith(".k8s.io") and ".x-k8s." not in info.group)
    checked = kubernetes and not info.custom and info.group not in _ANY_FINALIZERS
    return validate_finalizers(obj, old) if checked else []


def validate_create(obj: Object, info: Resource, asked: Resource | None = None) -> list[FieldError]:
    """Everything that is wrong with a new object; empty when nothing is. `asked`: as what a client wrote it."""
    rules = rules_for(info)
    errs = validate_metadata(obj.get("metadata") or {}, namespaced=info.namespaced, check=rules.name)
    errs += _finalizers(obj, None, info)
    errs += rules.validate(obj)
    if asked is not None and asked.group != info.group:
        errs += rules_for(asked).validate(obj)
    return errs


def validate_update(new: Object, old: Object, info: Resource, asked: Resource | None = None) -> list[FieldError]:
    """Everything that is wrong with replacing `old` by `new`; empty when nothing is. `asked`: as for a new object."""
    rules = rules_for(info)
    own = validate_metadata(new.get("metadata") or {}, namespaced=info.namespaced, check=rules.name)
    # Kubernetes looks at metadata for every kind and then with each kind again, and says so in the causes.
    errs = [*own, *validate_metadata_update(new, old) * 2, *(() if info.custom else own)]
    errs += _finalizers(new, old, info)
    if rules.revalidates:
        errs += rules.validate(new)
    errs += rules.validate_update(new, old)
    if asked is not None and asked.group != info.group:
        errs += rules_for(asked).validate_update(new, old)
    return errs


def validate_status_update(new: Object, old: Object, info: Resource, part: str = "status") -> list[FieldError]:
    """Everything that is wrong with replacing the status, or another `part`, of `old` by that of `new`."""
    rules, after, before = rules_for(info), new["metadata"], old["metadata"]
    check = rules.validate_status_update if part == "status" else rules.validate_parts.get(part, NO_STATUS_RULES)
    errs = [*validate_metadata_update(new, old) * 2, *check(new, old)]
    if any(after.get(field) != before.get(field) for field in CLIENTS_METADATA):
        errs += validate_metadata(after, namespaced=info.namespaced, check=rules.name)
    return errs

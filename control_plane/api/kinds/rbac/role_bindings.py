"""Role bindings and cluster role bindings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

RBAC_GROUP = "rbac.authorization.k8s.io"
_BINDING_COLUMNS = (
    NAME, Column("Role"), AGE, Column("Users", priority=1), Column("Groups", priority=1),
    Column("ServiceAccounts", priority=1),
)  # fmt: skip


def _default(obj: Object) -> None:
    ref = obj.setdefault("roleRef", {})
    if not ref.get("apiGroup"):
        ref["apiGroup"] = RBAC_GROUP
    for subject in obj.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = RBAC_GROUP


def _validate_role_binding(obj: Object) -> Errors:
    return _binding(obj, ("Role", "ClusterRole"), namespaced=True)


def _validate_cluster_role_binding(obj: Object) -> Errors:
    return _binding(obj, ("ClusterRole",), namespaced=False)


def _binding(obj: Object, kinds: tuple[str, ...], *, namespaced: bool) -> Errors:
    errs: Errors = []
    ref = obj.get("roleRef") or {}
    group, role = ref.get("apiGroup") or "", ref.get("name") or ""
    if group != RBAC_GROUP:
        errs.append(not_supported("roleRef.apiGroup", group, (RBAC_GROUP,)))
    if ref.get("kind") not in kinds:
        errs.append(not_supported("roleRef.kind", ref.get("kind") or "", kinds))
    if not role:
        errs.append(required("roleRef.name"))
    else:
        checked(names.path_segment_errors(role), role, "roleRef.name", errs)
    for index, subject in enumerate(obj.get("subjects") or ()):
        _subject(subject, f"subjects[{index}]", errs, namespaced=namespaced)
    return errs


def _subject(subject: Mapping[str, Any], path: str, errs: Errors, *, namespaced: bool) -> None:
    own, kind, group = subject.get("name") or "", subject.get("kind"), subject.get("apiGroup") or ""
    if not own:
        errs.append(required(f"{path}.name"))
    if kind == "ServiceAccount":
        if own:
            checked(names.subdomain_errors(own), own, f"{path}.name", errs)
        if group:
            errs.append(not_supported(f"{path}.apiGroup", group, ("",)))
        if not namespaced and not subject.get("namespace"):
            errs.append(required(f"{path}.namespace"))
    elif kind in ("User", "Group"):
        if group != RBAC_GROUP:
            errs.append(not_supported(f"{path}.apiGroup", group, (RBAC_GROUP,)))
    else:
        errs.append(not_supported(f"{path}.kind", kind or "", ("ServiceAccount", "User", "Group")))


def _validate_update(new: Object, old: Object) -> Errors:
    ref = new.get("roleRef") or {}
    if ref != (old.get("roleRef") or {}):
        return [invalid("roleRef", ref, "cannot change roleRef")]
    return []


def _row(obj: Object, now: datetime) -> list[Cell]:
    ref = obj.get("roleRef") or {}
    users, groups, accounts = [], [], []
    for subject in obj.get("subjects") or ():
        kind, own = subject.get("kind"), subject.get("name") or ""
        if kind == "User":
            users.append(own)
        elif kind == "Group":
            groups.append(own)
        elif kind == "ServiceAccount":
            accounts.append(f"{subject['namespace']}/{own}" if subject.get("namespace") else own)
    return [
        name(obj),
        f"{ref.get('kind')}/{ref.get('name')}",
        age(obj, now),
        ", ".join(users),
        ", ".join(groups),
        ", ".join(accounts),
    ]


RULES = {
    "ClusterRoleBinding": replace(
        AS_WRITTEN,
        made_by_update=True,
        name=names.path_segment_errors,
        defaults=_default,
        validate=_validate_cluster_role_binding,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer(_BINDING_COLUMNS, _row),
    ),
    "RoleBinding": replace(
        AS_WRITTEN,
        made_by_update=True,
        name=names.path_segment_errors,
        defaults=_default,
        validate=_validate_role_binding,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer(_BINDING_COLUMNS, _row),
    ),
}

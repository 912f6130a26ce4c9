"""Stateful sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.persistent_volume_claim import default_claim, validate_claim_spec
from rayplane.control_plane.api.kinds.metadata import (
    Errors,
    checked,
    not_negative,
    one_of,
    validate_required_selector,
)
from rayplane.control_plane.api.kinds.pod_template.warnings import of_claim, warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, WORKLOAD_PATHS, Status
from rayplane.control_plane.api.kinds.workloads import (
    collisions_only_grow,
    counts_at_most_replicas,
    counts_not_negative,
    default_template,
    int_or_percent,
    is_zero,
    not_over_hundred,
    set_missing,
    template_labels,
    validate_owned_template,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    WIDE,
    Cell,
    Column,
    Printer,
    age,
    containers_and_images,
    spec_and_status,
    template_spec,
)
from rayplane.control_plane.api.meta import Object, name

_STATEFUL_FREE = frozenset(
    {
        "minReadySeconds",
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "replicas",
        "revisionHistoryLimit",
        "template",
        "updateStrategy",
    }
)
STATEFUL_UPDATE_TEXT = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)


def _default(obj: Object) -> None:
    spec = default_template(obj)
    set_missing(spec, "replicas", 1)
    set_missing(spec, "revisionHistoryLimit", 10)
    if not spec.get("podManagementPolicy"):
        spec["podManagementPolicy"] = "OrderedReady"
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        set_missing(strategy, "rollingUpdate", {})
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        set_missing(strategy["rollingUpdate"], "partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    for field in ("whenDeleted", "whenScaled"):
        if not retention.get(field):
            retention[field] = "Retain"
    for claim in spec.get("volumeClaimTemplates") or ():
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        default_claim(claim)
        claim.setdefault("status", {"phase": "Pending"})


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    policy = spec.get("podManagementPolicy")
    if policy not in ("OrderedReady", "Parallel"):
        errs.append(invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'"))
    _strategy(spec.get("updateStrategy") or {}, "spec.updateStrategy", errs)
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for field in ("whenDeleted", "whenScaled"):
        at = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
        one_of(retention.get(field), ("Delete", "Retain"), at, errs)
    for field in ("replicas", "minReadySeconds"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    not_negative((spec.get("ordinals") or {}).get("start"), "spec.ordinals.start", errs)
    _claims(spec.get("volumeClaimTemplates") or (), "spec.volumeClaimTemplates", errs)
    labels = template_labels(spec)
    if validate_required_selector(spec.get("selector"), labels, kind="statefulset", unreadable="", errs=errs):
        validate_owned_template({"template": _with_claims(spec)}, "StatefulSet", errs)
    return errs


def _strategy(strategy: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, rolling, at = strategy.get("type"), strategy.get("rollingUpdate"), f"{path}.rollingUpdate"
    if kind not in ("OnDelete", "RollingUpdate"):
        errs.append(invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"))
    elif kind == "OnDelete" and rolling is not None:
        errs.append(invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'"))
    elif kind == "RollingUpdate" and rolling is not None:
        not_negative(rolling.get("partition"), f"{at}.partition", errs)
        unavailable = rolling.get("maxUnavailable")
        if unavailable is not None:
            int_or_percent(unavailable, f"{at}.maxUnavailable", errs)
            if is_zero(unavailable):
                errs.append(invalid(f"{at}.maxUnavailable", unavailable, "cannot be 0"))
            not_over_hundred(unavailable, f"{at}.maxUnavailable", errs)


def _claims(claims: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, claim in enumerate(claims):
        if not (claim.get("metadata") or {}).get("name"):
            errs.append(required(f"{path}[{index}].metadata.name"))
        validate_claim_spec(claim.get("spec") or {}, f"{path}[{index}].spec", errs)


def _validate_create(obj: Object) -> Errors:
    """A service's name is looked at when the set is made: older sets keep what they have."""
    errs, service = _validate(obj), meta.spec(obj).get("serviceName") or ""
    if service:
        checked(names.label_errors(service), service, "spec.serviceName", errs)
    return errs


def _with_claims(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The template with a volume per claim template, which its containers may mount."""
    template = spec.get("template") or {}
    claims = spec.get("volumeClaimTemplates")
    if not claims:
        return template
    names_ = [(claim.get("metadata") or {}).get("name") or "" for claim in claims]
    pod = template.get("spec") or {}
    kept = [one for one in pod.get("volumes") or () if one.get("name") not in names_]
    made = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in names_ if n]
    return {**template, "spec": {**pod, "volumes": kept + made}}


def _validate_update(new: Object, old: Object) -> Errors:
    errs, spec, before = _validate(new), meta.spec(new), meta.spec(old)
    for field in spec.keys() | before.keys():
        if field not in _STATEFUL_FREE and spec.get(field) != before.get(field):
            return [*errs, forbidden("spec", STATEFUL_UPDATE_TEXT)]
    return errs


_SOME = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    status = new.get("status") or {}
    counts_not_negative(status, ("replicas", *_SOME, "observedGeneration", "collisionCount"), errs)
    counts_at_most_replicas(status, _SOME, errs, ready="status.readyReplicas")
    collisions_only_grow(new, old, errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    return [
        name(obj),
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        age(obj, now),
        *containers_and_images(template_spec(obj)),
    ]


_template_warnings = warn_of_template("spec", "template")


def _warnings(obj: Object, old: Object | None) -> list[str]:
    if old is not None and old.get("spec") == obj.get("spec"):
        return []
    found, spec = _template_warnings(obj, old), obj.get("spec") or {}
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        found += of_claim(claim.get("spec") or {}, f"spec.volumeClaimTemplates[{index}].spec")
    if (spec.get("revisionHistoryLimit") or 0) < 0:
        text = "a negative value retains all historical revisions; a value >= 0 is recommended"
        found.append(f"spec.revisionHistoryLimit: {text}")
    return found


RULES = {
    "StatefulSet": replace(
        AS_WRITTEN,
        warnings=_warnings,
        name=names.label_errors,
        defaults=_default,
        validate=_validate_create,
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=_validate_status,
        status=Status({"replicas": 0, "availableReplicas": 0}),
        generation=True,
        printer=Printer((NAME, Column("Ready"), AGE, *WIDE), _row),
        scale=WORKLOAD_PATHS,
    ),
}

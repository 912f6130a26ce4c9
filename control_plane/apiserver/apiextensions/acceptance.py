"""Definitions as they are written: defaults, status, whether their names are free, and what is wrong with them.

Names that another definition of the group has are not refused: the definition waits, not accepted and not served, until
they are free. Pure.
Source: apiextensions-apiserver `pkg/apis/apiextensions/validation`, `pkg/controller/status/naming_controller.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.webhook_configurations import (
    validate_client,
    validate_reviews,
)
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import definition
from rayplane.control_plane.api.machinery.names import subdomain_errors
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, set_condition
from rayplane.control_plane.apiserver.apiextensions.versions import version_errors

APPROVED: Final = "api-approved.kubernetes.io"
_ENHANCEMENT: Final = "see https://github.com/kubernetes/enhancements/pull/1111"
_SCOPES: Final = ("Cluster", "Namespaced")
_STRATEGIES: Final = ("None", "Webhook")
_PROTECTED: Final = ("k8s.io", "kubernetes.io")
_TERMINATING: Final = {
    "type": "Terminating",
    "status": "True",
    "reason": "InstanceDeletionPending",
    "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
}


def group_of(crd: Object) -> str:
    """The group of what it defines; empty where it has none, as one that was written around validation may."""
    group = (crd.get("spec") or {}).get("group")
    return group if isinstance(group, str) else ""


def is_established(crd: Object) -> bool:
    """Whether a definition is served: its names were accepted once."""
    return _condition(crd, "Established") == "True"


def is_accepted(crd: Object) -> bool:
    """Whether all names of a definition are its own."""
    return _condition(crd, "NamesAccepted") == "True"


def takes_names(crd: Object, old: Object | None) -> bool:
    """Whether a definition that is being written gets names that it did not have."""
    before = ((old or {}).get("status") or {}).get("acceptedNames")
    accepted = is_accepted(crd) and not (old is not None and is_accepted(old))
    return accepted or crd["status"]["acceptedNames"] != before


def waits_in_vain(crd: Object, in_group: Sequence[ResourceInfo]) -> bool:
    """Whether a stored definition waits for names that are free."""
    if is_accepted(crd):
        return False
    names, status = crd["spec"].get("names") or {}, crd.get("status") or {}
    return _accepted(names, status.get("acceptedNames") or {}, _taken(crd, in_group))[1]["status"] == "True"


def _condition(crd: Object, kind: str) -> str:
    conditions = (crd.get("status") or {}).get("conditions")
    known = [c for c in conditions if isinstance(c, dict)] if isinstance(conditions, list) else []
    return next((c.get("status") or "" for c in known if c.get("type") == kind), "")


# --- defaults and status ------------------------------------------------------------------------


def complete(crd: Object, now: str, in_group: Sequence[ResourceInfo], old: Object | None = None) -> None:
    """Defaults and status of a definition that is being written, in place; `in_group` is what its group has."""
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind") or ""
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List")
    conversion = spec.setdefault("conversion", {"strategy": "None"})
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if isinstance(service, dict):
        service.setdefault("port", 443)
    status = crd.get("status") or {}
    stored = [v["name"] for v in spec.get("versions") or () if v.get("storage") and v.get("name")]
    versions = list(status.get("storedVersions") or [])
    conditions = [dict(c) for c in status.get("conditions") or ()]
    before = (old or {}).get("status") or {}
    accepted, conflict = _accepted(names, before.get("acceptedNames") or {}, _taken(crd, in_group))
    established = old is not None and is_established(old)
    for condition in (conflict, _established(established, conflict["status"] != "False"), *_approval(crd)):
        if condition is not None:
            set_condition(conditions, condition, now)
    crd["status"] = {
        "conditions": conditions,
        "acceptedNames": accepted,
        "storedVersions": versions + [v for v in stored if v not in versions],
    }


def _established(before: bool, accepted: bool) -> dict[str, str] | None:
    if accepted or before:
        message = "the initial names have been accepted"
        return {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": message}
    message = "not all names are accepted"
    return {"type": "Established", "status": "False", "reason": "NotAccepted", "message": message}


def _taken(crd: Object, in_group: Sequence[ResourceInfo]) -> tuple[set[str], set[str]]:
    """Names of resources, and kinds, that others of the group have."""
    plural = crd["spec"]["names"].get("plural")
    others = [info for info in in_group if info.plural != plural]
    resources = {name for info in others for name in (info.plural, info.singular, *info.short_names)}
    return resources, {kind for info in others for kind in (info.kind, info.list_kind)}


def _accepted(
    names: Mapping[str, Any], before: Mapping[str, Any], taken: tuple[set[str], set[str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The names that are the definition's, the old ones in place of what others have, and the condition."""
    resources, kinds = taken
    accepted, condition = dict(names), {"reason": "NoConflicts", "message": "no conflicts found", "status": "True"}
    for field, among in (("plural", resources), ("singular", resources), ("kind", kinds), ("listKind", kinds)):
        if names.get(field) in among:
            condition = _conflict(field, names[field])
            accepted[field] = before.get(field, "")
    short = [name for name in names.get("shortNames") or () if name in resources]
    if short:
        condition = _conflict("shortNames", short[0])
        accepted["shortNames"] = before.get("shortNames") or []
    return accepted, {"type": "NamesAccepted", **condition}


def _conflict(field: str, name: str) -> dict[str, str]:
    reason = f"{field[0].upper()}{field[1:]}Conflict"
    return {"reason": reason, "message": f'"{name}" is already in use', "status": "False"}


# --- the groups of Kubernetes -------------------------------------------------------------------


def _is_protected(group: str) -> bool:
    return any(group == domain or group.endswith(f".{domain}") for domain in _PROTECTED)


def _approval_of(crd: Object) -> tuple[str, str]:
    """The reason of the condition, and its message."""
    said = (crd["metadata"].get("annotations") or {}).get(APPROVED) or ""
    if not said:
        return "MissingAnnotation", f'protected groups must have approval annotation "{APPROVED}", {_ENHANCEMENT}'
    if said.startswith("unapproved"):
        return "UnapprovedAnnotation", f'not approved: "{said}"'
    try:
        parts = urlsplit(said)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme and parts.netloc:
        return "ApprovedAnnotation", f"approved in {said}"
    ways = 'with either a URL or a reason starting with "unapproved"'
    return "InvalidAnnotation", f'protected groups must have approval annotation "{APPROVED}" {ways}, {_ENHANCEMENT}'


def _approval(crd: Object) -> Iterator[dict[str, str]]:
    if _is_protected(group_of(crd)):
        reason, message = _approval_of(crd)
        status = "True" if reason == "ApprovedAnnotation" else "False"
        kind = "KubernetesAPIApprovalPolicyConformant"
        yield {"type": kind, "status": status, "reason": reason, "message": message}


def _approval_errors(crd: Object, old: Object | None) -> Iterator[FieldError]:
    if not _is_protected(group_of(crd)):
        return
    reason, message = _approval_of(crd)
    if old is not None and _approval_of(old)[0] == reason:
        return
    at = f"metadata.annotations[{APPROVED}]"
    if reason == "MissingAnnotation":
        yield required(at, message)
    elif reason == "InvalidAnnotation":
        yield invalid(at, crd["metadata"]["annotations"][APPROVED], message)


# --- what is wrong ------------------------------------------------------------------------------


def errors_of(crd: Object, in_group: Sequence[ResourceInfo], old: Object | None = None) -> list[FieldError]:
    """What is wrong with a definition; `old` is what it was before."""
    spec = crd.get("spec") or {}
    names, group = spec.get("names") or {}, spec.get("group") or ""
    plural, kind = names.get("plural") or "", names.get("kind") or ""
    found: list[FieldError] = []
    name = crd["metadata"].get("name") or ""
    if name != f"{plural}.{group}":
        found.append(invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if not group:
        found.append(required("spec.group"))
    elif problems := subdomain_errors(group):
        found.append(invalid("spec.group", group, ",".join(problems)))
    elif "." not in group:
        found.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    elif any(not info.custom for info in in_group):
        # Kinds, rules and keys in etcd of these groups are the server's own.
        found.append(invalid("spec.group", group, "is served by this server itself"))
    found += [required(f"spec.names.{field}") for field, value in (("plural", plural), ("kind", kind)) if not value]
    if not spec.get("scope"):
        found.append(required("spec.scope"))
    elif spec["scope"] not in _SCOPES:
        found.append(not_supported("spec.scope", spec["scope"], _SCOPES))
    if spec.get("preserveUnknownFields"):
        text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        found.append(invalid("spec.preserveUnknownFields", True, text))
    found += [*version_errors(spec.get("versions") or [], old), *definition(crd), *_conversion_errors(spec)]
    found += [*_approval_errors(crd, old), *_stored_version_errors(crd)]
    return found + (list(_changes(spec, old)) if old is not None else [])


def _conversion_errors(spec: Mapping[str, Any]) -> Iterator[FieldError]:
    conversion = spec.get("conversion") or {}
    strategy, webhook = conversion.get("strategy"), conversion.get("webhook") or {}
    client, reviews = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    path = "spec.conversion"
    if strategy not in _STRATEGIES:
        yield not_supported(f"{path}.strategy", strategy or "", _STRATEGIES)
    if strategy == "Webhook":
        if client is None:
            yield required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
        else:
            yield from _found(validate_client, client, f"{path}.webhookClientConfig")
        if reviews:
            yield from _found(validate_reviews, reviews, f"{path}.conversionReviewVersions")
        else:
            yield required(f"{path}.conversionReviewVersions")
        return
    for field, given in (("webhookClientConfig", client), ("conversionReviewVersions", reviews)):
        if given:
            yield forbidden(f"{path}.{field}", "should not be set when strategy is not set to Webhook")


def _found(validate: Callable[[Any, str, list[FieldError]], None], value: Any, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    validate(value, path, errors)
    return errors


def _stored_version_errors(crd: Object) -> Iterator[FieldError]:
    """A version whose objects may still be stored stays."""
    stored = (crd.get("status") or {}).get("storedVersions") or []
    known = {v.get("name") for v in (crd.get("spec") or {}).get("versions") or ()}
    for index, name in enumerate(stored):
        if name not in known:
            text = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} and removes "
                f"{name} from status.storedVersions"
            )
            yield invalid(f"status.storedVersions[{index}]", name, text)


def status_errors(crd: Object) -> list[FieldError]:
    """What is wrong with a definition's status that is being written."""
    stored = (crd.get("status") or {}).get("storedVersions") or []
    if not stored:
        return [invalid("status.storedVersions", stored, "must have at least one stored version")]
    found = list(_stored_version_errors(crd))
    for version in (crd.get("spec") or {}).get("versions") or ():
        if version.get("storage") and version.get("name") not in stored:
            text = f"must have the storage version {version.get('name')}"
            found.append(invalid("status.storedVersions", stored, text))
    return found


def _changes(spec: Mapping[str, Any], old: Object) -> Iterator[FieldError]:
    """What makes keys in etcd and cannot be changed."""
    before = old.get("spec") or {}
    names, names_before = spec.get("names") or {}, before.get("names") or {}
    fixed = [("group", spec, before), ("names.plural", names, names_before)]
    if is_established(old):
        fixed = [("scope", spec, before), ("names.kind", names, names_before), *fixed]
    for path, now, earlier in fixed:
        field = path.rpartition(".")[2]
        if now.get(field) != earlier.get(field):
            yield invalid(f"spec.{path}", now.get(field), "field is immutable")


def terminating(crd: Object, now: str) -> None:
    """Say in a definition's status that it is being deleted, in place."""
    status = crd.setdefault("status", {})
    conditions = [dict(c) for c in status.get("conditions") or ()]
    set_condition(conditions, _TERMINATING, now)
    status["conditions"] = conditions

"""Validation of metadata: names, labels, annotations, finalizers, owners, what never changes.

Label selectors and the small checks every kind uses (ranges, choices, immutability) are here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import (
    FieldError,
    Verbatim,
    duplicate,
    forbidden,
    invalid,
    not_supported,
    quote,
    required,
    too_long,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.budget import LIMITS
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object, go_time

Errors = list[FieldError]
NameCheck = Callable[[str], Sequence[str]]
IMMUTABLE = "field is immutable"
NOT_NEGATIVE = "must be greater than or equal to 0"
FIELD_MANAGER_MAX_BYTES = 128
_SUBRESOURCE_MAX_BYTES = 256
_LABEL_OPERATORS = frozenset({"In", "NotIn", "Exists", "DoesNotExist"})


def one_of(value: Any, supported: Sequence[str], path: str, errs: Errors) -> None:
    """Unsupported value unless `value` is one of `supported`, which is printed as given."""
    if value not in supported:
        errs.append(not_supported(path, value or "", supported))


def not_negative(value: Any, path: str, errs: Errors) -> None:
    if value is not None and value < 0:
        errs.append(invalid(path, value, NOT_NEGATIVE))


def in_range(value: Any, low: int, high: int, path: str, errs: Errors) -> None:
    if value is not None and not low <= value <= high:
        errs.append(invalid(path, value, f"must be between {low} and {high}, inclusive"))


def checked(problems: Sequence[str], value: Any, path: str, errs: Errors) -> None:
    for problem in problems:
        errs.append(invalid(path, value, problem))


def immutable(new: Any, old: Any, path: str, errs: Errors) -> None:
    if new != old:
        errs.append(invalid(path, new, IMMUTABLE))


def validate_labels(labels: Mapping[str, Any] | None, path: str, errs: Errors) -> None:
    if not labels:
        return
    for key, value in labels.items():
        checked(names.qualified_name_errors(key), key, path, errs)
        checked(names.label_value_errors(value), value, path, errs)


def validate_annotations(annotations: Mapping[str, str], path: str, errs: Errors) -> None:
    for key in annotations:
        checked(names.qualified_name_errors(key.lower()), key, path, errs)
    validate_annotations_size(annotations, path, errs)


def validate_annotations_size(annotations: Mapping[str, str], path: str, errs: Errors) -> None:
    size = sum(len(key) + len(value) for key, value in annotations.items())
    if size > LIMITS.annotations_bytes // 4:
        size = sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items())
        if size > LIMITS.annotations_bytes:
            errs.append(too_long(path, LIMITS.annotations_bytes))


def _owners(owners: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    controller = ""
    for index, owner in enumerate(owners):
        at = f"{path}[{index}]"
        version = owner.get("apiVersion") or ""
        if not version.rpartition("/")[2] or version.count("/") > 1:
            errs.append(invalid(f"{at}.apiVersion", version, "version must not be empty"))
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                errs.append(invalid(f"{at}.{field}", "", f"{field} must not be empty"))
        # No object has such a name: who looks for the owner must not ask for another path.
        checked(names.path_segment_errors(owner.get("name") or ""), owner.get("name"), f"{at}.name", errs)
        if owner.get("kind") == "Event" and version in ("v1", "events.k8s.io/v1"):
            group, _, number = version.rpartition("/")
            kind = f"{group}/{number}, Kind=Event"
            errs.append(invalid(at, kind, f"{kind} is disallowed from being an owner"))
        if owner.get("controller"):
            own = owner.get("name") or ""
            if controller:
                text = (
                    "Only one reference can have Controller set to true. Found "
                    f'"true" in references for {controller} and {own}'
                )
                errs.append(invalid(path, list(owners), text))
            controller = own


def _name(metadata: Mapping[str, Any], check: NameCheck, path: str, errs: Errors) -> None:
    prefix = metadata.get("generateName")
    if prefix:
        # A trailing dash is allowed: the suffix follows it.
        probe = prefix[:-1] + "a" if prefix.endswith("-") and len(prefix) > 1 else prefix
        checked(check(probe), prefix, f"{path}.generateName", errs)
    own = metadata.get("name")
    if not own:
        errs.append(required(f"{path}.name", "name or generateName is required"))
    else:
        checked(check(own), own, f"{path}.name", errs)


def validate_metadata(
    metadata: Mapping[str, Any], *, namespaced: bool, check: NameCheck, path: str = "metadata"
) -> Errors:
    """Problems of the metadata of an object that is created or updated."""
    errs: Errors = []
    _name(metadata, check, path, errs)
    space = metadata.get("namespace")
    if namespaced:
        if not space:
            errs.append(required(f"{path}.namespace"))
        else:
            checked(names.label_errors(space), space, f"{path}.namespace", errs)
    elif space:
        errs.append(forbidden(f"{path}.namespace", "not allowed on this type"))
    if metadata.get("labels"):
        validate_labels(metadata["labels"], f"{path}.labels", errs)
    if metadata.get("annotations"):
        validate_annotations(metadata["annotations"], f"{path}.annotations", errs)
    if metadata.get("ownerReferences"):
        _owners(metadata["ownerReferences"], f"{path}.ownerReferences", errs)
    for finalizer in metadata.get("finalizers") or ():
        checked(names.qualified_name_errors(finalizer), finalizer, f"{path}.finalizers", errs)
    for index, entry in enumerate(metadata.get("managedFields") or ()):
        _owner_of_fields(entry, f"{path}.managedFields[{index}]", errs)
    return errs


def field_manager_errors(manager: str, path: str) -> Errors:
    """Problems of the name under which somebody owns fields; empty for one that is not given."""
    errs: Errors = []
    size = len(manager.encode())
    if size > FIELD_MANAGER_MAX_BYTES:
        errs.append(too_long(path, FIELD_MANAGER_MAX_BYTES))
    if not manager.isprintable():
        at, character = next((at, one) for at, one in enumerate(manager) if not one.isprintable())
        place = len(manager[:at].encode())
        errs.append(invalid(path, manager, f"invalid character U+{ord(character):04X} (at position {place})"))
    return errs


def _owner_of_fields(entry: Mapping[str, Any], path: str, errs: Errors) -> None:
    operation = entry.get("operation") or ""
    if not operation:
        errs.append(required(f"{path}.operation", "must not be empty"))
    else:
        one_of(operation, ("Apply", "Update"), f"{path}.operation", errs)
    if (entry.get("fieldsType") or "FieldsV1") != "FieldsV1":
        errs.append(invalid(f"{path}.fieldsType", entry["fieldsType"], "must be `FieldsV1`"))
    errs += field_manager_errors(entry.get("manager") or "", f"{path}.manager")
    if len((entry.get("subresource") or "").encode()) > _SUBRESOURCE_MAX_BYTES:
        errs.append(too_long(f"{path}.subresource", _SUBRESOURCE_MAX_BYTES))


def validate_template_metadata(metadata: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The metadata that objects made of a template get: labels and annotations, and nothing else."""
    validate_annotations(metadata.get("annotations") or {}, f"{path}.annotations", errs)
    validate_labels(metadata.get("labels"), f"{path}.labels", errs)
    set_fields = (field for field, value in metadata.items() if value and field not in ("annotations", "labels"))
    errs += [forbidden(f"{path}.{field}", "cannot be set") for field in set_fields]


def validate_metadata_update(new: Object, old: Object) -> Errors:
    """What an update may not change in metadata, whatever the kind."""
    errs: Errors = []
    metadata, before = new["metadata"], old["metadata"]
    if before.get("deletionTimestamp"):
        known = before.get("finalizers") or ()
        added = [one for one in metadata.get("finalizers") or () if one not in known]
        if added:
            listed = ", ".join(quote(one) for one in added)
            text = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            errs.append(forbidden("metadata.finalizers", text))
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        if metadata.get(field) != before.get(field):
            errs.append(invalid(f"metadata.{field}", metadata.get(field) or "", IMMUTABLE))
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        value = metadata.get(field)
        if value != before.get(field):
            shown = Verbatim(go_time(value)) if isinstance(value, str) else value
            errs.append(invalid(f"metadata.{field}", shown, IMMUTABLE))
    return errs


# --- label selectors ----------------------------------------------------------------------------


def validate_selector(selector: Mapping[str, Any] | None, path: str, errs: Errors) -> None:
    """Problems of a structured LabelSelector; None has none."""
    if not selector:
        return
    validate_labels(selector.get("matchLabels"), f"{path}.matchLabels", errs)
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        operator, values = expression.get("operator") or "", expression.get("values") or ()
        if operator not in _LABEL_OPERATORS:
            text = "not a valid selector operator"
            errs.append(invalid(f"{at}.operator", operator, text))
        elif operator in ("In", "NotIn"):
            if not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                errs.append(required(f"{at}.values", text))
        elif values:
            text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            errs.append(forbidden(f"{at}.values", text))
        checked(
            names.qualified_name_errors(expression.get("key") or ""),
            expression.get("key") or "",
            f"{at}.key",
            errs,
        )
        for number, value in enumerate(values):
            checked(names.label_value_errors(value), value, f"{at}.values[{number}]", errs)


def validate_required_selector(
    selector: Mapping[str, Any] | None, labels: Mapping[str, str], *, kind: str, unreadable: str, errs: Errors
) -> bool:
    """A workload's selector: there, not empty, and matching the labels of its template; whether it can be read."""
    at, found = "spec.selector", list[FieldError]()
    validate_selector(selector, at, found)
    readable, is_empty = not found, is_empty_selector(selector)
    errs += found if selector is not None else [required(at)]
    if is_empty:
        errs.append(invalid(at, selector, f"empty selector is invalid for {kind}"))
    if not readable:
        errs.append(invalid(at, selector, unreadable))
    elif not is_empty:
        labels_match(selector, labels, errs)
    return readable


def is_empty_selector(selector: Mapping[str, Any] | None) -> bool:
    """Whether a selector says nothing, and so selects everything; no selector selects nothing."""
    return selector is not None and not selector.get("matchLabels") and not selector.get("matchExpressions")


def labels_match(selector: Mapping[str, Any] | None, labels: Mapping[str, str], errs: Errors) -> None:
    """A template makes what the selector of its owner, which must be readable, selects."""
    if selector is None or not from_label_selector(selector).matches(labels):
        text = "`selector` does not match template `labels`"
        errs.append(invalid("spec.template.metadata.labels", dict(labels), text))


def unique(values: Sequence[Any], path: str, errs: Errors) -> None:
    """Duplicate value for each repetition in a list of scalars."""
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            errs.append(duplicate(f"{path}[{index}]", value))
        seen.add(value)


_STANDARD_FINALIZERS: Final = frozenset({"orphan", "foregroundDeletion", "kubernetes"})


def checked_finalizer(finalizer: str, path: str, errs: Errors) -> None:
    """Whether the name of a finalizer tells whose it is."""
    if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
        text = "name is neither a standard finalizer name nor is it fully qualified"
        errs.append(invalid(path, finalizer, text))


def _added(obj: Object, old: Object | None) -> list[tuple[int, str]]:
    """The finalizers that an object gets, with their places."""
    known = ((old or {}).get("metadata") or {}).get("finalizers") or ()
    given = enumerate((obj.get("metadata") or {}).get("finalizers") or ())
    return [(index, one) for index, one in given if one not in known]


def validate_finalizers(obj: Object, old: Object | None = None) -> Errors:
    """Problems of the finalizers that an object of a kind of Kubernetes gets; `old` is what it was before."""
    errs: Errors = []
    for index, one in _added(obj, old):
        checked_finalizer(one, f"metadata.finalizers[{index}]", errs)
    return errs


def finalizer_warnings(obj: Object, old: Object | None) -> list[str]:
    """What is said of the finalizers that a custom resource gets: of those it may have any."""
    found = []
    for one in sorted({one for _, one in _added(obj, old)}):
        if "/" in one or one in _STANDARD_FINALIZERS:
            continue
        path = " including a path (/)" if "." in one else ""
        said = f"prefer a domain-qualified finalizer name{path} to avoid accidental conflicts"
        found.append(f'metadata.finalizers: "{one}": {said} with other finalizer writers')
    return found

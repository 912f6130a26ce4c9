"""Validation of CustomResourceDefinitions beyond what makes them unique: names, versions, columns, paths.

Source: Kubernetes API reference, "CustomResourceDefinition v1 apiextensions.k8s.io".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Absent, Status
from rayplane.control_plane.api.machinery import formats, jsonpath, names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_SELECTABLE_MAX = 8
_DEPRECATION_MAX = 256


def form_as_stored(crd: Object) -> str:
    """A definition's resource in the version that is stored, if it is served: `things.v1.example.com`."""
    spec = crd.get("spec") or {}
    stored = next((v["name"] for v in spec.get("versions") or () if v.get("storage") and v.get("served")), "")
    return ".".join(part for part in (spec["names"]["plural"], stored, spec["group"]) if part)


def definition(crd: Object) -> Errors:
    """What is wrong with the parts of a definition that decide how its objects are named, shown and scaled."""
    errs: Errors = []
    spec = crd.get("spec") or {}
    _names(spec.get("names") or {}, errs)
    seen: set[str] = set()
    for index, version in enumerate(spec.get("versions") or ()):
        at, own = f"spec.versions[{index}]", version.get("name") or ""
        checked(names.dns1035_errors(own), own, f"{at}.name", errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        _deprecation(version, f"{at}.deprecationWarning", errs)
        for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
            _column(column, f"{at}.additionalPrinterColumns[{number}]", errs)
        _selectable(version.get("selectableFields") or (), f"{at}.selectableFields", errs)
        scale = (version.get("subresources") or {}).get("scale")
        if scale is not None:
            _scale(scale, f"{at}.subresources.scale", errs)
    return errs


def _deprecation(version: Mapping[str, Any], path: str, errs: Errors) -> None:
    text = version.get("deprecationWarning")
    if text is None:
        return
    if not version.get("deprecated"):
        errs.append(invalid(path, text, "can only be set for deprecated versions"))
    if len(text) > _DEPRECATION_MAX:
        errs.append(invalid(path, text, f"must be <= {_DEPRECATION_MAX} characters long"))
    if not text:
        errs.append(invalid(path, text, "must not be an empty string"))
    at = 0
    for character in text:
        if not character.isprintable():
            why = f"must only contain printable UTF-8 characters; non-printable character found at index {at}"
            errs.append(invalid(path, text, why))
        at += len(character.encode())


def _names(given: Mapping[str, Any], errs: Errors) -> None:
    plural = given.get("plural") or ""
    if plural:
        checked(names.dns1035_errors(plural), plural, "spec.names.plural", errs)
    for field in ("singular", "kind", "listKind"):
        value = given.get(field) or ""
        if value:
            problems = [
                f"may have mixed case, but should otherwise match: {p}" for p in names.dns1035_errors(value.lower())
            ]
            checked(problems, value, f"spec.names.{field}", errs)
    for field in ("shortNames", "categories"):
        for index, value in enumerate(given.get(field) or ()):
            checked(names.dns1035_errors(value), value, f"spec.names.{field}[{index}]", errs)
    if given.get("kind") and given.get("kind") == given.get("listKind"):
        errs.append(invalid("spec.names.listKind", given["listKind"], "kind and listKind may not be the same"))


def _column(column: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not column.get("name"):
        errs.append(required(f"{path}.name"))
    kind, shape = column.get("type") or "", column.get("format") or ""
    listed = f"must be one of {','.join(COLUMN_TYPES)}"
    if not kind:
        errs.append(required(f"{path}.type", listed))
    elif kind not in COLUMN_TYPES:
        errs.append(invalid(f"{path}.type", kind, listed))
    if shape and shape not in _COLUMN_FORMATS:
        errs.append(invalid(f"{path}.format", shape, f"must be one of {','.join(_COLUMN_FORMATS)}"))
    if not column.get("jsonPath"):
        errs.append(required(f"{path}.jsonPath"))
    else:
        _path(column["jsonPath"], f"{path}.jsonPath", errs)


def _path(text: str, path: str, errs: Errors, *, below: Sequence[str] = (".",)) -> bool:
    """Whether a JSONPath is one that values can be found by."""
    if not text.startswith("."):
        errs.append(invalid(path, text, "must be a simple json path starting with ."))
    elif not text.startswith(tuple(below)):
        errs.append(invalid(path, text, f"should be a json path under {' or '.join(below)}"))
    else:
        try:
            jsonpath.check(text)
        except jsonpath.JsonPathError as e:
            errs.append(invalid(path, text, f"is an invalid path: {e}"))
        else:
            return True
    return False


def _selectable(fields: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    if len(fields) > _SELECTABLE_MAX:
        errs.append(invalid(path, len(fields), f"must have at most {_SELECTABLE_MAX} items"))
    seen: set[str] = set()
    for index, field in enumerate(fields):
        at, text = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not text:
            errs.append(required(at))
        elif _path(text, at, errs) and text in seen:
            errs.append(duplicate(at, text))
        seen.add(text)


def _scale(scale: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field, below, needed in (
        ("specReplicasPath", (".spec.",), True),
        ("statusReplicasPath", (".status.",), True),
        ("labelSelectorPath", (".spec.", ".status."), False),
    ):
        text = scale.get(field) or ""
        if text:
            _path(text, f"{path}.{field}", errs, below=below)
        elif needed:
            errs.append(required(f"{path}.{field}"))


def _unrecognized(schema: Any) -> Iterator[str]:
    """Formats of texts that say nothing."""
    if isinstance(schema, list):
        for one in schema:
            yield from _unrecognized(one)
    elif isinstance(schema, Mapping):
        form = schema.get("format")
        if schema.get("type") == "string" and isinstance(form, str) and form and not formats.is_known(form):
            yield form
        for word, sub in schema.items():
            if word not in ("default", "enum", "example"):
                yield from _unrecognized(sub)


def _warnings(crd: Object, old: Object | None) -> list[str]:
    spec = crd.get("spec") or {}
    found = dict.fromkeys(
        form
        for version in spec.get("versions") or ()
        for form in _unrecognized((version.get("schema") or {}).get("openAPIV3Schema"))
    )
    return [f'unrecognized format "{form}"' for form in found]


RULES = {
    "CustomResourceDefinition": replace(
        AS_WRITTEN,
        defaults=Absent("they depend on the time and on what is served: `apiserver.custom`"),
        validate=Absent("it is checked together with what else is served: `apiserver.custom`"),
        validate_update=Absent("it is checked together with what else is served: `apiserver.custom`"),
        status=Status({}, metadata=frozenset()),
        generation=True,
        needs_version=True,
        ends_by_itself=True,
        warnings=_warnings,
        printer=NAME_AND_CREATED_AT,
    ),
}

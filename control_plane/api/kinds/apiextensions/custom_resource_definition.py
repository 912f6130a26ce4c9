"""Validation of CustomResourceDefinitions beyond what makes them unique: names, versions, columns, paths.

Source: Kubernetes API reference, "CustomResourceDefinition v1 apiextensions.k8s.io".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Absent, Status
from rayplane.control_plane.api.machinery import formats, jsonpath, names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_NUMBER_FORMATS = {"integer": ("int32", "int64"), "number": ("float", "double")}
_NO_DOT = "must be a simple json path starting with ."
_DEPRECATION_MAX = 256


def form_as_stored(crd: Object) -> str:
    """A definition's resource in the version that is stored, if it is served: `things.v1.example.com`."""
    spec = crd.get("spec") or {}
    stored = next((v["name"] for v in spec.get("versions") or () if v.get("storage") and v.get("served")), "")
    return ".".join(part for part in (spec["names"]["plural"], stored, spec["group"]) if part)


def as_written(versions: Sequence[Mapping[str, Any]], part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path of a part of each version, with the version: once, in the definition itself, where all have the same."""
    own = "validation" if part == "schema" else part
    if versions and all(version.get(part) == versions[0].get(part) for version in versions):
        yield f"spec.{own}", versions[0]
        return
    for index, version in enumerate(versions):
        yield f"spec.versions[{index}].{part}", version


def definition(crd: Object) -> Errors:
    """What is wrong with the parts of a definition that decide how its objects are named, shown and scaled."""
    errs: Errors = []
    spec = crd.get("spec") or {}
    _names(spec.get("names") or {}, errs)
    versions = spec.get("versions") or ()
    given = [version.get("name") or "" for version in versions]
    for index, version in enumerate(versions):
        at = f"spec.versions[{index}]"
        checked(names.dns1035_errors(given[index]), given[index], f"{at}.name", errs)
        _deprecation(version, f"{at}.deprecationWarning", errs)
    if len(set(given)) < len(given):
        errs.append(invalid("spec.versions", given, "must contain unique version names"))
    for at, version in as_written(versions, "additionalPrinterColumns"):
        for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
            _column(column, f"{at}[{number}]", errs)
    for at, version in as_written(versions, "subresources"):
        scale = (version.get("subresources") or {}).get("scale")
        if scale is not None:
            _scale(scale, f"{at}.scale", errs)
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
    singular = given.get("singular") or ""
    if singular:
        checked(names.dns1035_errors(singular), singular, "spec.names.singular", errs)
    for field in ("kind", "listKind"):
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
    path_to = column.get("jsonPath") or ""
    if not path_to:
        errs.append(required(f"{path}.JSONPath"))
    elif not path_to.startswith("."):
        errs.append(invalid(f"{path}.JSONPath", path_to, _NO_DOT))


def _path(text: str, path: str, errs: Errors, below: Sequence[str]) -> None:
    """Whether a JSONPath is one that replicas can be found by."""
    if not text.startswith("."):
        errs.append(invalid(path, text, _NO_DOT))
    elif not text.startswith(tuple(f"{part}." for part in below)):
        either = "either " if len(below) > 1 else ""
        errs.append(invalid(path, text, f"should be a json path under {either}{' or '.join(below)}"))
    else:
        try:
            jsonpath.check(text)
        except jsonpath.JsonPathError as e:
            errs.append(invalid(path, text, f"is an invalid path: {e}"))


def _scale(scale: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field, below, needed in (
        ("specReplicasPath", (".spec",), True),
        ("statusReplicasPath", (".status",), True),
        ("labelSelectorPath", (".spec", ".status"), False),
    ):
        text = scale.get(field) or ""
        if text:
            _path(text, f"{path}.{field}", errs, below)
        elif needed:
            errs.append(required(f"{path}.{field}"))


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema, and all inside of it."""
    if isinstance(schema, list):
        for one in schema:
            yield from _schemas(one)
    elif isinstance(schema, Mapping):
        yield schema
        for word, sub in schema.items():
            if word not in ("default", "enum", "example"):
                yield from _schemas(sub)


def _said_of(schema: Mapping[str, Any]) -> Iterator[str]:
    kind, form = schema.get("type", ""), schema.get("format")
    if isinstance(kind, str) and isinstance(form, str) and form:
        known = formats.is_known(form) if kind in ("", "string") else form in _NUMBER_FORMATS.get(kind, ())
        if not known:
            yield f'unrecognized format "{form}"'
    items = schema.get("items")
    inner = items.get("type") if schema.get("x-kubernetes-list-type") == "set" and isinstance(items, Mapping) else ""
    if inner in ("object", "array"):
        yield (
            f'x-kubernetes-list-type: set for items of type "{inner}" is not supported by server-side apply or CEL '
            "validation rules"
        )


def _warned(crd: Object) -> dict[str, None]:
    versions = (crd.get("spec") or {}).get("versions") or ()
    schemas = [(version.get("schema") or {}).get("openAPIV3Schema") for version in versions]
    return dict.fromkeys(text for schema in schemas for one in _schemas(schema) for text in _said_of(one))


def _warnings(crd: Object, old: Object | None) -> list[str]:
    """Formats that say nothing, and sets of what is no scalar: those that were not there before."""
    known = _warned(old) if old is not None else {}
    return [text for text in _warned(crd) if text not in known]


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

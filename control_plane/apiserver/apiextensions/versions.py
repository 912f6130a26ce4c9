"""Versions of definitions as they are written: what is wrong with their schemas and selectable fields. Pure.

Source: apiextensions-apiserver `pkg/apis/apiextensions/validation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, required, too_many
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import as_written
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.apiextensions import rules
from rayplane.control_plane.apiserver.apiextensions.defaulting import default_errors
from rayplane.control_plane.apiserver.apiextensions.rules import rule_errors
from rayplane.control_plane.apiserver.apiextensions.structural import PathError, schema_at, schema_errors

_COLUMNS_MAX: Final = 100
_SELECTABLE_MAX: Final = 8
_SELECTABLE: Final = (
    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
)
#: What a schema whose status is written apart may say at its root, and how errors call it.
_AT_ROOT: Final = {
    "description": "Description",
    "type": "Type",
    "format": "Format",
    "title": "Title",
    "maximum": "Maximum",
    "exclusiveMaximum": "ExclusiveMaximum",
    "minimum": "Minimum",
    "exclusiveMinimum": "ExclusiveMinimum",
    "maxLength": "MaxLength",
    "minLength": "MinLength",
    "pattern": "Pattern",
    "maxItems": "MaxItems",
    "minItems": "MinItems",
    "uniqueItems": "UniqueItems",
    "multipleOf": "MultipleOf",
    "required": "Required",
    "items": "Items",
    "properties": "Properties",
    "externalDocs": "ExternalDocs",
    "example": "Example",
    "x-kubernetes-preserve-unknown-fields": "XPreserveUnknownFields",
    "x-kubernetes-validations": "XValidations",
}
#: Schemas whose faults are kept: so many, and of so many bytes each at most.
_REMEMBERED: Final = 64
_REMEMBERED_BYTES: Final = 64 << 10


def version_errors(versions: Sequence[Object], old: Object | None) -> Iterator[FieldError]:
    """What is wrong with the versions of a definition; `old` is what the definition was before."""
    if sum(bool(v.get("storage")) for v in versions) != 1:
        text = "must have exactly one version marked as storage version"
        yield invalid("spec.versions", [v.get("name") for v in versions], text)
    for index, version in enumerate(versions):
        at = f"spec.versions[{index}]"
        columns = len(version.get("additionalPrinterColumns") or ())
        if columns > _COLUMNS_MAX:
            # Each row of each table has them all.
            yield too_many(f"{at}.additionalPrinterColumns", columns, _COLUMNS_MAX)
        if not _schema_of(version):
            yield required(f"{at}.schema.openAPIV3Schema")
    before = {v.get("name"): v for v in ((old or {}).get("spec") or {}).get("versions") or ()}
    for at, one in as_written(versions, "schema"):
        # What was taken once is not judged again.
        schema, earlier = _schema_of(one), before.get(one.get("name")) or {}
        if schema and _schema_of(earlier) != schema:
            among = versions if at == "spec.validation" else (one,)
            has_status = any("status" in (each.get("subresources") or {}) for each in among)
            yield from _root_errors(schema, f"{at}.openAPIV3Schema", has_status=has_status)
            yield from _schema_errors(schema, at)
    for at, one in as_written(versions, "selectableFields"):
        fields, schema = one.get("selectableFields") or (), _schema_of(one)
        if fields and schema:
            yield from _selectable_errors(fields, schema, at)


def _root_errors(schema: Mapping[str, Any], path: str, *, has_status: bool) -> Iterator[FieldError]:
    """What the schema of a whole object may not say: that of its status is cut out of it."""
    if has_status and (schema.get("type") or "object") != "object":
        text = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        yield invalid(f"{path}.type", schema["type"], text)
    said = {word for word, value in schema.items() if value not in (None, "", False, [], {})}
    if has_status and not said <= _AT_ROOT.keys():
        text = f"only [{' '.join(_AT_ROOT.values())}] fields are allowed at the root of the schema"
        yield invalid(path, schema, f"{text} if the status subresource is enabled")
    if schema.get("nullable"):
        yield forbidden(f"{path}.nullable", "nullable cannot be true at the root")


def _selectable_errors(
    fields: Sequence[Mapping[str, Any]], schema: Mapping[str, Any], path: str
) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, field in enumerate(fields):
        at, text = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not text:
            yield required(at)
            continue
        try:
            found = schema_at(text, schema, quoted=False)
        except PathError as error:
            yield invalid(at, text, f"is an invalid path: {error}")
            continue
        if text.split(".")[1] == "metadata":
            yield invalid(at, text, "must not point to fields in metadata")
        if found.get("type") not in ("string", "boolean", "integer"):
            yield invalid(at, text, _SELECTABLE)
        if text in seen:
            yield duplicate(at, text)
        seen.add(text)
    if len(seen) > _SELECTABLE_MAX:
        yield too_many(path, len(seen), _SELECTABLE_MAX)


def _schema_of(version: Mapping[str, Any]) -> Any:
    return (version.get("schema") or {}).get("openAPIV3Schema")


def _schema_errors(schema: Mapping[str, Any], place: str) -> Sequence[FieldError]:
    path, text = f"{place}.openAPIV3Schema", orjson.dumps(schema)
    return _remembered(text, path) if len(text) <= _REMEMBERED_BYTES else _judged(text, path)


def _judged(schema_text: bytes, path: str) -> Sequence[FieldError]:
    schema = orjson.loads(schema_text)
    found = schema_errors(schema, path)
    found = found or list(default_errors(schema, path)) or rule_errors(schema, path)
    return found or rules.default_errors(schema, path)


# Servers of one process are shown the same ones when they start, and so is who applies definitions over and over.
_remembered = lru_cache(maxsize=_REMEMBERED)(_judged)

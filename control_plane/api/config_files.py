"""Files that servers are configured by. Every field is checked: what is misread would be a hole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rayplane.control_plane.api.errors import ApiError, FieldError, forbidden, invalid, not_supported
from rayplane.control_plane.api.machinery import decoding, yaml_reader
from rayplane.control_plane.api.machinery.strict import json_duplicates, strict_errors, strict_message
from rayplane.control_plane.faults.reading import line_of

BYTES_MAX = 1 << 20


class ConfigFileError(ValueError):
    """The file is not what it should be; the message names every field that is wrong."""

    @staticmethod
    def of(errors: Sequence[FieldError]) -> ConfigFileError:
        return ConfigFileError("; ".join(str(e) for e in errors))

    @staticmethod
    def with_lines(errors: Sequence[FieldError], text: str) -> ConfigFileError:
        """`text`: what was read, within the budget; each error is told with the line of its field."""
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        return ConfigFileError("; ".join(f"line {line_of(node, e.field, at_name=True)}: {e}" for e in errors))


def read_document(text: str, kind: str, versions: Sequence[str], errors: list[FieldError]) -> dict[str, Any]:
    """A document of one of these apiVersions in YAML or JSON. ConfigFileError for others, and for doubled keys."""
    if len(text) > BYTES_MAX:
        raise ConfigFileError(f"it has more than {BYTES_MAX} characters")
    try:
        document = decoding.decode(text.encode(), decoding.YAML, kind=kind)
    except ApiError as e:
        raise ConfigFileError(e.message) from e
    if doubled := _doubled(text.encode()):
        raise ConfigFileError(strict_message(doubled))
    if document.get("apiVersion") not in versions:
        errors.append(not_supported("apiVersion", document.get("apiVersion") or "", versions))
    if document.get("kind") != kind:
        errors.append(not_supported("kind", document.get("kind") or "", [kind]))
    return document


def _doubled(body: bytes) -> list[str]:
    """What stands twice in one object of a document that has been parsed."""
    try:
        return strict_errors([], json_duplicates(body))
    except ValueError:  # it is YAML
        return yaml_reader.duplicates(body)


def read_fields(value: Any, known: Mapping[str, type], path: str, errors: list[FieldError]) -> dict[str, Any]:
    """The fields that are what they should be."""
    if not isinstance(value, dict):
        errors.append(invalid(path, value, "must be an object"))
        return {}
    dot, found = f"{path}." if path else "", {}
    for field, one in value.items():
        kind = known.get(field)
        if kind is None:
            errors.append(forbidden(f"{dot}{field}", "unknown field"))
        elif one is None:
            continue
        elif not isinstance(one, kind):
            errors.append(invalid(f"{dot}{field}", one, f"must be of type {kind.__name__}"))
        else:
            found[field] = one
    return found


def read_texts(given: Mapping[str, Any], field: str, path: str, errors: list[FieldError]) -> tuple[str, ...]:
    values: Sequence[Any] = given.get(field) or ()
    for index, value in enumerate(values):
        if not isinstance(value, str):
            errors.append(invalid(f"{path}.{field}[{index}]", value, "must be a string"))
    return tuple(value for value in values if isinstance(value, str))

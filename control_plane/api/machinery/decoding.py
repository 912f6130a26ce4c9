"""Decoding of request bodies into objects: JSON, YAML or Kubernetes protobuf, then the schema.

`decode` is syntax only; `decode_object` also checks the kind, the types and the unknown fields
and answers in Kubernetes' words. Every refusal is an ApiError.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from rayplane.control_plane.api.errors import BadRequest, Invalid, UnsupportedMediaType, invalid
from rayplane.control_plane.api.machinery import budget, protobuf, yaml_reader
from rayplane.control_plane.api.machinery.json_reader import read_json
from rayplane.control_plane.api.machinery.schema import Definition, definition_of
from rayplane.control_plane.api.machinery.strict import (
    DecodeError,
    conform,
    json_duplicates,
    strict_errors,
    strict_message,
)
from rayplane.control_plane.api.meta import Object

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
FieldValidation = Literal["Strict", "Warn", "Ignore"]

_SUMMARY_MAX: Final = 30
_SCHEME: Final = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"


@dataclass(frozen=True, slots=True)
class Decoded:
    """An object in the shape of its kind, and what is to be said in Warning headers."""

    object: Object
    warnings: list[str]


class _Malformed(ValueError):
    """A body that cannot be parsed; the message is the parser's as Kubernetes prints it."""


def media_type(content_type: str) -> str:
    """`application/json` of `Application/JSON; charset=utf-8`; JSON where none is given."""
    return JSON if content_type == JSON else content_type.partition(";")[0].strip().lower() or JSON


def decode(body: bytes, content_type: str = JSON, *, kind: str = "") -> Object:
    """Parse a body, whatever its kind. `kind` is only named in the error.

    Raises BadRequest for what cannot be parsed, UnsupportedMediaType for another media type.
    """
    try:
        return _parse(body, media_type(content_type))
    except _Malformed as error:
        summary = _summarize(body)
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): {error} ({summary})"
        ) from error


def decode_object(
    body: bytes,
    content_type: str = JSON,
    *,
    api_version: str,
    kind: str,
    definition: Definition | None,
    field_validation: FieldValidation = "Warn",
    custom: bool = False,
) -> Decoded:
    """Parse a body that must hold one object of the given kind.

    apiVersion and kind may be left out of the body, both or none of a custom resource's. With a definition, the object
    comes back conforming to it (see `strict.conform`). Without one nothing but the kind is checked.
    Raises BadRequest, UnsupportedMediaType, and Invalid for a custom resource of another kind.
    """
    obj = decode(body, content_type, kind=kind)
    if custom:
        _require_custom_kind(obj, api_version, kind)
    else:
        _require_kind(obj, api_version, kind)
    if definition is None:
        return Decoded(obj, [])
    try:
        doubled = [] if field_validation == "Ignore" else duplicates(body, content_type)
        unknown = conform(obj, definition, lenient=not definition.kinds)
    except DecodeError as error:
        raise _cannot_handle(obj, kind, str(error)) from error
    errors = strict_errors(unknown, doubled) if unknown or doubled else []
    if field_validation == "Ignore":
        return Decoded(obj, [])
    if errors and field_validation == "Strict":
        raise _cannot_handle(obj, kind, strict_message(errors))
    return Decoded(obj, errors)


def decode_options(body: bytes, content_type: str = JSON) -> Object:
    """The DeleteOptions in a request's body, an empty one for none; any group's apiVersion is taken."""
    if not body:
        return {}
    kind = "DeleteOptions"
    obj = decode(body, content_type, kind=kind)
    if obj.get("kind", kind) != kind:
        raise _cannot_handle(obj, kind, f"expected {kind}, got {obj['kind']}")
    definition = definition_of("v1", kind)
    if definition is not None:
        try:
            conform(obj, definition)
        except DecodeError as error:
            shown = {"apiVersion": "v1", "kind": kind, **obj}
            raise _cannot_handle(shown, kind, str(error)) from error
    return obj


def conform_patched(
    obj: Object,
    definition: Definition | None,
    *,
    field_validation: FieldValidation = "Warn",
    patch: Any = None,
    doubled: Sequence[str] = (),
    as_given: bool = False,
    only: Collection[str] | None = None,
) -> list[str]:
    """Check the result of a patch, in place; returns the warnings.

    Raises Invalid (422, on the field `patch`) for a wrong type or, with Strict, for unknown
    fields. `patch` is the strategic merge patch to show in the error; the patched object is
    shown where it is None, as Kubernetes does for the other patch types. `doubled` are the fields that stand twice in
    one object of it. `as_given`: see `strict.conform`. `only`: the fields that the patch is about, where nothing else
    will be kept of the result; the others are not looked at.
    """
    if definition is None:
        return []
    part = obj if only is None else {name: obj[name] for name in only if name in obj}
    try:
        unknown = conform(part, definition, lenient=not definition.kinds, as_given=as_given)
    except DecodeError as error:
        raise _bad_patch(obj, patch, str(error)) from error
    for name in only or ():
        if name in part:
            obj[name] = part[name]
        else:
            obj.pop(name, None)
    if field_validation == "Ignore" or not (unknown or doubled):
        return []
    errors = strict_errors(unknown, list(doubled))
    if errors and field_validation == "Strict":
        raise _bad_patch(obj, patch, strict_message(errors))
    return errors


def _bad_patch(obj: Object, patch: Any, message: str) -> Invalid:
    shown = go_format(patch) if patch is not None else orjson.dumps(obj).decode()
    return Invalid.of("", "", [invalid("patch", shown, message)])


def _require_custom_kind(obj: Object, api_version: str, kind: str) -> None:
    """Refuse a custom resource that says that it is none of the endpoint's, in the words said of those."""
    given_version, given_kind = obj.get("apiVersion") or "", obj.get("kind") or ""
    if not (given_version or given_kind):
        obj["apiVersion"], obj["kind"] = api_version, kind
        return
    group, _, version = api_version.rpartition("/")
    if not given_kind:
        shown = _summarize(orjson.dumps(obj))
        text = f"{kind} in version \"{version}\" cannot be handled as a {kind}: Object 'Kind' is missing in '{shown}'"
        raise BadRequest(text)
    if given_version != api_version:
        raise _unexpected(given_version, api_version)
    if given_kind != kind:
        metadata = obj.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else ""
        wrong = [invalid("kind", given_kind, f"must be {kind}")]
        raise Invalid.of(str(given_kind), str(name or ""), wrong, group=group)


def _unexpected(given: Any, wanted: str) -> BadRequest:
    return BadRequest(f"the API version in the data ({given}) does not match the expected API version ({wanted})")


def _require_kind(obj: Object, api_version: str, kind: str) -> None:
    """Fill in apiVersion and kind where missing; refuse another kind than the endpoint's."""
    given_version = obj.setdefault("apiVersion", api_version) or api_version
    given_kind = obj.setdefault("kind", kind) or kind
    for name, value in (("apiVersion", given_version), ("kind", given_kind)):
        if type(value) is not str:
            raise BadRequest(
                f"the object provided is unrecognized (must be of type {kind}): couldn't get "
                f"version/kind; json parse error: json: cannot unmarshal {json_kind(value)} into "
                f"Go struct field .{name} of type string ({_summarize(orjson.dumps(obj))})"
            )
    obj["apiVersion"], obj["kind"] = given_version, given_kind
    if given_version == api_version and given_kind == kind:
        return
    if definition_of(given_version, given_kind) is None:
        raise _cannot_handle(
            obj,
            kind,
            f'no kind "{given_kind}" is registered for version "{given_version}" in scheme "{_SCHEME}"',
        )
    if given_kind == kind:
        raise _unexpected(given_version, api_version)
    version = given_version.rpartition("/")[2]
    package = api_version.rpartition("/")[0].partition(".")[0] or "core"
    raise _cannot_handle(obj, kind, f"converting ({version}.{given_kind}) to ({package}.{kind}): unknown conversion")


def _cannot_handle(obj: Object, kind: str, cause: str) -> BadRequest:
    version = str(obj.get("apiVersion", "")).rpartition("/")[2]
    given = obj.get("kind", kind)
    return BadRequest(f'{given} in version "{version}" cannot be handled as a {kind}: {cause}')


def _summarize(body: bytes) -> str:
    """The start of a body as Kubernetes shows it: text where it looks like JSON, else hex."""
    if not body:
        return "<empty>"
    start = body[:_SUMMARY_MAX]
    text = start.decode("utf-8", "replace") if body[:1] == b"{" else start.hex()
    return text + (" ..." if len(body) > _SUMMARY_MAX else "")


def json_kind(value: Any) -> str:
    """What encoding/json calls the kind of a value: `object`, `number`."""
    return _JSON_KINDS.get(type(value), "object")


_JSON_KINDS: Final[dict[type, str]] = {bool: "bool", int: "number", float: "number", list: "array", str: "string"}


def duplicates(body: bytes, content_type: str) -> list[str]:
    """What stands twice in one object of a body that has been parsed."""
    match media_type(content_type):
        case "application/json":
            return json_duplicates(body)
        case "application/yaml":
            return [] if body.lstrip()[:1] == b"{" else yaml_reader.duplicates(body)
    return []


def _parse(body: bytes, media: str) -> Object:
    match media:
        case "application/json":
            obj = parse_json(body)
        case "application/yaml":
            try:
                obj = yaml_reader.parse(body)
            except yaml_reader.YamlError as error:
                raise _Malformed(str(error)) from error
        case "application/vnd.kubernetes.protobuf":
            try:
                obj = protobuf.decode(body)
                budget.check(obj)  # JSON may be embedded
                return obj
            except (protobuf.ProtobufError, budget.TooDeep) as error:
                raise _Malformed(str(error)) from error
        case _:
            raise UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types "
                f"include: {JSON}, {YAML}, {PROTOBUF}"
            )
    if type(obj) is not dict:
        found = json_kind(obj)
        raise _Malformed(
            f"couldn't get version/kind; json parse error: json: cannot unmarshal {found} into "
            "Go value of type struct { APIVersion string; Kind string }"
        )
    return obj


# --- JSON ------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """A JSON value within the budget. Raises a ValueError with Go's wording, TooManyValues."""
    try:
        value = read_json(body)
        budget.check_json(body, value)
    except orjson.JSONDecodeError:
        raise _Malformed(f"couldn't get version/kind; json parse error: {json_syntax_error(body)}") from None
    except budget.TooDeep as error:
        raise _Malformed(f"couldn't get version/kind; json parse error: {error}") from None
    return value


_GO_SYNTAX: Final = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": ("looking for beginning of object key string"),
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
    "Extra data": "after top-level value",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


def json_syntax_error(body: bytes) -> str:
    """What encoding/json says about a text that is no JSON."""
    text = body.decode("utf-8", "replace")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        at, message = error.pos, error.msg.partition(": ")[0]
        if at >= len(text) or message.startswith("Unterminated"):
            return "unexpected end of JSON input"
        found = "'\\''" if text[at] == "'" else f"'{text[at]}'"
        return f"invalid character {found} {_GO_SYNTAX.get(message, 'in literal')}"
    except RecursionError:
        return "exceeded max depth"
    except ValueError:  # an integer of thousands of digits
        return "number out of range"
    return "invalid UTF-8 in string"


# --- Go's way to print -------------------------------------------------------------------------


def go_format(value: Any) -> str:
    """A JSON value as Go prints it with %v: `map[a:1 b:[x y]]`."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case dict():
            pairs = (f"{key}:{go_format(value[key])}" for key in sorted(value))
            return f"map[{' '.join(pairs)}]"
        case list():
            return f"[{' '.join(map(go_format, value))}]"
    return str(value)

"""Patches of all types: JSON patch (`json_patch`), JSON merge patch (RFC 7386), strategic merge patch.

    apply_patch("strategic", obj, {"metadata": {"labels": {"a": None}}}, definition)

Neither the object nor the patch is changed. The result is not checked against the schema:
`decoding.conform_patched` does that next.
Source of the strategic rules: Kubernetes community, "Strategic Merge Patch" (sig-api-machinery).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import orjson

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Invalid,
    UnsupportedMediaType,
)
from rayplane.control_plane.api.machinery import budget, json_patch, yaml_reader
from rayplane.control_plane.api.machinery.decoding import go_format, json_kind, media_type
from rayplane.control_plane.api.machinery.json_reader import read_json
from rayplane.control_plane.api.machinery.schema import LIST, MAP, STRUCT, Definition, Field, Type
from rayplane.control_plane.api.meta import Object

PatchKind = Literal["json", "merge", "strategic", "apply"]

PATCH_TYPES: Final[dict[str, PatchKind]] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}

_MESSAGE_MAX: Final = 4096  # a failed test shows the value it found
_DIRECTIVE: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"
_SET_ORDER: Final = "$setElementOrder/"
_DIRECTIVES: Final = (_DELETE_PRIMITIVES, _SET_ORDER, _RETAIN_KEYS, _DIRECTIVE)


class PatchFailed(ApiError):
    """A strategic merge patch whose items have no key or no order; a plain 500 in Kubernetes, as recorded."""

    default_reason, default_code = "", 500


def patch_kind(content_type: str, *, custom: bool = False) -> PatchKind:
    """The kind of patch a media type stands for. Raises UnsupportedMediaType.

    Custom resources have no strategic merge patch.
    """
    kind = PATCH_TYPES.get(media_type(content_type))
    if kind is None or (custom and kind == "strategic"):
        if not custom:
            raise UnsupportedMediaType("415: Unsupported Media Type", details={})
        allowed = [m for m, k in PATCH_TYPES.items() if k != "strategic"]
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: " + ", ".join(allowed),
            details={},
        )
    return kind


def parse_patch(kind: PatchKind, body: bytes) -> Any:
    """The patch document of a request's body; null is one that changes nothing. Raises BadRequest."""
    if kind == "apply":
        try:
            patch = yaml_reader.parse(body)
        except yaml_reader.YamlError as error:
            raise BadRequest(f"error encoding patch: {error}") from error
    else:
        try:
            patch = read_json(body)
            budget.check_json(body, patch)
        except orjson.JSONDecodeError as error:
            raise BadRequest("invalid JSON patch") from error
        except budget.TooDeep as error:
            raise BadRequest(f"error decoding patch: {error}") from error
    wanted = list if kind == "json" else dict
    if patch is None:
        return wanted()
    if type(patch) is not wanted:
        into = "[]jsonPatchOp" if kind == "json" else "map[string]interface {}"
        raise BadRequest(
            f"error decoding patch: json: cannot unmarshal {json_kind(patch)} into Go value of type {into}"
        )
    return patch


def apply_patch(
    kind: PatchKind, obj: Object, patch: Any, definition: Definition | None, *, owned: bool = False
) -> Object:
    """The object with the patch applied; for objects as a whole `apply` is `apply.apply`.

    `owned`: the caller looks at `obj` no more, so that the result may share parts with it.

    Raises UnsupportedMediaType for a kind that does not fit, Invalid for a JSON patch that does not fit
    the object, PatchFailed or BadRequest for a strategic merge patch that breaks its rules.
    """
    match kind:
        case "json":
            return _json_patched(obj, patch)
        case "merge":
            result = merge_patch(obj if owned else _clone(obj), _clone(patch))
            return result if type(result) is dict else {}
        case "strategic":
            if definition is None:
                raise UnsupportedMediaType(
                    "strategic merge patch is not supported for custom resources; use application/merge-patch+json"
                )
            return strategic_merge(obj, patch, definition, owned=owned)
    raise UnsupportedMediaType("this subresource is not applied; use application/merge-patch+json")


def _clone(value: Any) -> Any:
    """A deep copy of a JSON value; several times faster than copy.deepcopy."""
    return orjson.loads(orjson.dumps(value))


# --- RFC 6902 and RFC 7386 ---------------------------------------------------------------------


def _json_patched(obj: Object, operations: list[Any]) -> Object:
    budget.check_operations(len(operations))
    try:
        result = json_patch.apply(_clone(obj), _clone(operations))
        budget.check(result)
    except json_patch.MalformedOperation as error:
        raise BadRequest(f"error decoding patch: {error}") from error
    except (json_patch.JsonPatchError, budget.CopiesTooMuch) as error:
        raise _unprocessable(str(error)) from error
    except (budget.TooDeep, orjson.JSONEncodeError, RecursionError) as error:
        raise _unprocessable("exceeded max depth") from error
    if type(result) is not dict:
        raise _unprocessable("the patch leaves no object")
    return result


def _unprocessable(message: str) -> Invalid:
    shown = message if len(message) <= _MESSAGE_MAX else message[:_MESSAGE_MAX] + "..."
    return Invalid("the server rejected our request due to an error in our request", details={
        "causes": [{"reason": "FieldValueInvalid", "message": shown, "field": "patch"}]
    })  # fmt: skip


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2. The result may share parts with both arguments."""
    if type(patch) is not dict:
        return patch
    result = dict(target) if type(target) is dict else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


# --- strategic merge patch ---------------------------------------------------------------------


def strategic_merge(obj: Object, patch: Object, definition: Definition, *, owned: bool = False) -> Object:
    """Merge by the schema's patch strategies and merge keys. Raises PatchFailed, BadRequest.

    `owned`: as in `apply_patch`.
    """
    return _merge_map(obj if owned else _clone(obj), _clone(patch), Type.struct(definition))


def _field(type_: Type | None, name: str) -> tuple[Field | None, Type | None]:
    """The field's annotations (None inside maps and free-form values) and its type."""
    if type_ is None:
        return None, None
    if type_.kind == STRUCT:
        field = type_.definition.fields.get(name)
        return field, field.type if field is not None else None
    return None, type_.items if type_.kind == MAP else None


def _element(type_: Type | None) -> Type | None:
    return type_.items if type_ is not None and type_.kind == LIST else None


def _merge_map(original: Object, patch: Object, type_: Type | None) -> Object:
    """Merge `patch` into `original`, consuming both."""
    if _DIRECTIVE in patch:
        return _handle_directive(patch)
    _take_directives(original, patch, type_)
    for name, value in patch.items():
        deleting = name.startswith(_DELETE_PRIMITIVES)
        if deleting:
            name = name.removeprefix(_DELETE_PRIMITIVES)
        if value is None:
            original.pop(name, None)
            continue
        present: Any = original.get(name)
        if present is None and type(value) is dict and type_ is not None and type_.kind == STRUCT:
            # Kubernetes has some structs always, so there is something to merge with.
            present = {} if type_.definition.written.get(name) is not None else None
        if type(present) is not type(value) or type(value) not in (dict, list):
            if not deleting:
                kept, cleaned = _without_directives(value)
                if kept:
                    original[name] = cleaned
            continue
        field, sub = _field(type_, name)
        strategy = field.strategy if field is not None else ""
        if type(value) is dict:
            original[name] = value if strategy == "replace" else _merge_map(present, value, sub)
        elif deleting:
            gone = _places(value, "")
            original[name] = [item for item in present if _place(gone, item, "") < 0]
        elif strategy == "merge":
            key = field.merge_key if field is not None else ""
            original[name] = _merge_list(present, value, key, _element(sub))
        else:
            original[name] = value
    return original


def _handle_directive(patch: Object) -> Object:
    match patch.pop(_DIRECTIVE):
        case "replace":
            return patch
        case "delete":
            return {}
        case other:
            raise BadRequest(f"unknown patch type: {go_format(other)} in map: {go_format(patch)}")


def _take_directives(original: Object, patch: Object, type_: Type | None) -> None:
    if any(name[:1] == "$" for name in patch):
        _retain_keys(original, patch)
        _merge_ordered_lists(original, patch, type_)


def _retain_keys(original: Object, patch: Object) -> None:
    """`$retainKeys`: of a union, only the listed fields stay."""
    if _RETAIN_KEYS not in patch:
        return
    retained = patch.pop(_RETAIN_KEYS)
    if type(retained) is not list:
        raise BadRequest("invalid patch format of retainKeys")
    retained = {name for name in retained if type(name) is str}
    for name, value in patch.items():
        if value is not None and name not in retained and not name.startswith((_DELETE_PRIMITIVES, _SET_ORDER)):
            raise BadRequest("invalid patch format of retainKeys")
    for name in [name for name in original if name not in retained]:
        del original[name]


def _merge_ordered_lists(original: Object, patch: Object, type_: Type | None) -> None:
    """Lists that come with `$setElementOrder/<field>`: merged, then put into that order."""
    for directive in [name for name in patch if name.startswith(_SET_ORDER)]:
        order = patch.pop(directive)
        name = directive.removeprefix(_SET_ORDER)
        if type(order) is not list:
            raise BadRequest("invalid patch format of setElementOrder list")
        field, sub = _field(type_, name)
        key = field.merge_key if field is not None else ""
        present, given = original.get(name), patch.get(name)
        if (present is None and given is None) or (name in patch and given is None):
            continue
        if not all(one is None or type(one) is list for one in (present, given)):
            raise BadRequest("invalid patch format of setElementOrder list")
        if given is not None:
            _check_order(given, order, key)
        merged: list[Any]
        if given is None:
            merged = present or []
        elif present is None:
            merged = _without_directives(given)[1]
        elif field is not None and field.strategy == "merge":
            merged = _merge_list(present, given, key, _element(sub))
        else:
            merged = given
        patch.pop(name, None)
        original[name] = _ordered(merged, order, present or [], key)


def _check_order(items: list[Any], order: list[Any], key: str) -> None:
    """The items of the patch must stand in the same order as in the directive."""
    kept = [i for i in items if not (type(i) is dict and _DIRECTIVE in i)]
    if not kept or not order:
        return
    at = 0
    for wanted in order:
        if at < len(kept) and _same(kept[at], wanted, key):
            at += 1
    if at < len(kept):
        raise PatchFailed(
            f"The order in patch list:\n{go_format(items)}\n doesn't match $setElementOrder list:\n{go_format(order)}\n"
        )


def _same(a: Any, b: Any, key: str) -> bool:
    if key and type(a) is dict and type(b) is dict:
        return bool(_key_of(a, key) == _key_of(b, key))
    return bool(a == b)


def _key_of(item: Any, key: str) -> Any:
    if type(item) is not dict or key not in item:
        raise PatchFailed(f"map: {go_format(item)} does not contain declared merge key: {key}")
    return item[key]


def _mark(item: Any, key: str) -> str | bytes:
    """The same for items that are one: by the merge key where there is one, else by the whole value."""
    known = item.get(key) if key and type(item) is dict else item
    return known if type(known) is str else orjson.dumps(known, option=orjson.OPT_SORT_KEYS)


def _places(items: list[Any], key: str) -> dict[str | bytes, int]:
    """Where each item stands first, by its mark; found in one pass, since both lists of a merge may be long."""
    places: dict[str | bytes, int] = {}
    for at, item in enumerate(items):
        if not key or type(item) is not dict or key in item:
            places.setdefault(_mark(item, key), at)
    return places


def _place(places: dict[str | bytes, int], item: Any, key: str) -> int:
    """-1 where there is none."""
    return -1 if key and type(item) is dict and key not in item else places.get(_mark(item, key), -1)


def _merge_list(original: list[Any], patch: list[Any], key: str, element: Type | None) -> list[Any]:
    """Merge lists of scalars as sets, lists of maps by the merge key; then restore the order."""
    if not original and not patch:
        return original
    kinds = {type(item) for item in (*original, *patch)}
    if list in kinds:
        raise _unprocessable("lists of lists are not supported")
    if len(kinds) > 1:
        raise BadRequest(f"list element types are not identical: {go_format([original, patch])}")
    if dict not in kinds:
        distinct: dict[str | bytes, Any] = {}
        for item in [*original, *patch]:
            distinct.setdefault(_mark(item, ""), item)
        return _ordered(list(distinct.values()), patch, original, "")
    if not key:
        raise BadRequest("cannot merge lists without merge key")
    original, patch = _apply_list_directives(original, patch, key)
    merged = list(original)
    places = _places(merged, key)
    for item in patch:
        _key_of(item, key)
        mark = _mark(item, key)
        at = places.get(mark, -1)
        if at >= 0:
            merged[at] = _merge_map(merged[at], item, element)
        else:
            places[mark] = len(merged)
            merged.append(_without_directives(item)[1])
    return _ordered(merged, patch, original, key)


def _apply_list_directives(original: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Take out `{$patch: delete}` and `{$patch: replace}` items and do what they say."""
    plain: list[Any] = []
    deleted: list[Any] = []
    replace = False
    for item in patch:
        if type(item) is not dict or _DIRECTIVE not in item:
            plain.append(item)
            continue
        match item[_DIRECTIVE]:
            case "delete":
                _key_of(item, key)
                deleted.append(item)
            case "replace":
                replace = True
            case "merge":
                raise BadRequest("merging lists cannot yet be specified in the patch")
            case other:
                raise BadRequest(f"unknown patch type: {go_format(other)} in map: {go_format(item)}")
    if deleted:
        gone = _places(deleted, key)
        original = [item for item in original if _place(gone, item, key) < 0]
    return (plain, []) if replace else (original, plain)


def _ordered(merged: list[Any], order: list[Any], server: list[Any], key: str) -> list[Any]:
    """Items named in `order` stand in that order; the others keep their place relative to those
    that the server's list had as well.
    """
    named: list[tuple[int, int, Any]] = []  # (place in `order`, place on the server, item)
    others: list[tuple[int, Any]] = []
    order_places, server_places = _places(order, key), _places(server, key)
    for item in merged:
        place = at = -1
        if not key or type(item) is not dict or key in item:
            mark = _mark(item, key)
            place, at = order_places.get(mark, -1), server_places.get(mark, -1)
        if place >= 0:
            named.append((place, at, item))
        else:
            others.append((at, item))
    named.sort(key=lambda entry: entry[0])
    others.sort(key=lambda entry: entry[0])
    result: list[Any] = []
    i = j = 0
    while i < len(others) and j < len(named):
        if 0 <= others[i][0] < named[j][1]:
            result.append(others[i][1])
            i += 1
        else:
            result.append(named[j][2])
            j += 1
    return result + [item for _, item in others[i:]] + [item for _, _, item in named[j:]]


def _without_directives(value: Any) -> tuple[bool, Any]:
    """(whether anything is to be kept, the value without nulls and directives in maps).

    For values that are new to the object: there is nothing to merge them with.
    """
    if type(value) is dict:
        if _DIRECTIVE in value:
            return False, None
        kept: Object = {}
        for name, item in value.items():
            if item is None or (name[:1] == "$" and name.startswith(_DIRECTIVES)):
                continue
            if type(item) is not dict and type(item) is not list:
                kept[name] = item
                continue
            keep, cleaned = _without_directives(item)
            if keep:
                kept[name] = cleaned
        return True, kept
    if type(value) is list:
        cleaned_items = []
        for item in value:
            if type(item) is dict and _DIRECTIVE in item:
                continue
            cleaned_items.append(_without_directives(item)[1])
        return True, cleaned_items
    return True, value

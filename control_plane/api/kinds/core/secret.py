"""Secrets."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, quote, required, too_long
from rayplane.control_plane.api.kinds.core.config_map import DATA_MAX_BYTES, fixed_data
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.legacy_tokens import ACCOUNT, is_token
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name

_SECRET_KEYS: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_JSON_KEYS: Mapping[str, str] = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}


def _default(obj: Object) -> None:
    """Type Opaque; `stringData`, which is only ever written, goes into `data`."""
    if not obj.get("type"):
        obj["type"] = "Opaque"
    plain = obj.pop("stringData", None)
    if plain:
        data = obj.setdefault("data", {}) or {}
        obj["data"] = data
        for name, text in plain.items():
            data[name] = base64.b64encode((text or "").encode()).decode()


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    data = obj.get("data") or {}
    size = 0
    for key, value in data.items():
        checked(names.config_key_errors(key), key, f"data[{key}]", errs)
        try:
            size += len(base64.b64decode(value or "", validate=True))
        except (binascii.Error, ValueError):
            text = "must be base64 (RFC 4648); use stringData for plain text"
            errs.append(invalid(f"data[{key}]", "<redacted>", text))
    if size > DATA_MAX_BYTES:
        errs.append(too_long("data", DATA_MAX_BYTES))
    _contents(obj.get("type") or "", data, errs)
    if is_token(obj) and not meta.annotations(obj).get(ACCOUNT):
        errs.append(required(f"metadata.annotations[{ACCOUNT}]"))
    return errs


def _contents(kind: str, data: Mapping[str, Any], errs: Errors) -> None:
    """What a secret of this type must have."""
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data or (kind == "kubernetes.io/ssh-auth" and not data[key]):
            errs.append(required(f"data[{key}]"))
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        errs.append(required("data[username]"))
        errs.append(required("data[password]"))
    settings = _JSON_KEYS.get(kind, "")
    problem = _json_problem(data[settings] or "") if settings in data else ""
    if problem:
        errs.append(invalid(f"data[{settings}]", "<secret contents redacted>", problem))


def _json_problem(encoded: str) -> str:
    """What is wrong with the settings of a registry's client, which are a JSON object; empty for nothing."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return ""  # said before
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        first = text.lstrip()[:1]
        if not first or first in '{["':
            return "unexpected end of JSON input"
        return f"invalid character {quote(first)} looking for beginning of value"
    if value is None or isinstance(value, dict):
        return ""
    kind = {list: "array", str: "string", bool: "bool"}.get(type(value), "number")
    return f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("type"), old.get("type"), "type", errs)
    return [*errs, *fixed_data(new, old, ("data",)), *_validate(new)]


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), obj.get("type") or "", len(obj.get("data") or ()), age(obj, now)]


RULES = {
    "Secret": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Type"), Column("Data"), AGE), _row),
        fields=(*METADATA_FIELDS, "type"),
    ),
}

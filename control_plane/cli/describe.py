"""Objects as text for people, in the manner of `kubectl describe`. Pure."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.columns import since
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.printing import aligned

NONE = "<none>"
_INDENT = "  "
# Their keys are the user's own words.
_FREE = frozenset(
    (
        *("allocatable", "annotations", "binaryData", "capacity", "data", "hard", "labels", "limits", "matchLabels"),
        *("nodeSelector", "parameters", "requests", "selector", "stringData", "used"),
    )
)
_PAIRS = frozenset(("annotations", "labels", "matchLabels", "nodeSelector", "selector"))
_HIDDEN = ("apiVersion", "kind", "metadata")
_INLINE_MAX = 80
_ACRONYMS = {
    "api": "API",
    "cidr": "CIDR",
    "dns": "DNS",
    "id": "ID",
    "ip": "IP",
    "pid": "PID",
    "qos": "QoS",
    "uid": "UID",
}


def described(obj: Object, events: Sequence[Object], now: datetime) -> list[str]:
    """Metadata, then every other field, then the events."""
    head: dict[str, Any] = {"Name": meta.name(obj)}
    if meta.namespace(obj):
        head["Namespace"] = meta.namespace(obj)
    head["Labels"] = _pairs(meta.labels(obj), "=")
    head["Annotations"] = _pairs(meta.annotations(obj), ": ")
    head["API Version"] = obj.get("apiVersion", "")
    head["Kind"] = obj.get("kind", "")
    metadata = meta.metadata(obj)
    head["Created"] = f"{metadata.get('creationTimestamp')} ({since(metadata.get('creationTimestamp'), now)} ago)"
    if metadata.get("deletionTimestamp"):
        head["Deleting Since"] = f"{metadata['deletionTimestamp']}"
    owner = meta.controller_of(obj)
    if owner is not None:
        head["Controlled By"] = f"{owner['kind']}/{owner['name']}"
    if metadata.get("finalizers"):
        head["Finalizers"] = ", ".join(metadata["finalizers"])
    lines = _block(head)
    for key in sorted(obj.keys() - set(_HIDDEN), key=lambda k: (k == "status", k)):
        value = obj[key]
        if key == "data" and obj.get("kind") == "Secret":
            value = {k: f"{_size(v)} bytes" for k, v in value.items()}
        lines += _field(key, value, "", now, len(_title(key)) + 1)
    return [*lines, *_events(events, now)]


def _block(head: Mapping[str, Any]) -> list[str]:
    """`Key:  value` lines; a list has one line for each item."""
    width = max(len(k) for k in head) + 3
    lines = []
    for key, value in head.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{(key + ':' if i == 0 else ''):{width}}{v}" for i, v in enumerate(values)]
    return lines


def _pairs(found: Mapping[str, str], separator: str) -> list[str]:
    return [f"{k}{separator}{_one_line(found[k])}" for k in sorted(found)] or [NONE]


def _one_line(text: Any) -> str:
    line = str(text).strip().replace("\n", " ")
    return line if len(line) <= 2 * _INLINE_MAX else line[: 2 * _INLINE_MAX] + "..."


def _field(key: str, value: Any, indent: str, now: datetime, width: int, *, free: bool = False) -> list[str]:
    """A key and its value; `width`: where values begin."""
    title = f"{indent}{(key if free else _title(key)) + ':'}"
    if value in (None, "", [], {}):
        return [f"{title:{len(indent) + width}} {NONE}"]
    if key == "conditions" and isinstance(value, list):
        return [title, *_conditions(value, indent + _INDENT, now)]
    if isinstance(value, dict):
        flat = not any(isinstance(v, dict | list) for v in value.values())
        if key in _PAIRS and flat and not free:
            joined = ",".join(f"{k}={v}" for k, v in sorted(value.items()))
            return [f"{title:{len(indent) + width}} {joined}"]
        return [title, *_fields(value, indent + _INDENT, now, free=key in _FREE and not free)]
    if isinstance(value, list):
        return _list(title, value, indent, now, width)
    if isinstance(value, str) and "\n" in value:
        return [title, *(f"{indent}{_INDENT}{line}" for line in value.rstrip("\n").split("\n"))]
    return [f"{title:{len(indent) + width}} {_scalar(value)}"]


def _fields(value: Mapping[str, Any], indent: str, now: datetime, *, free: bool = False) -> list[str]:
    scalars = [k for k, v in value.items() if not isinstance(v, dict | list)]
    width = max((len(k if free else _title(k)) for k in scalars or value), default=0) + 1
    lines = []
    for key in sorted(value):
        lines += _field(key, value[key], indent, now, width, free=free)
    return lines


def _list(title: str, value: Sequence[Any], indent: str, now: datetime, width: int) -> list[str]:
    if not any(isinstance(item, dict | list) for item in value):
        joined = ", ".join(_scalar(item) for item in value)
        if len(joined) <= _INLINE_MAX and "\n" not in joined:
            return [f"{title:{len(indent) + width}} {joined}"]
        texts = [line for item in value for line in _scalar(item).split("\n")]
        return [title, *(f"{indent}{_INDENT}{t}" for t in texts)]
    lines = [title]
    for item in value:
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            lines.append(f"{indent}{_INDENT}{item['name']}:")
            lines += _fields({k: v for k, v in item.items() if k != "name"}, indent + 2 * _INDENT, now)
        else:
            content = _fields(item, "", now) if isinstance(item, dict) else [str(item)]
            lines += [f"{indent}{'- ' if i == 0 else _INDENT}{line}" for i, line in enumerate(content)]
    return lines


def _conditions(conditions: Sequence[Mapping[str, Any]], indent: str, now: datetime) -> list[str]:
    rows = [("Type", "Status", "Age", "Reason", "Message"), ("----", "------", "---", "------", "-------")]
    for c in conditions:
        age = since(c.get("lastTransitionTime"), now)
        rows.append(
            (str(c.get("type")), str(c.get("status")), age, c.get("reason", ""), _one_line(c.get("message", "")))
        )
    return [indent + line for line in aligned(rows)]


def _events(events: Sequence[Object], now: datetime) -> list[str]:
    if not events:
        return ["Events:  <none>"]
    rows = [("Type", "Reason", "Age", "From", "Message"), ("----", "------", "---", "----", "-------")]
    for e in events:
        last = e.get("lastTimestamp") or e.get("eventTime")
        age = since(last, now)
        count = int(e.get("count") or 1)
        if count > 1:
            age += f" (x{count} over {since(e.get('firstTimestamp') or last, now)})"
        source = (e.get("source") or {}).get("component") or e.get("reportingComponent") or ""
        rows.append((str(e.get("type")), str(e.get("reason")), age, source, _one_line(e.get("message") or "")))
    return ["Events:", *(_INDENT + line for line in aligned(rows))]


def _title(key: str) -> str:
    """`clusterIP` -> `Cluster IP`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).split(" ")
    return " ".join(_ACRONYMS.get(w.lower(), w[:1].upper() + w[1:]) for w in words)


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(text: Any) -> int:
    try:
        return len(base64.b64decode(str(text)))
    except binascii.Error:
        return len(str(text))

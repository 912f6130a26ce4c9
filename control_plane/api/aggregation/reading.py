"""Documents in which servers of aggregated APIs say what they serve: they may be hostile, nothing is taken on trust."""

from __future__ import annotations

from typing import Any

import orjson

from rayplane.control_plane.api.machinery.resources import ResourceInfo, SubresourceInfo

RESOURCES_MAX = 1000
_NAME_CHARS_MAX = 253


def read_resources(body: bytes, group: str, version: str) -> tuple[ResourceInfo, ...]:
    """The resources of an APIResourceList. Raises ValueError for what is none."""
    document = orjson.loads(body)
    rows = document.get("resources") if isinstance(document, dict) else None
    if not isinstance(rows, list) or document.get("kind") != "APIResourceList":
        raise ValueError("the answer is no APIResourceList")
    if len(rows) > RESOURCES_MAX:
        raise ValueError(f"the answer lists more than {RESOURCES_MAX} resources")
    parts: dict[str, dict[str, SubresourceInfo]] = {}
    whole = []
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError("a resource is no object")
        plural, slash, part = _text(row, "name").partition("/")
        of = _text(row, "group") or group, _text(row, "version") or version, _text(row, "kind")
        if slash:
            parts.setdefault(plural, {})[part] = SubresourceInfo(*of, _texts(row, "verbs"))
        elif plural:
            whole.append((plural, of[2], row))
    return tuple(_resource(group, version, *one, parts.get(one[0], {})) for one in whole)


def _resource(
    group: str, version: str, plural: str, kind: str, row: dict[str, Any], parts: dict[str, SubresourceInfo]
) -> ResourceInfo:
    return ResourceInfo(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=_text(row, "singularName"),
        namespaced=row.get("namespaced") is True,
        verbs=_texts(row, "verbs"),
        definition="",
        storage_prefix="",
        stored_api_version=f"{group}/{version}",
        short_names=_texts(row, "shortNames"),
        categories=_texts(row, "categories"),
        subresources=parts,
        custom=True,
        list_kind=f"{kind}List",
    )


def read_openapi_url(body: bytes, key: str) -> str:
    """Where the root of OpenAPI v3 documents says that of a group-version is; empty: nowhere. Raises ValueError."""
    document = orjson.loads(body)
    paths = document.get("paths") if isinstance(document, dict) else None
    row = paths.get(key) if isinstance(paths, dict) else None
    url = row.get("serverRelativeURL") if isinstance(row, dict) else None
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return ""
    return url if url.startswith(f"/openapi/v3/{key}") and len(url) <= 2 * _NAME_CHARS_MAX else ""


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field) or ""
    if not isinstance(value, str) or len(value) > _NAME_CHARS_MAX or not value.isprintable():
        raise ValueError(f"the {field} of a resource is no name")
    return value


def _texts(row: dict[str, Any], field: str) -> tuple[str, ...]:
    values = row.get(field) or []
    if not isinstance(values, list):
        raise ValueError(f"the {field} of a resource are no list")
    return tuple(_text({field: value}, field) for value in values[:RESOURCES_MAX])

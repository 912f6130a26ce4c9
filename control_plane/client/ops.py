"""Operations for `ApiClient.batch`, and the request messages of single calls."""

import functools
from typing import Any, TypedDict, Unpack

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.proto.rayplane.v1 import objects_pb2 as pb


class Options(TypedDict, total=False):
    """The options that all writes have."""

    dry_run: bool
    field_manager: str
    field_validation: str


_PATCH_TYPES = {"merge": pb.MERGE, "json": pb.JSON, "strategic": pb.STRATEGIC, "apply": pb.APPLY}


@functools.cache
def _names(resource: str) -> tuple[str, str, str]:
    """Group, version ("" is the preferred one) and plural of "plural[.version][.group]"."""
    plural, _, group = resource.partition(".")
    if group and builtin_registry().group(group) is None:
        version, _, rest = group.partition(".")
        if version[:1] == "v" and version[1:2].isdigit():
            return rest, version, plural
    return group, "", plural


def ref(resource: str, namespace: str = "", name: str = "", subresource: str = "") -> pb.ResourceRef:
    group, version, plural = _names(resource)
    return pb.ResourceRef(
        group=group,
        version=version,
        resource=plural,
        namespace=namespace,
        name=name,
        subresource=subresource,
    )


def get(
    resource: str, name: str, namespace: str = "", *, subresource: str = "", resource_version: str = ""
) -> pb.Operation:
    """`resource_version`: "" for what is now, "0" for what the server has."""
    request = pb.GetRequest(ref=ref(resource, namespace, name, subresource), resource_version=resource_version)
    return pb.Operation(get=request)


def create(resource: str, obj: Object, *, subresource: str = "", **options: Unpack[Options]) -> pb.Operation:
    """`subresource` (binding, eviction, token) is of the object that `obj` names."""
    name = meta.name(obj) if subresource else ""
    request = pb.CreateRequest(
        ref=ref(resource, meta.namespace(obj), name, subresource),
        json=orjson.dumps(obj),
        options=pb.WriteOptions(**options),
    )
    return pb.Operation(create=request)


def update(resource: str, obj: Object, *, subresource: str = "", **options: Unpack[Options]) -> pb.Operation:
    request = pb.UpdateRequest(
        ref=ref(resource, meta.namespace(obj), meta.name(obj), subresource),
        json=orjson.dumps(obj),
        options=pb.WriteOptions(**options),
    )
    return pb.Operation(update=request)


def update_status(resource: str, obj: Object) -> pb.Operation:
    return update(resource, obj, subresource="status")


def patch(
    resource: str,
    name: str,
    namespace: str,
    body: Any,
    *,
    kind: str = "merge",
    subresource: str = "",
    force: bool = False,
    **options: Unpack[Options],
) -> pb.Operation:
    """`kind`: merge, json, strategic or apply. `force`: an apply takes over fields that others own."""
    request = pb.PatchRequest(
        ref=ref(resource, namespace, name, subresource),
        type=_PATCH_TYPES[kind],
        patch=orjson.dumps(body),
        options=pb.WriteOptions(force=force, **options),
    )
    return pb.Operation(patch=request)


def apply(
    resource: str, obj: Object, *, subresource: str = "", force: bool = False, **options: Unpack[Options]
) -> pb.Operation:
    """Server-side apply of the object that `obj` names; needs a `field_manager`."""
    name, namespace = meta.name(obj), meta.namespace(obj)
    return patch(resource, name, namespace, obj, kind="apply", subresource=subresource, force=force, **options)


def delete(
    resource: str,
    name: str,
    namespace: str = "",
    *,
    uid: str = "",
    resource_version: str = "",
    grace_period_s: int | None = None,
    propagation: str = "",
    dry_run: bool = False,
) -> pb.Operation:
    """Answered with the object as it is being deleted, or a Status when it is gone."""
    request = pb.DeleteRequest(
        ref=ref(resource, namespace, name),
        grace_period_seconds=grace_period_s,
        propagation_policy=propagation,
        uid=uid,
        resource_version=resource_version,
        dry_run=dry_run,
    )
    return pb.Operation(delete=request)

"""Options and bodies of writes: what they must have in common with URL and stored object, and what a DELETE answers."""

from collections.abc import Sequence
from typing import Any

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Conflict,
    FieldError,
    Invalid,
    forbidden,
    not_supported,
    required,
)
from rayplane.control_plane.api.kinds.metadata import FIELD_MANAGER_MAX_BYTES, field_manager_errors
from rayplane.control_plane.api.kinds.rules import CLIENTS_METADATA
from rayplane.control_plane.api.kinds.strategy import metadata_with_status
from rayplane.control_plane.api.machinery import apply, decoding, patching
from rayplane.control_plane.api.machinery.fieldsets import EVERYTHING, Reach
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.schema import Definition
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import RESIZABLE, RESIZED
from rayplane.control_plane.apiserver.requests import Target, WriteOptions

_MODES = ("", "Ignore", "Strict", "Warn")


_PARTS = {
    "ephemeralcontainers": Reach(only=(("f:spec", "f:ephemeralContainers"),)),
    "resize": Reach(
        only=tuple(("f:spec", f"f:{containers}", "*", f"f:{field}") for containers in RESIZABLE for field in RESIZED)
    ),
    "approval": Reach(frozenset({("f:spec",), ("f:status", "f:certificate")})),
}


def reach_of(info: ResourceInfo, subresource: str) -> Reach:
    """What one may come to own through an endpoint."""
    if subresource == "status":
        metadata = {("f:metadata", f"f:{name}") for name in CLIENTS_METADATA - metadata_with_status(info)}
        return Reach(frozenset({("f:spec",), *({("f:metadata",)} if info.custom else metadata)}))
    if subresource in _PARTS:
        return _PARTS[subresource]
    return Reach(frozenset({("f:status",)})) if "status" in info.subresources else EVERYTHING


def validation_mode(text: str) -> decoding.FieldValidation:
    """The fieldValidation of a request that was checked; Warn where it says nothing."""
    if text == "Strict":
        return "Strict"
    return "Ignore" if text == "Ignore" else "Warn"


def check_write_options(options: WriteOptions, kind: str, patch: patching.PatchKind | None = None) -> None:
    """Invalid for a field manager that is no name to keep, and for an unknown mode; `kind`: the options that say so.

    Who applies must name one, and nobody else takes over by force.
    """
    mode, errors = options.field_validation, field_manager_errors(options.field_manager, "fieldManager")
    if patch == "apply" and not options.field_manager:
        errors.append(required("fieldManager", "is required for apply patch"))
    if patch not in (None, "apply") and options.force:
        errors.append(forbidden("force", "may not be specified for non-apply patch"))
    if mode not in _MODES:
        errors.append(not_supported("fieldValidation", mode, _MODES))
    refuse_options(kind, errors)


def check_dry_run(values: Sequence[str], kind: str) -> bool:
    """Whether nothing is to be stored. Invalid; `kind`: the options that say so."""
    errors = [] if set(values) <= {"All"} else [not_supported("dryRun", list(values), ("All",))]
    refuse_options(kind, errors)
    return bool(values)


def refuse_options(kind: str, errors: list[FieldError]) -> None:
    """Invalid where anything was found wrong with the options of a request."""
    if errors:
        raise Invalid.of(kind, "", errors, group="meta.k8s.io")


def program(user_agent: str) -> str:
    """The program that a User-Agent header names, as a field manager: short and printable whatever is written there."""
    limit = FIELD_MANAGER_MAX_BYTES
    name = "".join(c for c in user_agent.partition("/")[0][:limit] if c.isprintable())
    return name.encode()[:limit].decode(errors="ignore")


_DOUBLED_OWNERS = (
    ".metadata.ownerReferences contains duplicate entries{}; API server dedups owner references in 1.20+, and may "
    "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: [{}]"
)


def drop_doubled_owners(meta: dict[str, Any], *, patched: bool = False) -> list[str]:
    """Leave each owner once, in place; what the client is told who named one twice."""
    owners = meta.get("ownerReferences") or ()
    kept: list[Any] = []
    doubled: list[str] = []
    for owner in owners:
        if owner in kept:
            doubled.append(str(owner.get("uid") or ""))
        else:
            kept.append(owner)
    if not doubled:
        return []
    meta["ownerReferences"] = kept
    # What a patch makes is looked at only once it was admitted.
    return [_DOUBLED_OWNERS.format(" after mutating admission happens" if patched else "", " ".join(doubled))]


def set_namespace(target: Target, meta: dict[str, Any]) -> None:
    """The namespace is that of the URL. BadRequest when the object names another."""
    given = meta.get("namespace") or ""
    if given and given != target.namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    if target.info.namespaced:
        if not target.namespace:
            raise BadRequest("an empty namespace may not be set during creation")
        meta["namespace"] = target.namespace


def new_metadata(target: Target, o: Object, *, uid: str, now: str) -> dict[str, Any]:
    """The metadata of an object to be made, with what the system gives it, in place."""
    meta = o.get("metadata")
    if not isinstance(meta, dict):
        meta = o["metadata"] = {}
    if meta.get("resourceVersion"):
        raise ApiError("resourceVersion should not be set on objects to be created", reason="", code=500)
    meta.pop("resourceVersion", None)
    set_namespace(target, meta)
    if target.name and meta.get("name") != target.name:
        if meta.get("name"):
            raise wrong_name(meta["name"], target.name)
        meta["name"] = target.name
    meta["uid"] = uid
    meta["creationTimestamp"] = now
    return meta


def wrong_name(given: str, wanted: str) -> BadRequest:
    """The object in the body has another name than the URL."""
    if not given:
        return BadRequest("name must be provided")
    return BadRequest(f"the name of the object ({given}) does not match the name on the URL ({wanted})")


def read_configuration(
    body: bytes, kind: tuple[str, str], definition: Definition | None, mode: decoding.FieldValidation
) -> tuple[Object, list[str]]:
    """The configuration of an apply patch, and what the client is warned of; `kind` is its apiVersion and kind.

    Raises BadRequest for one that doesn't fit.
    """
    config = patching.parse_patch("apply", body)
    if (config.get("apiVersion"), config.get("kind")) != kind:
        group, _, version = str(config.get("apiVersion") or "").rpartition("/")
        raise BadRequest(f"invalid object type: {group}/{version}, Kind={config.get('kind') or ''}")
    apply.check_config(config, definition)
    doubled = [] if mode == "Ignore" else decoding.duplicates(body, decoding.YAML)
    if doubled and mode == "Strict":
        raise BadRequest("error strict decoding patch: " + ", ".join(doubled))
    decoding.conform_patched(config, definition, field_validation="Ignore", as_given=True)
    return config, doubled


def place_configuration(config: Object, target: Target) -> None:
    """Make an object to apply the one that the URL names: it may leave out its name and namespace."""
    meta = config["metadata"] = config.get("metadata") or {}
    set_namespace(target, meta)
    meta["name"] = meta.get("name") or target.name
    if meta["name"] != target.name:
        raise wrong_name(meta["name"], target.name)


def check_patched(new: Object, target: Target, api_version: str, kind: str) -> None:
    """BadRequest where a patch has made another object, or one of another kind."""
    meta = new.setdefault("metadata", {})
    if meta.get("name") != target.name:
        raise wrong_name(meta.get("name") or "", target.name)
    set_namespace(target, meta)
    if new.get("kind") != kind or new.get("apiVersion") != api_version:
        raise BadRequest("apiVersion and kind cannot be changed by a patch")


def check_new(info: ResourceInfo, meta: dict[str, Any], name: str) -> None:
    """Conflict where an object that is applied, but isn't there, is to be a certain one."""
    if meta.get("uid"):
        cause = f"uid mismatch: the provided object specified uid {meta['uid']}, and no existing object was found"
        raise Conflict.of(info.plural, name, cause, group=info.group)
    if meta.get("resourceVersion"):
        raise Conflict.of(info.plural, name, group=info.group)


def check_same(info: ResourceInfo, new: dict[str, Any], old: dict[str, Any]) -> None:
    """Conflict when the wanted object was made from another version or another object of the name."""
    if new.get("resourceVersion") and new["resourceVersion"] != old["resourceVersion"]:
        raise Conflict.of(info.plural, old["name"], group=info.group)
    if new.get("uid") and new["uid"] != old.get("uid"):
        cause = f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: {old.get('uid')}"
        raise Conflict.of(info.plural, old["name"], cause, group=info.group)

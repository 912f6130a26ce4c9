"""Bodies of writes: what they must have in common with URL and stored object, and what a DELETE answers."""

from typing import Any

from rayplane.control_plane.api.errors import BadRequest, Conflict, Invalid, invalid, too_long
from rayplane.control_plane.api.machinery import decoding
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.requests import Target

MANAGER_BYTES_MAX = 128


def fields_of_others(info: ResourceInfo, subresource: str) -> tuple[tuple[str, ...], ...]:
    """What nobody comes to own through this endpoint, because it resets it."""
    if subresource == "status":
        return (("f:spec",),)
    return (("f:status",),) if "status" in info.subresources else ()


def validation_mode(text: str) -> decoding.FieldValidation:
    """The fieldValidation of a request; Warn where it says nothing."""
    if text == "Strict":
        return "Strict"
    if text == "Ignore":
        return "Ignore"
    if text not in ("", "Warn"):
        raise Invalid.of(
            "CreateOptions",
            "",
            [invalid("fieldValidation", text, "must be one of Ignore, Warn, Strict")],
            group="meta.k8s.io",
        )
    return "Warn"


def check_manager(name: str, kind: str) -> None:
    """Invalid for a field manager that is no name to keep; `kind`: the options that name it."""
    errors = []
    if len(name.encode()) > MANAGER_BYTES_MAX:
        errors.append(too_long("fieldManager", MANAGER_BYTES_MAX))
    if not name.isprintable():
        errors.append(invalid("fieldManager", name, "should only contain printable characters"))
    if errors:
        raise Invalid.of(kind, "", errors, group="meta.k8s.io")


def program(user_agent: str) -> str:
    """The program that a User-Agent header names, as a field manager: short and printable whatever is written there."""
    name = "".join(c for c in user_agent.partition("/")[0][:MANAGER_BYTES_MAX] if c.isprintable())
    return name.encode()[:MANAGER_BYTES_MAX].decode(errors="ignore")


def set_namespace(target: Target, meta: dict[str, Any]) -> None:
    """The namespace is that of the URL. BadRequest when the object names another."""
    given = meta.get("namespace") or ""
    if given and given != target.namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    if target.info.namespaced:
        if not target.namespace:
            raise BadRequest("an empty namespace may not be set during creation")
        meta["namespace"] = target.namespace


def wrong_name(given: str, wanted: str) -> BadRequest:
    """The object in the body has another name than the URL."""
    if not given:
        return BadRequest("name must be provided")
    return BadRequest(f"the name of the object ({given}) does not match the name on the URL ({wanted})")


def check_same(info: ResourceInfo, new: dict[str, Any], old: dict[str, Any]) -> None:
    """Conflict when the wanted object was made from another version or another object of the name."""
    if new.get("resourceVersion") and new["resourceVersion"] != old["resourceVersion"]:
        raise Conflict.of(info.plural, old["name"], group=info.group)
    if new.get("uid") and new["uid"] != old.get("uid"):
        cause = f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: {old.get('uid')}"
        raise Conflict.of(info.plural, old["name"], cause, group=info.group)

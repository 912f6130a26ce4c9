"""Objects as etcd holds them: which resource a key is of, and the object with its version."""

from functools import lru_cache
from typing import NamedTuple

import orjson

from rayplane.control_plane.api.machinery.resources import LEASES, builtin_registry
from rayplane.control_plane.api.meta import Object

PREFIX, PREFIX_END = b"/registry/", b"/registry0"
UNRECORDED = frozenset({LEASES, "events", "events.events.k8s.io"})
"""What is written all the time, and what nothing follows from."""


class Place(NamedTuple):
    """A place of an object in etcd."""

    resource: str
    namespace: str
    name: str


@lru_cache(maxsize=1)
def _prefixes() -> dict[str, tuple[str, bool]]:
    return {i.storage_prefix: (i.name, i.namespaced) for i in builtin_registry().stored()}


def place_of(key: bytes) -> Place | None:
    """None for what is not to be recorded, or is no object's key."""
    parts = key.decode(errors="replace").split("/")
    # "", "registry", one or two words of the resource, and then the object's own.
    for words in (4, 3):
        found = _prefixes().get("/".join(parts[:words]) + "/")
        if found is not None and len(parts) > words:
            return _placed(found[0], parts[words:], namespaced=found[1])
    # A custom resource; whether it has namespaces is to be seen.
    if len(parts) in (5, 6) and "." in parts[2]:
        return _placed(f"{parts[3]}.{parts[2]}", parts[4:], namespaced=len(parts) == 6)
    return None


def _placed(resource: str, own: list[str], *, namespaced: bool) -> Place | None:
    if resource in UNRECORDED or len(own) != 1 + namespaced:
        return None
    return Place(resource, own[0] if namespaced else "", own[-1])


def object_at(place: Place, value: bytes, revision: int) -> Object:
    """The object of a key's bytes; of what is encrypted, damaged or gone no more than its name."""
    try:
        found = orjson.loads(value) if value.startswith(b"{") else None
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
        found = {"metadata": {"name": place.name}}
        if place.namespace:
            found["metadata"]["namespace"] = place.namespace
    found["metadata"]["resourceVersion"] = str(revision)
    return found

"""Paths and methods of the REST API, and what they ask for (Kubernetes API concepts, "Standard API terminology")."""

from dataclasses import dataclass

from rayplane.control_plane.api.machinery.remembering import remembered

_CACHE = 4096

_COLLECTION_VERBS = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_SUBRESOURCE_VERBS = {**_OBJECT_VERBS, "POST": "create"}
_OF_NAMESPACES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """A path below a group-version. `rest` is what follows a subresource (proxies)."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    watch: bool = False

    @property
    def scope(self) -> str:
        """The namespace in which it is; a namespace is in itself."""
        return self.namespace or (self.name if self.plural == "namespaces" and not self.group else "")

    def verb(self, method: str, *, watch: bool) -> str:
        """The API verb of a method here; empty when there is none."""
        if self.subresource:
            return _SUBRESOURCE_VERBS.get(method, "")
        if self.name:
            return "watch" if watch and method == "GET" else _OBJECT_VERBS.get(method, "")
        if method == "GET" and watch:
            return "watch"
        return _COLLECTION_VERBS.get(method, "")


@remembered(_CACHE)
def parse(path: str) -> ResourcePath | None:
    """The resource a path names; None for paths above the resources and other paths."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, parts = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, parts = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = parts[0] == "watch" and len(parts) > 1
    if watch:
        parts = parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in _OF_NAMESPACES:
        namespace, parts = parts[1], parts[2:]
    plural, *below = parts
    name = below[0] if below else ""
    return ResourcePath(
        group,
        version,
        plural,
        namespace,
        name,
        below[1] if len(below) > 1 else "",
        "/".join(below[2:]),
        watch,
    )

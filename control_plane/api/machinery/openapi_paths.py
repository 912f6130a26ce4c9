"""Paths of OpenAPI v3 documents: what may be done to a resource, under the names that generated clients have.

Source: kube-apiserver's installer: names and descriptions of operations, their parameters and answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api.machinery.openapi_schemas import META, Kind, Schemas, kind_of, reference
from rayplane.control_plane.api.machinery.patching import PATCH_TYPES
from rayplane.control_plane.api.machinery.resources import ResourceInfo, SubresourceInfo
from rayplane.control_plane.api.machinery.schema import definition_name

_ACTIONS: Final = {"get": "get", "create": "post", "update": "put", "patch": "patch"}
_WRITES: Final = frozenset({"post", "put", "patch"})
_VERBS: Final = {
    "list": "list",
    "post": "create",
    "deletecollection": "delete",
    "get": "read",
    "put": "replace",
    "patch": "patch",
    "delete": "delete",
}
_SAYS: Final = {
    "list": "list or watch objects of kind {kind}",
    "post": "create {article} {kind}",
    "deletecollection": "delete collection of {kind}",
    "get": "read {part}the specified {kind}",
    "put": "replace {part}the specified {kind}",
    "patch": "partially update {part}the specified {kind}",
    "delete": "delete {article} {kind}",
}
_JSON: Final = "application/json"
_MEDIA: Final = (_JSON, "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor")
_STREAMS: Final = ("application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "allowWatchBookmarks": (
        "boolean",
        "Whether a watch may send BOOKMARK events, which say how far it has come.",
    ),
    "continue": ("string", "Where a list goes on: what the answer before said."),
    "dryRun": ("string", "All: the request is carried out but for the storing."),
    "fieldManager": ("string", "Who makes the change: at most 128 printable characters. An apply must say it."),
    "fieldSelector": ("string", "Restricts the objects to those whose fields are as it says."),
    "fieldValidation": ("string", "What unknown and duplicate fields are: Ignore, Warn (the default) or Strict."),
    "force": ("boolean", "Whether an apply takes over fields that others manage."),
    "gracePeriodSeconds": ("integer", "Seconds before the object goes; 0 is at once."),
    "ignoreStoreReadErrorWithClusterBreakingPotential": (
        "boolean",
        "Whether an object that cannot be read from the store is removed without regard to finalizers.",
    ),
    "labelSelector": ("string", "Restricts the objects to those whose labels are as it says."),
    "limit": ("integer", "How many objects an answer has at most; `continue` in its metadata asks for the next."),
    "orphanDependents": ("boolean", "Deprecated: say propagationPolicy."),
    "command": ("string", "The command, not run by a shell; given once for each of its words."),
    "container": ("string", "The container; the only one, where there is one."),
    "follow": ("boolean", "Whether what is logged from now on follows."),
    "insecureSkipTLSVerifyBackend": ("boolean", "Whether the node's certificate is taken as it is."),
    "limitBytes": ("integer", "How many bytes of the log are sent at most."),
    "path": ("string", "The path of the request that is passed on."),
    "ports": ("integer", "The ports to forward, for WebSockets."),
    "previous": ("boolean", "Whether it is the log of the container that ended before."),
    "sinceSeconds": ("integer", "From how long ago the log begins."),
    "stderr": ("boolean", "Whether the command's errors are sent."),
    "stdin": ("boolean", "Whether input is sent to the command."),
    "stdout": ("boolean", "Whether the command's output is sent."),
    "stream": ("string", "Which of the streams is shown: All, Stdout or Stderr."),
    "tailLines": ("integer", "How many lines from its end the log begins."),
    "timestamps": ("boolean", "Whether each line begins with its time."),
    "tty": ("boolean", "Whether the command has a terminal."),
    "pretty": ("string", "Whether the answer is indented, for people."),
    "propagationPolicy": ("string", "What becomes of dependents: Orphan, Background or Foreground."),
    "resourceVersion": ("string", "How new the answer must be, or from where a watch goes on."),
    "resourceVersionMatch": ("string", "How resourceVersion is meant in a list: Exact or NotOlderThan."),
    "sendInitialEvents": ("boolean", "Whether a watch begins with events that make up the present state."),
    "timeoutSeconds": ("integer", "Seconds after which a list or watch ends."),
    "watch": ("boolean", "Whether changes are sent as they happen."),
}
_LIST: Final = (
    "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion",
    "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch",
)  # fmt: skip
_DELETE: Final = (
    "dryRun", "gracePeriodSeconds", "ignoreStoreReadErrorWithClusterBreakingPotential", "orphanDependents",
    "propagationPolicy",
)  # fmt: skip
_DELETE_MANY: Final = (
    "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "resourceVersionMatch",
    "sendInitialEvents", "timeoutSeconds",
)  # fmt: skip


_LOG: Final = (
    "container", "follow", "insecureSkipTLSVerifyBackend", "limitBytes", "previous", "sinceSeconds", "stream",
    "tailLines", "timestamps",
)  # fmt: skip
_CONNECT: Final[Mapping[str, tuple[str, ...]]] = {
    "attach": ("container", "stderr", "stdin", "stdout", "tty"),
    "exec": ("command", "container", "stderr", "stdin", "stdout", "tty"),
    "portforward": ("ports",),
    "proxy": ("path",),
}
"""The query parameters of the subresources that are streams or pass requests on."""
_PROXIED: Final = ("delete", "get", "head", "options", "patch", "post", "put")


@dataclass(frozen=True, slots=True)
class _Place:
    """One path of a resource."""

    info: ResourceInfo
    path: str
    schema: str
    """Name of the schema of what is sent and answered."""
    list_schema: str = ""
    named: bool = False
    everywhere: bool = False
    """Whether it lists a namespaced resource across namespaces."""
    subresource: str = ""
    sub: SubresourceInfo | None = None

    @property
    def kind(self) -> Kind:
        of = self.sub or self.info
        return of.group, of.version, of.kind

    def operation_id(self, action: str, verb: str = "") -> str:
        group = capitalized(self.info.group)
        version = self.info.version.capitalize()
        many = "Collection" if action == "deletecollection" else ""
        namespaced = "Namespaced" if self.info.namespaced and not self.everywhere else ""
        part = "".join(word.capitalize() for word in self.subresource.split("-"))
        where = "ForAllNamespaces" if self.everywhere else ""
        return f"{verb or _VERBS[action]}{group}{version}{many}{namespaced}{self.info.kind}{part}{where}"

    def says(self, action: str) -> str:
        article = "an" if self.kind[2][:1] in "AEIOU" else "a"
        part = f"{self.subresource} of " if self.subresource else ""
        return _SAYS[action].format(kind=self.info.kind, article=article, part=part)


def resource_paths(info: ResourceInfo, schema: str, schemas: Schemas) -> dict[str, Any]:
    """The paths of a resource and its subresources."""
    verbs = set(info.verbs)
    scope = "{namespace}" if info.namespaced else ""
    listed = (definition_name(info.api_version, info.list_kind) if info.definition else schema + "List") or schema
    actions = {"list": "get", "create": "post", "deletecollection": "delete"}
    collection = {
        method: "list" if verb == "list" else "deletecollection" if method == "delete" else "post"
        for verb, method in actions.items()
        if verb in verbs
    }
    item = {_ACTIONS[verb]: _ACTIONS[verb] for verb in ("get", "update", "patch") if verb in verbs}
    if "delete" in verbs:
        item["delete"] = "delete"
    paths: dict[str, Any] = {}
    if collection:
        place = _Place(info, info.path(scope), schema, listed)
        paths[place.path] = _path_item(place, collection)
    if info.namespaced and "list" in verbs:
        place = _Place(info, info.path(), schema, listed, everywhere=True)
        paths[place.path] = _path_item(place, {"get": "list"})
    if item:
        place = _Place(info, info.path(scope, "{name}"), schema, named=True)
        paths[place.path] = _path_item(place, item)
    for name, sub in sorted(info.subresources.items()):
        path = info.path(scope, "{name}") + f"/{name}"
        if name in _CONNECT:
            place = _Place(info, path, "", named=True, subresource=name, sub=sub)
            paths[path] = _stream(place, name, _PROXIED if name == "proxy" else ("get", "post"))
            if name == "proxy":
                paths[path + "/{path}"] = _stream(place, name, _PROXIED, rest=True)
            continue
        sub_schema = schema if info.custom and name == "status" else definition_name(sub.api_version, sub.kind)
        if sub_schema is None:
            continue
        if not (info.custom and name == "status"):
            schemas.need(sub_schema)
        place = _Place(info, path, sub_schema, named=True, subresource=name, sub=sub)
        paths[path] = _path_item(place, {_ACTIONS[verb]: _ACTIONS[verb] for verb in sub.verbs if verb in _ACTIONS})
    return paths


def _path_item(place: _Place, actions: Mapping[str, str]) -> dict[str, Any]:
    """`actions`: by HTTP method, what Kubernetes calls it."""
    parameters = [_path_parameter("name", f"The name of the {place.info.kind}.")] if place.named else []
    if place.info.namespaced and not place.everywhere:
        parameters.append(_path_parameter("namespace", "The namespace of the objects."))
    made: dict[str, Any] = {method: _operation(place, method, action) for method, action in actions.items()}
    made["parameters"] = [*parameters, _parameter("pretty")]
    return made


def _stream(place: _Place, name: str, methods: tuple[str, ...], *, rest: bool = False) -> dict[str, Any]:
    """A subresource that is not answered with an object; `rest`: of the proxy, with a path behind it."""
    item = _path_item(place, {})
    item["parameters"] = [p for p in item["parameters"] if p["name"] != "pretty"]
    item["parameters"] += [_parameter(one) for one in _CONNECT[name]]
    if rest:
        item["parameters"].append(_path_parameter("path", "The path of the request that is passed on."))
    for method in methods:
        said = f"connect {method.upper()} requests to {name} of {place.info.kind}"
        operation_id = place.operation_id("", f"connect{method.capitalize()}") + ("WithPath" if rest else "")
        item[method] = {
            "description": said,
            "operationId": operation_id,
            "tags": [_tag(place.info)],
            "responses": _text("*/*"),
            "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind": kind_of(place.kind),
        }
    return item


def _text(*media: str) -> dict[str, Any]:
    content = {one: {"schema": {"type": "string"}} for one in media}
    return {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}}


def plain_path(path: str, name: str, text: str, tag: str, schema: str = "") -> dict[str, Any]:
    """A path that only answers GET, with a document of a schema or with JSON of no schema."""
    content = {media: {"schema": reference(schema)} for media in _MEDIA[:3]}
    answers = {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}}
    operation = {
        "description": text,
        "operationId": name,
        "tags": [tag],
        "responses": answers if schema else _text(_JSON),
    }
    return {path: {"get": operation}}


def _parameter(name: str) -> dict[str, Any]:
    kind, text = _PARAMETERS[name]
    return {"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": True}}


def _path_parameter(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "uniqueItems": True}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _operation(place: _Place, method: str, action: str) -> dict[str, Any]:
    content = {media: {"schema": reference(place.schema)} for media in _MEDIA}
    made: dict[str, Any] = {
        "description": place.says(action),
        "operationId": place.operation_id(action),
        "tags": [_tag(place.info)],
        "parameters": [_parameter(name) for name in _query_parameters(place, method, action)],
        "responses": _text("text/plain", *_MEDIA) if place.subresource == "log" else _responses(place, method, action),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_of(place.kind),
    }
    if method == "patch":
        media = [m for m, k in PATCH_TYPES.items() if not (place.info.custom and k == "strategic")]
        patch = {"schema": reference(META + "Patch")}
        made["requestBody"] = {"required": True, "content": dict.fromkeys(media, patch)}
    elif method in _WRITES:
        made["requestBody"] = {"required": True, "content": content}
    elif method == "delete":
        made["requestBody"] = {"content": {m: {"schema": reference(META + "DeleteOptions")} for m in _MEDIA}}
    return made


def _group_words(group: str) -> list[str]:
    """The parts of a group's name without its usual end: `rbac` and `authorization`."""
    return re.split("[.-]", group.removesuffix(".k8s.io")) if group else ["core"]


def capitalized(group: str) -> str:
    """A group in the names of operations: `RbacAuthorization`."""
    return "".join(word[:1].upper() + word[1:] for word in _group_words(group))


def tag_of(group: str, version: str) -> str:
    """The name that generated clients give to a class of operations: `core_v1`, `rbacAuthorization_v1`."""
    first, *rest = _group_words(group)
    return "_".join([first + "".join(word.capitalize() for word in rest), *([version] if version else [])])


def _tag(info: ResourceInfo) -> str:
    return tag_of(info.group, info.version)


def _responses(place: _Place, method: str, action: str) -> dict[str, Any]:
    answered = place.schema
    if action == "list":
        answered = place.list_schema
    elif action == "deletecollection" or (method == "delete" and not place.subresource):
        answered = META + "Status"
    media = (*_MEDIA, *_STREAMS) if action == "list" else _MEDIA
    content = {one: {"schema": reference(answered)} for one in media}
    codes = {"200": "OK"}
    if method in _WRITES:
        codes["201"] = "Created"
    if method == "post" or action == "delete":
        codes["202"] = "Accepted"
    found: dict[str, Any] = {code: {"description": text, "content": content} for code, text in codes.items()}
    return found | {"401": {"description": "Unauthorized"}}


def _query_parameters(place: _Place, method: str, action: str) -> Iterator[str]:
    if place.subresource == "log":
        yield from _LOG
    elif action == "list":
        yield from _LIST
    elif method == "delete":
        yield from _DELETE
        if action == "deletecollection":
            yield from _DELETE_MANY
    elif method in _WRITES:
        yield from ("dryRun", "fieldManager", "fieldValidation")
        if method == "patch":
            yield "force"

"""Discovery documents: what the API serves, in the legacy and in the aggregated form.

kubectl and client-go ask `/api` and `/apis` with an Accept header that names aggregated forms
(`g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`); everything older reads the legacy ones.
The answer's Content-Type must name the form that was served.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.resources import GroupInfo, ResourceInfo, SubresourceInfo

LEGACY: Final = "application/json"
_AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
FORMS: Final = ("v2", "v2beta1")


@dataclass(frozen=True, slots=True)
class Document:
    """A ready answer: body, its Content-Type and a strong ETag (quoted)."""

    body: bytes
    content_type: str
    etag: str

    @staticmethod
    def of(body: bytes, content_type: str) -> Document:
        return Document(body, content_type, f'"{hashlib.sha256(body).hexdigest().upper()}"')

    @property
    def hash(self) -> str:
        """The ETag as it stands in URLs."""
        return self.etag.strip('"')


def negotiate(accept: str) -> str:
    """`v2`, `v2beta1` or `` (legacy): the first form in the Accept header that is served."""
    for clause in accept.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        values = dict(p.partition("=")[::2] for p in parameters)
        if media in ("*/*", "application/*"):
            return ""
        if media != LEGACY:
            continue
        kind = values.get("as")
        if kind is None:
            return ""
        group, version = values.get("g"), values.get("v", "")
        if kind == "APIGroupDiscoveryList" and group == "apidiscovery.k8s.io" and version in FORMS:
            return version
    return ""


class Catalog(Protocol):
    """A view of what is served. `generation` grows with each change."""

    @property
    def generation(self) -> int: ...

    def groups(self) -> list[GroupInfo]: ...

    def group(self, name: str) -> GroupInfo | None: ...

    def in_version(self, group: str, version: str) -> list[ResourceInfo]: ...

    def is_stale(self, group: str, version: str) -> bool:
        """Whether another server answers for it, who did not say lately what it serves."""


class Discovery:
    """The documents of one catalog, rendered on first use and again when that changed.

    `server_address` ("host:port") stands in the legacy `/api` document; it may be empty.
    """

    def __init__(self, catalog: Catalog, *, server_address: str = "") -> None:
        self._catalog = catalog
        self._address = server_address
        self._generation = -1
        self._cache: dict[tuple[str, str], Document] = {}

    def document(self, path: str, accept: str = "") -> Document:
        """The answer to GET `/api`, `/apis`, `/apis/<group>`, `/api/v1` or `/apis/<g>/<v>`.

        Raises NotFound for a group or version that is not served.
        """
        if self._generation != self._catalog.generation:
            self._cache.clear()
            self._generation = self._catalog.generation
        path = "/" + path.strip("/")
        form = negotiate(accept) if path in ("/api", "/apis") else ""
        found = self._cache.get((path, form))
        if found is None:
            found = self._cache[(path, form)] = self._render(path, form)
        return found

    def _render(self, path: str, form: str) -> Document:
        match path.strip("/").split("/"):
            case ["api"] if form:
                data = self._aggregated(form, core=True)
            case ["apis"] if form:
                data = self._aggregated(form, core=False)
            case ["api"]:
                data = self._versions()
            case ["apis"]:
                data = {
                    "kind": "APIGroupList",
                    "apiVersion": "v1",
                    "groups": [_group(g) for g in self._catalog.groups() if g.name],
                }
            case ["apis", name]:
                group = self._catalog.group(name)
                if group is None:
                    raise NotFound()
                data = {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
            case ["api", version]:
                data = self._resource_list("", version)
            case ["apis", name, version]:
                data = self._resource_list(name, version)
            case _:
                raise NotFound()
        body = orjson.dumps(data)
        return Document.of(body, _AGGREGATED.format(form) if form else LEGACY)

    def _versions(self) -> dict[str, Any]:
        core = self._catalog.group("")
        addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._address}]
        return {
            "kind": "APIVersions",
            "versions": list(core.versions) if core else [],
            "serverAddressByClientCIDRs": addresses if self._address else [],
        }

    def _resource_list(self, group: str, version: str) -> dict[str, Any]:
        infos = self._catalog.in_version(group, version)
        if not infos:
            raise NotFound()
        rows: list[dict[str, Any]] = []
        for info in infos:
            rows.append(_resource(info))
            for name, sub in _subresources(info):
                row: dict[str, Any] = {
                    "name": f"{info.plural}/{name}",
                    "singularName": "",
                    "namespaced": info.namespaced,
                }
                if (sub.group, sub.version) != (group, version):
                    row |= {"group": sub.group, "version": sub.version}
                rows.append(row | {"kind": sub.kind, "verbs": list(sub.verbs)})
        # The list of the core group is of no group: Kubernetes' answer says no apiVersion there.
        kind = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if group else {})
        return {**kind, "groupVersion": f"{group}/{version}" if group else version, "resources": rows}

    def _aggregated(self, form: str, *, core: bool) -> dict[str, Any]:
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{form}",
            "metadata": {},
            "items": [
                {
                    "metadata": {"name": group.name} if group.name else {},
                    "versions": [
                        {
                            "version": version,
                            "resources": [
                                _aggregated_resource(info) for info in self._catalog.in_version(group.name, version)
                            ],
                            "freshness": "Stale" if self._catalog.is_stale(group.name, version) else "Current",
                        }
                        for version in group.versions
                    ],
                }
                for group in self._catalog.groups()
                if bool(group.name) != core
            ],
        }


def _group(group: GroupInfo) -> dict[str, Any]:
    versions = [{"groupVersion": f"{group.name}/{version}", "version": version} for version in group.versions]
    return {"name": group.name, "versions": versions, "preferredVersion": versions[0]}


def _resource(info: ResourceInfo) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(info.told_verbs or info.verbs),
    }
    if info.short_names:
        row["shortNames"] = list(info.short_names)
    if info.categories:
        row["categories"] = list(info.categories)
    if info.persisted:
        # Clients compare it to tell that two group-versions share their objects.
        group, _, version = info.stored_api_version.rpartition("/")
        digest = hashlib.sha256(f"{group}/{version}/{info.kind}".encode()).digest()
        row["storageVersionHash"] = base64.b64encode(digest[:8]).decode()
    return row


def _subresources(info: ResourceInfo) -> list[tuple[str, SubresourceInfo]]:
    """Sorted; those of custom resources as Kubernetes' other server lists them, the status first."""
    return sorted(info.subresources.items(), reverse=info.custom)


def _kind(info: ResourceInfo, answer: ResourceInfo | SubresourceInfo) -> dict[str, str]:
    """The kind of an answer: a built-in resource leaves out the group and version that it is listed under."""
    known = not info.custom and answer.api_version == info.api_version
    group, version = ("", "") if known else (answer.group, answer.version)
    return {"group": group, "version": version, "kind": answer.kind}


def _aggregated_resource(info: ResourceInfo) -> dict[str, Any]:
    row: dict[str, Any] = {
        "resource": info.plural,
        "responseKind": _kind(info, info),
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(info.told_verbs or info.verbs),
    }
    if info.short_names:
        row["shortNames"] = list(info.short_names)
    if info.categories:
        row["categories"] = list(info.categories)
    if info.subresources:
        row["subresources"] = [
            {
                "subresource": name,
                "responseKind": _kind(info, sub),
                "verbs": list(sub.verbs),
            }
            for name, sub in _subresources(info)
        ]
    return row

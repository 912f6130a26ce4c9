"""Resources that the API serves: their names, scopes, verbs and places in etcd.

The table of Kubernetes v1.37's own resources is generated (`scripts/gen_api_schema`); short
names, categories and etcd prefixes, which no published package carries, are tabulated here.
A `Registry` can grow at run time (custom resources): each API server owns its own copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources as package_files
from typing import Any

import orjson

#: The resource by which nodes and leaders say that they live.
LEASES = "leases.coordination.k8s.io"
_SHORT_NAMES: Mapping[str, tuple[str, ...]] = {
    "componentstatuses": ("cs",),
    "configmaps": ("cm",),
    "endpoints": ("ep",),
    "events": ("ev",),
    "limitranges": ("limits",),
    "namespaces": ("ns",),
    "nodes": ("no",),
    "persistentvolumeclaims": ("pvc",),
    "persistentvolumes": ("pv",),
    "pods": ("po",),
    "replicationcontrollers": ("rc",),
    "resourcequotas": ("quota",),
    "serviceaccounts": ("sa",),
    "services": ("svc",),
    "events.events.k8s.io": ("ev",),
    "daemonsets.apps": ("ds",),
    "deployments.apps": ("deploy",),
    "replicasets.apps": ("rs",),
    "statefulsets.apps": ("sts",),
    "horizontalpodautoscalers.autoscaling": ("hpa",),
    "cronjobs.batch": ("cj",),
    "certificatesigningrequests.certificates.k8s.io": ("csr",),
    "ingresses.networking.k8s.io": ("ing",),
    "ipaddresses.networking.k8s.io": ("ip",),
    "networkpolicies.networking.k8s.io": ("netpol",),
    "poddisruptionbudgets.policy": ("pdb",),
    "storageclasses.storage.k8s.io": ("sc",),
    "volumeattributesclasses.storage.k8s.io": ("vac",),
    "customresourcedefinitions.apiextensions.k8s.io": ("crd", "crds"),
    "priorityclasses.scheduling.k8s.io": ("pc",),
}
_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "pods",
            "replicationcontrollers",
            "services",
            "daemonsets.apps",
            "deployments.apps",
            "replicasets.apps",
            "statefulsets.apps",
            "horizontalpodautoscalers.autoscaling",
            "cronjobs.batch",
            "jobs.batch",
        ),
        ("all",),
    ),
    **dict.fromkeys(
        (
            "apiservices.apiregistration.k8s.io",
            "customresourcedefinitions.apiextensions.k8s.io",
            "mutatingadmissionpolicies.admissionregistration.k8s.io",
            "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "validatingadmissionpolicies.admissionregistration.k8s.io",
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
        ),
        ("api-extensions",),
    ),
}
# Where the path in etcd is not /registry/<plural>/ (Kubernetes' default storage factory).
_PREFIXES: Mapping[str, str] = {
    "endpoints": "services/endpoints",
    "nodes": "minions",
    "replicationcontrollers": "controllers",
    "services": "services/specs",
    "ingresses.networking.k8s.io": "ingress",
    "apiservices.apiregistration.k8s.io": "apiregistration.k8s.io/apiservices",
    "customresourcedefinitions.apiextensions.k8s.io": ("apiextensions.k8s.io/customresourcedefinitions"),
}
# Resources served in two group-versions over one set of stored objects: the apiVersion that is
# stored. `control_plane.api.machinery.conversion` turns one form into the other.
_STORED_AS: Mapping[str, str] = {
    "events.events.k8s.io": "v1",
    "horizontalpodautoscalers.autoscaling": "autoscaling/v2",
}


@dataclass(frozen=True, slots=True)
class SubresourceInfo:
    """A subresource such as `pods/eviction`; the kind is that of its request or response body."""

    group: str
    version: str
    kind: str
    verbs: tuple[str, ...]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceInfo:
    """One resource in one group-version. Immutable; compare and hash by value of the names."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    verbs: tuple[str, ...] = field(compare=False)
    definition: str = field(compare=False)
    """Name in the schema, such as `io.k8s.api.apps.v1.Deployment`; empty when there is none."""
    storage_prefix: str = field(compare=False)
    """etcd prefix with both slashes, such as `/registry/pods/`; empty when nothing is stored."""
    stored_api_version: str = field(compare=False)
    """apiVersion of the form kept in etcd: differs from `api_version` where two are served."""
    short_names: tuple[str, ...] = field(default=(), compare=False)
    categories: tuple[str, ...] = field(default=(), compare=False)
    subresources: Mapping[str, SubresourceInfo] = field(default_factory=dict, compare=False)
    custom: bool = field(default=False, compare=False)
    """True for a resource added by a CustomResourceDefinition."""
    list_kind: str = field(default="", compare=False)
    told_verbs: tuple[str, ...] = field(default=(), compare=False)
    """The verbs that discovery tells of, where they are not all: what is about to go takes nothing new."""
    api_version: str = field(init=False, compare=False)
    """`v1`, `apps/v1`."""
    name: str = field(init=False, compare=False)
    """`pods`, `deployments.apps`: the group-resource as kubectl and errors write it."""
    is_storage_version: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Looked at dozens of times a request.
        object.__setattr__(self, "api_version", f"{self.group}/{self.version}" if self.group else self.version)
        object.__setattr__(self, "name", f"{self.plural}.{self.group}" if self.group else self.plural)
        object.__setattr__(self, "is_storage_version", self.api_version == self.stored_api_version)

    @property
    def told(self) -> tuple[Any, ...]:
        """What discovery tells of it beside its names, and where it is stored."""
        names = (self.singular, self.list_kind, self.short_names, self.categories)
        return (*names, self.verbs, self.told_verbs, dict(self.subresources), self.stored_api_version)

    @property
    def persisted(self) -> bool:
        """False for kinds that are only a request (reviews, bindings) or only computed."""
        return bool(self.storage_prefix)

    def path(self, namespace: str = "", name: str = "") -> str:
        """REST path: `/apis/apps/v1/namespaces/ns/deployments/web`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")

    def key(self, namespace: str, name: str) -> str:
        """etcd key of an object; the namespace is ignored for cluster-scoped resources."""
        if self.namespaced:
            return f"{self.storage_prefix}{namespace}/{name}"
        return self.storage_prefix + name

    def key_prefix(self, namespace: str = "") -> str:
        """etcd prefix of a listing, of one namespace where one is given."""
        if self.namespaced and namespace:
            return f"{self.storage_prefix}{namespace}/"
        return self.storage_prefix


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """An API group; versions are in order of preference."""

    name: str
    versions: tuple[str, ...]

    @property
    def preferred(self) -> str:
        return self.versions[0]


class UnknownResource(LookupError):
    """No served resource has this name: check the plural and the group after the first dot."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no served resource is named {name!r}; write it as plural[.group]")
        self.name = name


class Registry:
    """The served resources, in the order of discovery.

    Lookups are plain dict reads. `generation` grows with each change, so that whoever caches
    something derived (discovery, OpenAPI) can tell that it is stale.
    """

    def __init__(self, resources: Iterable[ResourceInfo] = ()) -> None:
        self._resources: dict[tuple[str, str, str], ResourceInfo] = {}
        self._by_kind: dict[tuple[str, str], ResourceInfo] = {}
        self._groups: dict[str, list[str]] = {}
        self._by_name: dict[str, ResourceInfo] = {}
        self.generation = 0
        for info in resources:
            self.add(info)

    def lookup(self, group: str, version: str, plural: str) -> ResourceInfo | None:
        return self._resources.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> ResourceInfo | None:
        return self._by_kind.get((api_version, kind))

    def by_name(self, name: str) -> ResourceInfo:
        """`pods`, `deployments.apps`, in the preferred version. Raises UnknownResource."""
        found = self._by_name.get(name)
        if found is None:
            raise UnknownResource(name)
        return found

    def resolve(self, text: str) -> ResourceInfo:
        """What a person types: plural, singular, kind or short name, with or without a group.

        The first match in discovery order wins, as in kubectl. Raises UnknownResource.
        """
        if text in self._by_name:
            return self._by_name[text]
        word, _, group = text.lower().partition(".")
        for info in self._by_name.values():
            names = (info.plural, info.singular, info.kind.lower(), *info.short_names)
            if word in names and info.group.startswith(group):
                return info
        raise UnknownResource(text)

    def groups(self) -> list[GroupInfo]:
        """Kubernetes' own, then those of custom resources by their names."""
        own = {info.group for info in self._resources.values() if not info.custom}
        names = [*(name for name in self._groups if name in own), *sorted(self._groups.keys() - own)]
        return [GroupInfo(name, tuple(self._groups[name])) for name in names]

    def group(self, name: str) -> GroupInfo | None:
        versions = self._groups.get(name)
        return GroupInfo(name, tuple(versions)) if versions else None

    def all(self) -> list[ResourceInfo]:
        return list(self._resources.values())

    def in_version(self, group: str, version: str) -> list[ResourceInfo]:
        return [i for i in self._resources.values() if (i.group, i.version) == (group, version)]

    def stored(self) -> list[ResourceInfo]:
        """One entry per set of stored objects: the storage version of everything persisted."""
        return [i for i in self._resources.values() if i.persisted and i.is_storage_version]

    def storage_info(self, info: ResourceInfo) -> ResourceInfo:
        """The resource in the form that is stored; itself in all but a few cases."""
        if info.is_storage_version:
            return info
        return self._by_kind[(info.stored_api_version, info.kind)]

    def add(self, info: ResourceInfo) -> None:
        """Serve a resource, or replace the one of the same group, version and plural."""
        old = self._resources.get((info.group, info.version, info.plural))
        if old is not None and old.kind != info.kind:
            self._by_kind.pop((old.api_version, old.kind), None)
        self._resources[(info.group, info.version, info.plural)] = info
        self._by_kind[(info.api_version, info.kind)] = info
        versions = self._groups.setdefault(info.group, [])
        if info.version not in versions:
            versions.append(info.version)
            if info.custom:
                versions.sort(key=version_priority)
        self._rename(info.name)
        self.generation += 1

    def remove(self, group: str, version: str, plural: str) -> None:
        """Stop serving a resource; unknown ones are ignored."""
        info = self._resources.pop((group, version, plural), None)
        if info is None:
            return
        self._by_kind.pop((info.api_version, info.kind), None)
        if not any((i.group, i.version) == (group, version) for i in self._resources.values()):
            self._groups[group].remove(version)
            if not self._groups[group]:
                del self._groups[group]
        self._rename(info.name)
        self.generation += 1

    def copy(self) -> Registry:
        return Registry(tuple(self._resources.values()))

    def _rename(self, name: str) -> None:
        plural, _, group = name.partition(".")
        for version in self._groups.get(group, ()):
            if (info := self._resources.get((group, version, plural))) is not None:
                self._by_name[name] = info
                return
        self._by_name.pop(name, None)


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key that puts v2 before v1 before v1beta2 before v1alpha1 before anything else.

    Kubernetes API reference: "Version priority" of CustomResourceDefinitions.
    """
    digits, stage, minor = "", "", ""
    rest = version.removeprefix("v")
    if rest != version:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        tail = rest[len(digits) :]
        stage = tail.rstrip("0123456789")
        minor = tail[len(stage) :]
    if not digits or stage not in ("", "alpha", "beta") or bool(stage) != bool(minor):
        return (3, 0, 0, version)
    order = {"": 0, "beta": 1, "alpha": 2}[stage]
    return (order, -int(digits), -int(minor or 0), "")


def _resource(row: Mapping[str, Any]) -> ResourceInfo:
    plural, group = row["plural"], row["group"]
    name = f"{plural}.{group}" if group else plural
    persisted = "list" in row["verbs"] and "create" in row["verbs"]
    prefix = f"/registry/{_PREFIXES.get(name, plural)}/" if persisted else ""
    api_version = f"{group}/{row['version']}" if group else row["version"]
    return ResourceInfo(
        group=group,
        version=row["version"],
        kind=row["kind"],
        plural=plural,
        singular=row["kind"].lower(),
        namespaced=row["namespaced"],
        verbs=tuple(row["verbs"]),
        definition=row["definition"],
        storage_prefix=prefix,
        stored_api_version=_STORED_AS.get(name, api_version),
        short_names=_SHORT_NAMES.get(name, ()),
        categories=_CATEGORIES.get(name, ()),
        subresources={
            sub: SubresourceInfo(sub_group, sub_version, kind, tuple(verbs))
            for sub, (sub_group, sub_version, kind, verbs) in row["subresources"].items()
        },
        list_kind=row["kind"] + "List",
    )


@lru_cache(maxsize=1)
def _builtin_resources() -> tuple[ResourceInfo, ...]:
    data = package_files.files("rayplane.control_plane.api").joinpath("data/resources.json").read_bytes()
    return tuple(_resource(row) for row in orjson.loads(data)["resources"])


@lru_cache(maxsize=1)
def builtin_registry() -> Registry:
    """Kubernetes' own resources. Shared: whoever adds custom resources takes a `copy()`."""
    return Registry(_builtin_resources())

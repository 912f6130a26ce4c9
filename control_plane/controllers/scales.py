"""The scales of objects: how many replicas the owner of a pod, or an autoscaler's target, is to have.

Built-in workloads and custom resources alike, read from the caches: those that controllers work on are watched, and
the garbage collector follows every custom resource.
Source: Kubernetes API reference, autoscaling/v1 Scale; CustomResourceDefinition (subresources.scale).
"""

from __future__ import annotations

from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale
from rayplane.control_plane.api.kinds.rules import WORKLOAD_PATHS, ScalePaths
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.garbagecollector import followed_as


class NoScale(Exception):
    """A kind that nobody serves, or that cannot be scaled; the text says which, as Kubernetes does."""

    def __init__(self, message: str, *, served: bool) -> None:
        super().__init__(message)
        self.served = served


@dataclass(frozen=True, slots=True)
class Scaled:
    """An object that has a scale. `resource`: how the API is asked for it.

    `elsewhere`: apiVersion and kind of one that an aggregated API keeps, of which nothing but the scale is known.
    """

    resource: str
    obj: Object
    scale: Object
    elsewhere: tuple[str, str] | None = None

    @property
    def uid(self) -> str:
        return meta.uid(self.obj)

    @property
    def replicas(self) -> int:
        return int(meta.spec(self.scale).get("replicas") or 0)


@dataclass(frozen=True, slots=True)
class Scalable:
    """A kind whose objects have a scale. `name`: plural and group; `definition`: of a custom one."""

    name: str
    definition: Object | None = None

    def find(self, view: View, namespace: str, name: str) -> Scaled | None:
        """An object with its scale. Raises NoScale where its version has none, or where what stands there is none."""
        if self.definition is None:
            found = view.get(self.name, namespace, name)
            return None if found is None else Scaled(self.name, found, get_scale(found, WORKLOAD_PATHS))
        resource = followed_as(self.definition)
        found = view.get(resource, namespace, name)
        if found is None:
            return None
        try:
            return Scaled(resource, found, get_scale(found, _paths(self.definition, found["apiVersion"])))
        except BadRequest as e:
            raise NoScale(e.message, served=False) from e


def scalable(view: View, api_version: str, kind: str, *, any_version: bool = False) -> Scalable:
    """The kind that a reference names; `any_version`: by group and kind alone. Raises NoScale."""
    group = api_version.rpartition("/")[0]
    known = builtin_registry()
    info = known.by_kind(api_version, kind)
    if info is None and any_version:
        info = next((one for one in known.all() if (one.group, one.kind) == (group, kind)), None)
    if info is not None:
        if "scale" not in info.subresources:
            raise _unscalable(info.name)
        return Scalable(info.name)
    crd = _definition(view, api_version, kind, any_version=any_version)
    _paths(crd, "" if any_version else api_version)
    return Scalable(f"{meta.spec(crd)['names']['plural']}.{group}", crd)


def _definition(view: View, api_version: str, kind: str, *, any_version: bool) -> Object:
    """The definition of a custom kind that is served, in this version or any."""
    group, _, wanted = api_version.rpartition("/")
    for crd in view.list(CRDS):
        spec = meta.spec(crd)
        if spec.get("group") != group or (spec.get("names") or {}).get("kind") != kind:
            continue
        if any(v.get("served") and (any_version or v.get("name") == wanted) for v in spec.get("versions") or ()):
            return crd
    where = f'group "{group}"' if any_version else f'version "{api_version}"'
    raise NoScale(f'no matches for kind "{kind}" in {where}', served=False)


def _paths(crd: Object, api_version: str) -> ScalePaths:
    """Where objects of this version of a definition (of any, where none is named) keep their replicas."""
    wanted = api_version.rpartition("/")[2]
    for version in meta.spec(crd).get("versions") or ():
        paths = ScalePaths.of((version.get("subresources") or {}).get("scale"))
        if wanted in ("", version.get("name")) and paths is not None:
            return paths
    spec = meta.spec(crd)
    raise _unscalable(f"{spec['names']['plural']}.{spec['group']}")


def _unscalable(name: str) -> NoScale:
    return NoScale(f"{name} does not implement the scale subresource", served=True)

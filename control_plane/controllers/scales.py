"""The scales of objects: how many replicas the owner of a pod, or an autoscaler's target, is to have.

Built-in workloads and custom resources alike, read from the caches: those that controllers work on are watched, and
the garbage collector follows every custom resource.
Source: Kubernetes API reference, autoscaling/v1 Scale; CustomResourceDefinition (subresources.scale).
"""

from __future__ import annotations

from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale
from rayplane.control_plane.api.kinds.rules import WORKLOAD_PATHS, ScalePaths
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.garbagecollector import CRDS, followed_as


class NoScale(Exception):
    """An object of a kind that nobody serves, or that cannot be scaled; the text says which, as Kubernetes does."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """An object that has a scale. `resource`: how the API is asked for it."""

    resource: str
    obj: Object
    scale: Object

    @property
    def uid(self) -> str:
        return meta.uid(self.obj)

    @property
    def replicas(self) -> int:
        return int(meta.spec(self.scale).get("replicas") or 0)


def find_scaled(view: View, api_version: str, kind: str, namespace: str, name: str) -> Scaled | None:
    """The object of this kind and name with its scale; None where there is no such object.

    Raises NoScale when the kind is not served or has no scale.
    """
    info = builtin_registry().by_kind(api_version, kind)
    if info is not None:
        if "scale" not in info.subresources:
            raise NoScale(f"{info.name} does not implement the scale subresource")
        found = view.get(info.name, namespace, name)
        return None if found is None else Scaled(info.name, found, get_scale(found, WORKLOAD_PATHS))
    crd = _definition(view, api_version, kind)
    resource = followed_as(crd)
    found = view.get(resource, namespace, name)
    if found is None:
        _paths(crd, api_version)
        return None
    return Scaled(resource, found, get_scale(found, _paths(crd, found.get("apiVersion") or api_version)))


def _definition(view: View, api_version: str, kind: str) -> Object:
    """The definition of a custom kind that is served in this version."""
    group, _, version = api_version.rpartition("/")
    for crd in view.list(CRDS):
        spec = meta.spec(crd)
        if spec.get("group") != group or (spec.get("names") or {}).get("kind") != kind:
            continue
        if any(v.get("name") == version and v.get("served") for v in spec.get("versions") or ()):
            return crd
    raise NoScale(f'no matches for kind "{kind}" in version "{api_version}"')


def _paths(crd: Object, api_version: str) -> ScalePaths:
    """Where objects of this version of a definition keep their replicas."""
    wanted = api_version.rpartition("/")[2]
    for version in meta.spec(crd).get("versions") or ():
        paths = ScalePaths.of((version.get("subresources") or {}).get("scale"))
        if version.get("name") == wanted and paths is not None:
            return paths
    spec = meta.spec(crd)
    raise NoScale(f"{spec['names']['plural']}.{spec['group']} does not implement the scale subresource")

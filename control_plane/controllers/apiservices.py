"""API services of custom resources: each group and version that definitions serve has one, as built-in ones have.

Source: kube-aggregator's registration of CustomResourceDefinitions. What somebody made by hand stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Create, Delete, Update
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

SERVICES = "apiservices.apiregistration.k8s.io"
MANAGED = "kube-aggregator.kubernetes.io/automanaged"
# Behind all built-in groups; among themselves versions come in the order of their names.
_PRIORITIES = {"groupPriorityMinimum": 1000, "versionPriority": 100}


def _names(definition: Object, _view: View) -> Iterable[str]:
    spec = meta.spec(definition)
    return [f"{version['name']}.{spec['group']}" for version in spec.get("versions") or ()]


def _is_ours(service: Object) -> bool:
    return meta.labels(service).get(MANAGED) == "true"


class ApiServiceController(BaseController):
    name = "apiservices"
    component = "autoregister"
    watches = (Watch(CRDS, _names), Watch(SERVICES))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        version, _, group = key.partition(".")
        service = view.get(SERVICES, "", key)
        if service is not None and not _is_ours(service):
            return NOTHING
        if not any(_serves(one, group, version) for one in view.list(CRDS)):
            return result([Delete(SERVICES, service)]) if service is not None else NOTHING
        spec = {"group": group, "version": version, **_PRIORITIES}
        if service is None:
            head = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}
            made = {**head, "metadata": {"name": key, "labels": {MANAGED: "true"}}, "spec": spec}
            return result([Create(SERVICES, made, exists_ok=True)])
        if meta.spec(service) == spec:
            return NOTHING
        return result([Update(SERVICES, {**meta.copy_for_write(service), "spec": spec})])


def _serves(definition: Object, group: str, version: str) -> bool:
    spec = meta.spec(definition)
    if spec.get("group") != group:
        return False
    return any(one["name"] == version and one.get("served") for one in spec.get("versions") or ())

"""What the API's own configuration says of itself: services of custom groups, priority levels that are missing."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.controllers.apiservices import SERVICES, ApiServiceController
from rayplane.control_plane.controllers.flowschema import LEVELS, SCHEMAS, FlowSchemaController
from tests.controllers.cluster import Cluster


def versions(**served: bool) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object"}}
    listed = [{"name": name, "served": on, "storage": name == "v1", "schema": schema} for name, on in served.items()]
    names = {"plural": "foos", "kind": "Foo"}
    return {"group": "x.io", "scope": "Cluster", "names": names, "versions": listed}


def services(cluster: Cluster) -> list[str]:
    return sorted(meta.name(one) for one in cluster.list(SERVICES))


def test_each_served_version_of_a_custom_group_has_an_api_service_while_it_is_served() -> None:
    cluster = Cluster(ApiServiceController())
    cluster.add(CRDS, "foos.x.io", spec=versions(v1=True, v2=True, v3=False))
    cluster.settle()
    assert services(cluster) == ["v1.x.io", "v2.x.io"]
    made = cluster.require(SERVICES, "", "v1.x.io")
    assert made["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "true"}
    assert made["spec"] == {"group": "x.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100}
    [available] = made["status"]["conditions"]
    assert (available["type"], available["status"], available["reason"]) == ("Available", "True", "Local")
    cluster.change(CRDS, "foos.x.io", spec=versions(v1=True, v3=True))
    cluster.settle()
    assert services(cluster) == ["v1.x.io", "v3.x.io"]
    cluster.delete(CRDS, "foos.x.io")
    cluster.settle()
    assert services(cluster) == []


def test_an_api_service_is_kept_as_it_should_be_unless_it_is_somebodys_own() -> None:
    cluster = Cluster(ApiServiceController())
    cluster.add(CRDS, "foos.x.io", spec=versions(v1=True))
    own = {"group": "x.io", "version": "v9", "groupPriorityMinimum": 5, "versionPriority": 5}
    cluster.add(SERVICES, "v9.x.io", spec=own)
    cluster.settle()
    assert services(cluster) == ["v1.x.io", "v9.x.io"]
    spec = cluster.require(SERVICES, "", "v1.x.io")["spec"]
    cluster.change(SERVICES, "v1.x.io", spec={**spec, "versionPriority": 1})
    cluster.settle()
    assert cluster.require(SERVICES, "", "v1.x.io")["spec"] == spec
    cluster.delete(SERVICES, "v1.x.io")
    cluster.settle()
    assert services(cluster) == ["v1.x.io", "v9.x.io"]


def dangling(cluster: Cluster) -> tuple[str, str, str]:
    found = meta.get_condition(cluster.get(SCHEMAS, "", "mine"), "Dangling") or {}
    return found["status"], found["reason"], found["message"]


def test_a_flow_schema_says_whether_its_priority_level_is_there() -> None:
    cluster = Cluster(FlowSchemaController())
    cluster.add(SCHEMAS, "mine", spec={"priorityLevelConfiguration": {"name": "high"}, "matchingPrecedence": 5})
    cluster.settle()
    about = 'This FlowSchema references the PriorityLevelConfiguration object named "high"'
    assert dangling(cluster) == ("True", "NotFound", f"{about} but there is no such object")
    cluster.add(LEVELS, "high", spec={"type": "Exempt"})
    cluster.settle()
    assert dangling(cluster) == ("False", "Found", f"{about} and it exists")
    assert cluster.require(SCHEMAS, "", "mine")["metadata"]["generation"] == 1
    cluster.delete(LEVELS, "high")
    cluster.settle()
    assert dangling(cluster)[0] == "True"

"""Admission plug-ins that are switched on, and others that are switched off."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.admission.plugins import BUILT_IN, DEFAULT, OPTIONAL, names, switched_on
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack


@pytest_asyncio.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[ApiClient]:
    """A client of a server with the plug-ins of the parameter: what is on, and what is off."""
    on, off = request.param
    stack = Stack()
    await stack.add_server(admission_plugins_on=names(on), admission_plugins_off=names(off))
    made = stack.client()
    await made.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    yield made
    await stack.stop()


def switched(on: str = "", off: str = "") -> Any:
    return pytest.mark.parametrize("client", [(on, off)], indirect=True)


def pod(**spec: Any) -> Object:
    containers = [{"name": "c", "image": "i", "imagePullPolicy": "Never"}]
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": containers, **spec}}


def anti_affinity(key: str) -> Object:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"a": "b"}}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@switched(on="AlwaysPullImages, ExtendedResourceToleration,LimitPodHardAntiAffinityTopology")
async def test_pods_are_completed_and_refused_as_the_plugins_say(client: ApiClient) -> None:
    resources = {"requests": {"example.com/gpu": "1", "cpu": "1"}, "limits": {"example.com/gpu": "1"}}
    made = await client.create("pods", pod(containers=[{"name": "c", "image": "i", "resources": resources}]))
    assert made["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    toleration = {"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert made["spec"]["tolerations"].count(toleration) == 1
    with pytest.raises(errors.Forbidden, match=r"TopologyKey zone but only key kubernetes\.io/hostname is allowed"):
        await client.create("pods", pod(affinity=anti_affinity("zone")))


@switched(on="DenyServiceExternalIPs,NamespaceExists")
async def test_external_addresses_are_denied_but_stay(client: ApiClient) -> None:
    spec = {"ports": [{"port": 80}], "externalIPs": ["1.2.3.4"]}
    service = {"metadata": {"name": "s", "namespace": "default"}, "spec": spec}
    with pytest.raises(errors.Forbidden, match=r"Use of external IPs is denied by admission control\."):
        await client.create("services", service)
    await client.create("services", {**service, "spec": {"ports": [{"port": 80}]}})
    with pytest.raises(errors.NotFound, match='namespaces "none" not found'):
        await client.create("services", {**service, "metadata": {"name": "s", "namespace": "none"}})


@switched(on="PodNodeSelector", off="Priority,DefaultTolerationSeconds")
async def test_a_namespace_selects_the_nodes_of_its_pods(client: ApiClient) -> None:
    mark = {"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": "env=test, disk=ssd"}}}
    await client.patch("namespaces", "default", "", mark)
    made = await client.create("pods", pod(nodeSelector={"env": "test", "own": "x"}))
    assert made["spec"]["nodeSelector"] == {"env": "test", "disk": "ssd", "own": "x"}
    assert "tolerations" not in made["spec"] and "priority" not in made["spec"]
    with pytest.raises(errors.Forbidden, match="pod node label selector conflicts with its namespace"):
        await client.create("pods", pod(nodeSelector={"env": "prod"}))


def toleration(key: str, **fields: Any) -> Object:
    return {"key": key, "operator": "Exists", "effect": "NoExecute", **fields}


@switched(on="PodTolerationRestriction", off="DefaultTolerationSeconds")
async def test_a_namespace_says_what_its_pods_tolerate_and_at_most(client: ApiClient) -> None:
    async def mark(**listed: Any) -> None:
        said = {f"scheduler.alpha.kubernetes.io/{name}": value for name, value in listed.items()}
        await client.patch("namespaces", "default", "", {"metadata": {"annotations": said}})

    whole, short = toleration("a"), toleration("a", tolerationSeconds=5)
    await mark(defaultTolerations=json.dumps([whole]), tolerationsWhitelist=json.dumps([whole, toleration("b")]))
    made = await client.create("pods", pod(tolerations=[short, toleration("b")]))
    assert made["spec"]["tolerations"] == [toleration("b"), whole]
    for other in (toleration("c"), toleration(""), toleration("b", effect=""), toleration("b", effect="NoSchedule")):
        with pytest.raises(errors.Forbidden, match="conflict with its namespace whitelist"):
            await client.create("pods", pod(tolerations=[other]))
    await mark(defaultTolerations="[]", tolerationsWhitelist=json.dumps([short]))
    with pytest.raises(errors.Forbidden, match="conflict with its namespace whitelist"):
        await client.create("pods", pod(tolerations=[whole]))
    await mark(tolerationsWhitelist=None)
    asking = [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]
    made = await client.create("pods", {**pod(containers=asking), "metadata": {"name": "q", "namespace": "default"}})
    pressed = toleration("node.kubernetes.io/memory-pressure", effect="NoSchedule")
    assert made["spec"]["tolerations"] == [pressed]
    with pytest.raises(errors.Forbidden, match="at most 256 tolerations"):
        await client.create("pods", pod(tolerations=[toleration(f"k{n}") for n in range(300)]))
    for odd in ("{", "{}", "[1]", '[{"key":5}]', '[{"tolerationSeconds":true}]', "null", json.dumps([whole] * 257)):
        await mark(defaultTolerations=odd)
        with pytest.raises(errors.Forbidden, match="defaultTolerations of its namespace is no list"):
            await client.create("pods", pod())


async def test_owners_are_set_by_who_may_delete_what_they_own() -> None:
    stack = Stack()
    await stack.add_server(admission_plugins_on=("OwnerReferencesPermissionEnforcement",))
    admin, jane = stack.client_as("admin", "system:masters"), stack.client_as("jane")
    where = {"name": "editor", "namespace": "default"}
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "update"]}
    await admin.create("roles.rbac.authorization.k8s.io", {"metadata": where, "rules": [rule]})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "editor"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}
    bound = {"metadata": where, "roleRef": ref, "subjects": [subject]}
    await admin.create("rolebindings.rbac.authorization.k8s.io", bound)
    owner = await jane.create("configmaps", {"metadata": {"name": "owner", "namespace": "default"}})
    made = await jane.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}})
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    made["metadata"]["ownerReferences"] = [owned]
    with pytest.raises(errors.Forbidden, match="cannot set an ownerRef on a resource you can't delete"):
        await jane.update("configmaps", made)
    blocking = {"name": "d", "namespace": "default", "ownerReferences": [{**owned, "blockOwnerDeletion": True}]}
    with pytest.raises(errors.Forbidden, match="a resource you can't set finalizers on"):
        await jane.create("configmaps", {"metadata": blocking})
    await admin.update("configmaps", made)
    await stack.stop()


@switched(off="NamespaceLifecycle,ServiceAccount,ResourceQuota,PodSecurity,LimitRanger")
async def test_what_is_off_has_no_say(client: ApiClient) -> None:
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"configmaps": "0"}}}
    await client.create("resourcequotas", quota)
    await client.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}})
    await client.create("configmaps", {"metadata": {"name": "c", "namespace": "nowhere"}})
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await client.patch("namespaces", "default", "", labels)
    assert "serviceAccountName" not in (await client.create("pods", pod(hostNetwork=True)))["spec"]


@pytest.mark.parametrize(
    ("on", "off", "why"),
    [
        ("None", "", "there is no admission plug-in None; there are AlwaysAdmit"),
        ("Priority", "Priority", "Priority cannot be both on and off"),
        ("", "CertificateApproval", "CertificateApproval cannot be switched off"),
    ],
)
def test_what_cannot_be_switched_is_told(on: str, off: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        switched_on(names(on), names(off))
    assert switched_on((), ()) == DEFAULT | BUILT_IN
    assert switched_on(OPTIONAL, DEFAULT) == OPTIONAL | BUILT_IN


@switched(off="PodTopologyLabels")
async def test_zones_of_nodes_are_not_copied_where_that_is_off(client: ApiClient) -> None:
    await client.create("nodes", {"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}})
    assert "labels" not in (await client.create("pods", pod(nodeName="n")))["metadata"]


@switched()
async def test_a_node_that_is_not_ready_is_tainted_when_it_is_made(client: ApiClient) -> None:
    own = {"key": "example.com/own", "effect": "NoSchedule"}
    not_ready = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}

    async def made(name: str, ready: str, *taints: Object) -> list[Object]:
        status = {"conditions": [{"type": "Ready", "status": ready}]} if ready else {}
        node = {"metadata": {"name": name}, "spec": {"taints": [*taints]}, "status": status}
        return (await client.create("nodes", node))["spec"].get("taints") or []

    assert await made("silent", "", own) == [own, not_ready]
    assert await made("unready", "False") == [not_ready]
    assert await made("tainted", "Unknown", not_ready) == [not_ready]
    assert await made("ready", "True", own) == [own]


@switched(off="TaintNodesByCondition")
async def test_the_taint_of_new_nodes_can_be_switched_off(client: ApiClient) -> None:
    assert "taints" not in (await client.create("nodes", {"metadata": {"name": "n"}}))["spec"]

"""What writes are checked for and completed with."""

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.limits import bound_errors
from tests.apiserver.conftest import Stack

CONTAINER = {"name": "c", "image": "nginx"}


def pod(name: str, namespace: str = "default", **spec: object) -> dict:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [CONTAINER], **spec},
    }


def service(name: str, **spec: object) -> dict:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}], **spec},
    }


async def test_namespace_must_exist_and_not_be_terminating(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.NotFound, match='namespaces "nope" not found'):
        await client.create("pods", pod("x", "nope"))
    await client.create("namespaces", {"metadata": {"name": "going"}})
    gone = await client.delete("namespaces", "going")
    assert gone["status"]["phase"] == "Terminating"
    with pytest.raises(errors.Forbidden, match="because it is being terminated"):
        await client.create("configmaps", {"metadata": {"name": "a", "namespace": "going"}})
    with pytest.raises(errors.Forbidden, match="this namespace may not be deleted"):
        await client.delete("namespaces", "default")


async def test_namespace_goes_when_it_is_finalized(stack: Stack) -> None:
    client = stack.client()
    await client.create("namespaces", {"metadata": {"name": "going"}})
    space = await client.delete("namespaces", "going")
    space["spec"] = {}
    await client.update("namespaces", space, subresource="finalize")
    with pytest.raises(errors.NotFound):
        await client.get("namespaces", "going")


async def test_two_servers_never_hand_out_one_address_twice() -> None:
    stack = Stack()
    for _ in range(2):
        # Eight addresses, so that the servers are sure to choose the same ones.
        await stack.add_server(service_cidr="127.96.0.0/29", node_port_range=(30000, 30009))
    made = await asyncio.gather(
        *(stack.client(i % 2).create("services", service(f"s{i}", type="NodePort")) for i in range(5))
    )
    assert len({s["spec"]["clusterIP"] for s in made} | {"127.96.0.1"}) == 6
    assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 5
    with pytest.raises(errors.Invalid, match="range is full"):
        await stack.client().create("services", service("one-too-many"))
    await stack.client(1).delete("services", "s0", "default")
    again = await stack.client(0).create("services", service("now", type="NodePort"))
    assert again["spec"]["clusterIP"] == made[0]["spec"]["clusterIP"]
    await stack.stop()


async def test_asked_for_addresses_are_checked(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.Invalid, match="provided IP is already allocated"):
        await client.create("services", service("a", clusterIP="127.96.0.1"))
    with pytest.raises(errors.Invalid, match="provided IP is not in the valid range"):
        await client.create("services", service("a", clusterIP="10.0.0.1"))
    made = await client.create("services", service("a", type="NodePort", ports=[{"port": 1, "nodePort": 30123}]))
    with pytest.raises(errors.Invalid, match="provided port is already allocated"):
        await client.create("services", service("b", type="NodePort", ports=[{"port": 1, "nodePort": 30123}]))
    # Going back to ClusterIP gives the port back.
    made["spec"]["type"] = "ClusterIP"
    made["spec"]["ports"][0].pop("nodePort")
    await client.update("services", made)
    await client.create("services", service("b", type="NodePort", ports=[{"port": 1, "nodePort": 30123}]))
    headless = await client.create("services", service("h", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]


async def test_priority_and_tolerations_are_filled_in(stack: Stack) -> None:
    client = stack.client()
    high = {"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}
    await client.create("priorityclasses.scheduling.k8s.io", high)
    made = await client.create("pods", pod("a", priorityClassName="high"))
    assert (made["spec"]["priority"], made["spec"]["preemptionPolicy"]) == (1000, "Never")
    assert [(t["key"], t["tolerationSeconds"]) for t in made["spec"]["tolerations"]] == [
        ("node.kubernetes.io/not-ready", 5),
        ("node.kubernetes.io/unreachable", 5),
    ]
    with pytest.raises(errors.Forbidden, match="no PriorityClass with name none was found"):
        await client.create("pods", pod("b", priorityClassName="none"))


async def test_pod_groups_get_the_priority_of_their_class(stack: Stack) -> None:
    client, groups = stack.client(), "podgroups.scheduling.k8s.io"
    await client.create("priorityclasses.scheduling.k8s.io", {"metadata": {"name": "high"}, "value": 1000})

    def group(name: str, **spec: object) -> dict:
        policy = {"gang": {"minCount": 2}}
        return {"metadata": {"name": name, "namespace": "default"}, "spec": {"schedulingPolicy": policy, **spec}}

    made = await client.create(groups, group("a", priorityClassName="high"))
    assert (made["spec"]["priority"], made["apiVersion"]) == (1000, "scheduling.k8s.io/v1beta1")
    assert (await client.create(groups, group("b")))["spec"]["priority"] == 0
    made["spec"] = group("a", priorityClassName="high")["spec"]
    made["spec"]["schedulingPolicy"]["gang"]["minCount"] = 1
    assert (await client.update(groups, made))["spec"]["priority"] == 1000
    with pytest.raises(errors.Forbidden, match="must not be provided in pod group spec"):
        await client.create(groups, group("c", priority=5))
    with pytest.raises(errors.Forbidden, match=r"podgroups.*no PriorityClass with name none was found"):
        await client.create(groups, group("d", priorityClassName="none"))


async def test_claims_get_the_default_class(stack: Stack) -> None:
    claim = {
        "metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    made = await stack.client().create("persistentvolumeclaims", claim)
    assert made["spec"]["storageClassName"] == "standard"
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


async def test_concurrent_creates_do_not_exceed_a_quota() -> None:
    stack = Stack()
    await stack.add_server()
    await stack.add_server()
    client = stack.client()
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": "3"}}}
    await client.create("resourcequotas", quota)
    answers = await asyncio.gather(
        *(stack.client(i % 2).create("pods", pod(f"p{i}")) for i in range(8)), return_exceptions=True
    )
    refused = [a for a in answers if isinstance(a, errors.Forbidden)]
    assert len(refused) == 5, answers
    assert "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3" in refused[0].message
    unnamed = pod("")
    unnamed["metadata"] = {"generateName": "web-", "namespace": "default"}
    with pytest.raises(errors.Forbidden, match=r'pods "web-\w{5}" is forbidden: exceeded quota'):
        await client.create("pods", unnamed)
    assert (await client.get("resourcequotas", "q", "default"))["status"]["used"] == {"pods": "3"}
    await stack.stop()


async def test_many_creates_within_a_quota_all_succeed(stack: Stack) -> None:
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": "100"}}}
    await stack.client().create("resourcequotas", quota)
    await asyncio.gather(*(stack.client().create("pods", pod(f"p{i}")) for i in range(60)))
    counted = await stack.client().get("resourcequotas", "q", "default")
    assert counted["status"]["used"] == {"pods": "60"}


async def test_changes_that_use_more_count_and_those_that_use_less_are_left_to_the_controller(stack: Stack) -> None:
    client = stack.client()
    hard = {"services.nodeports": "2", "requests.cpu": "2", "requests.storage": "3Gi"}
    await client.create("resourcequotas", {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": hard}})
    service = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 80, "name": "a"}]}}
    await client.create("services", service)
    more = {"spec": {"type": "NodePort", "ports": [{"port": n, "name": f"p{n}"} for n in range(80, 83)]}}
    with pytest.raises(errors.Forbidden, match=r"requested: services.nodeports=3, used: services.nodeports=0"):
        await client.patch("services", "s", "default", more)
    await client.patch("services", "s", "default", {"spec": {"type": "NodePort"}})

    asking = {**CONTAINER, "resources": {"requests": {"cpu": "1"}}}
    await client.create("pods", pod("p", containers=[asking]))

    def resized(cpu: str) -> dict:
        return {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}

    with pytest.raises(errors.Forbidden, match=r"requested: requests.cpu=1500m, used: requests.cpu=1, limited"):
        await client.patch("pods", "p", "default", resized("2500m"), kind="strategic", subresource="resize")
    await client.patch("pods", "p", "default", resized("1500m"), kind="strategic", subresource="resize")
    await client.patch("pods", "p", "default", resized("1"), kind="strategic", subresource="resize")
    used = (await client.get("resourcequotas", "q", "default"))["status"]["used"]
    assert used == {"services.nodeports": "1", "requests.cpu": "1500m"}


async def test_limit_range_defaults_and_bounds(stack: Stack) -> None:
    client = stack.client()
    limit = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "2"}}
    limits = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"limits": [limit]}}
    await client.create("limitranges", limits)
    made = await client.create("pods", pod("a"))
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}
    big = {**CONTAINER, "resources": {"limits": {"cpu": "3"}}}
    with pytest.raises(errors.Forbidden, match="maximum cpu usage per Container is 2, but limit is 3"):
        await client.create("pods", pod("b", containers=[big]))


async def test_binding_assigns_once(stack: Stack) -> None:
    client = stack.client()
    await client.create("pods", pod("p"))

    def binding(node: str) -> dict:
        return {"metadata": {"name": "p", "namespace": "default"}, "target": {"kind": "Node", "name": node}}

    answers = await asyncio.gather(
        *(client.create("pods", binding(f"n{i}"), subresource="binding") for i in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(a, errors.Conflict) for a in answers) == 3
    bound = await client.get("pods", "p", "default")
    assert bound["spec"]["nodeName"] in {"n0", "n1", "n2", "n3"}
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"


async def test_generated_names_do_not_collide(stack: Stack) -> None:
    async def one() -> str:
        o = {"metadata": {"generateName": "x-", "namespace": "default"}}
        return (await stack.client().create("configmaps", o))["metadata"]["name"]

    names = await asyncio.gather(*(one() for _ in range(50)))
    assert len(set(names)) == 50
    assert all(len(n) == 7 and n.startswith("x-") for n in names)


async def test_a_quota_of_cpu_wants_requests_from_every_container_or_from_the_pod(stack: Stack) -> None:
    client = stack.client()
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"requests.cpu": "3"}}}
    await client.create("resourcequotas", quota)
    asking = {**CONTAINER, "name": "asks", "resources": {"requests": {"cpu": "1"}}}
    with pytest.raises(errors.Forbidden, match=r"must specify requests\.cpu for: c$"):
        await client.create("pods", pod("no", containers=[CONTAINER, asking]))
    sidecar = {**asking, "name": "side", "restartPolicy": "Always"}
    await client.create("pods", pod("beside", containers=[asking], initContainers=[sidecar]))
    assert (await client.get("resourcequotas", "q", "default"))["status"]["used"] == {"requests.cpu": "2"}
    await client.create("pods", pod("whole", containers=[CONTAINER], resources={"requests": {"cpu": "1"}}))
    assert (await client.get("resourcequotas", "q", "default"))["status"]["used"] == {"requests.cpu": "3"}


async def test_devices_count_for_quotas_of_resources_whoever_asks_for_them(stack: Stack) -> None:
    client, claims = stack.client(), "resourceclaims.resource.k8s.io"
    gpus, devices = "requests.example.com/gpu", "gpu.deviceclass.resource.k8s.io/devices"
    named = {"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}}
    await client.create("deviceclasses.resource.k8s.io", named)
    hard = {gpus: "4", devices: "9", f"count/{claims}": "3"}
    await client.create("resourcequotas", {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": hard}})

    def claim(name: str, count: int, **own: Any) -> dict[str, Any]:
        request = {"name": "r", "exactly": {"deviceClassName": "gpu", "count": count}}
        return {"metadata": {"name": name, "namespace": "default", **own}, "spec": {"devices": {"requests": [request]}}}

    async def used() -> dict[str, str]:
        return (await client.get("resourcequotas", "q", "default"))["status"]["used"]

    asking = {**CONTAINER, "resources": {"limits": {"example.com/gpu": "2"}}}
    made = await client.create("pods", pod("p", containers=[asking]))
    await client.create(claims, claim("one", 1))
    assert await used() == {gpus: "3", devices: "1", f"count/{claims}": "1"}
    with pytest.raises(errors.Forbidden, match=f"requested: {gpus}=2, used: {gpus}=3, limited: {gpus}=4"):
        await client.create(claims, claim("two", 2))
    owner = meta.owner_reference({"apiVersion": "v1", "kind": "Pod", **made})
    own = {"annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}, "ownerReferences": [owner]}
    await client.create(claims, claim("made", 2, **own))
    assert await used() == {gpus: "3", devices: "3", f"count/{claims}": "2"}, "its pod counts for those already"
    with pytest.raises(errors.Forbidden, match=f"requested: {gpus}=2"):
        await client.create(claims, claim("more", 2, **own))


async def test_a_limit_range_bounds_what_all_containers_of_a_pod_ask_for(stack: Stack) -> None:
    client = stack.client()
    limit = {"type": "Pod", "max": {"cpu": "2"}}
    limits = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"limits": [limit]}}
    await client.create("limitranges", limits)
    one = {**CONTAINER, "resources": {"limits": {"cpu": "1500m"}}}
    await client.create("pods", pod("fits", containers=[one, {**CONTAINER, "name": "free"}]))
    with pytest.raises(errors.Forbidden, match="maximum cpu usage per Pod is 2, but limit is 3"):
        await client.create("pods", pod("big", containers=[one, {**one, "name": "other"}]))


@pytest.mark.parametrize(
    ("bound", "resources", "problem"),
    [
        ({"min": {"cpu": "1"}}, {"limits": {"cpu": "2"}}, ""),
        ({"min": {"cpu": "1"}}, {}, r"minimum cpu usage per Pod is 1\.  No request is specified"),
        ({"min": {"cpu": "1"}}, {"requests": {"cpu": "500m"}}, "minimum cpu usage per Pod is 1, but request is 500m"),
        (
            {"max": {"cpu": "1"}},
            {"requests": {"cpu": "500m"}},
            r"per Pod is 1\.  No limit is specified",
        ),
        ({"max": {"cpu": "1"}}, {"limits": {"cpu": "500m"}}, ""),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, {"requests": {"cpu": "1"}}, "no limit is specified or limit is 0"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, {}, "no request is specified or request is 0"),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}},
            "3.000000",
        ),
    ],
)
async def test_what_one_side_says_is_held_against_the_bounds(
    stack: Stack, bound: dict, resources: dict, problem: str
) -> None:
    limits = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"limits": [{"type": "Pod", **bound}]}}
    await stack.client().create("limitranges", limits)
    made = pod("p", containers=[{**CONTAINER, "resources": resources}])
    if problem:
        with pytest.raises(errors.Forbidden, match=problem):
            await stack.client().create("pods", made)
    else:
        await stack.client().create("pods", made)


def test_both_sides_are_held_against_a_bound() -> None:
    least, most = {"min": {"cpu": "2"}}, {"max": {"cpu": "2"}}
    assert bound_errors("Container", least, {"cpu": "2"}, {"cpu": "1"}) == [
        "minimum cpu usage per Container is 2, but limit is 1"
    ]
    assert bound_errors("Container", most, {"cpu": "3"}, {"cpu": "2"}) == [
        "maximum cpu usage per Container is 2, but request is 3"
    ]


@pytest.mark.parametrize("plural", ["resourceclaims", "resourceclaimtemplates"])
async def test_devices_in_use_are_for_namespaces_that_are_marked(stack: Stack, plural: str) -> None:
    client, resource = stack.client(), f"{plural}.resource.k8s.io"
    exactly = {"deviceClassName": "gpu.example.com", "adminAccess": True}
    spec: dict = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    claim = {"metadata": {"name": "a", "namespace": "n"}, "spec": spec}
    if plural == "resourceclaimtemplates":
        claim["spec"] = {"spec": spec}
    await client.create("namespaces", {"metadata": {"name": "n"}})
    with pytest.raises(errors.Invalid, match="admin access to devices requires the"):
        await client.create(resource, claim)
    namespace = await client.get("namespaces", "n")
    namespace["metadata"]["labels"] = {"resource.kubernetes.io/admin-access": "true"}
    await client.update("namespaces", namespace)
    assert (await client.create(resource, claim))["metadata"]["name"] == "a"


TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


async def test_every_container_finds_a_token_of_its_pods_account(stack: Stack) -> None:
    own = {"name": "own", "image": "i", "volumeMounts": [{"name": "v", "mountPath": TOKEN_PATH}]}
    init = {"name": "init", "image": "i"}
    spec: Object = {
        "containers": [CONTAINER, own],
        "initContainers": [init],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    made = (await stack.client().create("pods", pod("p", **spec)))["spec"]
    kept, added = made["volumes"]
    assert kept["name"] == "v" and added["name"].startswith("kube-api-access-")
    token, authority, namespace = added["projected"]["sources"]
    assert token == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    assert authority["configMap"]["name"] == "kube-root-ca.crt"
    assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"
    mount = {"name": added["name"], "readOnly": True, "mountPath": TOKEN_PATH}
    assert [c["volumeMounts"] for c in (*made["containers"], *made["initContainers"])] == [
        [mount],
        own["volumeMounts"],
        [mount],
    ]


@pytest.mark.parametrize(
    ("of_account", "of_pod", "mounted"),
    [(None, None, True), (False, None, False), (False, True, True), (None, False, False), (True, False, False)],
)
async def test_a_pod_has_a_say_in_its_token_before_its_account(
    stack: Stack, of_account: bool | None, of_pod: bool | None, mounted: bool
) -> None:
    account = {"metadata": {"name": "a", "namespace": "default"}, "automountServiceAccountToken": of_account}
    await stack.client().create("serviceaccounts", account)
    asked = pod("p", serviceAccountName="a", automountServiceAccountToken=of_pod)
    made = (await stack.client().create("pods", asked))["spec"]
    assert bool(made.get("volumes")) is mounted is ("volumeMounts" in made["containers"][0])


GROWTH = {
    "a class that lets volumes grow": ("standard", "2Gi", True),
    "one that does not": ("rigid", "2Gi", False),
    "one that is gone": ("nowhere", "2Gi", False),
    "none at all": ("", "2Gi", False),
    "not growing": ("rigid", "1Gi", True),
}


@pytest.mark.parametrize("case", GROWTH)
async def test_claims_grow_where_their_class_lets_them(stack: Stack, case: str) -> None:
    name, size, allowed = GROWTH[case]
    client = stack.client()
    await client.create("storageclasses.storage.k8s.io", {"metadata": {"name": "rigid"}, "provisioner": "a.io/b"})
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": name,
        "volumeName": "pv",
    }
    await client.create("persistentvolumeclaims", {"metadata": {"name": "c", "namespace": "default"}, "spec": spec})
    bound = {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}
    await client.patch("persistentvolumeclaims", "c", "default", bound, subresource="status")
    wanted = {"spec": {"resources": {"requests": {"storage": size}}}}
    if allowed:
        await client.patch("persistentvolumeclaims", "c", "default", wanted)
        return
    text = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support"
    with pytest.raises(errors.Forbidden, match=text):
        await client.patch("persistentvolumeclaims", "c", "default", wanted)


ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"


async def labels_when_bound(
    stack: Stack, node: dict[str, str], own: dict[str, str] | None = None, to: dict[str, Any] | None = None
) -> dict[str, str]:
    """The labels of a pod with these of its own that is bound to a node with those, by a Binding with more."""
    client = stack.client()
    await client.create("nodes", {"metadata": {"name": "n", "labels": node}})
    await client.create("pods", {**pod("p"), "metadata": {"name": "p", "namespace": "default", "labels": own or {}}})
    target = {"kind": "Node", "name": "n"}
    wanted = {"metadata": {"name": "p", "namespace": "default"}, "target": target, **(to or {})}
    await client.create("pods", wanted, subresource="binding")
    bound = await client.get("pods", "p", "default")
    assert bound["spec"]["nodeName"] == wanted["target"]["name"]
    return meta.labels(bound)


async def test_a_bound_pod_has_its_nodes_zone_and_region(stack: Stack) -> None:
    node = {ZONE: "z", REGION: "r", "kubernetes.io/os": "linux"}
    found = await labels_when_bound(stack, node, {"app": "web", ZONE: "own"})
    assert found == {"app": "web", ZONE: "z", REGION: "r"}


async def test_what_a_binding_says_of_zones_stays(stack: Stack) -> None:
    labels = {ZONE: "its", "x": "y"}
    to = {"metadata": {"name": "p", "namespace": "default", "labels": labels}}
    assert await labels_when_bound(stack, {ZONE: "z", REGION: ""}, to=to) == {**labels, REGION: ""}


@pytest.mark.parametrize("target", [{"kind": "Node", "name": "gone"}, {"name": "n"}])
async def test_a_pod_bound_to_no_known_node_gets_no_zone(stack: Stack, target: dict[str, str]) -> None:
    assert await labels_when_bound(stack, {ZONE: "z"}, to={"target": target}) == {}


async def test_a_pod_made_with_its_node_has_its_zone_unless_it_has_one(stack: Stack) -> None:
    client = stack.client()
    await client.create("nodes", {"metadata": {"name": "n", "labels": {ZONE: "z", REGION: "r"}}})
    made = await client.create("pods", pod("a", nodeName="n"))
    assert meta.labels(made) == {ZONE: "z", REGION: "r"}
    own = {"name": "b", "namespace": "default", "labels": {ZONE: "own"}}
    made = await client.create("pods", {**pod("b", nodeName="n"), "metadata": own})
    assert meta.labels(made) == {ZONE: "own", REGION: "r"}
    assert not meta.labels(await client.create("pods", pod("c")))

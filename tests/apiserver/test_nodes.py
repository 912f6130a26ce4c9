"""What nodes may see and change: themselves and what the pods bound to them need, by every call there is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.authorization.node_identity import host_identity, server_name
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HEARTBEAT, HOST_ADDRESS, VOLUME_CAPACITY
from rayplane.control_plane.apiserver.requests import SYSTEM, DeleteOptions, ListOptions, Target, User, WriteOptions
from rayplane.control_plane.client import ApiClient, Informer, ops
from tests.apiserver.conftest import Stack

RBAC = "rbac.authorization.k8s.io"
LEASES, SLICES = "leases.coordination.k8s.io", "endpointslices.discovery.k8s.io"
CSI_NODES, INGRESSES = "csinodes.storage.k8s.io", "ingresses.networking.k8s.io"


def pod(name: str, node: str = "", account: str = "", **spec: Any) -> Object:
    meta = {"name": name, "namespace": "default"}
    container = {"name": "c", "image": "i", **spec.pop("container", {})}
    if node:
        spec["nodeName"] = node
    if account:
        spec["serviceAccountName"] = account
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


def named(name: str, namespace: str = "default", **rest: Any) -> Object:
    return {"metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, **rest}


def of_all_kinds(prefix: str, node: str) -> Object:
    """A pod that refers to `PREFIX-secret`, `-env`, `-pull`, `-map`, `-claim` and is of the account `PREFIX`."""
    env = [{"name": "x", "valueFrom": {"secretKeyRef": {"name": f"{prefix}-env", "key": "k"}}}]
    volumes = [
        {"name": "s", "secret": {"secretName": f"{prefix}-secret"}},
        {"name": "p", "projected": {"sources": [{"configMap": {"name": f"{prefix}-map"}}]}},
        {"name": "c", "persistentVolumeClaim": {"claimName": f"{prefix}-claim"}},
    ]
    pull = [{"name": f"{prefix}-pull"}]
    return pod(prefix, node, prefix, container={"env": env}, volumes=volumes, imagePullSecrets=pull)


def volume(name: str, claim: str) -> Object:
    csi = {"driver": "d", "volumeHandle": name, "nodePublishSecretRef": {"name": f"{name}-key", "namespace": "vault"}}
    csi["controllerPublishSecretRef"] = {"name": f"{name}-admin", "namespace": "vault"}
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": csi}
    return named(name, "", spec={**spec, "claimRef": {"namespace": "default", "name": claim}})


async def furnish(admin: ApiClient) -> None:
    """Two nodes with a pod each, everything the pods need, and some that nobody needs."""
    for name in ("n1", "n2"):
        await admin.create("nodes", named(name, ""))
        await admin.create(LEASES, named(name, "kube-node-lease"))
    await admin.create("namespaces", named("vault", ""))
    for prefix in ("one", "two", "none"):
        await admin.create("serviceaccounts", named(prefix))
        await admin.create("configmaps", named(f"{prefix}-map"))
        for suffix in ("secret", "env", "pull"):
            await admin.create("secrets", named(f"{prefix}-{suffix}"))
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await admin.create("persistentvolumeclaims", named(f"{prefix}-claim", spec=spec))
        await admin.create("persistentvolumes", volume(f"{prefix}-volume", f"{prefix}-claim"))
        for suffix in ("key", "admin"):
            await admin.create("secrets", named(f"{prefix}-volume-{suffix}", "vault"))
    await admin.create("pods", of_all_kinds("one", "n1"))
    await admin.create("pods", of_all_kinds("two", "n2"))
    await admin.create("pods", pod("unbound"))
    await admin.create(LEASES, named("kube-scheduler", "kube-system"))
    await admin.create(LEASES, named("volume-v1", "kube-system"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Stack]:
    """Nothing in it is changed by what is refused, or by reading."""
    stack = Stack()
    await stack.add_server()
    await stack.client().create("serviceaccounts", named("default"))
    await furnish(stack.client())
    yield stack
    await stack.stop()


def kubelet(stack: Stack, name: str = "n1") -> ApiClient:
    """As any kubelet would call, also one that is not ours."""
    return stack.client_as(f"system:node:{name}", "system:nodes")


def host(stack: Stack, *names: str) -> ApiClient:
    user, groups = host_identity(names, fallback="")
    return stack.client_as(user, *groups)


GET, LIST, ALL = "get", "list", "list all"
YES = ""
UNRELATED = "no relationship found between node 'n1' and this object"
READS: list[tuple[str, str, str, str, str]] = [
    # verb, resource, namespace, name, part of the refusal
    (GET, "secrets", "default", "one-secret", YES),
    (GET, "secrets", "default", "one-env", YES),
    (GET, "secrets", "default", "one-pull", YES),
    (GET, "secrets", "vault", "one-volume-key", YES),
    (GET, "secrets", "vault", "one-volume-admin", UNRELATED),
    (GET, "secrets", "vault", "two-volume-key", UNRELATED),
    (GET, "secrets", "default", "two-secret", UNRELATED),
    (GET, "secrets", "default", "none-secret", UNRELATED),
    (GET, "secrets", "default", "missing", UNRELATED),
    (LIST, "secrets", "default", "one-secret", YES),
    (LIST, "secrets", "default", "two-secret", UNRELATED),
    (ALL, "secrets", "default", "", "No Object name found"),
    (ALL, "secrets", "", "", "can only read namespaced object of this type"),
    (GET, "configmaps", "default", "one-map", YES),
    (LIST, "configmaps", "default", "one-map", YES),
    (GET, "configmaps", "default", "two-map", UNRELATED),
    (ALL, "configmaps", "default", "", "No Object name found"),
    (GET, "persistentvolumeclaims", "default", "one-claim", YES),
    (GET, "persistentvolumeclaims", "default", "two-claim", UNRELATED),
    (ALL, "persistentvolumeclaims", "default", "", "can only get individual resources of this type"),
    (GET, "persistentvolumes", "", "one-volume", YES),
    (GET, "persistentvolumes", "", "two-volume", UNRELATED),
    (ALL, "persistentvolumes", "", "", "can only get individual resources of this type"),
    (GET, "pods", "default", "one", YES),
    (GET, "pods", "default", "two", UNRELATED),
    (GET, "pods", "default", "unbound", UNRELATED),
    (LIST, "pods", "default", "one", YES),
    (LIST, "pods", "default", "two", UNRELATED),
    (ALL, "pods", "default", "", "can only list/watch pods with spec.nodeName field selector"),
    ("list spec.nodeName=n1", "pods", "", "", YES),
    ("list spec.nodeName=n1,status.phase=Running", "pods", "", "", YES),
    ("list spec.nodeName in (n1)", "pods", "", "", YES),
    ("list spec.nodeName in (n1,n2)", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
    ("list spec.nodeName=n2", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
    ("list spec.nodeName!=n2", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
    ("list spec.nodeName=", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
    (GET, "nodes", "", "n1", YES),
    (LIST, "nodes", "", "n1", YES),
    (GET, "nodes", "", "n2", "node 'n1' cannot read 'n2', only its own Node object"),
    (ALL, "nodes", "", "", "node 'n1' cannot read all nodes, only its own Node object"),
    (GET, LEASES, "kube-node-lease", "n1", YES),
    (GET, LEASES, "kube-node-lease", "n2", "can only access node lease with the same name as the requesting node"),
    (GET, LEASES, "kube-system", "kube-scheduler", 'can only access leases in the "kube-node-lease" system namespace'),
    (ALL, LEASES, "kube-node-lease", "", "can only get, create, update, patch, or delete a node lease"),
    (GET, "serviceaccounts", "default", "one", YES),
    (GET, "serviceaccounts", "default", "two", UNRELATED),
    (ALL, "serviceaccounts", "default", "", "can only create tokens for individual service accounts"),
    (ALL, "services", "", "", YES),
    (ALL, SLICES, "", "", 'cannot list resource "endpointslices"'),
    (ALL, "namespaces", "", "", 'cannot list resource "namespaces"'),
    (ALL, f"clusterroles.{RBAC}", "", "", 'cannot list resource "clusterroles"'),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("verb", "resource", "namespace", "name", "refusal"), READS)
async def test_a_node_reads_what_its_pods_need(
    furnished: Stack, verb: str, resource: str, namespace: str, name: str, refusal: str
) -> None:
    client = kubelet(furnished)
    selector = verb.removeprefix("list ") if "spec." in verb else f"metadata.name={name}" if verb == LIST else ""

    async def read() -> Any:
        if verb == GET:
            return await client.get(resource, name, namespace)
        return (await client.list(resource, namespace, field_selector=selector)).items

    if refusal:
        with pytest.raises(errors.Forbidden) as refused:
            await read()
        assert refusal in refused.value.message
        if verb != GET:
            with pytest.raises(errors.Forbidden) as refused:
                await anext(client.watch(resource, namespace, field_selector=selector))
            assert refusal.replace("cannot list", "cannot watch") in refused.value.message
        return
    found = await read()
    if verb == LIST:
        assert [o["metadata"]["name"] for o in found] == [name]
    if "spec.nodeName" in verb and "Running" not in verb:
        assert [o["metadata"]["name"] for o in found] == ["one"]


MIRROR = {"kubernetes.io/config.mirror": "x"}


def mirror(node: str = "n1", **changes: Any) -> Object:
    made = pod("m", node, **changes)
    made["metadata"]["annotations"] = MIRROR
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Node", "name": node, "uid": "another", "controller": True}
    ]
    return made


def token(account: str, **ref: Any) -> Any:
    bound = {"apiVersion": "v1", **ref} if ref else None
    return ops.create("serviceaccounts", named(account, spec={"boundObjectRef": bound}), subresource="token")


def status(resource: str, name: str, namespace: str, **body: Any) -> Any:
    return ops.patch(resource, name, namespace, {"status": body}, subresource="status")


TAINTS = [{"key": "k", "effect": "NoExecute"}]
# The garbage collector deletes what it finds owned by it.
OWNER_GONE = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "gone"}
SECURE = {"node-restriction.kubernetes.io/secure": "yes"}
REFUSED_WRITES: dict[str, tuple[Any, str]] = {
    "another node's labels": (
        ops.patch("nodes", "n2", "", {"metadata": {"labels": {"a": "b"}}}),
        'node "n1" is not allowed to modify node "n2"',
    ),
    "another node's status": (
        status("nodes", "n2", "", conditions=[]),
        'node "n1" is not allowed to modify node "n2"',
    ),
    "another node": (ops.create("nodes", named("n3", "")), 'node "n1" is not allowed to modify node "n3"'),
    "another node's taints": (
        ops.patch("nodes", "n2", "", {"spec": {"taints": TAINTS}}),
        'node "n1" is not allowed to modify node "n2"',
    ),
    "its taints": (
        ops.patch("nodes", "n1", "", {"spec": {"taints": TAINTS}}),
        'node "n1" is not allowed to modify taints',
    ),
    "an owner that is gone": (
        ops.patch("nodes", "n1", "", {"metadata": {"ownerReferences": [OWNER_GONE]}}),
        'node "n1" is not allowed to modify ownerReferences',
    ),
    "the addresses of another's pods": (
        ops.patch("nodes", "n1", "", {"spec": {"podCIDR": "10.16.2.0/24", "podCIDRs": ["10.16.2.0/24"]}}),
        'node "n1" is not allowed to set the addresses of its pods',
    ),
    "itself with them": (
        ops.create("nodes", named("n1", "", spec={"podCIDR": "10.16.2.0/24"})),
        'node "n1" is not allowed to set the addresses of its pods',
    ),
    "a restricted label": (
        ops.patch("nodes", "n1", "", {"metadata": {"labels": SECURE}}),
        "is not allowed to modify labels: node-restriction.kubernetes.io/secure",
    ),
    "labels of Kubernetes": (
        ops.patch("nodes", "n1", "", {"metadata": {"labels": {"x.k8s.io/a": "", "kubernetes.io/role": "master"}}}),
        "is not allowed to modify labels: kubernetes.io/role, x.k8s.io/a",
    ),
    "a label by way of status": (
        ops.patch("nodes", "n1", "", {"metadata": {"labels": SECURE}}, subresource="status"),
        "is not allowed to modify labels: node-restriction.kubernetes.io/secure",
    ),
    "itself gone": (ops.delete("nodes", "n1", ""), 'cannot delete resource "nodes"'),
    "another node's pod gone": (
        ops.delete("pods", "two", "default"),
        'node "n1" can only delete pods with spec.nodeName set to itself',
    ),
    "a pod of no node gone": (
        ops.delete("pods", "unbound", "default"),
        'node "n1" can only delete pods with spec.nodeName set to itself',
    ),
    "another node's pod evicted": (
        ops.create("pods", named("two"), subresource="eviction"),
        "node n1 can only evict pods with spec.nodeName set to itself",
    ),
    "another node's pod's status": (
        status("pods", "two", "default", phase="Failed"),
        'node "n1" can only update pod status for pods with spec.nodeName set to itself',
    ),
    "its pod's labels": (
        ops.patch("pods", "one", "default", {"metadata": {"labels": {"app": "x"}}}, subresource="status"),
        'node "n1" cannot update labels through pod status',
    ),
    "its pod": (ops.patch("pods", "one", "default", {"metadata": {"labels": {"app": "x"}}}), "cannot patch resource"),
    "a binding": (
        ops.create("pods", named("unbound", target={"kind": "Node", "name": "n1"}), subresource="binding"),
        'cannot create resource "pods/binding"',
    ),
    "a pod": (
        ops.create("pods", pod("new", "n1")),
        'pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods',
    ),
    "a mirror pod elsewhere": (
        ops.create("pods", mirror("n2")),
        'node "n1" can only create pods with spec.nodeName set to itself',
    ),
    "a mirror pod of another life": (ops.create("pods", mirror()), "node n1 UID mismatch: expected another got "),
    "another node's lease": (
        ops.patch(LEASES, "n2", "kube-node-lease", {"spec": {"renewTime": None}}),
        "can only access node lease with the same name as the requesting node",
    ),
    "a lease by another name": (
        ops.create(LEASES, named("n3", "kube-node-lease")),
        "can only access node lease with the same name as the requesting node",
    ),
    "another's lead": (
        ops.patch(LEASES, "kube-scheduler", "kube-system", {"spec": {"holderIdentity": "me"}}),
        'can only access leases in the "kube-node-lease" system namespace',
    ),
    "another's CSINode": (
        ops.create(CSI_NODES, named("n2", "", spec={"drivers": []})),
        "can only access CSINode with the same name as the requesting node",
    ),
    "a token of no pod": (token("one"), "node requested token not bound to a pod"),
    "a token of a secret": (token("one", kind="Secret", name="one-secret"), "node requested token not bound to a pod"),
    "a token without uid": (
        token("one", kind="Pod", name="one"),
        "node requested token with a pod binding without a uid",
    ),
    "a token of another uid": (
        token("one", kind="Pod", name="one", uid="u"),
        "the UID in the bound object reference (u) does not match the UID in record",
    ),
    "another account's token": (token("two", kind="Pod", name="two", uid="u"), UNRELATED),
    "a claim": (
        ops.patch("persistentvolumeclaims", "one-claim", "default", {"metadata": {"labels": {"a": "b"}}}),
        'cannot patch resource "persistentvolumeclaims"',
    ),
    "a claim's phase": (
        status("persistentvolumeclaims", "one-claim", "default", phase="Lost"),
        'node "n1" is not allowed to update fields other than status.capacity and status.conditions',
    ),
    "another's claim": (
        status("persistentvolumeclaims", "two-claim", "default", conditions=[]),
        UNRELATED,
    ),
    "a secret": (ops.patch("secrets", "one-secret", "default", {"data": {}}), "can only read resources of this type"),
    "a role": (ops.create(f"clusterroles.{RBAC}", named("r", "", rules=[])), 'cannot create resource "clusterroles"'),
}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_node_changes_nothing_else(furnished: Stack) -> None:
    """In one batch: each operation is judged by itself."""
    answers = await kubelet(furnished).batch([operation for operation, _ in REFUSED_WRITES.values()])
    for (what, (_, refusal)), answer in zip(REFUSED_WRITES.items(), answers, strict=True):
        assert isinstance(answer, errors.Forbidden), f"{what}: {answer}"
        assert refusal in answer.message, what
    registry = furnished.servers[0].registry
    user, target = User("system:node:n1", ("system:nodes",)), Target(registry.kinds.named("pods"), "default")
    options = ListOptions(field_selector="spec.nodeName=n1")
    with pytest.raises(errors.Forbidden, match='cannot deletecollection resource "pods"'):
        await registry.delete_collection(user, target, options, DeleteOptions())


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refused_eviction_costs_no_budget(furnished: Stack) -> None:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {}}}
    admin = furnished.client()
    await admin.create("poddisruptionbudgets.policy", named("b", spec=spec))
    await admin.patch("poddisruptionbudgets.policy", "b", "default", {"status": {"disruptionsAllowed": 1}},
                      subresource="status")  # fmt: skip
    with pytest.raises(errors.Forbidden, match="can only evict pods"):
        await kubelet(furnished).create("pods", named("two"), subresource="eviction")
    budget = await admin.get("poddisruptionbudgets.policy", "b", "default")
    assert budget["status"]["disruptionsAllowed"] == 1
    await admin.delete("poddisruptionbudgets.policy", "b", "default")


async def test_a_node_does_its_work(stack: Stack) -> None:
    admin = stack.client()
    await furnish(admin)
    client = kubelet(stack, "n3")
    labels = {"kubernetes.io/hostname": "n3", "topology.kubernetes.io/zone": "z", "node.kubernetes.io/x": "", "my": "1"}
    node = await client.create("nodes", {"metadata": {"name": "n3", "labels": labels}})
    await client.patch("nodes", "n3", "", {"metadata": {"labels": {"my": "2"}}})
    await client.patch("nodes", "n3", "", {"status": {"conditions": []}}, subresource="status")
    await client.create(LEASES, named("n3", "kube-node-lease"))
    await client.patch(LEASES, "n3", "kube-node-lease", {"spec": {"holderIdentity": "n3"}})
    await client.create(CSI_NODES, named("n3", "", spec={"drivers": []}))
    event: Object = {"involvedObject": {"kind": "Node", "name": "n3"}, "type": "Normal", "reason": "r", "message": "m"}
    await client.create("events", named("e", **event))
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n3", "uid": node["metadata"]["uid"], "controller": True}
    made = mirror("n3")
    made["metadata"]["ownerReferences"] = [owner]
    await client.create("pods", made)
    mine = await admin.create("pods", of_all_kinds("none", "n3"))
    await client.patch("pods", "none", "default", {"status": {"phase": "Running"}}, subresource="status")
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "none", "uid": mine["metadata"]["uid"]}
    with pytest.raises(errors.BadRequest, match="token signing key"):
        await client.create("serviceaccounts", named("none", spec={"boundObjectRef": bound}), subresource="token")
    await client.get("secrets", "none-secret", "default")
    await client.delete("pods", "none", "default", grace_period_s=0)
    # With the pod goes what it gave access to.
    assert await admin.list("pods", "default")
    with pytest.raises(errors.Forbidden, match="no relationship found between node 'n3' and this object"):
        await client.get("secrets", "none-secret", "default")


async def test_a_pod_opens_its_secrets_though_the_server_has_not_seen_it_yet(stack: Stack) -> None:
    """The kubelet has heard of it from another server."""
    admin, client, hub = stack.client(), kubelet(stack), stack.servers[0].registry.hub
    await admin.create("secrets", named("s"))
    with pytest.raises(errors.Forbidden, match=UNRELATED):
        await client.get("secrets", "s", "default")
    stack.etcd.frozen = True
    await admin.create("pods", pod("p", "n1", volumes=[{"name": "v", "secret": {"secretName": "s"}}]))
    asking = asyncio.ensure_future(client.get("secrets", "s", "default"))
    while not hub._waiting and not asking.done():
        await asyncio.sleep(0.001)
    stack.etcd.frozen = False
    stack.etcd.break_streams()
    assert (await asyncio.wait_for(asking, 10))["metadata"]["name"] == "s"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_host_of_several_nodes_is_each_of_them(furnished: Stack) -> None:
    both, none = host(furnished, "n1", "n2"), "no relationship found between node 'n1 and 1 more' and this object"
    for prefix in ("one", "two"):
        await both.get("secrets", f"{prefix}-secret", "default")
        await both.patch("pods", prefix, "default", {"status": {"phase": "Running"}}, subresource="status")
    with pytest.raises(errors.Forbidden, match=none):
        await both.get("secrets", "none-secret", "default")
    answers = await both.batch([
        ops.patch(LEASES, name, "kube-node-lease", {"spec": {"holderIdentity": name}}) for name in ("n1", "n2", "n3")
    ])  # fmt: skip
    assert [isinstance(a, errors.Forbidden) for a in answers] == [False, False, True]
    pods = Informer(both, "pods", field_selector="spec.nodeName in (n1,n2)")
    pods.start()
    await pods.synced()
    assert sorted(o["metadata"]["name"] for o in pods.list()) == ["one", "two"]
    await pods.stop()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_kubelet_says_where_it_is_and_what_it_holds_of_itself_alone(furnished: Stack) -> None:
    """A node that joined has the rights of a kubelet; the cluster's own hosts are believed."""
    joined, ours = kubelet(furnished), host(furnished, "n1")

    async def noted(client: ApiClient, **notes: str | None) -> None:
        known = {"host": HOST_ADDRESS, "lease": HEARTBEAT, "volumes": VOLUME_CAPACITY}
        annotations = {known[key]: value for key, value in notes.items()}
        await client.patch("nodes", "n1", "", {"metadata": {"annotations": annotations}})

    own = f"{server_name('n1')}@192.0.2.1:10250"
    await noted(joined, host=own, lease="n1", volumes="0")
    for notes, refusal in (
        ({"host": "192.0.2.1:10250"}, "is not allowed to be reached as another than"),
        ({"host": f"{server_name('n2')}@192.0.2.1:10250"}, "is not allowed to be reached as another than"),
        ({"lease": "n2"}, 'is not allowed to live by the Lease of node "n2"'),
        ({"volumes": "1Gi"}, "is not allowed to have volumes"),
    ):
        with pytest.raises(errors.Forbidden, match=f'node "?n1"? {refusal}'):
            await noted(joined, **notes)
    await noted(joined, host=None, lease=None)
    await noted(ours, host="192.0.2.1:10250", volumes="1Gi")
    # What it is by now stays, whoever writes next.
    await noted(joined, host="192.0.2.1:10250")
    with pytest.raises(errors.Forbidden, match="by the Lease of node"):
        await noted(ours, lease="n2")


@pytest.mark.asyncio(loop_scope="module")
async def test_groups_of_nodes_make_nobody_else_a_node(furnished: Stack) -> None:
    for user, groups in (("jane", ("system:nodes", "system:node:n1")), ("system:node:n1", ("system:node:n2",))):
        with pytest.raises(errors.Forbidden, match=f'User "{user}" cannot get resource'):
            await furnished.client_as(user, *groups).get("secrets", "one-secret", "default")
    with pytest.raises(errors.Forbidden, match='unknown node for user "system:node:"'):
        await furnished.client_as("system:node:", "system:nodes").get("secrets", "one-secret", "default")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_host_runs_proxy_dns_ingress_policies_and_volumes(furnished: Stack) -> None:
    client = host(furnished, "n1")
    for resource in ("nodes", "services", SLICES, "namespaces", INGRESSES, "persistentvolumes"):
        await client.list(resource)
    # A policy names pods of any node by their labels, so that a host reads all of them; it still writes its own alone.
    for resource in ("networkpolicies.networking.k8s.io", "pods"):
        await client.list(resource)
    with pytest.raises(errors.Forbidden, match="can only delete pods"):
        await client.delete("pods", "two", "default")
    with pytest.raises(errors.Forbidden):
        await kubelet(furnished).list("pods")
    await client.list(LEASES, "kube-system")
    lease = await client.get(LEASES, "volume-v1", "kube-system")
    # The holder of a volume's record is who writes the volume: no host names one that is not its own node.
    own = await client.update(LEASES, lease | {"spec": {"holderIdentity": "n1"}})
    with pytest.raises(errors.Forbidden, match="can only make itself the writer of a volume"):
        await client.update(LEASES, own | {"spec": {"holderIdentity": "n3"}})
    with pytest.raises(errors.Forbidden, match="can only make itself the writer of a volume"):
        await client.create(LEASES, named("volume-v2", "kube-system", spec={"holderIdentity": "n3"}))
    await client.update(LEASES, own | {"spec": {}})
    leader = await client.get(LEASES, "kube-scheduler", "kube-system")
    with pytest.raises(errors.Forbidden, match='can only access leases in the "kube-node-lease" system namespace'):
        await client.update(LEASES, leader)
    with pytest.raises(errors.Forbidden, match='can only access leases in the "kube-node-lease" system namespace'):
        await client.create(LEASES, named("kube-controller-manager", "kube-system"))
    for resource in ("secrets", "configmaps"):
        with pytest.raises(errors.Forbidden):
            await client.list(resource)


async def test_what_an_earlier_version_granted_is_taken_back(stack: Stack) -> None:
    registry = stack.servers[0].registry
    subjects = [{"apiGroup": RBAC, "kind": "Group", "name": "system:nodes"}]
    secrets = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
    admin = stack.client()
    await admin.patch(f"clusterroles.{RBAC}", "system:node-proxier", "", {"rules": secrets})
    for name in ("system:node", "system:node-proxier"):
        await admin.patch(f"clusterrolebindings.{RBAC}", name, "", {"subjects": subjects})
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    await admin.patch(f"clusterroles.{RBAC}", "system:kube-controller-manager", "", {"rules": everything})
    controllers = stack.client_as("system:kube-controller-manager")
    await controllers.create("secrets", named("made"))
    await kubelet(stack).list("secrets")
    await stack.add_server()
    with pytest.raises(errors.Forbidden):
        await kubelet(stack).list("secrets")
    with pytest.raises(errors.Forbidden):
        await controllers.create("secrets", named("another"))
    info = registry.kinds.named(f"clusterrolebindings.{RBAC}")

    async def keep(current: Object) -> Object:
        marked = {"rbac.authorization.kubernetes.io/autoupdate": "false"}
        meta = {**current["metadata"], "annotations": marked}
        return {**current, "metadata": meta, "subjects": subjects}

    await registry.writer.change(SYSTEM, Target(info, "", "system:node-proxier"), keep, WriteOptions())
    await stack.add_server()
    kept = await admin.get(f"clusterrolebindings.{RBAC}", "system:node-proxier")
    assert kept["subjects"] == subjects


def test_the_nodes_of_a_host_are_who_it_is_and_no_groups_that_each_request_looks_through() -> None:
    hosts = {f"n{n}" for n in range(2000)}
    name, groups = host_identity(sorted(hosts), fallback="")
    user = User(name, (*groups, "system:authenticated"))
    assert user.nodes == hosts
    assert user.groups == ("system:nodes", "rayplane:node-hosts", "system:authenticated")
    # Hosts whose first node has the same name are not the same for that.
    assert user == User(name, user_groups := (*groups, "system:authenticated"))
    assert user != User(name, tuple(one for one in user_groups if one != "system:node:n7"))
    # Who is no node keeps what its certificate says.
    assert User("jane", groups).groups == groups

"""The graph of what nodes need, against one that is computed anew from all there is."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.authorization import node as node_authorization
from rayplane.control_plane.api.authorization.node_graph import CLAIMS, VOLUMES, NodeGraph, Ref, pod_references
from rayplane.control_plane.api.authorization.node_identity import host_identity, nodes_of
from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.api.ingresses import INGRESSES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import NODE_HOSTS
from rayplane.control_plane.rpc import tls

NAMES = ("a", "b")
NODES = ("", "n1", "n2")
names, nodes = st.sampled_from(NAMES), st.sampled_from(NODES)


def pod(name: str, node: str, secret: str, claim: str, life: int) -> Object:
    volumes = [
        {"name": "s", "secret": {"secretName": secret}},
        {"name": "c", "persistentVolumeClaim": {"claimName": claim}},
    ]
    meta = {"name": name, "namespace": "d", "uid": str(life)}
    return {"metadata": meta, "spec": {"nodeName": node, "volumes": volumes}}


def volume(name: str, claim: str, secret: str) -> Object:
    source = {"csi": {"nodeStageSecretRef": {"name": secret, "namespace": "d"}}}
    return {"metadata": {"name": name}, "spec": {**source, "claimRef": {"namespace": "d", "name": claim}}}


pods = st.builds(lambda *parts: ("pods", pod(*parts)), names, nodes, names, names, st.integers(0, 2))
volumes = st.builds(lambda *parts: (VOLUMES, volume(*parts)), names, names, names)
changes = st.lists(st.tuples(st.booleans(), st.one_of(pods, volumes)), max_size=30)


def needs(objects: dict[Any, Object], node: str) -> set[Ref]:
    """What a node may read, by the definition."""
    found: set[Ref] = set()
    for (resource, name), o in objects.items():
        if resource == "pods" and o["spec"]["nodeName"] == node:
            found |= {Ref("pods", "d", name), *pod_references(o)}
    for (resource, name), o in objects.items():
        if resource == VOLUMES and Ref(CLAIMS, "d", o["spec"]["claimRef"]["name"]) in found:
            secret = o["spec"]["csi"]["nodeStageSecretRef"]["name"]
            found |= {Ref(VOLUMES, "", name), Ref("secrets", "d", secret)}
    return found


@given(changes=changes)
def test_a_node_reaches_exactly_what_its_pods_need(changes: list[tuple[bool, tuple[str, Object]]]) -> None:
    graph = NodeGraph()
    objects: dict[tuple[str, str], Object] = {}
    for removed, (resource, o) in changes:
        key = (resource, o["metadata"]["name"])
        old = objects.get(key)
        if removed:
            objects.pop(key, None)
            graph.remove(resource, o)
            continue
        if old is not None and resource == "pods" and old["metadata"]["uid"] == o["metadata"]["uid"]:
            # Only the node of a living pod may change, from none to one.
            o = {**old, "spec": {**old["spec"], "nodeName": old["spec"]["nodeName"] or o["spec"]["nodeName"]}}
        objects[key] = o
        graph.put(resource, o)
    everything = {Ref(r, "" if r == VOLUMES else "d", n) for r in ("pods", "secrets", CLAIMS, VOLUMES) for n in NAMES}
    for node in ("n1", "n2"):
        assert {ref for ref in everything if graph.reaches(ref, frozenset((node,)))} == needs(objects, node)
    if not objects:
        assert graph == NodeGraph()


def test_references_of_every_kind_are_found() -> None:
    env = [{"name": "x", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]
    spec = {
        "serviceAccountName": "acc",
        "imagePullSecrets": [{"name": "s1"}],
        "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s2"}}]}],
        "containers": [{"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "m2"}}]}],
        "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s3"}}]}],
        "volumes": [
            {"name": "v1", "projected": {"sources": [{"secret": {"name": "s4"}}, {"configMap": {"name": "m3"}}]}},
            {"name": "v2", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "v3", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s5"}}},
            {"name": "v4", "cephfs": {"monitors": [], "secretRef": {"name": "s6"}}},
            {"name": "v5", "configMap": {"name": "m4"}},
        ],
    }
    found = set(pod_references({"metadata": {"name": "p", "namespace": "d"}, "spec": spec}))
    expected = {("secrets", f"s{i}") for i in range(1, 7)} | {("configmaps", f"m{i}") for i in range(1, 5)}
    expected |= {("serviceaccounts", "acc"), (CLAIMS, "p-v2")}
    assert found == {Ref(resource, "d", name) for resource, name in expected}


def test_one_certificate_names_hundreds_of_nodes() -> None:
    wanted = [f"node-{i}" for i in range(500)]
    user, groups = host_identity(wanted, fallback="")
    identity = tls.identity_of(tls.Authority.create("ca").issue(user, groups).cert)
    assert nodes_of(identity.user, identity.groups) == set(wanted)
    assert nodes_of("jane", identity.groups) is None
    assert nodes_of("system:node:x", ("system:masters",)) is None


def ingress(name: str, secret: str, **spec: Any) -> Object:
    tls = [{"secretName": secret, "hosts": ["h"]}] if secret else []
    return {"metadata": {"name": name, "namespace": "d"}, "spec": {"tls": tls, **spec}}


def asks(graph: NodeGraph, verb: str, secret: str, *groups: str, namespace: str = "d") -> bool:
    request = Attributes(
        user="system:node:n1", groups=groups, verb=verb, resource="secrets", namespace=namespace, name=secret
    )
    return node_authorization.decide(request, frozenset({"n1"}), graph).allowed


def test_hosts_of_nodes_see_the_certificates_that_ingresses_show_and_no_other_secret() -> None:
    graph = NodeGraph()
    for name in ("one", "two"):
        graph.put(INGRESSES, ingress(name, "cert"))
    graph.put(INGRESSES, ingress("foreign", "other", ingressClassName="nginx"))
    assert asks(graph, "get", "cert", NODE_HOSTS) and asks(graph, "watch", "cert", NODE_HOSTS)
    assert asks(graph, "get", "rayplane-ingress-tls", NODE_HOSTS, namespace="kube-system")
    # Not a node that is no host, not to change it, not all of them, not those of others.
    assert not asks(graph, "get", "cert")
    assert not asks(graph, "update", "cert", NODE_HOSTS)
    assert not asks(graph, "list", "", NODE_HOSTS)
    assert not asks(graph, "get", "cert", NODE_HOSTS, namespace="e")
    assert not asks(graph, "get", "other", NODE_HOSTS)
    graph.put(INGRESSES, ingress("one", ""))
    assert asks(graph, "get", "cert", NODE_HOSTS)
    graph.remove(INGRESSES, ingress("two", "cert"))
    assert not asks(graph, "get", "cert", NODE_HOSTS)

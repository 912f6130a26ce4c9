"""Manifests as people publish them: applied unchanged every pod gets ready, and deleting them leaves nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, Kubectl, until

MANIFESTS = Path(__file__).parent / "manifests"
# Of what the controllers make for a user's objects.
DEPENDENTS = "pods,replicasets,controllerrevisions,endpoints,endpointslices"


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--nodes", "3")


@pytest.fixture
def kubectl(cluster: Cluster, fresh_namespace: Callable[..., Kubectl], request: pytest.FixtureRequest) -> Kubectl:
    name = str(request.node.name).replace("_", "-").partition("[")[0]
    return fresh_namespace(cluster, "", name)


def rows(kubectl: Kubectl, what: str) -> dict[str, list[str]]:
    """Cells of `kubectl get`, by name."""
    return {line.split()[0]: line.split()[1:] for line in kubectl("get", what, "--no-headers").splitlines()}


def apply(kubectl: Kubectl, file: str) -> None:
    kubectl("apply", "-f", str(MANIFESTS / file))
    # A second time nothing changes: what was stored is what was asked for. (kubectl says `configured` of claim
    # templates all the same, as it does with any cluster: a list that is replaced as a whole has got defaults.)
    again = kubectl("apply", "-f", str(MANIFESTS / file)).splitlines()
    changed = [line for line in again if not line.endswith(" unchanged")]
    assert [line for line in changed if not line.startswith("statefulset")] == []
    assert {o["metadata"]["generation"] for o in kubectl.items("deployments,statefulsets")} == {1}


def delete(kubectl: Kubectl, file: str) -> None:
    kubectl("delete", "-f", str(MANIFESTS / file), "--timeout=180s")
    until("nothing is left", lambda: kubectl.names(DEPENDENTS) == [])
    assert set(kubectl.names("all,ingresses,serviceaccounts")) == {"serviceaccount/default"}


@pytest.mark.turn(0, of=2)
def test_a_shop_of_twelve_deployments(kubectl: Kubectl) -> None:
    apply(kubectl, "shop.yaml")
    kubectl("wait", "--for=condition=Available", "deployments", "--all", "--timeout=180s")
    deployments = rows(kubectl, "deployments")
    assert len(deployments) == 12
    assert all(cells[:3] == ["1/1", "1", "1"] for cells in deployments.values())
    assert all(cells[:2] == ["1/1", "Running"] for cells in rows(kubectl, "pods").values())
    services = rows(kubectl, "services")
    kind, cluster_ip, external_ip, ports = services["storefront-external"][:4]
    assert kind == "LoadBalancer" and cluster_ip.startswith("127.")
    kubectl.until("service storefront-external", "{.status.loadBalancer.ingress[0].ip}", [external_ip])
    assert ports.startswith("80:3") and ports.endswith("/TCP")
    assert services["catalog"][0] == "ClusterIP" and services["catalog"][2:4] == ["<none>", "3550/TCP"]
    accounts = {p["spec"]["serviceAccountName"] for p in kubectl.items("pods")}
    assert {"storefront", "shoppers", "default"} <= accounts
    delete(kubectl, "shop.yaml")


def test_a_notebook_with_leader_and_followers(kubectl: Kubectl) -> None:
    apply(kubectl, "notebook.yaml")
    kubectl("wait", "--for=condition=Available", "deployments", "--all", "--timeout=180s")
    assert {name: cells[0] for name, cells in rows(kubectl, "deployments").items()} == {
        "store-leader": "1/1",
        "store-follower": "2/2",
        "notebook": "3/3",
    }
    kind, _, external_ip, ports = rows(kubectl, "services")["notebook"][:4]
    assert (kind, external_ip) == ("NodePort", "<none>")
    assert 30000 <= int(ports.removeprefix("80:").removesuffix("/TCP")) <= 32767
    addresses = {p["status"]["podIP"] for p in kubectl.items("pods", "-l", "app=notebook")}
    slices = kubectl.items("endpointslices", "-l", "kubernetes.io/service-name=notebook")
    assert {a for s in slices for e in s["endpoints"] for a in e["addresses"]} == addresses
    assert len(addresses) == 3
    delete(kubectl, "notebook.yaml")


def test_a_ring_of_three_peers_with_a_claim_each(kubectl: Kubectl) -> None:
    apply(kubectl, "ring.yaml")
    kubectl("rollout", "status", "statefulset/ring", "--timeout=180s")
    assert rows(kubectl, "statefulsets")["ring"][0] == "3/3"
    assert list(rows(kubectl, "pods")) == ["ring-0", "ring-1", "ring-2"]
    claims = rows(kubectl, "persistentvolumeclaims")
    assert list(claims) == ["data-ring-0", "data-ring-1", "data-ring-2"]
    for name, (status, volume, capacity, modes, storage_class, *_) in claims.items():
        assert (status, capacity, modes, storage_class) == ("Bound", "1Gi", "RWO", "quick")
        cells = rows(kubectl, f"persistentvolumes/{volume}")[volume]
        assert cells[:6] == ["1Gi", "RWO", "Delete", "Bound", f"{kubectl.namespace}/{name}", "quick"]
    assert rows(kubectl, "services")["ring"][1] == "None"
    born = [p["metadata"]["creationTimestamp"] for p in kubectl.items("pods")]
    assert born == sorted(born)
    delete(kubectl, "ring.yaml")
    # As on Kubernetes the claims outlive their StatefulSet, and their volumes go with them.
    assert set(rows(kubectl, "persistentvolumeclaims")) == set(claims)
    kubectl("delete", "persistentvolumeclaims", "--all", "--timeout=180s")
    until("the volumes are deleted", lambda: kubectl.names("persistentvolumes") == [])

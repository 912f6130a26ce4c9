"""Claims that a pod brings with it."""

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.ephemeralvolume import EphemeralVolumeController
from tests.controllers.cluster import Cluster

CLAIMS = "persistentvolumeclaims"
SPEC = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": SPEC}


def pod(cluster: Cluster) -> Object:
    volumes = [{"name": "data", "ephemeral": {"volumeClaimTemplate": TEMPLATE}}, {"name": "tmp", "emptyDir": {}}]
    return cluster.add("pods", "web", spec={"containers": [], "volumes": volumes}, status={"phase": "Pending"})


def test_a_pod_gets_the_claims_that_it_brings() -> None:
    cluster = Cluster(EphemeralVolumeController())
    owner = pod(cluster)
    cluster.settle()
    assert [meta.name(c) for c in cluster.list(CLAIMS)] == ["web-data"]
    claim = cluster.get(CLAIMS, "default", "web-data")
    assert claim is not None and meta.is_controlled_by(claim, owner)
    assert (claim["spec"], meta.labels(claim)) == (SPEC, {"app": "web"})


def test_a_claim_of_somebody_else_is_left_and_told_of() -> None:
    cluster = Cluster(EphemeralVolumeController())
    cluster.add(CLAIMS, "web-data", spec={}, status={})
    pod(cluster)
    cluster.settle()
    claim = cluster.get(CLAIMS, "default", "web-data")
    assert claim is not None and meta.controller_of(claim) is None
    assert cluster.reasons() == ["FailedBinding"]


def test_a_claim_is_made_again_while_its_pod_lives() -> None:
    cluster = Cluster(EphemeralVolumeController())
    pod(cluster)
    cluster.settle()
    cluster.remove_object(CLAIMS, cluster.list(CLAIMS)[0])
    cluster.settle()
    assert [meta.name(c) for c in cluster.list(CLAIMS)] == ["web-data"]
    cluster.change("pods", "web", status={"phase": "Succeeded"})
    cluster.remove_object(CLAIMS, cluster.list(CLAIMS)[0])
    cluster.settle()
    assert cluster.list(CLAIMS) == []

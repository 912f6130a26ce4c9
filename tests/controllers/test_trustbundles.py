"""API servers' anchors stand in a bundle that is named after what it holds, and no former one stays."""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.trustbundles import BUNDLES, TrustBundlePublisher
from tests.controllers.cluster import Cluster

SIGNER = "kubernetes.io/kube-apiserver-serving"


def names(cluster: Cluster) -> list[str]:
    return sorted(meta.name(one) for one in cluster.list(BUNDLES))


def test_a_bundle_is_made_kept_and_made_anew_where_somebody_took_it() -> None:
    cluster = Cluster(TrustBundlePublisher("PEM"))
    cluster.settle()
    (name,) = names(cluster)
    # The first bytes of the digest of "PEM".
    assert name == "kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9"
    bundle = cluster.require(BUNDLES, "", name)
    assert bundle["spec"] == {"signerName": SIGNER, "trustBundle": "PEM"}
    cluster.change(BUNDLES, name, spec={"signerName": SIGNER, "trustBundle": "another"})
    cluster.settle()
    assert cluster.require(BUNDLES, "", name)["spec"]["trustBundle"] == "PEM"
    cluster.remove_object(BUNDLES, bundle)
    cluster.settle()
    assert names(cluster) == [name]


def test_the_bundle_of_a_former_authority_goes_and_those_of_others_stay() -> None:
    cluster = Cluster(TrustBundlePublisher("PEM"))
    cluster.add(BUNDLES, "kubernetes.io:kube-apiserver-serving:0", spec={"signerName": SIGNER, "trustBundle": "old"})
    cluster.add(BUNDLES, "example.com:a:0", spec={"signerName": "example.com/a", "trustBundle": "theirs"})
    cluster.add(BUNDLES, "plain", spec={"trustBundle": "theirs"})
    cluster.settle()
    left = names(cluster)
    assert len(left) == 3 and {"example.com:a:0", "plain"} < {*left}
    assert "kubernetes.io:kube-apiserver-serving:0" not in left

"""Classes of volume attributes that somebody names stay; requests for pods' certificates go when they are old."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.controllers.attributesclassprotection import (
    CLAIMS,
    CLASSES,
    FINALIZER,
    VOLUMES,
    AttributesClassProtection,
)
from rayplane.control_plane.controllers.podcertificatecleaner import KEPT_S, REQUESTS, PodCertificateCleaner
from tests.controllers.cluster import Cluster

COMING = {"targetVolumeAttributesClassName": "gold", "status": "Pending"}
USES: dict[str, tuple[str, dict[str, Any]]] = {
    "wanted by a claim": (CLAIMS, {"spec": {"volumeAttributesClassName": "gold"}}),
    "had by a claim": (CLAIMS, {"spec": {}, "status": {"currentVolumeAttributesClassName": "gold"}}),
    "on its way to a claim": (CLAIMS, {"spec": {}, "status": {"modifyVolumeStatus": COMING}}),
    "of a volume": (VOLUMES, {"spec": {"volumeAttributesClassName": "gold"}}),
}


@pytest.mark.parametrize("use", USES)
def test_a_class_stays_while_it_is_named(use: str) -> None:
    resource, fields = USES[use]
    cluster = Cluster(AttributesClassProtection())
    made = cluster.add(CLASSES, "gold", driverName="d")
    cluster.settle()
    assert cluster.require(CLASSES, "", "gold")["metadata"]["finalizers"] == [FINALIZER]
    user = cluster.add(resource, "u", **fields)
    cluster.delete_object(CLASSES, made)
    cluster.settle()
    assert cluster.get(CLASSES, "", "gold") is not None
    cluster.remove_object(resource, user)
    cluster.settle()
    assert cluster.get(CLASSES, "", "gold") is None


def test_a_claim_that_names_another_class_lets_it_go() -> None:
    cluster = Cluster(AttributesClassProtection())
    made = cluster.add(CLASSES, "gold", driverName="d", metadata={"finalizers": ["x/y"]})
    cluster.add(CLAIMS, "u", spec={"volumeAttributesClassName": "gold"})
    cluster.settle()
    cluster.delete_object(CLASSES, made)
    cluster.settle()
    cluster.change(CLAIMS, "u", spec={"volumeAttributesClassName": "silver"})
    cluster.settle()
    assert cluster.require(CLASSES, "", "gold")["metadata"]["finalizers"] == ["x/y"]


def test_requests_for_certificates_of_pods_go_after_half_an_hour() -> None:
    cluster = Cluster(PodCertificateCleaner())
    cluster.add(REQUESTS, "r", spec={})
    cluster.advance(KEPT_S - 1)
    assert cluster.get(REQUESTS, "default", "r") is not None
    cluster.advance(1)
    assert cluster.get(REQUESTS, "default", "r") is None

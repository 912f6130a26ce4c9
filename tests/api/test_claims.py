"""Which volume is fit for which claim, and which nodes a selector admits."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.claims import fits, is_free, refers_to
from rayplane.control_plane.api.node_affinity import admits, node_terms, required_terms


def claim(**spec: Any) -> dict[str, Any]:
    asked = {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], **spec}
    return {"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": asked}


def volume(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    has = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], **spec}
    return {"metadata": {"name": "v", "labels": labels or {}}, "spec": has}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (volume(), claim(), True),
        (volume(capacity={"storage": "1023Mi"}), claim(), False),
        (volume(storageClassName="fast"), claim(), False),
        (volume(), claim(accessModes=["ReadWriteMany"]), False),
        (volume(volumeMode="Block"), claim(), False),
        (volume(volumeMode="Filesystem"), claim(), True),
        (volume({"a": "b"}), claim(selector={"matchLabels": {"a": "b"}}), True),
        (volume(), claim(selector={"matchLabels": {"a": "b"}}), False),
    ],
)
def test_a_volume_fits_by_class_size_modes_and_labels(
    one: dict[str, Any], other: dict[str, Any], expected: bool
) -> None:
    assert fits(one, other) is expected


def test_a_volume_that_goes_fits_nobody() -> None:
    going = volume()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not fits(going, claim())


def test_a_volume_is_its_claim_s_by_name_and_by_uid_where_there_is_one() -> None:
    ref = {"namespace": "n", "name": "c"}
    assert refers_to(volume(claimRef=ref), claim())
    assert refers_to(volume(claimRef={**ref, "uid": "u"}), claim())
    assert not refers_to(volume(claimRef={**ref, "uid": "earlier"}), claim())
    assert not refers_to(volume(), claim())
    assert is_free(volume())
    assert not is_free(volume(claimRef=ref))
    assert not is_free({**volume(), "status": {"phase": "Released"}})


def test_terms_are_alternatives_and_an_empty_one_admits_nothing() -> None:
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    name = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}
    assert admits(node_terms(None), {}, "n1")
    assert not admits(node_terms({"nodeSelectorTerms": [{}]}), {}, "n1")
    either = node_terms({"nodeSelectorTerms": [zone, name]})
    assert admits(either, {"zone": "a"}, "n1")
    assert admits(either, {}, "n2")
    assert not admits(either, {"zone": "b"}, "n1")
    both = {"nodeSelectorTerms": [{**zone, **name}]}
    spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": both}}}
    assert admits(required_terms(spec), {"zone": "a"}, "n2")
    assert not admits(required_terms(spec), {"zone": "a"}, "n1")

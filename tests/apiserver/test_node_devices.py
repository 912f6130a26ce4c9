"""Nodes and dynamic resources: the claims of their own pods, and slices of their own devices."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from tests.apiserver.conftest import Stack
from tests.apiserver.test_nodes import kubelet

CLAIMS, SLICES = "resourceclaims.resource.k8s.io", "resourceslices.resource.k8s.io"


def claim(name: str) -> dict[str, Any]:
    requests = [{"name": "r", "exactly": {"deviceClassName": "c"}}]
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"devices": {"requests": requests}}}


def pod(name: str, node: str, *claims: dict[str, str]) -> dict[str, Any]:
    named = [{"name": f"c{i}", **one} for i, one in enumerate(claims)]
    containers = [{"name": "c", "image": "i", "resources": {"claims": [{"name": one["name"]} for one in named]}}]
    spec = {"nodeName": node, "containers": containers, "resourceClaims": named}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def slice_of(node: str) -> dict[str, Any]:
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "d.example.com", "nodeName": node, "pool": pool, "devices": [{"name": "d0"}]}
    return {"metadata": {"name": f"of-{node}"}, "spec": spec}


async def test_a_node_reads_the_claims_that_its_pods_name_or_were_made_for_them(stack: Stack) -> None:
    admin = stack.client()
    for name in ("one", "made", "other"):
        await admin.create(CLAIMS, claim(name))
    await admin.create("pods", pod("a", "n1", {"resourceClaimName": "one"}, {"resourceClaimTemplateName": "t"}))
    await admin.create("pods", pod("b", "n2", {"resourceClaimName": "other"}))
    node = kubelet(stack)
    assert (await node.get(CLAIMS, "one", "default"))["metadata"]["name"] == "one"
    for name in ("made", "other"):
        with pytest.raises(errors.Forbidden, match="no relationship found between node 'n1' and this object"):
            await node.get(CLAIMS, name, "default")
    with pytest.raises(errors.Forbidden, match="can only get individual resources of this type"):
        await node.list(CLAIMS, "default")
    status = {"status": {"resourceClaimStatuses": [{"name": "c1", "resourceClaimName": "made"}]}}
    await admin.patch("pods", "a", "default", status, subresource="status")
    assert (await node.get(CLAIMS, "made", "default"))["metadata"]["name"] == "made"
    with pytest.raises(errors.Forbidden):
        await node.update(CLAIMS, claim("one"))


async def test_a_node_keeps_the_slices_of_its_own_devices(stack: Stack) -> None:
    admin, node = stack.client(), kubelet(stack)
    await admin.create(SLICES, slice_of("n2"))
    with pytest.raises(errors.Forbidden, match="can only create ResourceSlice with the same NodeName"):
        await node.create(SLICES, slice_of("n1") | {"spec": slice_of("n2")["spec"]})
    made = await node.create(SLICES, slice_of("n1"))
    made["spec"]["devices"] = [{"name": "d1"}]
    await node.update(SLICES, made)
    assert (await node.get(SLICES, "of-n1"))["spec"]["devices"] == [{"name": "d1"}]
    for call in (node.get(SLICES, "of-n2"), node.delete(SLICES, "of-n2")):
        with pytest.raises(errors.Forbidden, match="no relationship found between node 'n1' and this object"):
            await call
    scoped = await node.list(SLICES, field_selector="spec.nodeName=n1")
    assert [one["metadata"]["name"] for one in scoped.items] == ["of-n1"]
    for selector in ("", "spec.nodeName=n2"):
        with pytest.raises(errors.Forbidden, match="can only list/watch/deletecollection resourceslices with nodeName"):
            await node.list(SLICES, field_selector=selector)
    await node.delete(SLICES, "of-n1")
    assert [one["metadata"]["name"] for one in (await admin.list(SLICES)).items] == ["of-n2"]

"""Nodes and certificates: requests for those of their own pods, and bundles of whom to trust, which are for all."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import errors, meta
from tests.api.pems import AUTHORITY, STUB
from tests.apiserver.conftest import Stack
from tests.apiserver.test_nodes import furnish, kubelet

REQUESTS, BUNDLES = "podcertificaterequests.certificates.k8s.io", "clustertrustbundles.certificates.k8s.io"


async def request_for(stack: Stack, pod: str, **changes: Any) -> dict[str, Any]:
    admin = stack.client()
    found = await admin.get("pods", pod, "default")
    account = await admin.get("serviceaccounts", meta.spec(found)["serviceAccountName"], "default")
    node = await admin.get("nodes", meta.node_name(found))
    spec = {"signerName": "example.com/mesh", "stubPKCS10Request": STUB}
    for field, one in (("pod", found), ("serviceAccount", account), ("node", node)):
        spec |= {f"{field}Name": meta.name(one), f"{field}UID": meta.uid(one)}
    return {"metadata": {"generateName": "req-", "namespace": "default"}, "spec": spec | changes}


async def test_a_node_asks_for_certificates_of_its_own_pods_alone(stack: Stack) -> None:
    admin, node = stack.client(), kubelet(stack)
    await furnish(admin)
    made = await node.create(REQUESTS, await request_for(stack, "one"))
    for changes, why in (
        ({"podName": "two"}, "names podUID"),
        ({"podUID": "x"}, "names podUID"),
        ({"nodeUID": "x"}, "names nodeUID"),
        ({"serviceAccountUID": "x"}, "names serviceAccountUID"),
        ({"nodeName": "n2"}, "which is not the requesting node"),
    ):
        with pytest.raises(errors.Forbidden, match=why):
            await node.create(REQUESTS, await request_for(stack, "one", **changes))
    other = await request_for(stack, "two")
    with pytest.raises(errors.Forbidden, match="which is not the requesting node"):
        await node.create(REQUESTS, other)
    n1 = await admin.get("nodes", "n1")
    with pytest.raises(errors.Forbidden, match="is not running on node"):
        await node.create(REQUESTS, {**other, "spec": {**other["spec"], "nodeName": "n1", "nodeUID": meta.uid(n1)}})
    account = await admin.get("serviceaccounts", "none", "default")
    named = {"serviceAccountName": "none", "serviceAccountUID": meta.uid(account)}
    with pytest.raises(errors.Forbidden, match="differs from running pod"):
        await node.create(REQUESTS, await request_for(stack, "one", **named))
    seen = await node.list(REQUESTS, field_selector="spec.nodeName=n1")
    assert [meta.name(one) for one in seen.items] == [meta.name(made)]
    for selector in ("", "spec.nodeName=n2"):
        with pytest.raises(errors.Forbidden, match=r"with spec\.nodeName field selector"):
            await node.list(REQUESTS, field_selector=selector)
    for call in (node.delete(REQUESTS, meta.name(made), "default"), node.get(REQUESTS, meta.name(made), "default")):
        with pytest.raises(errors.Forbidden):
            await call


async def test_whom_to_trust_is_for_every_node_to_read(stack: Stack) -> None:
    admin, node = stack.client(), kubelet(stack)
    await admin.create(BUNDLES, {"metadata": {"name": "plain"}, "spec": {"trustBundle": AUTHORITY}})
    assert [meta.name(one) for one in (await node.list(BUNDLES)).items] == ["plain"]
    with pytest.raises(errors.Forbidden):
        await node.delete(BUNDLES, "plain")

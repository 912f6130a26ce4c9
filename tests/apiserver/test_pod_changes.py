"""A pod that is on a node is changed to nothing that its node does not have."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.pods.declared_features import DECLARED
from tests.apiserver.conftest import Stack


def amounts(cpu: str, *, limited: bool = False) -> dict[str, Any]:
    requests = {"cpu": cpu, "memory": "1Gi"}
    return {"requests": requests, **({"limits": requests} if limited else {})}


async def placed(
    stack: Stack, *, system: str = "linux", features: tuple[str, ...] = DECLARED, node: bool = True, **spec: Any
) -> None:
    """A pod on a node with 4 cores."""
    admin = stack.client()
    if node:
        labels = {"kubernetes.io/os": system} if system else {}
        await admin.create("nodes", {"metadata": {"name": "n1", "labels": labels}})
        status = {"allocatable": {"cpu": "4", "memory": "8Gi"}, "declaredFeatures": [*features]}
        await admin.patch("nodes", "n1", "", {"status": status}, subresource="status")
    made = {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "resources": amounts("1")}], **spec}
    await admin.create("pods", {"metadata": {"name": "p", "namespace": "default"}, "spec": made})


async def resize(stack: Stack, **spec: Any) -> dict[str, Any]:
    return dict(
        await stack.client().patch("pods", "p", "default", {"spec": spec}, kind="strategic", subresource="resize")
    )


def container(cpu: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "c", "resources": amounts(cpu, **more)}]


async def test_a_resize_beyond_the_whole_node_is_refused_in_a_way_that_programs_can_tell(stack: Stack) -> None:
    await placed(stack)
    text = r"Node didn't have enough allocatable resources: cpu, requested: 4500, allocatable: 4000$"
    with pytest.raises(errors.Forbidden, match=text) as refused:
        await resize(stack, containers=container("4500m"))
    assert (refused.value.details or {})["causes"] == [{"reason": "NodeCapacity"}]
    changed = await resize(stack, containers=container("3500m"))
    assert changed["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "3500m"


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"system": "windows"}, 'pod resize is only supported on linux nodes, node "n1" is "windows"'),
        ({"system": ""}, 'pod resize is only supported on linux nodes, node "n1" is ""'),
        ({"node": False}, 'node "n1" not found'),
    ],
)
async def test_a_node_that_cannot_resize_is_named(stack: Stack, given: dict[str, Any], refusal: str) -> None:
    await placed(stack, **given)
    with pytest.raises(errors.Forbidden, match=refusal):
        await resize(stack, containers=container("2"))
    await resize(stack, containers=container("1"))  # nothing changes


INIT = [{"name": "i", "image": "i", "resources": amounts("1")}]
GUARANTEED = [{"name": "c", "image": "i", "resources": amounts("1", limited=True)}]
CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "cpu of a guaranteed pod": (
        *("GuaranteedQoSPodCPUResize", {"containers": GUARANTEED}),
        {"containers": container("2", limited=True)},
    ),
    "a pod as a whole": (
        *("InPlacePodLevelResourcesVerticalScaling", {"resources": amounts("2")}),
        {"resources": amounts("3")},
    ),
    "an init container": (
        *("InPlacePodVerticalScalingInitContainers", {"initContainers": INIT}),
        {"initContainers": [{"name": "i", "resources": amounts("2")}]},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_node_must_have_declared_what_a_change_takes(stack: Stack, change: str) -> None:
    feature, spec, changed = CHANGES[change]
    await placed(stack, features=tuple(one for one in DECLARED if one != feature), **spec)
    text = f'pod update requires features {feature} which are not available on node "n1"'
    with pytest.raises(errors.Forbidden, match=text):
        await resize(stack, **changed)
    await stack.client().patch("nodes", "n1", "", {"status": {"declaredFeatures": [feature]}}, subresource="status")
    await resize(stack, **changed)

"""Stages at the API: every cluster serves them, refuses what cannot be played, and lets nodes read them."""

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import NODES
from tests.apiserver.conftest import Stack

STAGES = "stages.kwok.x-k8s.io"
EXECS = "execs.kwok.x-k8s.io"


def stage(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"resourceRef": {"apiGroup": "v1", "kind": "Pod"}, "selector": {}, **spec}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


async def test_a_new_cluster_serves_them(stack: Stack) -> None:
    client = stack.client()
    made = await client.create(STAGES, stage("a", next={"statusTemplate": "phase: Running"}))
    assert made["spec"]["next"] == {"statusTemplate": "phase: Running"}
    answers = [{"command": ["ls"], "stdout": "a"}]
    one = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"execs": [{"answers": answers}]}}
    assert (await client.create(EXECS, one))["apiVersion"] == "kwok.x-k8s.io/v1alpha1"


async def test_what_cannot_be_played_is_refused_with_its_line(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.Invalid, match=r"spec.next.statusTemplate: .*line 2: there is no function foo"):
        await client.create(STAGES, stage("a", next={"statusTemplate": "a: 1\nb: {{ foo }}"}))
    await client.create(STAGES, stage("a"))
    with pytest.raises(errors.Invalid, match=r"spec.delay.durationMilliseconds"):
        await client.patch(STAGES, "a", "", {"spec": {"delay": {"durationMilliseconds": 1 << 60}}})
    with pytest.raises(errors.Invalid, match="nothing runs on the machine"):
        one = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"execs": [{"local": {"workDir": "/"}}]}}
        await client.create(EXECS, one)


async def test_a_node_reads_them_and_changes_none(stack: Stack) -> None:
    await stack.client().create(STAGES, stage("a"))
    node = stack.client_as("system:node:n1", NODES)
    assert [one["metadata"]["name"] for one in (await node.list(STAGES)).items] == ["a"]
    assert (await node.list(EXECS)).items == []
    with pytest.raises(errors.Forbidden):
        await node.create(STAGES, stage("b"))
    with pytest.raises(errors.Forbidden):
        await node.patch(STAGES, "a", "", {"spec": {"weight": 1}})


async def test_a_component_makes_calls_in_the_name_of_a_tokens_owner(stack: Stack) -> None:
    await stack.add_server(static_tokens={"secret": ("jane", [])})
    node = stack.client_as("system:node:n1", NODES, number=1)
    review: Object = {"metadata": {}}
    subject = await node.bearing("secret").create("selfsubjectreviews.authentication.k8s.io", review)
    assert subject["status"]["userInfo"]["username"] == "jane"
    assert (await node.create("selfsubjectreviews.authentication.k8s.io", review))["status"]["userInfo"][
        "username"
    ] == "system:node:n1"
    with pytest.raises(errors.Unauthorized):
        await node.bearing("wrong").list("pods")

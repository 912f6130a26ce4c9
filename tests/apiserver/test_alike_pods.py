"""Pods that are asked for in the same words: worked out once, and each is what it would have become by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api.errors import ApiError, Forbidden, Invalid, NotFound
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.admission import AdmissionRequest
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client import ops
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.apiserver.conftest import Stack

Object = dict[str, Any]
POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "web-",
        "namespace": "default",
        "labels": {"app": "web"},
        "annotations": {"note": "a"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u"}],
    },
    "spec": {"containers": [{"name": "c", "image": "nginx"}]},
}


class Decoded:
    """How often a server has read the words of a pod."""

    def __init__(self, server: ApiServer) -> None:
        self.count = 0
        writer = server.registry.writer
        decode: Callable[..., Any] = writer.decode

        def counted(info: ResourceInfo, *args: Any) -> Any:
            self.count += info.name == "pods"
            return decode(info, *args)

        writer.decode = counted  # type: ignore[method-assign, assignment]


@pytest.fixture
def decoded(stack: Stack) -> Decoded:
    return Decoded(stack.servers[0])


def words(o: Object, *, spaces: int = 0) -> pb.Operation:
    """A create; the same object in other words for each number of `spaces`."""
    operation = ops.create("pods", o)
    operation.create.json = orjson.dumps(o) + b" " * spaces
    return operation


def plain(pod: Object) -> str:
    """What is left when all that is a pod's own is taken out; fields in their order."""
    own = pod["metadata"]
    text = orjson.dumps(pod).decode()
    for field in ("name", "uid", "resourceVersion", "creationTimestamp"):
        text = text.replace(f'"{field}":"{own[field]}"', f'"{field}":""')
    return re.sub("kube-api-access-[a-z0-9]{5}", "kube-api-access-", text)


async def batch(stack: Stack, operations: list[pb.Operation]) -> list[Object]:
    """What was made of them; none is refused."""
    answers = await stack.client().batch(operations)
    made = [answer for answer in answers if not isinstance(answer, ApiError)]
    assert len(made) == len(answers)
    return made


async def test_they_are_worked_out_once_and_are_what_each_would_have_become_by_itself(
    stack: Stack, decoded: Decoded
) -> None:
    made = await batch(stack, [words(POD)] * 40)
    assert decoded.count == 1
    apart = await batch(stack, [words(POD, spaces=n) for n in range(1, 4)])
    assert decoded.count == 4
    assert {plain(pod) for pod in (*made, *apart)} == {plain(made[0])}
    names, uids = ({pod["metadata"][field] for pod in made} for field in ("name", "uid"))
    assert len(names) == len(uids) == 40 and all(name.startswith("web-") for name in names)
    stored = (await stack.client().list("pods", "default")).items
    assert sorted(map(orjson.dumps, stored)) == sorted(map(orjson.dumps, (*made, *apart)))


async def test_other_words_and_other_users_are_told_apart(stack: Stack, decoded: Decoded) -> None:
    other = {**POD, "metadata": {**POD["metadata"], "labels": {"app": "db"}}}
    made = await batch(stack, [words(POD), words(other)] * 5)
    assert decoded.count == 2
    assert [pod["metadata"]["labels"]["app"] for pod in made] == ["web", "db"] * 5
    await stack.client_as("someone-else", "system:masters").batch([words(POD)] * 2)
    assert decoded.count == 3


TOP = {"metadata": {"name": "top"}, "value": 7, "globalDefault": True}
LIMIT = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}
LIMITS = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"limits": [LIMIT]}}


@pytest.mark.parametrize(
    ("resource", "made", "seen"),
    [
        ("priorityclasses.scheduling.k8s.io", TOP, {"priority": 7}),
        ("limitranges", LIMITS, {"requests": {"cpu": "100m"}}),
    ],
)
async def test_what_admission_looks_at_is_looked_at_again_once_it_has_changed(
    stack: Stack, decoded: Decoded, resource: str, made: Object, seen: Object
) -> None:
    client = stack.client()
    await client.batch([words(POD)] * 2)
    await client.create(resource, made)
    await stack.servers[0].registry.hub.fresh()
    for pod in await client.batch([words(POD)] * 2):
        assert isinstance(pod, dict)
        spec = pod["spec"]
        assert seen.items() <= {"priority": spec["priority"], **spec["containers"][0].get("resources", {})}.items()
    assert decoded.count == 2


async def test_what_an_account_brings_is_looked_at_again(stack: Stack, decoded: Decoded) -> None:
    client = stack.client()
    await client.batch([words(POD)] * 2)
    await client.patch("serviceaccounts", "default", "default", {"imagePullSecrets": [{"name": "s"}]})
    await stack.servers[0].registry.hub.fresh()
    for pod in await client.batch([words(POD)] * 2):
        assert isinstance(pod, dict) and pod["spec"]["imagePullSecrets"] == [{"name": "s"}]
    assert decoded.count == 2


async def test_what_a_runtime_class_costs_is_looked_at_again(stack: Stack, decoded: Decoded) -> None:
    client, kind = stack.client(), "runtimeclasses.node.k8s.io"
    pod = {**POD, "spec": {**POD["spec"], "runtimeClassName": "small"}}
    await client.create(kind, {"metadata": {"name": "small"}, "handler": "h"})
    await stack.servers[0].registry.hub.fresh()
    await client.batch([words(pod)] * 2)
    await client.patch(kind, "small", "", {"overhead": {"podFixed": {"cpu": "10m"}}})
    await stack.servers[0].registry.hub.fresh()
    for found in await client.batch([words(pod)] * 2):
        assert isinstance(found, dict) and found["spec"]["overhead"] == {"cpu": "10m"}
    assert decoded.count == 2


async def test_what_a_namespace_allows_is_looked_at_again(stack: Stack) -> None:
    client = stack.client()
    await client.batch([words(POD)] * 2)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await client.patch("namespaces", "default", "", {"metadata": {"labels": labels}})
    await stack.servers[0].registry.hub.fresh()
    for answer in await client.batch([words(POD)] * 2):
        assert isinstance(answer, Forbidden), answer


async def test_pods_that_are_made_with_their_node_have_its_zone_of_now(stack: Stack) -> None:
    client = stack.client()
    zone = "topology.kubernetes.io/zone"
    await client.create("nodes", {"metadata": {"name": "n1", "labels": {zone: "a"}}})
    pod = {**POD, "spec": {**POD["spec"], "nodeName": "n1"}}
    for now in ("a", "b"):
        await client.patch("nodes", "n1", "", {"metadata": {"labels": {zone: now}}})
        await stack.servers[0].registry.hub.fresh()
        for made in await client.batch([words(pod)] * 2):
            assert isinstance(made, dict) and made["metadata"]["labels"][zone] == now


async def test_what_others_made_of_one_meanwhile_is_not_made_of_the_next(stack: Stack, decoded: Decoded) -> None:
    admission = stack.servers[0].registry.writer._admission
    validate = admission.validate

    async def changed(request: AdmissionRequest) -> None:
        await validate(request)
        admission._taken += 1  # other plugins are in force from here on

    admission.validate = changed  # type: ignore[method-assign]
    await stack.client().batch([words(POD)] * 2)
    admission.validate = validate  # type: ignore[method-assign]
    admission._taken -= 2
    await stack.client().batch([words(POD)])
    assert decoded.count == 3


async def test_nothing_is_made_where_a_namespace_goes(stack: Stack) -> None:
    client = stack.client()
    await client.create("namespaces", {"metadata": {"name": "old"}})
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "old"}})
    there = {**POD, "metadata": {**POD["metadata"], "namespace": "old"}}
    await client.batch([words(there)] * 2)
    await client.delete("namespaces", "old")
    await stack.servers[0].registry.hub.fresh()
    for answer in await client.batch([words(there)] * 2):
        assert isinstance(answer, Forbidden | NotFound), answer


async def test_each_counts_for_a_quota(stack: Stack) -> None:
    client = stack.client()
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": "3"}}}
    await client.create("resourcequotas", quota)
    answers = await client.batch([words(POD)] * 8)
    refused = [a for a in answers if isinstance(a, Forbidden)]
    assert len(refused) == 5
    assert refused[0].message.endswith("exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3")
    assert (await client.get("resourcequotas", "q", "default"))["status"]["used"] == {"pods": "3"}


async def test_what_is_wrong_is_said_of_each(stack: Stack, decoded: Decoded) -> None:
    wrong = {**POD, "spec": {"containers": []}}
    answers = await stack.client().batch([words(wrong)] * 3)
    assert all(isinstance(a, Invalid) for a in answers) and decoded.count == 3


async def test_each_is_looked_at_whose_volumes_are_called_after_it(stack: Stack, decoded: Decoded) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"volumeClaimTemplate": {"spec": spec}}
    own = {**POD, "spec": {**POD["spec"], "volumes": [{"name": "v", "ephemeral": claim}]}}
    assert not [a for a in await stack.client().batch([words(own)] * 3) if isinstance(a, ApiError)]
    assert decoded.count == 3


async def test_who_is_recorded_or_asks_for_a_trial_makes_each_by_itself(stack: Stack, decoded: Decoded) -> None:
    client = stack.client()
    for options in ({"field_manager": "me"}, {"dry_run": True}):
        await client.batch([ops.create("pods", POD, **options)] * 2)
    assert decoded.count == 4
    assert [
        entry["manager"]
        for pod in (await client.list("pods", "default")).items
        for entry in pod["metadata"]["managedFields"]
    ] == ["me", "me"]


async def test_policies_are_asked_about_each(stack: Stack, decoded: Decoded) -> None:
    client, group = stack.client(), "admissionregistration.k8s.io"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "false"}]}
    await client.create(f"validatingadmissionpolicies.{group}", {"metadata": {"name": "p"}, "spec": spec})
    bound = {"policyName": "p", "validationActions": ["Warn"]}
    await client.create(f"validatingadmissionpolicybindings.{group}", {"metadata": {"name": "b"}, "spec": bound})
    await stack.servers[0].registry.hub.fresh()
    await client.batch([words(POD)] * 3)
    assert decoded.count == 3


async def test_plugins_that_are_switched_on_are_asked_about_each(stack: Stack) -> None:
    server = await stack.add_server(admission_plugins_on=("AlwaysPullImages",))
    decoded = Decoded(server)
    await stack.client(1).batch([words(POD)] * 3)
    assert decoded.count == 3

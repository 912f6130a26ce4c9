"""Pod Security admission: who is refused, who is warned, who is told what a new level would refuse."""

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.config import PodSecurityConfig
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rest import Rest, rest  # noqa: F401

PREFIX = "pod-security.kubernetes.io/"
PLAIN = {"containers": [{"name": "c", "image": "i"}]}
PRIVILEGED = {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]}
REFUSED = (
    'pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set '
    "securityContext.privileged=true)"
)
WARNED = 'would violate PodSecurity "baseline:latest": privileged (container "c" must not set ' + (
    "securityContext.privileged=true)"
)


async def namespace(client: ApiClient, name: str, **labels: str) -> None:
    marks = {PREFIX + key.replace("_", "-"): value for key, value in labels.items()}
    await client.create("namespaces", {"metadata": {"name": name, "labels": marks}})
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": name}})


def pod(name: str, space: str, spec: Any = PLAIN, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": space, **metadata}, "spec": spec}


async def test_pods_are_refused_created_changed_and_debugged(stack: Stack) -> None:
    client = stack.client()
    await namespace(client, "n", enforce="baseline")
    with pytest.raises(errors.Forbidden) as refused:
        await client.create("pods", pod("a", "n", PRIVILEGED))
    assert refused.value.message == REFUSED
    made = await client.create("pods", pod("a", "n"))
    made["spec"]["ephemeralContainers"] = [{"name": "x", "image": "i", "securityContext": {"privileged": True}}]
    with pytest.raises(errors.Forbidden, match='container "x" must not set'):
        await client.update("pods", made, subresource="ephemeralcontainers")
    # What was there before the level was raised may stay, and change in what does not matter.
    await client.create("pods", pod("old", "default", PRIVILEGED))
    await client.patch("namespaces", "default", "", {"metadata": {"labels": {PREFIX + "enforce": "baseline"}}})
    await client.patch("pods", "old", "default", {"metadata": {"labels": {"x": "y"}}})
    await client.patch("pods", "old", "default", {"status": {"phase": "Running"}}, subresource="status")
    old = await client.get("pods", "old", "default")
    old["spec"]["containers"][0]["image"] = "new"
    with pytest.raises(errors.Forbidden, match="violates PodSecurity"):
        await client.update("pods", old)


async def test_ephemeral_containers_are_added_once_whole_and_only_by_their_subresource(stack: Stack) -> None:
    client = stack.client()
    await namespace(client, "n", enforce="baseline")
    made = await client.create("pods", pod("a", "n"))
    privileged = {"name": "x", "image": "i", "securityContext": {"privileged": True}}

    def wanted(*containers: Any) -> Any:
        return {"spec": {"ephemeralContainers": list(containers)}}

    with pytest.raises(errors.Invalid, match="pod updates may not change"):
        await client.patch("pods", "a", "n", wanted({"name": "x", "image": "i"}))
    part: dict[str, Any] = {"subresource": "ephemeralcontainers"}
    await client.patch("pods", "a", "n", wanted({"name": "x", "image": "i"}), **part)
    made = await client.get("pods", "a", "n")
    (there,) = made["spec"]["ephemeralContainers"]
    with pytest.raises(errors.Invalid, match="Duplicate value"):
        await client.patch("pods", "a", "n", wanted(there, privileged), kind="merge", **part)
    for odd in (
        {"name": "../x", "image": "i"},
        {"name": "y", "image": "i", "volumeMounts": [{"name": "none", "mountPath": "/m"}]},
        {"name": "y", "image": "i", "ports": [{"containerPort": 1}]},
    ):
        with pytest.raises(errors.Invalid):
            await client.patch("pods", "a", "n", wanted(there, odd), kind="merge", **part)
    with pytest.raises(errors.Forbidden, match='container "y" must not set'):
        await client.patch("pods", "a", "n", wanted(there, {**privileged, "name": "y"}), kind="merge", **part)
    with pytest.raises(errors.Invalid):
        negative = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "-5"}}}]}}
        await client.patch("pods", "a", "n", negative, subresource="resize")
    assert (await client.get("pods", "a", "n"))["spec"] == made["spec"]


async def test_generated_names_and_validation_come_first(stack: Stack) -> None:
    client = stack.client()
    await namespace(client, "n", enforce="baseline")
    generated = {"metadata": {"generateName": "web-", "namespace": "n"}, "spec": PRIVILEGED}
    with pytest.raises(errors.Forbidden, match=r'pods "web-\w{5}" is forbidden'):
        await client.create("pods", generated)
    with pytest.raises(errors.Invalid):
        await client.create("pods", pod("a", "n", {**PRIVILEGED, "restartPolicy": "Sometimes"}))


async def test_controllers_are_warned_but_not_refused(rest: Rest) -> None:  # noqa: F811
    client = rest.stack.client()
    await namespace(client, "n", enforce="baseline")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": PRIVILEGED}
    selector = {"matchLabels": {"a": "b"}}
    once = {**template, "spec": {**PRIVILEGED, "restartPolicy": "Never"}}
    for path, spec in (
        ("apps/v1/namespaces/n/deployments", {"selector": selector, "template": template}),
        ("apps/v1/namespaces/n/statefulsets", {"selector": selector, "serviceName": "s", "template": template}),
        ("batch/v1/namespaces/n/jobs", {"template": once}),
        ("batch/v1/namespaces/n/cronjobs", {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once}}}),
    ):
        body = {"metadata": {"name": "a"}, "spec": spec}
        async with rest.request("POST", f"/apis/{path}", body) as response:
            assert (response.status, path) == (201, path)
            assert response.headers.getall("Warning") == ['299 - "' + WARNED.replace('"', '\\"') + '"']


async def test_raising_a_level_tells_which_pods_it_would_refuse(rest: Rest) -> None:  # noqa: F811
    client = rest.stack.client()
    await namespace(client, "n")
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
    for name in ("c", "b", "a"):
        await client.create("pods", pod(name, "n", PRIVILEGED, ownerReferences=[owner]))
    await client.create("pods", pod("net", "n", {**PLAIN, "hostNetwork": True}))
    await client.create("pods", pod("fine", "n"))
    merge = {"Content_Type": "application/merge-patch+json"}
    change = {"metadata": {"labels": {PREFIX + "enforce": "baseline"}}}
    async with rest.request("PATCH", "/api/v1/namespaces/n", change, **merge) as response:
        assert response.status == 200
        texts = [w.removeprefix('299 - "').removesuffix('"') for w in response.headers.getall("Warning")]
    assert texts == [
        'existing pods in namespace \\"n\\" violate the new PodSecurity enforce level \\"baseline:latest\\"',
        "a (and 2 other pods): privileged",
        "net: host namespaces",
    ]


async def test_wrong_labels_are_refused_but_old_ones_hold_nothing_up(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.Invalid) as refused:
        await client.create("namespaces", {"metadata": {"name": "n", "labels": {PREFIX + "enforce": "strict"}}})
    assert refused.value.message == (
        'Namespace "n" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": '
        "must be one of privileged, baseline, restricted"
    )
    await namespace(client, "n")
    with pytest.raises(errors.Invalid, match='must be "latest" or'):
        await client.patch("namespaces", "n", "", {"metadata": {"labels": {PREFIX + "warn-version": "1.30"}}})


async def test_exemptions_and_defaults_come_from_the_configuration() -> None:
    stack = Stack()
    config = PodSecurityConfig(
        defaults={"enforce": "baseline"},
        exempt_namespaces=frozenset({"free"}),
        exempt_runtime_classes=frozenset({"vm"}),
    )
    await stack.add_server(pod_security=config)
    client = stack.client()
    for space in ("free", "n"):
        await namespace(client, space)
    await client.create("pods", pod("a", "free", PRIVILEGED))
    await client.create("runtimeclasses.node.k8s.io", {"metadata": {"name": "vm"}, "handler": "vm"})
    await client.create("pods", pod("b", "n", {**PRIVILEGED, "runtimeClassName": "vm"}))
    with pytest.raises(errors.Forbidden, match="violates PodSecurity"):
        await client.create("pods", pod("a", "n", PRIVILEGED))
    await stack.stop()
    stack = Stack()
    await stack.add_server(
        pod_security=PodSecurityConfig(
            defaults={"enforce": "restricted"}, exempt_usernames=frozenset({"kubernetes-admin"})
        )
    )
    await namespace(stack.client(), "n")
    await stack.client().create("pods", pod("a", "n", PRIVILEGED))
    await stack.stop()


def test_a_configuration_with_odd_defaults_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of privileged, baseline, restricted"):
        PodSecurityConfig(defaults={"enforce": "strict"}).policy()
    with pytest.raises(ValueError, match="enforced"):
        PodSecurityConfig(defaults={"enforced": "baseline"}).policy()

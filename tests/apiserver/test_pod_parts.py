"""Pods changed through their subresources: what changes, what counts, and who comes to own what."""

from __future__ import annotations

from typing import Any

from tests.apiserver.test_patches import NAMESPACE, Api, api, entries  # noqa: F401

POD = f"{NAMESPACE}/pods/p"
HEAD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
Object = dict[str, Any]


async def a_pod(api: Api) -> Object:  # noqa: F811
    await api.made(f"{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    asked = {"requests": {"cpu": "1"}}
    containers = {
        "containers": [{"name": "c", "image": "i", "resources": asked}, {"name": "d", "image": "i"}],
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "resources": asked}],
    }
    made: Object = await api.made(f"{NAMESPACE}/pods", {**HEAD, "spec": containers})
    return made


async def test_a_resize_changes_resources_alone_and_is_a_new_generation(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    resize = {"resources": {"requests": {"cpu": "2"}}, "image": "other"}
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    body = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "containers": [{"name": "c", **resize}],
            "initContainers": [{"name": "s", **resize}],
        },
    }
    for _ in range(2):
        code, after = await api.patch("strategic", f"{POD}/resize", body)
        assert (code, after["metadata"]["generation"]) == (200, 2)
        assert "labels" not in after["metadata"]
        for container in (after["spec"]["containers"][0], after["spec"]["initContainers"][0]):
            assert (container["resources"], container["image"]) == ({"requests": {"cpu": "2"}}, "i")
    code, refusal = await api.patch(
        "strategic", f"{POD}/resize", {"spec": {"containers": [{"name": "c", "resizePolicy": policy}]}}
    )
    assert (code, refusal["message"]) == (
        422, 'Pod "p" is invalid: spec: Forbidden: only cpu and memory resources are mutable'
    )  # fmt: skip


async def test_who_applies_a_resize_owns_resources_and_nothing_else(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    container = {"name": "c", "image": "i", "resources": {"limits": {"cpu": "3"}}}
    config = {**HEAD, "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [container]}}
    code, after = await api.patch("apply", f"{POD}/resize", config, "m")
    assert (code, after["spec"]["containers"][0]["resources"]["limits"]) == (200, {"cpu": "3"})
    owned: Object = {
        "f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:resources": {"f:limits": {"f:cpu": {}}}}}}
    }
    assert entries(after)["m", "Apply", "resize"] == owned


async def test_who_adds_an_ephemeral_container_owns_it_and_nothing_else(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    config = {
        **HEAD,
        "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {
            "ephemeralContainers": [{"name": "e", "image": "i"}],
            "containers": [{"name": "c", "image": "i"}],
        },
    }
    code, after = await api.patch("apply", f"{POD}/ephemeralcontainers", config, "m")
    assert (code, after["metadata"]["generation"], after["metadata"].get("labels")) == (200, 2, None)
    owned: Object = {"f:ephemeralContainers": {'k:{"name":"e"}': {".": {}, "f:image": {}, "f:name": {}}}}
    assert entries(after)["m", "Apply", "ephemeralcontainers"] == {"f:spec": owned}


async def test_a_binding_is_no_new_generation(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}}
    assert (await api("POST", f"{POD}/binding", binding))[0] == 201
    bound = (await api("GET", POD))[1]
    assert (bound["spec"]["nodeName"], bound["metadata"]["generation"]) == ("n", 1)


async def test_what_was_observed_of_a_pod_is_not_forgotten(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    ready = {"type": "Ready", "status": "False"}
    seen = {"observedGeneration": 1, "conditions": [{**ready, "observedGeneration": 1}]}
    assert (await api.patch("merge", f"{POD}/status", {"status": seen}))[0] == 200
    code, after = await api("GET", POD)
    after["status"] = {"phase": "Pending", "conditions": [ready, {"type": "New", "status": "True"}]}
    code, after = await api("PUT", f"{POD}/status", after)
    assert (code, after["status"]["observedGeneration"]) == (200, 1)
    assert [one.get("observedGeneration") for one in after["status"]["conditions"]] == [1, None]
    code, after = await api.patch("merge", f"{POD}/status", {"status": {"observedGeneration": 2}})
    assert after["status"]["observedGeneration"] == 2

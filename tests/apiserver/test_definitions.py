"""Definitions of custom resources: whose names are whose, what stays, what was stored before, what goes."""

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rest import Rest, rest  # noqa: F401

CRDS = "customresourcedefinitions.apiextensions.k8s.io"


def version(name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": {"type": "object", **spec}}}
    return {"name": name, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **more}


def definition(
    *versions: dict[str, Any], kind: str = "Thing", group: str = "example.com", **names: Any
) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    return {
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, **names},
            "versions": list(versions) or [version("v1", {"properties": {"n": {"type": "integer"}}})],
        },
    }


def thing(spec: dict[str, Any], name: str = "one") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def condition(crd: dict[str, Any], kind: str) -> tuple[str, str, str]:
    found = next(c for c in crd["status"]["conditions"] if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


async def redefine(client: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    name = wanted["metadata"]["name"]
    return await client.patch(CRDS, name, "", {"spec": wanted["spec"]}, kind="merge")


async def test_who_comes_second_waits_until_the_names_are_free(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition(shortNames=["th"]))
    second = definition()
    second["spec"]["names"] = {"kind": "Other", "plural": "others", "shortNames": ["th"]}
    second["metadata"]["name"] = "others.example.com"
    made = await client.create(CRDS, second)
    assert condition(made, "NamesAccepted") == ("False", "ShortNamesConflict", '"th" is already in use')
    assert condition(made, "Established") == ("False", "NotAccepted", "not all names are accepted")
    assert made["status"]["acceptedNames"]["shortNames"] == []
    with pytest.raises(errors.NotFound):
        await client.list("others.v1.example.com")
    await client.delete(CRDS, "things.example.com")
    async with asyncio.timeout(30):
        while condition(await client.get(CRDS, "others.example.com"), "NamesAccepted")[0] != "True":
            await asyncio.sleep(0.01)
    assert (await client.list("others.v1.example.com")).items == []


async def test_a_kind_of_another_definition_is_not_taken(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    await client.create("things.v1.example.com", thing({"n": 1}))
    second = definition()
    second["spec"]["names"] = {"kind": "Thing", "plural": "others"}
    second["metadata"]["name"] = "others.example.com"
    made = await client.create(CRDS, second)
    assert condition(made, "NamesAccepted") == ("False", "ListKindConflict", '"ThingList" is already in use')
    assert (await client.get("things.v1.example.com", "one", "default"))["spec"] == {"n": 1}


async def test_a_default_that_comes_later_shows_in_what_was_stored(stack: Stack) -> None:
    await stack.add_server()
    one, two = stack.client(0), stack.client(1)
    await one.create(
        CRDS, definition(version("v1", {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}))
    )
    await one.create("things.v1.example.com", thing({"a": "x", "b": "y"}))
    later = {"properties": {"a": {"type": "string"}, "mode": {"type": "string", "default": "fast"}}}
    await redefine(one, definition(version("v1", later)))
    for client in (one, two):
        async with asyncio.timeout(30):
            while (await client.get("things.v1.example.com", "one", "default"))["spec"] != {"a": "x", "mode": "fast"}:
                await asyncio.sleep(0.01)
        listed = await client.list("things.v1.example.com")
        assert [o["spec"] for o in listed.items] == [{"a": "x", "mode": "fast"}]
    before = await one.get("things.v1.example.com", "one", "default")
    changed = await one.patch(
        "things.v1.example.com", "one", "default", {"metadata": {"labels": {"k": "v"}}}, kind="merge"
    )
    assert changed["metadata"]["generation"] == before["metadata"]["generation"]


async def test_a_version_that_may_be_stored_stays(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    first, second = version("v1", {}, storage=False), version("v2", {})
    crd = await redefine(client, definition(first, second))
    assert crd["status"]["storedVersions"] == ["v1", "v2"]
    with pytest.raises(
        errors.Invalid, match=r"status.storedVersions\[0\]: Invalid value: \"v1\": missing from spec.vers"
    ):
        await redefine(client, definition(second))
    with pytest.raises(errors.Invalid, match="must have the storage version v2"):
        await client.patch(
            CRDS, "things.example.com", "", {"status": {"storedVersions": ["v1"]}}, subresource="status", kind="merge"
        )
    await client.patch(
        CRDS, "things.example.com", "", {"status": {"storedVersions": ["v2"]}}, subresource="status", kind="merge"
    )
    crd = await redefine(client, definition(second))
    assert crd["status"]["storedVersions"] == ["v2"]


async def test_an_update_without_change_stores_an_object_anew(stack: Stack) -> None:
    """How objects are migrated to another storage version."""
    client = stack.client()
    await client.create(CRDS, definition())
    old = await client.create("things.v1.example.com", thing({}))
    await redefine(client, definition(version("v1", {}, storage=False), version("v2", {})))
    async with asyncio.timeout(30):
        while True:
            read = await client.get("things.v2.example.com", "one", "default")
            new = await client.update("things.v2.example.com", read)
            if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
                break
    again = await client.update("things.v2.example.com", new)
    assert again["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]


async def test_what_makes_keys_cannot_be_changed(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    changed = definition()
    changed["spec"]["scope"] = "Cluster"
    changed["spec"]["names"]["kind"] = "Other"
    with pytest.raises(errors.Invalid) as caught:
        await redefine(client, changed)
    assert 'spec.scope: Invalid value: "Cluster": field is immutable' in caught.value.message
    assert 'spec.names.kind: Invalid value: "Other": field is immutable' in caught.value.message


async def test_nothing_is_made_while_a_definition_goes(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    held = thing({})
    held["metadata"]["finalizers"] = ["example.com/held"]
    await client.create("things.v1.example.com", held)
    await client.delete(CRDS, "things.example.com")
    async with asyncio.timeout(30):
        while True:
            try:
                await client.create("things.v1.example.com", thing({}, "two"))
            except errors.MethodNotAllowed as refused:
                assert refused.message == "create not allowed while custom resource definition is terminating"
                break
    await client.patch("things.v1.example.com", "one", "default", {"metadata": {"finalizers": None}}, kind="merge")
    async with asyncio.timeout(30):
        while True:
            try:
                await client.list("things.v1.example.com")
            except errors.NotFound:
                break


PROTECTED = [
    ({}, 'Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see'),
    ({"api-approved.kubernetes.io": "yes"}, 'Invalid value: "yes": protected groups must have approval annotation'),
]


@pytest.mark.parametrize(("annotations", "message"), PROTECTED)
async def test_groups_of_kubernetes_need_approval(stack: Stack, annotations: dict[str, str], message: str) -> None:
    client = stack.client()
    crd = definition(group="widgets.k8s.io")
    crd["metadata"]["annotations"] = annotations
    with pytest.raises(errors.Invalid) as caught:
        await client.create(CRDS, crd)
    assert f"metadata.annotations[api-approved.kubernetes.io]: {message}" in caught.value.message
    crd["metadata"]["annotations"] = {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1"}
    made = await client.create(CRDS, crd)
    conformant = condition(made, "KubernetesAPIApprovalPolicyConformant")
    assert conformant[:2] == ("True", "ApprovedAnnotation")


async def test_nulls_and_whole_numbers_are_kept_as_the_schema_says(stack: Stack) -> None:
    client = stack.client()
    text = {"type": "string", "default": "d"}
    properties = {
        "keep": {**text, "nullable": True},
        "fill": text,
        "drop": {"type": "string"},
        "n": {"type": "integer"},
        "free": {"x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "string", "nullable": True}},
    }
    await client.create(CRDS, definition(version("v1", {"properties": properties})))
    given = {"keep": None, "fill": None, "drop": None, "n": 1000.0, "free": {"x": 2.0, "y": None}, "map": {"k": None}}
    made = await client.create("things.v1.example.com", thing(given))
    assert made["spec"] == {"keep": None, "fill": "d", "n": 1000, "free": {"x": 2, "y": None}, "map": {"k": None}}
    assert type(made["spec"]["n"]) is int


async def test_metadata_is_required_and_there(stack: Stack) -> None:
    client = stack.client()
    crd = definition()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["required"] = ["metadata", "spec"]
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}
    await client.create(CRDS, crd)
    await client.create("things.v1.example.com", thing({}, "abc"))
    with pytest.raises(errors.Invalid, match=r"metadata.name: Too long: may not be more than 3 bytes"):
        await client.create("things.v1.example.com", thing({}, "abcd"))


async def test_what_is_defined_is_in_discovery_and_openapi_as_long_as_it_is(rest: Rest) -> None:  # noqa: F811
    crd = definition(version("v1", {"description": "Size of it.", "properties": {"n": {"type": "integer"}}}))

    async def seen() -> tuple[bool, bool, bool]:
        code, _ = await rest.json("GET", "/apis/example.com/v1")
        _, root = await rest.json("GET", "/openapi/v3")
        _, legacy = await rest.json("GET", "/openapi/v2")
        shown = any(name.endswith("example.v1.Thing") for name in legacy["definitions"])
        return code == 200, "apis/example.com/v1" in root["paths"], shown

    assert await seen() == (False, False, False)
    code, _ = await rest.json("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    assert code == 201
    assert await seen() == (True, True, True)
    _, document = await rest.json("GET", "/openapi/v3/apis/example.com/v1")
    [schema] = [s for name, s in document["components"]["schemas"].items() if name.endswith(".v1.Thing")]
    assert schema["properties"]["spec"]["description"] == "Size of it."
    await rest.json("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com")
    async with asyncio.timeout(30):
        while await seen() != (False, False, False):
            await asyncio.sleep(0.01)


async def test_definitions_are_warned_of_and_versions_on_their_way_out_too(rest: Rest) -> None:  # noqa: F811
    old = version("v1", {}, deprecated=True, storage=False)
    new = version(
        "v2",
        {"properties": {"t": {"type": "string", "format": "odd"}, "n": {"type": "integer", "format": "int64"}}},
        deprecated=True,
        deprecationWarning="use v3",
    )
    crd = definition(old, new)
    async with rest.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd) as response:
        told = response.headers.getall("Warning")
    assert told == ['299 - "unrecognized format \\"odd\\""']
    for served, warning in (("v1", "example.com/v1 Thing is deprecated"), ("v2", "use v3")):
        async with rest.request("GET", f"/apis/example.com/{served}/things") as response:
            assert response.headers.getall("Warning") == [f'299 - "{warning}"']


async def test_what_the_stored_version_does_not_know_is_not_stored(stack: Stack) -> None:
    """Without a webhook a version differs from another in its apiVersion, and in what its schema knows."""
    client = stack.client()
    both = {"type": "integer"}
    old = version("v1", {"properties": {"a": both, "b": both}}, storage=False)
    await client.create(CRDS, definition(old, version("v2", {"properties": {"a": both, "c": {**both, "default": 3}}})))
    made = await client.create("things.v1.example.com", thing({"a": 1, "b": 2}))
    assert (made["apiVersion"], made["spec"]) == ("example.com/v1", {"a": 1})
    # What is read has the defaults of the version that it is stored in.
    assert (await client.get("things.v2.example.com", "one", "default"))["spec"] == {"a": 1, "c": 3}
    made = await client.create("things.v2.example.com", thing({"a": 1}, "two"))
    assert made["spec"] == {"a": 1, "c": 3}
    assert (await client.get("things.v1.example.com", "two", "default"))["spec"] == {"a": 1}

"""What a definition of custom resources tells its clients: deprecated versions, changes of it, its end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.test_patches import Api, api  # noqa: F401

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FOOS = "/apis/x.io/v1/namespaces/default/foos"
Object = dict[str, Any]
SCHEMA = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}


def version(name: str, **rest: Any) -> Object:
    return {"name": name, "served": True, "storage": name == "v1", "schema": SCHEMA, **rest}


def definition(*versions: Object, **names: Any) -> Object:
    spec = {
        "group": "x.io",
        "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo", **names},
        "versions": versions or [version("v1")],
    }
    return {"metadata": {"name": "foos.x.io"}, "spec": spec}


def foo(name: str = "f", **metadata: Any) -> Object:
    return {"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": name, **metadata}}


async def warnings(api: Api, method: str, path: str, body: Any = None, *, code: int = 0) -> list[str]:  # noqa: F811
    async with api.session.request(method, api.base + path, json=body) as response:
        assert response.status == code or response.status < 300
        return [one.removeprefix("299 - ") for one in response.headers.getall("Warning", [])]


async def test_who_uses_a_deprecated_version_is_told_what_to_take_instead(api: Api) -> None:  # noqa: F811
    old, older = version("v1beta1", deprecated=True), version("v1alpha1", deprecated=True, deprecationWarning="run")
    newest = [version("v2", deprecated=True), version("v3beta1", served=False)]
    await api.made(DEFINITIONS, definition(version("v1"), old, older, *newest))
    base = FOOS.replace("/v1/", "/{}/")
    told = '"x.io/v1beta1 Foo is deprecated; use x.io/v1 Foo"'
    made = {**foo(), "apiVersion": "x.io/v1beta1"}
    assert await warnings(api, "POST", base.format("v1beta1"), made) == [told]
    assert await warnings(api, "GET", base.format("v1beta1")) == [told]
    assert await warnings(api, "GET", base.format("v1beta1") + "?watch=1&timeoutSeconds=1") == [told]
    assert await warnings(api, "DELETE", base.format("v1beta1") + "/f?dryRun=All") == [told]
    assert await warnings(api, "GET", base.format("v1beta1") + "/none", code=404) == [told]
    assert await warnings(api, "GET", base.format("v1alpha1") + "/f") == ['"run"']
    assert await warnings(api, "GET", base.format("v2") + "/f") == ['"x.io/v2 Foo is deprecated"']
    assert await warnings(api, "GET", base.format("v1") + "/f") == []


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ({"deprecationWarning": "go"}, 'Invalid value: "go": can only be set for deprecated versions'),
        ({"deprecated": True, "deprecationWarning": ""}, 'Invalid value: "": must not be an empty string'),
        (
            {"deprecated": True, "deprecationWarning": "é\n"},
            'Invalid value: "é\\n": must only contain printable UTF-8 characters; '
            "non-printable character found at index 2",
        ),
    ],
)
async def test_a_warning_is_for_deprecated_versions_and_can_be_printed(api: Api, rest: Object, why: str) -> None:  # noqa: F811
    code, refused = await api("POST", DEFINITIONS, definition(version("v1", **rest)))
    assert code == 422
    assert refused["details"]["causes"][0]["message"] == why
    assert refused["details"]["causes"][0]["field"] == "spec.versions[0].deprecationWarning"


async def test_discovery_follows_a_change_of_the_definition(api: Api) -> None:  # noqa: F811
    await api.made(DEFINITIONS, definition())
    changed = definition(version("v1", subresources={"status": {}}), shortNames=["fo"], categories=["all"])
    code, _ = await api.patch("merge", f"{DEFINITIONS}/foos.x.io", {"spec": changed["spec"]})
    assert code == 200
    code, listed = await api("GET", "/apis/x.io/v1")
    assert [one["name"] for one in listed["resources"]] == ["foos", "foos/status"]
    assert (listed["resources"][0]["shortNames"], listed["resources"][0]["categories"]) == (["fo"], ["all"])


async def test_what_is_about_to_go_takes_nothing_new(api: Api) -> None:  # noqa: F811
    await api.made(DEFINITIONS, definition())
    await api.made(FOOS, foo(finalizers=["x.io/held"]))
    code, marked = await api("DELETE", f"{DEFINITIONS}/foos.x.io")
    meta = marked["metadata"]
    assert (code, meta["finalizers"]) == (200, ["customresourcecleanup.apiextensions.k8s.io"])
    assert "deletionGracePeriodSeconds" not in meta
    assert meta["generation"] == 1
    code, listed = await api("GET", "/apis/x.io/v1")
    assert listed["resources"][0]["verbs"] == ["delete", "deletecollection", "get", "list", "watch"]
    code, refused = await api("POST", FOOS, foo("g"))
    assert (code, refused["reason"]) == (405, "MethodNotAllowed")
    assert refused["message"] == "create not allowed while custom resource definition is terminating"
    assert refused["details"] == {"group": "x.io", "kind": "foos"}
    code, _ = await api.patch("merge", f"{FOOS}/f", {"metadata": {"labels": {"a": "b"}}})
    assert code == 200, "who holds an object back can still let it go"

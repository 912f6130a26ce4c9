"""Patches and server-side apply through the REST face: what kubectl, helm and operators get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.api.pems import REQUEST
from tests.apiserver.conftest import Stack

NAMESPACE = "/api/v1/namespaces/default"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MEDIA = {
    "apply": "application/apply-patch+yaml",
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
Object = dict[str, Any]


class Api:
    def __init__(self, stack: Stack, session: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.session = session
        self.base = f"http://{stack.servers[0].https_address}"

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.base + path, data=data, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def patch(self, kind: str, path: str, body: Any, manager: str = "") -> tuple[int, Any]:
        query = ("&" if "?" in path else "?") + f"fieldManager={manager}" if manager else ""
        return await self("PATCH", path + query, body, Content_Type=MEDIA[kind])

    async def made(self, path: str, body: Any, manager: str = "maker") -> Any:
        code, made = await self("POST", f"{path}?fieldManager={manager}", body)
        assert code == 201, made
        return made


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0")
    async with aiohttp.ClientSession() as session:
        yield Api(stack, session)
    await stack.stop()


def config_map(name: str = "c", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(replicas: int | None = None, **container: Any) -> Object:
    pod = {"containers": [{"name": "main", "image": "i", **container}]}
    template = {"metadata": {"labels": {"a": "web"}}, "spec": pod}
    spec: Object = {"selector": {"matchLabels": {"a": "web"}}, "template": template}
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def entries(obj: Object) -> dict[tuple[str, str, str], Any]:
    """Who owns what: by manager, operation and subresource."""
    return {
        (e["manager"], e["operation"], e.get("subresource", "")): e["fieldsV1"]
        for e in obj["metadata"].get("managedFields", ())
    }


REPLICAS: Object = {"f:spec": {"f:replicas": {}}}


# --- ownership -------------------------------------------------------------------------------------


async def test_items_of_one_key_that_an_apply_does_not_name_stay(api: Api) -> None:
    twice = [{"name": "LEVEL", "value": "low"}, {"name": "LEVEL", "value": "high"}]
    await api.made(DEPLOYMENTS, deployment(env=twice))
    config = deployment(env=[{"name": "EXTRA", "value": "1"}])
    code, after = await api.patch("apply", f"{DEPLOYMENTS}/web?force=true", config, "extra")
    assert code == 200
    env = after["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [(e["name"], e["value"]) for e in env] == [("LEVEL", "low"), ("LEVEL", "high"), ("EXTRA", "1")]


async def test_who_applies_nothing_owns_nothing(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps/c"
    assert (await api.patch("apply", path, config_map(x="1"), "first"))[0] == 201
    code, after = await api.patch("apply", path, {k: v for k, v in config_map().items() if k != "data"}, "first")
    assert (code, "data" in after, entries(after)) == (200, False, {})
    code, after = await api.patch("apply", path, config_map(x="2"), "second")
    assert (code, after["data"]) == (200, {"x": "2"})


async def test_what_is_applied_again_is_not_written_again(api: Api) -> None:
    config = deployment(1, resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}})
    _, first = await api.patch("apply", f"{DEPLOYMENTS}/web", config, "m")
    revision = api.stack.etcd.revision
    code, again = await api.patch("apply", f"{DEPLOYMENTS}/web", config, "m")
    assert (code, again) == (200, first)
    code, again = await api.patch("merge", f"{DEPLOYMENTS}/web", {"spec": {"replicas": 1}}, "other")
    assert (code, again) == (200, first)
    assert api.stack.etcd.revision == revision


async def test_an_apply_merges_into_what_the_cache_has_not_seen_yet(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps"
    await api.made(path, {"metadata": {"name": "other"}})
    await api("GET", f"{path}/other")
    api.stack.etcd.frozen = True
    made = await api.made(path, {"metadata": {"name": "c"}, "data": {"b": "2"}})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    code, found = await api.patch("apply", f"{path}/c", config, "me")
    api.stack.etcd.frozen = False
    assert (code, found["data"], found["metadata"]["uid"]) == (200, {"a": "1", "b": "2"}, made["metadata"]["uid"])


async def test_an_applier_of_what_is_there_already_has_no_time(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps/c"
    await api.patch("apply", path, config_map(x="1"), "first")
    _, after = await api.patch("apply", path, config_map(x="1"), "second")
    assert {e["manager"]: "time" in e for e in after["metadata"]["managedFields"]} == {"first": True, "second": False}


async def test_creators_do_not_own_what_the_server_adds(api: Api) -> None:
    made = await api.made("/api/v1/namespaces", {"metadata": {"name": "shop", "labels": {"a": "b"}}})
    labels: Object = {".": {}, "f:a": {}, "f:kubernetes.io/metadata.name": {}}
    assert entries(made) == {("maker", "Update", ""): {"f:metadata": {"f:labels": labels}}}


async def test_pointers_are_owned_and_plain_structs_are_not(api: Api) -> None:
    probe = {"httpGet": {"path": "/", "port": 80}}
    made = await api.made(DEPLOYMENTS, deployment(livenessProbe=probe))
    spec = entries(made)["maker", "Update", ""]["f:spec"]
    assert "." not in spec and "." not in spec["f:template"]["f:spec"]
    assert "." in spec["f:strategy"]["f:rollingUpdate"] and "." not in spec["f:strategy"]
    assert "." not in spec["f:template"]["f:spec"]["f:containers"], "a list that is always there"
    container = spec["f:template"]["f:spec"]["f:containers"]['k:{"name":"main"}']
    assert container["f:resources"] == {} and "." in container["f:livenessProbe"]


async def test_entries_that_were_reset_stay_away_until_somebody_applies(api: Api) -> None:
    made = await api.made(f"{NAMESPACE}/configmaps", config_map(x="1"))
    nothings: tuple[list[Object], ...] = ([], [{}])
    for nothing in nothings:
        made["metadata"]["managedFields"] = nothing
        code, made = await api("PUT", f"{NAMESPACE}/configmaps/c", made)
        assert (code, entries(made)) == (200, {})
    _, changed = await api.patch("merge", f"{NAMESPACE}/configmaps/c", {"data": {"x": "2"}}, "editor")
    assert entries(changed) == {}
    code, status = await api.patch("apply", f"{NAMESPACE}/configmaps/c", config_map(x="3"), "m")
    assert (code, status["details"]["causes"][0]["message"]) == (409, 'conflict with "before-first-apply" using v1')


async def test_entries_that_a_client_writes_have_the_form_of_entries(api: Api) -> None:
    made = await api.made(f"{NAMESPACE}/configmaps", config_map(x="1"))
    good = made["metadata"]["managedFields"][0]
    for wrong, cause in (
        ({"manager": "m" * 129}, "metadata.managedFields[0].manager"),
        ({"manager": "a\nb"}, "metadata.managedFields[0].manager"),
        ({"subresource": "s" * 257}, "metadata.managedFields[0].subresource"),
    ):
        made["metadata"]["managedFields"] = [{**good, **wrong}]
        code, status = await api("PUT", f"{NAMESPACE}/configmaps/c", made)
        # An update has its metadata looked at twice.
        assert (code, [c["field"] for c in status["details"]["causes"]]) == (422, [cause, cause])
    unreadable: tuple[Object, ...] = (
        {"operation": "Seize"},
        {"fieldsType": "V2"},
        {"fieldsV1": {"bogus": {}}},
        {"apiVersion": ""},
    )
    for part in unreadable:
        made["metadata"]["managedFields"] = [{**good, **part}]
        code, after = await api("PUT", f"{NAMESPACE}/configmaps/c", made)
        assert (code, after["metadata"]["managedFields"]) == (200, [good])


async def test_an_apply_names_the_version_it_was_made_from(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps/c"
    _, made = await api.patch("apply", path, config_map(x="1"), "m")
    config = config_map(x="2")
    config["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    assert (await api.patch("apply", path, config, "m"))[0] == 200
    code, status = await api.patch("apply", path, config, "m")
    assert (code, status["reason"]) == (409, "Conflict")
    config["metadata"] = {"name": "c", "uid": "another"}
    assert (await api.patch("apply", path, config, "m"))[0] == 409
    for field in ("uid", "resourceVersion"):
        config["metadata"] = {"name": "none", field: "1"}
        code, status = await api.patch("apply", f"{NAMESPACE}/configmaps/none", config, "m")
        assert (code, status["reason"]) == (409, "Conflict")


@pytest.mark.parametrize("entries_given", [[], [{"manager": "x"}]])
async def test_a_configuration_says_nothing_of_owners(api: Api, entries_given: list[Any]) -> None:
    config = config_map(x="1")
    config["metadata"]["managedFields"] = entries_given
    code, status = await api.patch("apply", f"{NAMESPACE}/configmaps/c", config, "m")
    assert (code, status["message"]) == (400, "metadata.managedFields must be nil")


async def test_who_applies_names_a_manager_and_nobody_else_takes_by_force(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps/c"
    for kind, query, cause in (
        ("apply", "", "fieldManager: Required value: is required for apply patch"),
        ("merge", "?force=true", "force: Forbidden: may not be specified for non-apply patch"),
    ):
        code, status = await api.patch(kind, path + query, config_map())
        assert (code, status["message"]) == (422, f'PatchOptions.meta.k8s.io "" is invalid: {cause}')


async def test_managers_are_named_by_their_program(api: Api) -> None:
    for agent, manager in (("kubectl/v1.37 (linux)", "kubectl"), ("", "unknown"), ("a\tb/1", "ab")):
        _, made = await api(
            "POST",
            f"{NAMESPACE}/configmaps",
            {"metadata": {"generateName": "m-"}, "data": {"a": "b"}},
            User_Agent=agent,
        )
        assert [e["manager"] for e in made["metadata"]["managedFields"]] == [manager]


async def test_nulls_of_a_configuration_are_owned_and_take_nothing_away(api: Api) -> None:
    made = await api.made(f"{NAMESPACE}/configmaps", config_map(x="1"))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": None}, "data": None}
    code, after = await api.patch("apply", f"{NAMESPACE}/configmaps/c", config, "m")
    assert (code, after["data"]) == (200, made["data"])
    assert entries(after)["m", "Apply", ""] == {"f:data": {}, "f:metadata": {"f:labels": {}}}


async def test_a_second_version_of_a_kind_has_fields_of_its_own(api: Api) -> None:
    v1, v2 = (f"/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers" for v in ("v1", "v2"))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "maxReplicas": 3}
    hpa: Object = {"metadata": {"name": "h"}, "spec": spec}
    made = await api.made(v1, {**hpa, "spec": {**spec, "targetCPUUtilizationPercentage": 80}})
    assert "f:targetCPUUtilizationPercentage" in entries(made)["maker", "Update", ""]["f:spec"]
    config = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", **hpa}
    config["spec"] = {**spec, "maxReplicas": 5}
    code, status = await api.patch("apply", f"{v2}/h", config, "m")
    assert (code, status["details"]["causes"]) == (
        409,
        [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "maker" using autoscaling/v1',
                "field": ".spec.maxReplicas",
            }
        ],
    )
    code, after = await api.patch("apply", f"{v2}/h?force=true", config, "m")
    assert code == 200
    assert {e["manager"]: e["apiVersion"] for e in after["metadata"]["managedFields"]} == {
        "maker": "autoscaling/v1",
        "m": "autoscaling/v2",
    }
    assert "f:maxReplicas" not in entries(after)["maker", "Update", ""]["f:spec"]


async def test_an_unknown_field_or_type_of_a_configuration_is_a_bad_request(api: Api) -> None:
    config = config_map(x="1")
    for part, cause in (
        ({"datas": {}}, ".datas: field not declared in schema"),
        ({"data": {"a": 1}}, ".data.a: expected string, got &value.valueUnstructured{Value:1}"),
        ({"data": []}, ".data: expected map, got &{[]}"),
        ({"immutable": "x"}, ".immutable: expected boolean, got &{x}"),
        ({"metadata": []}, ".metadata: expected map, got &{[]}"),
    ):
        code, status = await api.patch("apply", f"{NAMESPACE}/configmaps/c", {**config, **part}, "m")
        name = "c" if isinstance({**config, **part}["metadata"], dict) else ""
        wanted = f"failed to create typed patch object (/{name}; /v1, Kind=ConfigMap): {cause}"
        assert (code, status["message"]) == (400, wanted)
    env = [{"name": "A"}, {"name": "A"}]
    code, status = await api.patch("apply", f"{DEPLOYMENTS}/web", deployment(env=env), "m")
    assert code == 400
    assert status["message"].endswith(
        '.spec.template.spec.containers[name="main"].env: duplicate entries for key [name="A"]'
    )
    code, status = await api.patch("apply", f"{NAMESPACE}/configmaps/c", deployment(), "m")
    assert (code, status["message"]) == (400, "invalid object type: apps/v1, Kind=Deployment")


async def test_keys_that_stand_twice_in_a_configuration_are_told(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  a: x\n  a: y\n"
    path = f"{NAMESPACE}/configmaps/c?fieldValidation=Strict"
    code, status = await api.patch("apply", path, body, "m")
    assert code == 400 and 'key "a" already set in map' in status["message"]


# --- scale -----------------------------------------------------------------------------------------


async def test_a_change_of_scale_is_owned_through_it(api: Api) -> None:
    await api.made(DEPLOYMENTS, deployment(1))
    scale = f"{DEPLOYMENTS}/web/scale"
    code, answered = await api.patch("merge", scale, {"spec": {"replicas": 2}}, "kubectl")
    assert (code, answered["kind"], answered["spec"]) == (200, "Scale", {"replicas": 2})
    _, after = await api("GET", f"{DEPLOYMENTS}/web")
    assert entries(after)["kubectl", "Update", "scale"] == REPLICAS
    assert "f:replicas" not in entries(after)["maker", "Update", ""]["f:spec"]
    assert [e["apiVersion"] for e in after["metadata"]["managedFields"]] == ["apps/v1", "apps/v1"]
    code, status = await api.patch("apply", f"{DEPLOYMENTS}/web", deployment(3), "gitops")
    assert (code, status["message"]) == (
        409,
        'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas',
    )


async def test_a_scale_is_applied(api: Api) -> None:
    await api.patch("apply", f"{DEPLOYMENTS}/web", deployment(1), "gitops")
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}}
    path = f"{DEPLOYMENTS}/web/scale"
    code, status = await api.patch("apply", path, scale, "scaler")
    assert (code, status["message"]) == (
        409,
        'Apply failed with 1 conflict: conflict with "gitops": .spec.replicas',
    )
    code, answered = await api.patch("apply", f"{path}?force=true", scale, "scaler")
    assert (code, answered["spec"]) == (200, {"replicas": 4})
    _, after = await api("GET", f"{DEPLOYMENTS}/web")
    assert entries(after)["scaler", "Apply", "scale"] == REPLICAS
    assert "f:replicas" not in entries(after)["gitops", "Apply", ""]["f:spec"]
    assert (await api.patch("apply", path, {**scale, "kind": "Deployment"}, "scaler"))[0] == 400
    assert (await api.patch("apply", f"{DEPLOYMENTS}/none/scale", scale, "scaler"))[0] in (400, 404)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("merge", {"spec": {"replicas": "x"}}, 422),
        ("merge", {"spec": {"replicas": -1}}, 422),
        ("merge", {"spec": []}, 422),
        ("merge", {"metadata": {"name": "other"}}, 400),
        ("merge", {"metadata": {"resourceVersion": "1"}}, 409),
        ("merge", {"metadata": {"uid": "other"}}, 409),
        ("merge", {"kind": "Deployment"}, 400),
        ("json", [{"op": "replace", "path": "/spec/replicas", "value": 2.5}], 422),
        ("json", [{"op": "test", "path": "/spec/replicas", "value": 9}], 422),
        ("strategic", {"spec": {"replicas": None}}, 200),
    ],
)
async def test_patches_of_scale(api: Api, kind: str, body: Any, code: int) -> None:
    await api.made(DEPLOYMENTS, deployment(1))
    assert (await api.patch(kind, f"{DEPLOYMENTS}/web/scale", body))[0] == code


# --- status ----------------------------------------------------------------------------------------


async def test_metadata_through_the_status_is_the_kinds_own_rule(api: Api) -> None:
    change = {"metadata": {"labels": {"l": "1"}, "annotations": {"n": "1"}, "finalizers": ["e.com/f"]}}
    await api.made(DEPLOYMENTS, deployment(1))
    _, after = await api.patch("merge", f"{DEPLOYMENTS}/web/status", {**change, "status": {"replicas": 1}}, "m")
    meta = after["metadata"]
    assert ("labels" in meta, meta["annotations"], meta["finalizers"]) == (False, {"n": "1"}, ["e.com/f"])
    assert entries(after)["m", "Update", "status"]["f:status"] == {"f:replicas": {}}
    volume = {"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
              "hostPath": {"path": "/x"}}}  # fmt: skip
    await api.made("/api/v1/persistentvolumes", volume)
    _, after = await api.patch("merge", "/api/v1/persistentvolumes/v/status", change, "m")
    assert after["metadata"]["labels"] == {"l": "1"}
    wrong = {"metadata": {"labels": {"not a label!": "1"}}}
    assert (await api.patch("merge", "/api/v1/persistentvolumes/v/status", wrong, "m"))[0] == 422


async def test_appliers_that_meet_at_the_creation_all_have_their_part(api: Api) -> None:
    path = f"{NAMESPACE}/configmaps/c"
    for _ in range(5):
        told = await asyncio.gather(
            *(api.patch("apply", path, config_map(**{f"k{n}": "v"}), f"m{n}") for n in range(8))
        )
        assert sorted(code for code, _ in told) == [200] * 7 + [201]
        assert sorted((await api("GET", path))[1]["data"]) == [f"k{n}" for n in range(8)]
        await api("DELETE", path)


def rule(number: int) -> Object:
    return {"apiGroups": [""], "resources": ["pods"], "resourceNames": [f"p{number}"], "verbs": ["get"]}


async def test_writers_that_meet_at_a_put_that_creates_are_all_answered(api: Api) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/r"
    body = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}}
    told = await asyncio.gather(*(api("PUT", path, body) for _ in range(8)))
    assert sorted(code for code, _ in told) == [200] * 7 + [201]
    told = await asyncio.gather(*(api("PUT", path, {**body, "rules": [rule(n)]}) for n in range(8)))
    assert [code for code, _ in told] == [200] * 8


async def test_status_and_the_rest_are_applied_apart(api: Api) -> None:
    path = f"{DEPLOYMENTS}/web"
    both = {**deployment(1), "status": {"replicas": 1}}
    _, made = await api.patch("apply", path, both, "m")
    assert "f:status" not in entries(made)["m", "Apply", ""]
    both["spec"]["replicas"] = 7
    both["metadata"]["labels"] = {"dropped": "1"}
    code, after = await api.patch("apply", f"{path}/status", both, "m")
    assert (code, after["spec"]["replicas"], after["status"]["replicas"]) == (200, 1, 1)
    assert entries(after)["m", "Apply", "status"] == {"f:status": {"f:replicas": {}}}
    code, after = await api.patch("apply", f"{path}/status", {**both, "status": {}}, "m")
    assert (code, "replicas" in after.get("status", {})) == (200, False)


async def test_approvals_finalizers_and_ephemeral_containers_are_owned_and_applied(api: Api) -> None:
    csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    request = {"request": REQUEST, "signerName": "e.com/s", "usages": ["client auth"]}
    made = await api.made(csrs, {"metadata": {"name": "r"}, "spec": request})
    made["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "R"}]}
    made["metadata"]["labels"] = {"l": "1"}
    code, after = await api("PUT", f"{csrs}/r/approval?fieldManager=m", made)
    assert (code, after["metadata"]["labels"]) == (200, {"l": "1"})
    assert list(entries(after)["m", "Update", "approval"]) == ["f:metadata", "f:status"]

    await api.made(f"{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    await api.made(
        f"{NAMESPACE}/pods", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    config = {**pod, "spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}
    code, after = await api.patch("apply", f"{NAMESPACE}/pods/p/ephemeralcontainers", config, "m")
    assert (code, after["spec"]["ephemeralContainers"][0]["name"]) == (200, "e")
    assert list(entries(after)["m", "Apply", "ephemeralcontainers"]) == ["f:spec"]
    code, _ = await api.patch("apply", f"{NAMESPACE}/pods/p/ephemeralcontainers", {**pod, "spec": {"x": 1}}, "m")
    assert code == 400

    made = await api.made("/api/v1/namespaces", {"metadata": {"name": "n"}})
    made["spec"] = {"finalizers": ["kubernetes", "e.com/f"]}
    code, after = await api("PUT", "/api/v1/namespaces/n/finalize?fieldManager=m", made)
    assert (code, after["spec"]["finalizers"]) == (200, ["kubernetes", "e.com/f"])
    assert entries(after)["m", "Update", "finalize"] == {"f:spec": {"f:finalizers": {}}}


# --- custom resources ------------------------------------------------------------------------------

THINGS = "/apis/e.com/v1/namespaces/default/things"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def definition(spec: Object, **schema: Any) -> Object:
    def version(name: str) -> Object:
        root = {"type": "object", "properties": {"spec": spec, "status": {"type": "object", **UNKNOWN}}, **schema}
        parts: Object = {"status": {}}
        return {"name": name, "served": True, "storage": name == "v1", "subresources": parts,
                "schema": {"openAPIV3Schema": root}}  # fmt: skip

    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    body = {"group": "e.com", "scope": "Namespaced", "names": names, "versions": [version("v1"), version("v2")]}
    return {"metadata": {"name": "things.e.com"}, "spec": body}


UNKNOWN = {"x-kubernetes-preserve-unknown-fields": True}


def thing(spec: Any = None, version: str = "v1", **rest: Any) -> Object:
    made = {"apiVersion": f"e.com/{version}", "kind": "Thing", "metadata": {"name": "t"}, **rest}
    return made if spec is None else {**made, "spec": spec}


async def test_unknown_fields_are_owned_by_member_and_their_lists_whole(api: Api) -> None:
    await api.made(CRDS, definition({"type": "object", **UNKNOWN}))
    await api.patch("apply", f"{THINGS}/t", thing({"a": {"x": 1, "l": [1, 2]}, "e": {}}), "one")
    code, after = await api.patch("apply", f"{THINGS}/t", thing({"a": {"y": 2}}), "two")
    assert (code, after["spec"]) == (200, {"a": {"x": 1, "y": 2, "l": [1, 2]}, "e": {}})
    inside: Object = {".": {}, "f:l": {}, "f:x": {}}
    assert entries(after)["one", "Apply", ""] == {"f:spec": {"f:a": inside, "f:e": {}}}
    code, status = await api.patch("apply", f"{THINGS}/t", thing({"a": {"l": [1]}}), "two")
    assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.a.l")
    code, after = await api.patch("apply", f"{THINGS}/t", thing({"e": {}}), "one")
    assert (code, after["spec"]) == (200, {"a": {"y": 2}, "e": {}})
    code, after = await api.patch("apply", f"{THINGS}/t", thing({"a": "text"}), "two")
    assert (code, after["spec"]) == (200, {"a": "text", "e": {}})


async def test_lists_and_maps_are_owned_as_the_schema_says(api: Api) -> None:
    words = {"type": "array", "items": {"type": "string"}}
    spec = {
        "type": "object",
        "properties": {
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer"}}},
            "set": {**words, "x-kubernetes-list-type": "set"},
            "sets": {"type": "object", "additionalProperties": {**words, "x-kubernetes-list-type": "set"}},
            "list": words,
        },
    }
    await api.made(CRDS, definition(spec))
    first = {"whole": {"a": 1}, "set": ["a", "b"], "sets": {"s": ["x"]}, "list": ["1"]}
    _, made = await api.patch("apply", f"{THINGS}/t", thing(first), "one")
    assert entries(made)["one", "Apply", ""]["f:spec"] == {
        "f:list": {}, "f:set": {'v:"a"': {}, 'v:"b"': {}}, "f:sets": {"f:s": {".": {}, 'v:"x"': {}}}, "f:whole": {},
    }  # fmt: skip
    code, after = await api.patch("apply", f"{THINGS}/t", thing({"set": ["c", "b"], "sets": {"s": ["y"]}}), "two")
    assert (code, after["spec"]["set"], after["spec"]["sets"]["s"]) == (200, ["a", "c", "b"], ["x", "y"])
    _, after = await api.patch("apply", f"{THINGS}/t", thing({"set": ["b"]}), "one")
    assert after["spec"] == {"set": ["c", "b"], "sets": {"s": ["y"]}}
    for wrong, cause in (
        ({"set": ["a", "a"]}, '.spec.set: duplicate entries for key [="a"]'),
        ({"bogus": 1}, ".spec.bogus: field not declared in schema"),
        ({"set": [{}]}, ".spec.set: element 0: associative list without keys has an element that's a map type"),
    ):
        code, status = await api.patch("apply", f"{THINGS}/t", thing(wrong), "one")
        assert code == 400 and status["message"].endswith(cause)


async def test_what_becomes_atomic_is_owned_whole_by_all_who_owned_parts(api: Api) -> None:
    field = {"type": "object", "additionalProperties": {"type": "string"}}
    made = await api.made(CRDS, definition({"type": "object", "properties": {"m": field}}))
    await api.patch("apply", f"{THINGS}/t", thing({"m": {"a": "1"}}), "one")
    await api.patch("apply", f"{THINGS}/t", thing({"m": {"b": "2"}}), "two")
    for version in made["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["m"]["x-kubernetes-map-type"] = (
            "atomic"
        )
    assert (await api("PUT", f"{CRDS}/things.e.com", made))[0] == 200
    await api.stack.servers[0].registry.custom.catch_up()
    code, status = await api.patch("apply", f"{THINGS}/t", thing({"m": {"a": "1"}}), "one")
    assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.m")
    code, after = await api.patch("apply", f"{THINGS}/t?force=true", thing({"m": {"a": "1"}}), "one")
    assert (code, after["spec"]["m"], set(entries(after))) == (200, {"a": "1"}, {("one", "Apply", "")})


async def test_versions_of_a_custom_resource_share_owners(api: Api) -> None:
    await api.made(CRDS, definition({"type": "object", **UNKNOWN}))
    await api.patch("apply", f"{THINGS}/t", thing({"a": 1, "b": 1}), "one")
    v2 = THINGS.replace("/v1/", "/v2/")
    code, after = await api.patch("apply", f"{v2}/t", thing({"a": 1}, "v2"), "one")
    assert (code, after["spec"]) == (200, {"a": 1})
    assert [e["apiVersion"] for e in after["metadata"]["managedFields"]] == ["e.com/v2"]
    code, status = await api.patch("apply", f"{THINGS}/t", thing({"a": 2}), "two")
    assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.a")


async def test_the_status_of_a_custom_resource_is_applied_alone(api: Api) -> None:
    await api.made(CRDS, definition({"type": "object", **UNKNOWN}))
    _, made = await api.patch("apply", f"{THINGS}/t", thing({"a": 1}, status={"s": 1}), "one")
    assert "status" not in made
    config = thing({"a": 5}, status={"s": 2}) | {"metadata": {"name": "t", "labels": {"l": "1"}}}
    code, after = await api.patch("apply", f"{THINGS}/t/status", config, "one")
    assert (code, after["spec"], after["status"], "labels" in after["metadata"]) == (200, {"a": 1}, {"s": 2}, False)
    assert entries(after)["one", "Apply", "status"] == {"f:status": {"f:s": {}}}
    assert (await api.patch("strategic", f"{THINGS}/t", {"spec": {}}))[0] == 415
    assert (await api.patch("apply", f"{THINGS}/none/status", thing(status={}), "one"))[0] in (400, 404)

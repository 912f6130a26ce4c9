"""The same operation over REST and over gRPC: the same object, the same refusal in the same words."""

import asyncio
import random
from typing import Any

import pytest

from tests.apiserver.both_faces import Op, faces, settled


def config_map(name: str = "a", **data: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "i"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployment(name: str = "d", replicas: int = 1) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


APPS: dict[str, Any] = {"resource": "deployments", "group": "apps"}
PODS: dict[str, Any] = {"resource": "pods"}
NOBODY = "nobody"
BEFORE = (
    Op("create", body=config_map(x="1")),
    Op("create", body=pod(), **PODS),
    Op("create", body=deployment(), **APPS),
)

CASES: dict[str, tuple[Op, ...]] = {
    "get": (Op("get", "a"), Op("get", "none"), Op("get", "a", sub="status"), Op("get", "a", resource="nothings")),
    "get of a version": (
        Op("get", "a", options={"resourceVersion": "0"}),
        Op("get", "a", options={"resourceVersion": "x"}),
        Op("get", "a", options={"resourceVersion": "-1"}),
    ),
    "get elsewhere": (
        Op("get", "a", namespace=""),
        Op("get", "a", namespace="other"),
        Op("get", "A b"),
        Op("get", "a", namespace="%2f", group="nothing.example.com"),
    ),
    "get of what has no namespace": (Op("get", "default", resource="namespaces", namespace=""),),
    "list": (
        Op("list"),
        Op("list", namespace=""),
        Op("list", options={"limit": "1"}, **PODS),
        Op("list", options={"limit": "-1"}),
        Op("list", options={"labelSelector": "a in (b"}),
        Op("list", options={"fieldSelector": "metadata.name=a"}),
        Op("list", options={"fieldSelector": "data.x=1"}),
        Op("list", options={"continue": "junk"}),
        Op("list", options={"resourceVersionMatch": "Exact"}),
        Op("list", options={"resourceVersion": "1", "resourceVersionMatch": "Roughly"}),
        Op("list", resource="nothings"),
    ),
    "create": (
        Op("create", body=config_map("b")),
        Op("create", body=config_map()),
        Op("create", body=config_map("c"), options={"dryRun": "All"}),
        Op("create", body=config_map("m"), options={"fieldManager": "me"}),
        Op("create", body=config_map("d"), namespace="nowhere"),
        Op("create", body=config_map("d"), namespace=""),
        Op("create", "d", body=config_map("d")),
        Op("create", body={**config_map("d"), "kind": "Secret"}),
        Op("create", body={**config_map("d"), "apiVersion": "v2"}),
        Op("create", body={**config_map("d"), "metadata": {"name": "d", "namespace": "other"}}),
        Op("create", body={**config_map("d"), "metadata": {"name": "d", "resourceVersion": "7"}}),
        Op("create", body={**config_map("d"), "metadata": {"generateName": "d-"}, "data": {"x": 1}}),
        Op("create", body=config_map("Not A Name")),
        Op("create", body=config_map("e", **{"a b": "x"})),
        Op("create", body=b"{"),
        Op("create", body=b""),
        Op("create", body=b"[]"),
        Op("create", body=b"null"),
    ),
    "field validation": tuple(
        Op("create", body={**config_map(f"v{mode.lower()}"), "extra": 1, "more": 2}, options={"fieldValidation": mode})
        for mode in ("Strict", "Warn", "Ignore", "Sometimes", "")
    ),
    "field managers": (
        Op("update", "a", config_map(x="2"), options={"fieldManager": "m" * 200}),
        Op("update", "a", config_map(x="2"), options={"fieldManager": "b\u0007ell"}),
        Op("patch", "a", {"data": {"y": "1"}}, options={"fieldManager": "me"}),
        Op("patch", "a", {"data": {"y": "1"}}, options={"force": True}),
    ),
    "update": (
        Op("update", "a", config_map(x="2")),
        Op("update", "a", config_map("b")),
        Op("update", "none", config_map("none")),
        Op("update", "a", {**config_map(), "metadata": {"name": "a", "resourceVersion": "1"}}),
        Op("update", "a", {**config_map(), "metadata": {"name": "a", "uid": "other"}}),
        Op("update", "a", config_map(x=1)),
        Op("update", "p", pod(nodeName="n"), **PODS),
        Op("update", "a", config_map(x="3"), options={"dryRun": "All"}),
        Op("update", "a", config_map(), sub="status"),
    ),
    "patch": (
        Op("patch", "a", {"data": {"y": "1"}}),
        Op("patch", "a", [{"op": "add", "path": "/data/z", "value": "1"}], patch="json"),
        Op("patch", "a", [{"op": "test", "path": "/data/z", "value": "2"}], patch="json"),
        Op("patch", "a", [{"op": "remove", "path": "/none"}], patch="json"),
        Op("patch", "d", {"spec": {"replicas": -1}}, patch="strategic", **APPS),
        Op("patch", "d", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}},
           patch="strategic", **APPS),
        Op("patch", "a", {"data": {"x": 1}}),
        Op("patch", "a", b"{", patch="merge"),
        Op("patch", "a", {"metadata": {"name": "b"}}),
        Op("patch", "none", {"data": {}}),
        Op("patch", "a", {"data": {}}, patch="unknown"),
        Op("patch", "a", {"kind": "Secret"}),
    ),
    "apply": (
        Op("patch", "a", config_map(x="5"), patch="apply"),
        Op("patch", "a", config_map(x="5"), patch="apply", options={"fieldManager": "me"}),
        Op("patch", "a", config_map(x="5"), patch="apply", options={"fieldManager": "me", "force": True}),
        Op("patch", "new", config_map("new", x="5"), patch="apply", options={"fieldManager": "me"}),
        Op("patch", "new", config_map("new"), patch="apply", options={"fieldManager": "me"}),
        Op("patch", "new", config_map("other"), patch="apply", options={"fieldManager": "me"}),
        Op("patch", "new", b"data: {q: r}", patch="apply", options={"fieldManager": "me"}),
        Op("patch", "new", b"apiVersion: v1\nkind: ConfigMap\ndata: {q: r}", patch="apply",
           options={"fieldManager": "me", "fieldValidation": "Strict"}),
    ),
    "delete": (
        Op("delete", "none"),
        Op("delete", "a", options={"propagationPolicy": "Sideways"}),
        Op("delete", "a", options={"propagationPolicy": "Orphan", "orphanDependents": True}),
        Op("delete", "a", options={"uid": "other"}),
        Op("delete", "a", options={"resourceVersion": "1"}),
        Op("delete", "a", options={"dryRun": "All"}),
        Op("delete", "d", options={"propagationPolicy": "Foreground"}, **APPS),
        Op("delete", "p", options={"gracePeriodSeconds": 3}, **PODS),
        Op("delete", "p", options={"gracePeriodSeconds": 0}, **PODS),
        Op("delete", "a"),
        Op("delete", "a", sub="status"),
    ),
    "delete collection": (
        Op("deletecollection", options={"labelSelector": "a=b"}),
        Op("deletecollection", options={"dryRun": "All"}),
        Op("deletecollection", options={"propagationPolicy": "Sideways"}),
        Op("deletecollection", options={"fieldSelector": "metadata.name=a"}),
        Op("deletecollection", namespace=""),
        Op("deletecollection", resource="namespaces", namespace=""),
    ),
    "status and scale": (
        Op("patch", "p", {"status": {"phase": "Running"}}, sub="status", **PODS),
        Op("patch", "p", {"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}, sub="status", **PODS),
        Op("get", "d", sub="scale", **APPS),
        Op("patch", "d", {"spec": {"replicas": 5}}, sub="scale", **APPS),
        Op("patch", "d", {"spec": {"replicas": -5}}, sub="scale", **APPS),
        Op("get", "d", sub="elsewhere", **APPS),
    ),
    "binding and eviction": (
        Op("create", "p", {"target": {"kind": "Node", "name": "n"}}, sub="binding", **PODS),
        Op("create", "p", {"target": {"kind": "Node", "name": "m"}}, sub="binding", **PODS),
        Op("create", "p", {"metadata": {"name": "q"}}, sub="eviction", **PODS),
        Op("create", "p", {"metadata": {"name": "p"}}, sub="eviction", **PODS),
    ),
    "no rights": tuple(
        Op(verb, name, body, user=NOBODY, **more)
        for verb, name, body, more in (
            ("get", "a", None, {}),
            ("list", "", None, {}),
            ("list", "", None, {"namespace": ""}),
            ("create", "", config_map("n"), {}),
            ("create", "", b"{", {}),
            ("update", "a", config_map(), {}),
            ("patch", "a", {}, {}),
            ("delete", "a", None, {"options": {"propagationPolicy": "Sideways"}}),
            ("deletecollection", "", None, {}),
            ("get", "x", None, {"resource": "nothings"}),
            ("get", "x", None, {"group": "nothing.example.com"}),
            ("get", "default", None, {"resource": "namespaces", "namespace": ""}),
            ("get", "d", None, {"sub": "nothing", **APPS}),
        )
    ),
    "reviews": (
        Op("create", resource="selfsubjectreviews", group="authentication.k8s.io", namespace="", user=NOBODY,
           body={"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
    ),
    "deprecated": (Op("list", resource="componentstatuses", namespace=""),
                   Op("list", resource="endpoints", options={"labelSelector": "a=b"}),
                   Op("create", body={"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}},
                      resource="endpoints")),
}  # fmt: skip


WATCHES = tuple(
    Op("watch", name, resource=resource, namespace=namespace, options={"timeoutSeconds": "1", **options})
    for name, resource, namespace, options in (
        ("", "configmaps", "default", {}),
        ("a", "configmaps", "default", {"resourceVersion": "0"}),
        ("", "configmaps", "", {"fieldSelector": "metadata.name=a"}),
        ("", "configmaps", "default", {"labelSelector": "a in (b"}),
        ("", "configmaps", "default", {"labelSelector": "none=here"}),
        ("", "configmaps", "default", {"resourceVersion": "x"}),
        ("", "nothings", "default", {}),
        ("", "pods", "default", {"sendInitialEvents": True, "allowWatchBookmarks": True,
                                 "resourceVersionMatch": "NotOlderThan"}),
    )
)  # fmt: skip
CRONTABS: dict[str, Any] = {"resource": "crontabs", "group": "stable.example.com"}


def crontab(name: str = "c", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec}


def definition() -> dict[str, Any]:
    properties = {"size": {"type": "integer", "minimum": 1}, "cron": {"type": "string"}}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "deprecated": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"plural": "crontabs", "singular": "crontab", "kind": "CronTab"}
    spec = {"group": "stable.example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return {**kind, "metadata": {"name": "crontabs.stable.example.com"}, "spec": spec}


CUSTOM = (
    Op("create", body=crontab(size=1), **CRONTABS),
    Op("create", body=crontab("d", size=0), **CRONTABS),
    Op("create", body=crontab("e", size="x"), **CRONTABS),
    Op("create", body=crontab("f", odd=1), **CRONTABS),
    Op("create", body=crontab("g", odd=1), options={"fieldValidation": "Strict"}, **CRONTABS),
    Op("patch", "c", {"spec": {"size": 2}}, patch="strategic", **CRONTABS),
    Op("patch", "c", {"spec": {"size": 2}}, **CRONTABS),
    Op("patch", "c", {"spec": {"size": -2}}, **CRONTABS),
    Op("patch", "c", crontab(cron="* *"), patch="apply", options={"fieldManager": "me"}, **CRONTABS),
    Op("patch", "c", {"spec": {"size": 9}, "status": {"x": 1}}, sub="status", **CRONTABS),
    Op("get", "c", sub="scale", **CRONTABS),
    Op("list", options={"fieldSelector": "spec.size=2"}, **CRONTABS),
    Op("list", **CRONTABS),
    Op("deletecollection", **CRONTABS),
)


async def compare(*ops: Op) -> list[Any]:
    """What came of each."""
    outcomes = []
    async with faces() as (first, second):
        for op in ops:
            by_rest, by_grpc = settled(await first.rest(op)), settled(await second.grpc(op))
            outcomes.append(by_grpc)
            if "message" not in by_rest and "reason" in by_rest:
                by_grpc = {key: by_grpc.get(key) for key in by_rest}  # what is not served has no Status in REST
            assert by_grpc == by_rest, op
        for look in (Op("list"), Op("list", **PODS), Op("list", **APPS)):
            assert settled(await second.grpc(look)) == settled(await first.rest(look))
    return outcomes


@pytest.mark.parametrize("case", CASES)
async def test_what_is_asked_over_grpc_is_answered_as_over_rest(case: str) -> None:
    await compare(*BEFORE, *CASES[case])


async def test_custom_resources_too() -> None:
    defined = Op("create", body=definition(), resource="customresourcedefinitions", group="apiextensions.k8s.io",
                 namespace="")  # fmt: skip
    outcomes = await compare(defined, *CUSTOM)
    assert outcomes[1]["created"]
    assert outcomes[1]["told"] == ["stable.example.com/v1 CronTab is deprecated"]


async def test_watches_too() -> None:
    async with faces() as (first, second):
        for op in BEFORE:
            await first.rest(op)
            await second.grpc(op)
        by_rest = await asyncio.gather(*(first.rest(op) for op in WATCHES))
        by_grpc = await asyncio.gather(*(second.grpc(op) for op in WATCHES))
        for op, one, other in zip(WATCHES, by_rest, by_grpc, strict=True):
            if isinstance(one, dict) and "message" not in one:
                other = {key: other.get(key) for key in one}
            assert settled(other) == settled(one), op


@pytest.mark.parametrize("seed", range(4))
async def test_in_any_order_too(seed: int) -> None:
    chance = random.Random(seed)
    every = [op for case in CASES.values() for op in case]
    await compare(*BEFORE, *chance.choices(every, k=60))

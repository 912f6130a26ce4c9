"""Metrics that programs of users serve, as the autoscaler reads them: by the gRPC face, with its own rights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.authorization.controller_policy import user_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.controllers.actions import Rescale, UpdateStatus
from rayplane.control_plane.controllers.autoscaling import metrics
from rayplane.control_plane.controllers.autoscaling.metrics import Answer, Query
from rayplane.control_plane.controllers.manager.autoscaler import Metrics, Rescaler
from tests.apiserver.test_aggregation import Setting, extended

CUSTOM, EXTERNAL = "custom.metrics.k8s.io", "external.metrics.k8s.io"


AUTOSCALER = user_of("horizontal-pod-autoscaler")


@pytest_asyncio.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    async with extended(tmp_path, Timing()) as made:
        yield made


class Asking:
    """A controller that asks one question, and keeps the answer."""

    def __init__(self, query: Query) -> None:
        self.query, self.found = query, Answer()

    def questions(self, *_: Any) -> tuple[Query, ...]:
        return (self.query,)

    def answered(self, _: str, answers: metrics.Answers) -> None:
        self.found = answers[self.query]


async def asked(setting: Setting, query: Query, user: str = AUTOSCALER) -> Answer:
    controller = Asking(query)
    client = setting.stack.client_as(user)
    await Metrics(client, controller, None).observe("k")  # type: ignore[arg-type]
    return controller.found


async def serve(setting: Setting, group: str, version: str, path: str, items: list[Object]) -> None:
    """Have the extension serve a group, with these items at a path."""
    root = f"/apis/{group}/{version}"
    resource = {
        "name": "pods/jobs",
        "singularName": "",
        "namespaced": True,
        "kind": "MetricValueList",
        "verbs": ["get"],
    }
    rows = {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}",
        "resources": [resource],
    }

    async def discovery(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(rows)

    async def listed(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "MetricValueList", "items": items})

    setting.extension.answers |= {root: discovery, f"{root}/{path}": listed}
    await setting.lead(group=group, version=version)
    await setting.becomes("Passed", f"{version}.{group}")


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
async def test_a_custom_metric_is_asked_of_who_serves_it(setting: Setting, version: str) -> None:
    items = [{"describedObject": {"name": "a"}, "value": "500m"}]
    await serve(setting, CUSTOM, version, "namespaces/default/pods/*/jobs", items)
    query = metrics.pods_query("default", "jobs", "app=web,tier in (a,b)", "queue=x")
    assert await asked(setting, query) == Answer(items)
    (request,) = setting.extension.seen
    assert request.headers["X-Remote-User"] == AUTOSCALER
    told = parse_qs(request.query_string)
    assert told == {"labelSelector": ["app=web,tier in (a,b)"], "metricLabelSelector": ["queue=x"]}


async def test_an_external_metric(setting: Setting) -> None:
    items = [{"metricName": "jobs", "value": "3"}]
    await serve(setting, EXTERNAL, "v1beta1", "namespaces/default/jobs", items)
    assert await asked(setting, metrics.external_query("default", "jobs", "")) == Answer(items)


NOBODY = {
    "custom": (
        metrics.pods_query("default", "jobs", "", ""),
        "no custom metrics API (custom.metrics.k8s.io) registered"),
    "external": (
        metrics.external_query("default", "jobs", ""),
        "the server could not find the requested resource (get jobs.external.metrics.k8s.io)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOBODY)
async def test_metrics_that_nobody_serves(setting: Setting, case: str) -> None:
    query, why = NOBODY[case]
    assert (await asked(setting, query)).error == why


async def test_use_of_resources_is_told_by_the_api_server_itself(setting: Setting) -> None:
    assert await asked(setting, metrics.resource_query("default", "app=web")) == Answer([])


async def test_a_server_that_answers_badly_is_a_failure_of_that_metric(setting: Setting) -> None:
    await serve(setting, EXTERNAL, "v1beta1", "namespaces/default/jobs", [])
    assert (await asked(setting, metrics.external_query("default", "other", ""))).error == "the answer is no list"

    async def text(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="{")

    setting.extension.answers[f"/apis/{EXTERNAL}/v1beta1/namespaces/default/text"] = text
    assert (await asked(setting, metrics.external_query("default", "text", ""))).error == "the answer is no JSON"

    async def broken(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500)

    setting.extension.answers[f"/apis/{EXTERNAL}/v1beta1/namespaces/default/jobs"] = broken
    assert "bad status" in (await asked(setting, metrics.external_query("default", "jobs", ""))).error


async def test_it_takes_the_rights_that_the_rest_face_asks_for(setting: Setting) -> None:
    await serve(setting, EXTERNAL, "v1beta1", "namespaces/default/jobs", [])
    refused = await asked(setting, metrics.external_query("default", "jobs", ""), user="jane")
    assert 'cannot list resource "jobs" in API group "external.metrics.k8s.io"' in refused.error
    assert not setting.extension.seen


@pytest.mark.parametrize(
    "place",
    [{"resource": ""}, {"resource": ".."}, {"resource": "jobs?x=1"}, {"resource": "%2e%2e"}, {"resource": "jöbs"},
     {"resource": "pods", "namespace": "a/b"}, {"resource": "pods", "name": ".", "subresource": "jobs"},
     {"resource": "pods", "subresource": "jobs"}, {"resource": "jobs", "query": "a=b c"}, {"resource": "j" * 600}],
    ids=str,
)  # fmt: skip
async def test_places_that_are_none(setting: Setting, place: dict[str, str]) -> None:
    await serve(setting, EXTERNAL, "v1beta1", "namespaces/default/jobs", [])
    with pytest.raises(errors.BadRequest):
        await setting.client.read_aggregated(EXTERNAL, ["v1beta1"], **place)
    assert not setting.extension.seen


FLEET = ("ext.example.com/v1", "Fleet")


async def fleets(setting: Setting) -> tuple[Object, list[Any]]:
    """Have the extension serve a kind that has a scale: the scale, and the patches that came."""
    group, version = FLEET[0].split("/")
    root = f"/apis/{group}/{version}"
    scale: Object = {"kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 2}, "status": {}}
    verbs = {"singularName": "", "namespaced": True, "verbs": ["get", "list", "patch"]}
    rows = [{"name": "fleets", "kind": "Fleet", **verbs}, {"name": "fleets/scale", "kind": "Scale", **verbs}]
    document = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": FLEET[0], "resources": rows}
    patches: list[Any] = []

    async def discovery(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(document)

    async def of_web(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PATCH":
            assert request.content_type == "application/json-patch+json"
            patches.extend(orjson.loads(await request.read()))
        return web.json_response(scale)

    setting.extension.answers |= {root: discovery, f"{root}/namespaces/default/fleets/web/scale": of_web}
    await setting.lead(group=group, version=version)
    await setting.becomes("Passed", f"{version}.{group}")
    return scale, patches


@pytest.mark.parametrize("version", ["v1", "v7"])
async def test_the_scale_of_what_an_aggregated_api_keeps_is_read_by_kind(setting: Setting, version: str) -> None:
    """Whatever version of the kind is served."""
    scale, _ = await fleets(setting)
    query = metrics.scale_query("default", f"ext.example.com/{version}", FLEET[1], "web")
    assert await asked(setting, query) == Answer([scale])
    assert setting.extension.seen[-1].headers["X-Remote-User"] == AUTOSCALER
    missing = metrics.scale_query("default", FLEET[0], "Flotilla", "web")
    assert await asked(setting, missing) == Answer([]), "nobody serves that"
    refused = await asked(setting, query, user="jane")
    assert 'cannot get resource "fleets/scale" in API group "ext.example.com"' in refused.error


async def test_replicas_are_set_there_by_a_patch_of_the_scale(setting: Setting) -> None:
    scale, patches = await fleets(setting)
    done, failed = UpdateStatus("x", {"status": {}}), UpdateStatus("x", {"status": {"conditions": []}})
    action = Rescale("", {"metadata": {"name": "web", "namespace": "default"}}, 2, 5, done, failed, elsewhere=FLEET)
    assert await Rescaler(setting.stack.client_as(AUTOSCALER)).rescale(action) == [done]
    assert patches == [
        {"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/spec/replicas", "value": 5},
    ]
    assert setting.extension.seen[-1].headers["X-Remote-User"] == AUTOSCALER
    patches.clear()
    with pytest.raises(errors.Forbidden):
        await setting.stack.client_as("jane").patch_aggregated(*FLEET, "web", "default", [], subresource="scale")
    with pytest.raises(errors.BadRequest):
        await setting.stack.client_as(AUTOSCALER).patch_aggregated(*FLEET, "", "default", [])
    assert not patches and scale


async def test_only_the_api_itself_can_say_that_an_object_is_not_there(setting: Setting) -> None:
    await fleets(setting)
    client = setting.stack.client_as(AUTOSCALER)
    root = f"/apis/{FLEET[0]}/namespaces/default/fleets"
    details = {"name": "gone", "group": "ext.example.com", "kind": "fleets"}
    told = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "details": details}

    def says(document: Any, status: int = 404) -> Any:
        async def handler(_: web.BaseRequest) -> web.StreamResponse:
            return web.json_response(document, status=status)

        return handler

    async def ask() -> Any:
        parts = ("ext.example.com", ["v1"], "", "default")
        return await client.read_aggregated(*parts, kind="Fleet", name="gone", subresource="scale")

    path = f"{root}/gone/scale"
    setting.extension.answers[path] = says(told)
    with pytest.raises(errors.NotFound, match=r'fleets\.ext\.example\.com "gone" not found'):
        await ask()
    for document, status in (("404 page not found", 404), ({**told, "details": {}}, 404), (told, 500)):
        setting.extension.answers[path] = says(document, status)
        with pytest.raises(errors.ServiceUnavailable):
            await ask()
    with pytest.raises(errors.BadRequest):
        await client.read_aggregated("ext.example.com", ["v1"], "", kind="Fleet", name="gone", subresource="scale")

"""Admission webhooks: real HTTPS servers that complete, refuse, fail and lie."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.admission.reviews import BadReview, parse_verdict
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.flowcontrol.fairness import EXEMPT_AT_ONCE
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.rpc.tls import Authority
from tests.apiserver.conftest import Stack
from tests.apiserver.secure import Cluster, cluster

__all__ = ["cluster"]
Answer = Callable[[Object], Awaitable[Any] | Any]
AUTHORITY = Authority.create("webhooks")
BUNDLE = base64.b64encode(AUTHORITY.cert).decode()
EVERYTHING = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}
CONFIGMAPS = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}


class Hooks:
    """A webhook server: `answers[path](request)` gives a response or a whole body; `seen` are the requests, by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, Object]] = []
        self.connections: list[Any] = []
        self.port = 0

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self.handle))  # type: ignore[arg-type]
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=_context()).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def handle(self, request: web.Request) -> web.Response:
        review = orjson.loads(await request.read())
        path = request.path.removeprefix("/")
        self.seen.append((path, review["request"]))
        assert request.transport is not None
        self.connections.append(request.transport.get_extra_info("peername"))
        answer = self.answers[path](review["request"])
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, web.Response):
            return answer
        response = {"uid": review["request"]["uid"], "allowed": True, **answer}
        body = {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    def client(self, path: str) -> Object:
        return {"url": f"https://127.0.0.1:{self.port}/{path}", "caBundle": BUNDLE}

    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@pytest_asyncio.fixture
async def hooks() -> AsyncIterator[Hooks]:
    made = Hooks()
    await made.start()
    yield made
    await made.stop()


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue("hook", hosts=["127.0.0.1", "hook.default.svc"]).load(context)
    return context


def webhook(name: str, client: Object, rules: list[Object] | None = None, **more: Any) -> Object:
    return {
        "name": f"{name}.example.com",
        "clientConfig": client,
        "rules": rules or [CONFIGMAPS],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


async def configure(client: ApiClient, kind: str, name: str, *webhooks: Object) -> None:
    """The server has seen the configuration when this returns: its caches show one moment."""
    resource = f"{kind}webhookconfigurations.admissionregistration.k8s.io"
    await client.create(resource, {"metadata": {"name": name}, "webhooks": list(webhooks)})
    assert (await client.list(resource)).items


def patch(*operations: Object) -> Object:
    return {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(operations)).decode()}


def add(path: str, value: Any) -> Object:
    return patch({"op": "add", "path": path, "value": value})


def config(name: str = "c", **more: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default", **more}, "data": {"a": "b"}}


async def test_a_mutating_webhook_is_told_of_the_request_and_completes_the_object(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: add("/data/added", request["operation"]) if request["object"] else {}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    made = await client.create("configmaps", config())
    assert made["data"] == {"a": "b", "added": "CREATE"}
    made["data"]["a"] = "c"
    assert (await client.update("configmaps", made))["data"] == {"a": "c", "added": "UPDATE"}
    await client.delete("configmaps", "c", "default")
    created, updated, deleted = (request for _, request in hooks.seen)
    assert created["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert created["resource"] == created["requestResource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (created["namespace"], created["name"], created["dryRun"]) == ("default", "c", False)
    assert created["object"]["apiVersion"] == "v1" and created["object"]["kind"] == "ConfigMap"
    assert created["oldObject"] is None and created["options"]["kind"] == "CreateOptions"
    assert "system:masters" in created["userInfo"]["groups"]
    assert updated["oldObject"]["data"] == {"a": "b", "added": "CREATE"}
    assert deleted["object"] is None and deleted["oldObject"]["data"]["a"] == "c"


async def test_a_validating_webhook_refuses_in_its_own_words(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["v"] = lambda request: {
        "allowed": (request["object"] or request["oldObject"])["data"].get("fine") == "yes",
        "status": {"message": "not fine", "code": 403, "reason": "Forbidden"},
        "warnings": ["look out"],
    }
    await configure(client, "validating", "v", webhook("v", hooks.client("v")))
    with pytest.raises(errors.Forbidden) as refused:
        await client.create("configmaps", config())
    assert refused.value.message == 'admission webhook "v.example.com" denied the request: not fine'
    hooks.answers["v"] = lambda request: {"allowed": False}
    with pytest.raises(errors.BadRequest, match=r"denied the request without explanation") as bare:
        await client.create("configmaps", config())
    assert bare.value.code == 400
    assert (await client.list("configmaps", "default")).items == []
    # It sees what is stored, after the mutating ones and the defaults.
    hooks.answers |= {"v": lambda request: {}, "m": lambda request: add("/data/fine", "yes")}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    hooks.seen.clear()
    await client.create("configmaps", config())
    assert hooks.paths() == ["m", "v"] and hooks.seen[-1][1]["object"]["data"]["fine"] == "yes"


@pytest.mark.parametrize("allowed", [True, False])
async def test_what_webhooks_warn_of_is_told_with_refusals_and_deletes_too(hooks: Hooks, allowed: bool) -> None:
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0")
    client = stack.client()
    await client.create("configmaps", config("old"))
    hooks.answers["v"] = lambda _: {"allowed": allowed, "warnings": ["look out"]}
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    evicted = {"metadata": {"name": "p", "namespace": "default"}}
    await client.create("pods", {**evicted, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    evictions = {**CONFIGMAPS, "resources": ["pods/eviction"]}
    await configure(client, "validating", "v", webhook("v", hooks.client("v"), [CONFIGMAPS, evictions]))
    base = f"http://{stack.servers[0].https_address}/api/v1/namespaces/default/"
    strange, eviction = {**config("new"), "strange": 1}, {"apiVersion": "policy/v1", "kind": "Eviction", **evicted}
    async with aiohttp.ClientSession() as session:
        for method, path, body, more in (
            ("POST", "configmaps", strange, ['299 - "unknown field \\"strange\\""']),
            ("PUT", "configmaps/old", {**config("old"), "data": {"a": "c"}}, []),
            ("DELETE", "configmaps/old", None, []),
            ("POST", "pods/p/eviction", eviction, []),
        ):
            async with session.request(method, base + path, json=body) as response:
                assert (response.status < 300) is allowed
                assert response.headers.getall("Warning", []) == [*more, '299 - "look out"']
    await stack.stop()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: web.Response(status=500), "status code 500"),
        (lambda _: web.Response(status=302, headers={"Location": "/v"}), "status code 302"),
        (lambda _: web.Response(body=b"no JSON"), "couldn't get JSON"),
        (lambda _: web.Response(body=b"[]"), "response was absent"),
        (lambda _: web.Response(body=b'{"apiVersion": "v1", "response": {}}'), "expected webhook response of"),
        (lambda _: {"uid": "other"}, 'expected response.uid="'),
        (lambda _: {"allowed": "yes"}, "response.allowed is a boolean"),
        (lambda _: {"patch": "bm8=", "patchType": "JSONPatch"}, "no JSON patch"),
        (lambda _: {"patch": "bm8="}, 'not "JSONPatch"'),
        (lambda _: web.Response(body=b" " * (4 << 20)), "larger than"),
    ],
)
async def test_one_that_fails_refuses_or_is_ignored_as_it_says(
    stack: Stack, hooks: Hooks, answer: Answer, why: str
) -> None:
    client = stack.client()
    hooks.answers["f"] = answer
    await configure(client, "mutating", "f", webhook("f", hooks.client("f")))
    with pytest.raises(errors.InternalError) as failed:
        await client.create("configmaps", config())
    assert failed.value.message.startswith('Internal error occurred: failed calling webhook "f.example.com": ')
    assert why in failed.value.message
    await configure(client, "mutating", "g", webhook("g", hooks.client("f"), failurePolicy="Ignore"))
    await client.delete("mutatingwebhookconfigurations.admissionregistration.k8s.io", "f")
    assert (await client.create("configmaps", config()))["data"] == {"a": "b"}


async def test_one_that_is_silent_or_gone_or_unknown_costs_no_more_than_its_time(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hung = asyncio.Event()

    async def hang(_: Object) -> Object:
        await hung.wait()
        return {}

    hooks.answers["h"] = hang
    await configure(client, "validating", "h", webhook("h", hooks.client("h"), timeoutSeconds=1))
    with pytest.raises(errors.InternalError, match="context deadline exceeded"):
        await client.create("configmaps", config())
    hung.set()
    untrusted = {**hooks.client("h"), "caBundle": base64.b64encode(Authority.create("other").cert).decode()}
    for client_config, why in (
        ({"url": "https://127.0.0.1:1/x", "caBundle": BUNDLE}, "dial tcp 127.0.0.1:1: connect: connection refused"),
        (untrusted, "failed to verify certificate"),
        ({"service": {"namespace": "default", "name": "none"}, "caBundle": BUNDLE}, 'services "none" not found'),
    ):
        await client.delete("validatingwebhookconfigurations.admissionregistration.k8s.io", "h")
        await configure(client, "validating", "h", webhook("h", client_config))
        with pytest.raises(errors.InternalError, match="failed calling webhook") as failed:
            await client.create("configmaps", config())
        assert why in failed.value.message.lower()


async def test_one_is_asked_again_when_a_later_one_changed_what_it_saw(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["first"] = lambda request: add("/data/first", str(len(request["object"]["data"])))
    hooks.answers["second"] = lambda request: add("/data/second", "x")
    first = webhook("first", hooks.client("first"), reinvocationPolicy="IfNeeded")
    await configure(client, "mutating", "a", first, webhook("second", hooks.client("second")))
    made = await client.create("configmaps", config())
    assert hooks.paths() == ["first", "second", "first"]
    assert made["data"] == {"a": "b", "first": "3", "second": "x"}


async def test_one_that_changes_the_object_when_asked_again_has_later_ones_asked_again(
    stack: Stack, hooks: Hooks
) -> None:
    """The third has seen nothing change after it before the first changes the object once more."""
    client = stack.client()
    hooks.answers["first"] = lambda request: add("/data/first", str(len(request["object"]["data"])))
    hooks.answers["second"] = lambda request: add("/data/second", "x")
    hooks.answers["third"] = lambda request: add("/data/third", request["object"]["data"]["first"])
    wanted = [webhook(n, hooks.client(n), reinvocationPolicy="IfNeeded") for n in ("first", "second", "third")]
    wanted[1]["reinvocationPolicy"] = "Never"
    await configure(client, "mutating", "a", *wanted)
    made = await client.create("configmaps", config())
    assert hooks.paths() == ["first", "second", "third", "first", "third"]
    assert made["data"] == {"a": "b", "first": "4", "second": "x", "third": "4"}


@pytest.mark.parametrize(
    ("match", "asked"),
    [
        ({}, True),
        ({"rules": [EVERYTHING]}, True),
        ({"rules": [{**CONFIGMAPS, "operations": ["UPDATE"]}]}, False),
        ({"rules": [{**CONFIGMAPS, "resources": ["secrets", "configmaps/status"]}]}, False),
        ({"rules": [{**CONFIGMAPS, "scope": "Cluster"}]}, False),
        ({"rules": [{**CONFIGMAPS, "scope": "Namespaced"}]}, True),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, True),
        ({"objectSelector": {"matchLabels": {"a": "c"}}}, False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, True),
        ({"namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}, False),
        ({"matchConditions": [{"name": "c", "expression": "object.data.a == 'b'"}]}, True),
        ({"matchConditions": [{"name": "c", "expression": "request.operation != 'CREATE'"}]}, False),
    ],
)
async def test_rules_selectors_and_conditions_tell_whom_it_is_about(
    stack: Stack, hooks: Hooks, match: Object, asked: bool
) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: {}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m"), **match))
    await client.create("configmaps", config(labels={"a": "b"}))
    assert bool(hooks.seen) == asked


async def test_a_condition_without_a_value_refuses_unless_failures_are_ignored(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: {}
    conditions = [{"name": "c", "expression": "object.data.none == 'b'"}]
    await configure(client, "mutating", "m", webhook("m", hooks.client("m"), matchConditions=conditions))
    with pytest.raises(errors.Forbidden, match=r"'object\.data\.none == 'b'' resulted in error: no such key: none"):
        await client.create("configmaps", config())
    await client.delete("mutatingwebhookconfigurations.admissionregistration.k8s.io", "m")
    lax = webhook("m", hooks.client("m"), matchConditions=conditions, failurePolicy="Ignore")
    await configure(client, "mutating", "m", lax)
    await client.create("configmaps", config())
    assert hooks.seen == []


async def test_nobody_is_locked_out_and_dry_runs_have_no_effects(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["no"] = lambda request: {"allowed": False}
    await configure(client, "validating", "no", webhook("no", hooks.client("no"), [EVERYTHING]))
    with pytest.raises(errors.ApiError, match="denied the request"):
        await client.create("configmaps", config())
    await client.delete("validatingwebhookconfigurations.admissionregistration.k8s.io", "no")
    await client.create("configmaps", config())
    hooks.answers["m"] = lambda request: add("/data/dry", str(request["dryRun"]))
    harmless = webhook("m", hooks.client("m"), sideEffects="NoneOnDryRun")
    await configure(client, "mutating", "m", harmless)
    assert (await client.create("configmaps", config("d"), dry_run=True))["data"]["dry"] == "True"


async def test_a_service_without_pods_leads_to_a_program_outside(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: add("/data/outside", "yes")
    spec = {"ports": [{"port": 443, "targetPort": hooks.port}]}
    await client.create("services", {"metadata": {"name": "hook", "namespace": "default"}, "spec": spec})
    metadata = {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}}
    piece = {
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "", "port": hooks.port, "protocol": "TCP"}],
    }
    await client.create("endpointslices.discovery.k8s.io", piece)
    service = {"service": {"namespace": "default", "name": "hook", "path": "/m"}, "caBundle": BUNDLE}
    await configure(client, "mutating", "m", webhook("m", service))
    assert (await client.create("configmaps", config()))["data"]["outside"] == "yes"


async def test_subresources_are_told_and_completed_in_their_own_kinds(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    await client.create("deployments.apps", {"metadata": {"name": "d", "namespace": "default"}, "spec": spec})
    hooks.answers["s"] = lambda request: patch({"op": "replace", "path": "/spec/replicas", "value": 3})
    scales = {"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["*/scale"]}
    await configure(client, "mutating", "s", webhook("s", hooks.client("s"), [scales]))
    scale = await client.get("deployments.apps", "d", "default", subresource="scale")
    scale["spec"]["replicas"] = 9
    await client.update("deployments.apps", scale, subresource="scale")
    assert (await client.get("deployments.apps", "d", "default"))["spec"]["replicas"] == 3
    ((_, request),) = hooks.seen
    assert request["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert request["resource"]["resource"] == "deployments" and request["subResource"] == "scale"
    assert (request["object"]["spec"], request["oldObject"]["spec"]) == ({"replicas": 9}, {"replicas": 1})
    hooks.answers["e"] = lambda request: {"allowed": False, "status": {"message": request["kind"]["kind"]}}
    evictions = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["pods/eviction"]}
    await configure(client, "validating", "e", webhook("e", hooks.client("e"), [evictions]))
    await client.create("pods", {"metadata": {"name": "p", "namespace": "default"}, "spec": template["spec"]})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "default"}}
    with pytest.raises(errors.BadRequest, match="denied the request: Eviction"):
        await client.create("pods", eviction, subresource="eviction")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"op": "remove", "path": "/metadata"}, "it leaves no metadata"),
        ({"op": "remove", "path": "/kind"}, "it changes apiVersion or kind"),
        ({"op": "replace", "path": "/kind", "value": "Secret"}, "it changes apiVersion or kind"),
        ({"op": "replace", "path": "/data", "value": [1]}, "the patch of admission webhook m.example.com"),
        ({"op": "remove", "path": "/none"}, "the patch of admission webhook m.example.com"),
    ],
)
async def test_a_patch_that_leaves_no_such_object_is_told(stack: Stack, hooks: Hooks, change: Object, why: str) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: patch(change)
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    with pytest.raises(errors.InternalError) as failed:
        await client.create("configmaps", config())
    assert why in failed.value.message
    assert (await client.list("configmaps", "default")).items == []


async def test_what_is_deleted_cannot_be_changed(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    await client.create("configmaps", config())
    hooks.answers["m"] = lambda request: add("/data/x", "y")
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    with pytest.raises(errors.InternalError, match="attempted to modify the object, which is not supported"):
        await client.delete("configmaps", "c", "default")


async def test_an_owner_that_a_webhook_names_again_is_kept_once(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}
    hooks.answers["m"] = lambda request: add("/metadata/ownerReferences/-", owner)
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    made = await client.create("configmaps", config(ownerReferences=[owner]))
    assert made["metadata"]["ownerReferences"] == [owner]
    assert (await client.update("configmaps", made))["metadata"]["ownerReferences"] == [owner]


async def test_rules_for_another_version_mean_the_same_resource(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: {}
    rule = {"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"]}
    rules = [{**rule, "resources": ["horizontalpodautoscalers"]}]
    exact = webhook("exact", hooks.client("exact"), rules, matchPolicy="Exact")
    await configure(client, "mutating", "m", webhook("m", hooks.client("m"), rules), exact)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    }
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "namespace": "default"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": target, "metrics": [metric]},
    }
    await client.create("horizontalpodautoscalers.autoscaling", scaler)
    ((path, request),) = hooks.seen
    assert path == "m" and request["object"]["spec"]["targetCPUUtilizationPercentage"] == 70
    assert (request["kind"]["version"], request["requestKind"]["version"]) == ("v1", "v2")


async def test_an_external_name_leads_to_a_program_outside(stack: Stack, hooks: Hooks) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: add("/data/outside", "yes")
    spec = {"type": "ExternalName", "externalName": "localhost"}
    await client.create("services", {"metadata": {"name": "hook", "namespace": "default"}, "spec": spec})
    service = {"namespace": "default", "name": "hook", "path": "/m", "port": hooks.port}
    await configure(client, "mutating", "m", webhook("m", {"service": service, "caBundle": BUNDLE}))
    assert (await client.create("configmaps", config()))["data"]["outside"] == "yes"


async def test_connections_are_kept_and_made_anew_when_the_webhook_was_started_again(
    stack: Stack, hooks: Hooks
) -> None:
    client = stack.client()
    hooks.answers["m"] = lambda request: {}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    for name in ("a", "b", "c"):
        await client.create("configmaps", config(name))
    assert len(set(hooks.connections)) == 1
    await hooks.restart()
    await client.create("configmaps", config("d"))
    assert len(set(hooks.connections)) == 2 and hooks.paths() == ["m"] * 4


CONNECTS = {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*", "nodes/proxy"]}


async def test_connections_to_pods_are_told_and_refused(cluster: Cluster, hooks: Hooks) -> None:
    client, hooks.answers["v"] = cluster.client(), lambda request: {}
    await configure(client, "validating", "v", webhook("v", hooks.client("v"), [CONNECTS]))
    tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
    url, headers = f"https://{cluster.balancer.address}", {"Authorization": "Bearer sesame"}
    async with aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(ssl=tls)) as http:
        pod = "/api/v1/namespaces/default/pods/p"
        path, protocols = f"{pod}/exec?command=echo&command=hi&stdout=true&container=c", ("v4.channel.k8s.io",)
        async with http.ws_connect(path, protocols=protocols) as socket:
            assert (await socket.receive_bytes(timeout=20))[1:] == b"echo hi\n"
        async with http.get(f"{pod}:8080/proxy/a/b") as answer:
            assert answer.status == 200
        async with http.get("/api/v1/nodes/n1/proxy/healthz") as answer:
            assert answer.status == 200
        (_, exec_), (_, proxy), (_, node) = hooks.seen
        assert (exec_["operation"], exec_["subResource"], exec_["name"]) == ("CONNECT", "exec", "p")
        assert exec_["kind"] == {"group": "", "version": "v1", "kind": "PodExecOptions"}
        options = {"stdout": True, "container": "c", "command": ["echo", "hi"]}
        assert exec_["object"] == {"kind": "PodExecOptions", "apiVersion": "v1", **options}
        assert (exec_["oldObject"], exec_["options"], exec_["namespace"]) == (None, None, "default")
        assert proxy["object"] == {"kind": "PodProxyOptions", "apiVersion": "v1", "path": "/a/b"}
        assert (node["object"]["kind"], node["name"], "namespace" in node) == ("NodeProxyOptions", "n1", False)
        hooks.answers["v"] = lambda request: {"allowed": False, "status": {"message": "not here", "code": 403}}
        for refused in (f"{pod}/exec?command=sh", f"{pod}/attach", f"{pod}/portforward?ports=80", f"{pod}/proxy/"):
            async with http.get(refused) as answer:
                said = await answer.json()
                assert (answer.status, "denied the request: not here" in said["message"]) == (403, True)
        async with http.get(f"{pod}/log") as answer:
            assert answer.status == 200


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)
PARTS = ("uid", "allowed", "status", "patch", "patchType", "warnings", "auditAnnotations")


@given(response=ODD | st.dictionaries(st.sampled_from(PARTS), ODD), body=st.none() | st.binary(max_size=40))
def test_whatever_a_webhook_answers_is_a_verdict_or_refused(response: Any, body: bytes | None) -> None:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    if isinstance(response, dict) and response.get("uid"):
        response["uid"] = "u"
    try:
        verdict = parse_verdict(orjson.dumps(review) if body is None else body, version="v1", uid="u", mutating=True)
    except BadReview:
        return
    assert isinstance(verdict.allowed, bool)
    if not verdict.allowed:
        assert 400 <= verdict.refusal("w").code < 600
        orjson.dumps(verdict.refusal("w").status)


async def test_webhooks_that_ask_the_server_as_its_administrator_do_not_wait_for_those_who_ask_them(
    stack: Stack, hooks: Hooks
) -> None:
    client, all_asked, asked = stack.client_as("kubernetes-admin", "system:masters"), asyncio.Event(), [0]

    async def looks(request: Object) -> Object:
        asked[0] += 1
        if asked[0] >= EXEMPT_AT_ONCE:
            all_asked.set()
        await all_asked.wait()
        await client.get("namespaces", request["namespace"])
        return {}

    hooks.answers["v"] = looks
    await configure(client, "validating", "v", webhook("v", hooks.client("v")))
    await asyncio.gather(*(client.create("configmaps", config(f"c{n}")) for n in range(EXEMPT_AT_ONCE)))

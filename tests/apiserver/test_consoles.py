"""What consoles ask an API server: k9s and Headlamp, at their start and in their main views.

Read off their sources of August 2026 (k9s: `internal/client`, `internal/dao`, `internal/watch`; Headlamp:
`frontend/src/lib/k8s`, `backend/cmd`): client-go's discovery, informers and tables, and a browser's WebSockets.
"""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rayplane.control_plane.rpc.tls import client_context
from tests.apiserver.secure import Cluster, cluster

__all__ = ["cluster"]
POD = "/api/v1/namespaces/default/pods/p"
AGGREGATED = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")
)
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
REVIEWS, ATTRIBUTES = "/apis/authorization.k8s.io/v1", {"resource": "pods", "version": "v1", "namespace": "default"}
#: Of Headlamp's side bar: each is listed, and watched over a WebSocket from there.
HEADLAMP = (
    *("/api/v1/" + name for name in ("namespaces", "nodes", "pods", "services", "configmaps", "secrets", "events")),
    *("/api/v1/" + name for name in ("persistentvolumes", "persistentvolumeclaims", "serviceaccounts", "endpoints")),
    *("/api/v1/" + name for name in ("resourcequotas", "limitranges", "replicationcontrollers")),
    *("/apis/apps/v1/" + name for name in ("deployments", "replicasets", "statefulsets", "daemonsets")),
    *("/apis/batch/v1/" + name for name in ("jobs", "cronjobs")),
    *("/apis/networking.k8s.io/v1/" + name for name in ("ingresses", "ingressclasses", "networkpolicies")),
    *("/apis/rbac.authorization.k8s.io/v1/" + name for name in ("roles", "rolebindings", "clusterroles")),
    *("/apis/autoscaling/v2/horizontalpodautoscalers", "/apis/policy/v1/poddisruptionbudgets"),
    *("/apis/scheduling.k8s.io/v1/priorityclasses", "/apis/coordination.k8s.io/v1/leases"),
    *("/apis/node.k8s.io/v1/runtimeclasses", "/apis/storage.k8s.io/v1/storageclasses"),
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    *("/apis/admissionregistration.k8s.io/v1/" + k + "webhookconfigurations" for k in ("mutating", "validating")),
)


@dataclass(frozen=True)
class Call:
    """A request, and what its answer must be for the console to go on."""

    path: str
    good: Callable[[Any], object]
    body: Any = None
    accept: str = "application/json"


def kind(wanted: str) -> Callable[[Any], object]:
    return lambda found: found["kind"] == wanted


K9S = [
    Call("/version?timeout=32s", lambda found: int(found["minor"].rstrip("+")) >= 27),
    Call("/api?timeout=32s", kind("APIGroupDiscoveryList"), accept=f"{AGGREGATED},application/json"),
    Call("/apis?timeout=32s", kind("APIGroupDiscoveryList"), accept=f"{AGGREGATED},application/json"),
    Call("/apis", lambda found: "metrics.k8s.io" in [group["name"] for group in found["groups"]]),
    *(
        Call(
            f"{REVIEWS}/selfsubjectaccessreviews",
            lambda found: found["status"]["allowed"] is True,
            {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
            | {"spec": {"resourceAttributes": ATTRIBUTES | {"verb": verb}}},
        )
        for verb in ("get", "list", "watch", "patch", "delete")
    ),
    Call("/api/v1/namespaces", kind("NamespaceList")),
    Call("/api/v1/pods?limit=500&resourceVersion=0", lambda found: int(found["metadata"]["resourceVersion"]) > 0),
    Call("/api/v1/namespaces/default/pods?includeObject=Metadata", kind("Table"), accept=TABLE),
    Call(
        f"{POD}?includeObject=Object",
        kind("Table"),
        accept="application/json;as=Table;v=v1;g=meta.k8s.io, application/json",
    ),
    Call("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", kind("CustomResourceDefinitionList")),
    Call("/apis/metrics.k8s.io/v1beta1/nodes?limit=500", lambda found: found["items"][0]["usage"]["cpu"]),
    Call("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?limit=500", kind("PodMetricsList")),
    Call("/api/v1/secrets?labelSelector=owner%3Dhelm", kind("SecretList")),
]
START_OF_HEADLAMP = [
    Call("/healthz", lambda found: found == "ok"),
    Call("/version", lambda found: found["gitVersion"].startswith("v1.")),
    Call(
        f"{REVIEWS}/selfsubjectrulesreviews",
        lambda found: found["status"]["resourceRules"],
        {"spec": {"namespace": "default"}},
    ),
    Call(
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        lambda found: found["status"]["userInfo"]["username"] == "kubernetes-admin",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
    ),
    *(
        Call(
            path,
            lambda found: found["items"],
            accept="application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList",
        )
        for path in ("/api", "/apis")
    ),
    Call("/api/v1/nodes/n1/proxy/stats/summary", lambda found: found),
    *(Call(f"{path}?limit=1000", lambda found: found["kind"].endswith("List")) for path in HEADLAMP),
]


class Asked:
    """A console: requests and sockets with its token."""

    def __init__(self, session: aiohttp.ClientSession, stack: AsyncExitStack) -> None:
        self.session, self._stack = session, stack

    async def answer(self, call: Call) -> Any:
        method = "GET" if call.body is None else "POST"
        async with self.session.request(method, call.path, json=call.body, headers={"Accept": call.accept}) as answer:
            text = await answer.text()
            assert answer.status in (200, 201), (call.path, text)
            return json.loads(text) if "json" in answer.content_type else text

    async def socket(self, path: str, *protocols: str) -> aiohttp.ClientWebSocketResponse:
        return await self._stack.enter_async_context(self.session.ws_connect(path, protocols=protocols))


@pytest_asyncio.fixture
async def console(cluster: Cluster) -> AsyncIterator[Asked]:
    connector = aiohttp.TCPConnector(ssl=client_context(cluster.authority.cert))
    token = {"Authorization": "Bearer sesame"}
    async with (
        aiohttp.ClientSession(f"https://{cluster.balancer.address}", connector=connector, headers=token) as session,
        AsyncExitStack() as stack,
    ):
        yield Asked(session, stack)


async def test_k9s_and_headlamp_are_told_all_that_they_ask_at_their_start(console: Asked) -> None:
    for call in (*K9S, *START_OF_HEADLAMP):
        assert call.good(await console.answer(call)), call.path


async def test_informers_of_k9s_follow_with_bookmarks_and_from_the_beginning(console: Asked) -> None:
    listed = await console.answer(Call("/api/v1/pods?limit=500&resourceVersion=0", kind("PodList")))
    follow = "watch=true&allowWatchBookmarks=true&timeoutSeconds=300"
    at = listed["metadata"]["resourceVersion"]
    whole = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    async with console.session.get(f"/api/v1/pods?{follow}&{whole}") as answer:
        events = [json.loads(await answer.content.readline()) for _ in range(2)]
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
    async with console.session.get(f"/api/v1/pods?{follow}&resourceVersion={at}") as answer:
        labels = {"metadata": {"labels": {"seen": "yes"}}}
        merge = {"Content-Type": "application/merge-patch+json"}
        async with console.session.patch(POD, data=json.dumps(labels), headers=merge) as patched:
            assert patched.status == 200
        event = json.loads(await answer.content.readline())
    assert (event["type"], event["object"]["metadata"]["labels"]) == ("MODIFIED", {"seen": "yes"})


@pytest.mark.parametrize("protocols", [(), ("base64.binary.k8s.io",)], ids=["its multiplexer", "a browser"])
async def test_headlamp_watches_over_a_socket_from_where_it_listed(console: Asked, protocols: tuple[str, ...]) -> None:
    for path in HEADLAMP:
        listed = await console.answer(Call(path, kind("")))
        socket = await console.socket(
            f"{path}?watch=1&resourceVersion={listed['metadata']['resourceVersion']}", *protocols
        )
        assert not socket.closed, path
        await socket.close()
    socket = await console.socket("/api/v1/namespaces/default/pods?watch=1&fieldSelector=metadata.name%3Dp", *protocols)
    message = await socket.receive()
    assert json.loads(message.data)["object"]["metadata"]["name"] == "p"


async def test_headlamp_reads_logs_and_runs_commands_over_sockets(console: Asked) -> None:
    query = "container=c&previous=false&timestamps=false&follow=true&tailLines=2"
    socket = await console.socket(f"{POD}/log?{query}", "base64.binary.k8s.io")
    lines = "".join([base64.b64decode(message.data).decode() async for message in socket])
    assert lines == "line 3 of c\nline 4 of c\n"
    offered = ("base64.binary.k8s.io", *(f"{v}channel.k8s.io" for v in ("v4.", "v3.", "v2.", "")))
    what = "container=c&command=echo&stdin=false&stderr=true&stdout=true&tty=false"
    socket = await console.socket(f"{POD}/exec?{what}", *offered)
    assert socket.protocol == "v4.channel.k8s.io"
    assert (await socket.receive_bytes()) == b"\x01echo\n"

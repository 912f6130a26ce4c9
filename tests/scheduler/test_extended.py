"""Pods in which an HTTP extender has a say, past a real one on this machine: what it decides, and how it may fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from rayplane.control_plane.api import meta
from rayplane.control_plane.rpc.tls import Authority
from rayplane.control_plane.scheduler import Scheduler
from rayplane.control_plane.scheduler.configuration import read_configuration
from rayplane.control_plane.scheduler.extended import AT_ONCE_MAX
from rayplane.control_plane.scheduler.extenders import Extender, ExtenderTLS
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import node, on, pod
from tests.scheduler.harness import make, node_of, quiet, until

GPU = "example.com/gpu"
Answer = Callable[[dict[str, Any]], Awaitable[Any]]


class Server:
    """An extender that answers what it is told to, by verb; a verb that it was not told of is an error 500."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        verb, question = request.match_info["verb"], await request.json()
        self.asked.append((verb, question))
        if verb not in self.answers:
            return web.Response(status=500)
        answer = await self.answers[verb](question)
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    def says(self, verb: str, answer: Any) -> None:
        async def same(_: dict[str, Any]) -> Any:
            return answer

        self.answers[verb] = same


@asynccontextmanager
async def serving(server: Server, **more: Any) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/ext/{verb}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **more)
    await site.start()
    [(host, port)] = [address[:2] for address in runner.addresses]
    server.url = f"http://{host}:{port}/ext"
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    async with serving(one):
        yield one


@pytest.fixture
def api() -> FakeClient:
    found = FakeClient()
    for name in ("n1", "n2", "n3"):
        found.put("nodes", node(name, cpu="2"))
    return found


@asynccontextmanager
async def scheduling(api: FakeClient, *extenders: Extender) -> AsyncIterator[Scheduler]:
    profiles = read_configuration(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
    ).profiles
    one = make(api, extenders=extenders, profiles=profiles)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def all_of(question: dict[str, Any]) -> list[str]:
    """The names of the nodes that were asked about."""
    if question["NodeNames"] is not None:
        return [*question["NodeNames"]]
    return [meta.name(one) for one in question["Nodes"]["items"]]


def bindings(api: FakeClient) -> int:
    return [done[:2] for done in api.operations].count(("create", "pods/binding"))


@pytest.mark.parametrize("knows_nodes", [True, False])
async def test_nodes_are_filtered_and_scored_and_the_pod_is_bound_by_the_extender(
    api: FakeClient, server: Server, knows_nodes: bool
) -> None:
    async def keep(question: dict[str, Any]) -> Any:
        names = [name for name in all_of(question) if name != "n1"]
        nodes = {"items": [{"metadata": {"name": name}} for name in names]}
        return {"NodeNames": names, "FailedNodes": {"n1": "no licence"}} if knows_nodes else {"Nodes": nodes}

    async def bind(question: dict[str, Any]) -> Any:
        one = api.pod(question["PodName"])
        assert meta.uid(one) == question["PodUID"]
        api.put("pods", {**one, "spec": {**one["spec"], "nodeName": question["Node"]}})
        return {}

    server.answers |= {"filter": keep, "bind": bind}
    server.says("prioritize", [{"Host": "n3", "Score": 10}, {"Host": "n2", "Score": 1}])
    extender = Extender(
        url=server.url, filter_verb="filter", prioritize_verb="prioritize", bind_verb="bind", knows_nodes=knows_nodes
    )
    async with scheduling(api, extender) as scheduler:
        api.put("pods", pod("p"))
        await until(lambda: node_of(api, "p") == "n3")
        await until(lambda: "Successfully assigned default/p to n3" in api.events("Scheduled"))
        assert bindings(api) == 0
        assert [verb for verb, _ in server.asked] == ["filter", "prioritize", "bind"]
        assert [len(all_of(question)) for verb, question in server.asked if verb != "bind"] == [3, 2]
        term = scheduler._term
        assert term is not None
        told = term.explainer.explain("default/p")
        assert told is not None
        assert told.now.message.startswith("as its extenders say, which are not asked here; plug-ins alone: n")
        assert not told.now.node
        past = {one.node: one for one in told.past[-1].nodes}
        assert past["n1"].plugin == f"Extender {server.url}"
        assert [*past["n1"].reasons] == (["no licence"] if knows_nodes else [])
        assert past["n3"].scores[f"Extender {server.url}"] == 100
        assert past["n3"].total == sum(past["n3"].scores.values()) > past["n2"].total


async def test_others_do_not_wait_for_an_extender(api: FakeClient, server: Server) -> None:
    gate = asyncio.Event()

    async def hold(question: dict[str, Any]) -> Any:
        await gate.wait()
        return {"NodeNames": all_of(question)}

    server.answers["filter"] = hold
    extender = Extender(url=server.url, filter_verb="filter", knows_nodes=True, resources=frozenset((GPU,)))
    async with scheduling(api, extender):
        for name in ("n1", "n2", "n3"):
            api.put("nodes", node(name, cpu="2", extended={GPU: "100"}))
        for number in range(AT_ONCE_MAX + 5):
            api.put("pods", pod(f"special{number}", requests={GPU: "1"}))
        await until(lambda: len(server.asked) == AT_ONCE_MAX)
        api.put("pods", pod("plain"))
        await until(lambda: node_of(api, "plain"))
        await quiet(api)
        assert len(server.asked) == AT_ONCE_MAX, "so many at once, no more"
        gate.set()
        await until(lambda: all(node_of(api, f"special{number}") for number in range(AT_ONCE_MAX + 5)))


async def test_what_refuses_a_pod_is_told_and_any_event_may_help(api: FakeClient, server: Server) -> None:
    server.says("filter", {"NodeNames": [], "FailedNodes": {"n2": "full"}, "FailedAndUnresolvableNodes": {"n3": "old"}})
    async with scheduling(api, Extender(url=server.url, filter_verb="filter", knows_nodes=True)) as scheduler:
        await until(lambda: scheduler.pending())
        api.put("nodes", node("n1", cpu="1"))
        api.put("pods", pod("p", cpu="2"))
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        await until(lambda: api.events("FailedScheduling"))
        assert api.events("FailedScheduling")[0].startswith(
            "0/3 nodes are available: 1 Insufficient cpu, 1 full, 1 old. "
            "no new claims to deallocate, preemption: 0/3 nodes are available: "
        )
        condition = meta.get_condition(api.pod("p"), "PodScheduled")
        assert condition is not None and condition["reason"] == "Unschedulable"
        server.says("filter", {"NodeNames": ["n2"]})
        api.put("namespaces", {"metadata": {"name": "new"}})
        await until(lambda: node_of(api, "p") == "n2")


FAULTS: list[tuple[Any, str]] = [
    (web.Response(status=503), "failed filter with extender at URL {url}/filter, code 503"),
    (web.Response(text="<html>"), 'extender "{url}" answered filter with what is no JSON: '),
    ({"Error": "no licence server"}, "no licence server"),
    ({"NodeNames": ["n9"]}, 'extender "{url}" claims a filtered node "n9" which is not found in the input node list'),
]


@pytest.mark.parametrize(("answer", "words"), FAULTS)
@pytest.mark.parametrize("ignorable", [True, False])
async def test_an_extender_that_fails(
    api: FakeClient, server: Server, answer: Any, words: str, ignorable: bool
) -> None:
    async def fail(_: dict[str, Any]) -> Any:
        return _again(answer)

    server.answers["filter"] = fail
    extender = Extender(url=server.url, filter_verb="filter", knows_nodes=True, ignorable=ignorable)
    async with scheduling(api, extender):
        api.put("pods", pod("p"))
        if ignorable:
            await until(lambda: node_of(api, "p"))
            return
        await until(lambda: api.events("FailedScheduling"))
        assert api.events("FailedScheduling")[0].startswith(words.format(url=server.url))
        await until(lambda: meta.get_condition(api.pod("p"), "PodScheduled"))
        condition = meta.get_condition(api.pod("p"), "PodScheduled")
        assert condition is not None and condition["reason"] == "SchedulerError"
        server.says("filter", {"NodeNames": ["n3"]})
        await until(lambda: node_of(api, "p") == "n3")


def _again(answer: Any) -> Any:
    """A response serves one request."""
    return web.Response(status=answer.status, body=answer.body) if isinstance(answer, web.Response) else answer


async def test_an_extender_that_is_not_there_or_never_answers(api: FakeClient, server: Server) -> None:
    async def never(_: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    server.answers["filter"] = never
    slow = Extender(url=server.url, filter_verb="filter", timeout_s=0.05, resources=frozenset(("example.com/slow",)))
    gone = Extender(url="http://127.0.0.1:1", filter_verb="filter", resources=frozenset(("example.com/gone",)))
    async with scheduling(api, slow, gone):
        for name in ("slow", "gone"):
            resource = f"example.com/{name}"
            api.put("nodes", node(f"n-{name}", extended={resource: "1"}))
            api.put("pods", pod(name, requests={resource: "1"}))
        late = f'Post "{server.url}/filter": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        lost = 'Post "http://127.0.0.1:1/filter": dial tcp 127.0.0.1:1: connect: connection refused'
        await until(lambda: {late, lost} <= set(api.events("FailedScheduling")))


async def test_an_extender_over_https(api: FakeClient) -> None:
    server, authority = Server(), Authority.create("ca")
    shown = authority.issue("extender", hosts=["extender.example"])
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=shown.ca.decode())
    secured.verify_mode = ssl.CERT_REQUIRED
    shown.load(secured)
    server.says("filter", {"NodeNames": ["n2"]})
    async with serving(server, ssl_context=secured):
        right = ExtenderTLS(server_name="extender.example", ca=shown.ca, cert=shown.cert, key=shown.key)
        url = server.url.replace("http:", "https:")
        async with scheduling(api, Extender(url=url, filter_verb="filter", knows_nodes=True, tls=right)):
            api.put("pods", pod("p"))
            await until(lambda: node_of(api, "p") == "n2")
        wrong = replace(right, server_name="other.example")
        async with scheduling(api, Extender(url=url, filter_verb="filter", knows_nodes=True, tls=wrong)):
            api.put("pods", pod("q"))
            await until(lambda: any("failed to verify certificate" in said for said in api.events("FailedScheduling")))


async def test_room_that_is_taken_meanwhile_is_not_given_twice(api: FakeClient, server: Server) -> None:
    gate = asyncio.Event()

    async def hold(question: dict[str, Any]) -> Any:
        await gate.wait()
        return {"NodeNames": all_of(question)}

    server.answers["filter"] = hold
    extender = Extender(url=server.url, filter_verb="filter", knows_nodes=True, resources=frozenset((GPU,)))
    async with scheduling(api, extender) as scheduler:
        for name in ("n1", "n2"):
            api.put("nodes", node(name, cpu="2", extended={GPU: "1"}))
        api.put("pods", pod("special", cpu="2", requests={GPU: "1"}))
        await until(lambda: server.asked)
        api.put("pods", pod("quick", cpu="2", nodeSelector={"kubernetes.io/hostname": "n1"}))
        await until(lambda: node_of(api, "quick") == "n1")
        gate.set()
        await until(lambda: node_of(api, "special") == "n2")
        gate.clear()
        api.put("nodes", node("n4", cpu="2", extended={GPU: "1"}))
        api.put("pods", pod("late", cpu="2", requests={GPU: "1"}))
        await until(lambda: len(server.asked) == 2)
        api.put("pods", pod("quick2", cpu="2", nodeSelector={"kubernetes.io/hostname": "n4"}))
        await until(lambda: node_of(api, "quick2") == "n4")
        gate.set()
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        assert not node_of(api, "late")


async def test_room_that_is_taken_while_nodes_are_scored_is_not_given_twice(api: FakeClient, server: Server) -> None:
    gate = asyncio.Event()

    async def hold(_: dict[str, Any]) -> Any:
        await gate.wait()
        return [{"Host": "n1", "Score": 10}]

    server.answers["prioritize"] = hold
    extender = Extender(url=server.url, prioritize_verb="prioritize", resources=frozenset((GPU,)))
    async with scheduling(api, extender):
        for name in ("n1", "n2"):
            api.put("nodes", node(name, cpu="2", extended={GPU: "1"}))
        api.put("pods", pod("special", cpu="2", requests={GPU: "1"}))
        await until(lambda: server.asked)
        api.put("pods", pod("quick", cpu="2", nodeSelector={"kubernetes.io/hostname": "n1"}))
        await until(lambda: node_of(api, "quick") == "n1")
        gate.set()
        await until(lambda: node_of(api, "special") == "n2")


async def test_a_pod_that_is_deleted_meanwhile_leaves_nothing_behind(api: FakeClient, server: Server) -> None:
    gate = asyncio.Event()

    async def hold(question: dict[str, Any]) -> Any:
        if meta.name(question["Pod"]) == "p":
            await gate.wait()
        return {"NodeNames": ["n1"]}

    server.answers["filter"] = hold
    async with scheduling(api, Extender(url=server.url, filter_verb="filter", knows_nodes=True)) as scheduler:
        api.put("pods", pod("p", cpu="2"))
        await until(lambda: server.asked)
        api.remove("pods", "default/p")
        await quiet(api)
        gate.set()
        api.put("pods", pod("q", cpu="2"))
        await until(lambda: node_of(api, "q") == "n1")
        assert sum(scheduler.pending().values()) == 0


async def test_a_binding_that_the_extender_refuses_is_tried_again(api: FakeClient, server: Server) -> None:
    server.says("bind", {"Error": "the device is gone"})
    extender = Extender(url=server.url, bind_verb="bind")
    async with scheduling(api, extender):
        api.put("pods", pod("p", cpu="2"))
        await until(lambda: "the device is gone" in api.events("FailedScheduling"))
        assert not node_of(api, "p") and bindings(api) == 0

        async def bind(question: dict[str, Any]) -> Any:
            one = api.pod(question["PodName"])
            api.put("pods", {**one, "spec": {**one["spec"], "nodeName": question["Node"]}})
            return {}

        server.answers["bind"] = bind
        await until(lambda: node_of(api, "p"))


async def test_a_binder_that_may_be_ignored_leaves_the_pod_to_the_scheduler(api: FakeClient, server: Server) -> None:
    async with scheduling(api, Extender(url=server.url, bind_verb="bind", prioritize_verb="p", ignorable=True)):
        api.put("pods", pod("p"))
        await until(lambda: node_of(api, "p"))
        assert bindings(api) == 1 and {verb for verb, _ in server.asked} == {"p", "bind"}


@pytest.mark.parametrize("knows_nodes", [True, False])
async def test_an_extender_has_its_say_in_who_is_preempted(api: FakeClient, server: Server, knows_nodes: bool) -> None:
    async def only_n2(question: dict[str, Any]) -> Any:
        victims = question["NodeNameToMetaVictims" if knows_nodes else "NodeNameToVictims"]
        assert sorted(victims) == ["n1", "n2", "n3"]
        [one] = victims["n2"]["Pods"]
        assert victims["n2"]["NumPDBViolations"] == 0
        uid = one["UID"] if knows_nodes else meta.uid(one)
        return {"NodeNameToMetaVictims": {"n2": {"Pods": [{"UID": uid}], "NumPDBViolations": 0}}}

    server.answers["preempt"] = only_n2
    extender = Extender(url=server.url, preempt_verb="preempt", knows_nodes=knows_nodes)
    async with scheduling(api, extender):
        for name in ("n1", "n2", "n3"):
            api.put("pods", on(name, pod(f"meek-{name}", cpu="2", priority=1)))
        api.put("pods", pod("vip", cpu="2", priority=100))
        await until(lambda: api.pod("vip").get("status", {}).get("nominatedNodeName") == "n2")
        await until(lambda: meta.is_deleting(api.pod("meek-n2")))
        api.remove("pods", "default/meek-n2")
        await until(lambda: node_of(api, "vip") == "n2")
        assert not meta.is_deleting(api.pod("meek-n1")) and not meta.is_deleting(api.pod("meek-n3"))


PREEMPT: list[tuple[Any, str]] = [
    ({"NodeNameToMetaVictims": {}}, "preemption: no candidate node for preemption"),
    ({"NodeNameToMetaVictims": {"n1": {"Pods": []}}}, 'preemption: expected at least one victim pod on node "n1"'),
    ({"NodeNameToMetaVictims": {"n9": {}}}, 'preemption: nodeinfo not found for node name "n9"'),
    ({"NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "?"}]}}}, "but the pod is not found on that node"),
    ({"NodeNameToMetaVictims": []}, "victims are no object"),
]


@pytest.mark.parametrize(("answer", "words"), PREEMPT)
async def test_an_extender_that_lets_nobody_be_preempted(
    api: FakeClient, server: Server, answer: Any, words: str
) -> None:
    server.says("preempt", answer)
    async with scheduling(api, Extender(url=server.url, preempt_verb="preempt")) as scheduler:
        for name in ("n1", "n2", "n3"):
            api.put("pods", on(name, pod(f"meek-{name}", cpu="2", priority=1)))
        api.put("pods", pod("vip", cpu="2", priority=100))
        await until(lambda: api.events("FailedScheduling"))
        said = api.events("FailedScheduling")[0]
        assert (
            said.startswith("0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: ")
            and words in said
        )
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        assert not any(meta.is_deleting(one) for one in api.objects["pods"].values())


async def test_an_extender_that_refused_a_node_may_name_victims_there(api: FakeClient, server: Server) -> None:
    server.says("filter", {"NodeNames": [], "FailedNodes": {"n2": "devices in use"}})
    server.says("preempt", {"NodeNameToMetaVictims": {"n2": {"Pods": [{"UID": "uid-user"}]}}})
    extender = Extender(url=server.url, filter_verb="filter", preempt_verb="preempt", knows_nodes=True)
    async with scheduling(api, extender):
        api.put("pods", on("n2", pod("user", cpu="1", priority=1)))
        api.put("pods", pod("vip", cpu="1", priority=100))
        await until(lambda: meta.is_deleting(api.pod("user")))
        asked = next(question for verb, question in server.asked if verb == "preempt")
        assert asked["NodeNameToMetaVictims"] == {"n2": {"Pods": [], "NumPDBViolations": 0}}


async def test_room_that_is_kept_for_another_pod_is_left_to_it(api: FakeClient, server: Server) -> None:
    async def all_nodes(question: dict[str, Any]) -> Any:
        return {"NodeNames": all_of(question)}

    server.answers["filter"] = all_nodes
    async with scheduling(api, Extender(url=server.url, filter_verb="filter", knows_nodes=True)):
        for name in ("n1", "n2", "n3"):
            api.put("pods", on(name, pod(f"meek-{name}", cpu="2", priority=1)))
        api.put("pods", pod("vip", cpu="2", priority=100))
        await until(lambda: api.pod("vip").get("status", {}).get("nominatedNodeName"))
        where = api.pod("vip")["status"]["nominatedNodeName"]
        api.put("nodes", node(where, cpu="3"))
        api.put("pods", pod("late", cpu="1"))
        await until(lambda: any("3 Insufficient cpu" in said for said in api.events("FailedScheduling")))
        assert not node_of(api, "late")

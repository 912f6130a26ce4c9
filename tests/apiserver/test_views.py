"""The dashboard's views over HTTP: who RBAC lets look, packing as it changes, what a supervisor is asked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from rayplane.control_plane.apiserver.rest.views import _soon, _until
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.rpc import Context
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.rayplane.v1 import chaos_pb2, supervisor_pb2
from tests.api.test_packing import node, pod
from tests.apiserver.conftest import Stack
from tests.rpc.open_service import open_service

SUPERVISOR = "host-0:19999"
RBAC = "rbac.authorization.k8s.io"


class Supervisor:
    """A supervisor that answers with what it is asked."""

    def __init__(self) -> None:
        self.server: ApiServer | None = None
        self.seated: list[list[str]] = []
        """Of each look, the paths that had a seat of the server."""

    async def Look(self, request: supervisor_pb2.LookRequest, _: Context) -> AsyncIterator[supervisor_pb2.LookResponse]:
        assert self.server is not None
        levels = self.server.registry.fairness.levels.values()
        tickets = [ticket for level in levels for ticket in level.queues.executing]
        self.seated.append([one.flow.asked.path for one in tickets if one.flow.asked.path])
        for number in range(2):
            yield supervisor_pb2.LookResponse(json=b'{"%s":%d,"faults":[]}' % (request.view.encode(), number))

    async def Begin(self, request: chaos_pb2.BeginRequest, _: Context) -> chaos_pb2.ActiveFault:
        return chaos_pb2.ActiveFault(id="7", fault=request.fault, by=request.by)


class Http:
    """Requests as somebody to the one server of a stack."""

    def __init__(self, stack: Stack, session: aiohttp.ClientSession, supervisor: Supervisor) -> None:
        self.stack = stack
        self.supervisor = supervisor
        self._session = session

    def ask(self, path: str, user: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        return self._session.request(method, path, json=body, headers={"Impersonate-User": user, **headers})

    async def grant(self, user: str, name: str, **rule: Any) -> None:
        api = self.stack.client()
        named = {"metadata": {"name": name}}
        await api.create(f"clusterroles.{RBAC}", {**named, "rules": [rule]})
        role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}
        subject = {"apiGroup": RBAC, "kind": "User", "name": user}
        await api.create(f"clusterrolebindings.{RBAC}", {**named, "roleRef": role, "subjects": [subject]})


@pytest_asyncio.fixture
async def http() -> AsyncIterator[Http]:
    stack, supervisor = Stack(), Supervisor()
    services = [
        open_service(supervisor_pb2.DESCRIPTOR.services_by_name["Views"], supervisor),
        open_service(chaos_pb2.DESCRIPTOR.services_by_name["Faults"], supervisor),
    ]
    await stack.network.serve(SUPERVISOR, services)
    server = await stack.add_server(https_address="127.0.0.1:0", supervisors=(SUPERVISOR,))
    supervisor.server = server
    await stack.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    async with aiohttp.ClientSession(f"http://{server.https_address}") as session:
        yield Http(stack, session, supervisor)
    await stack.stop()


@pytest.mark.parametrize("view", ["packing", "control-plane", "why", "nothing-like-it"])
async def test_who_has_no_right_to_the_path_is_told_so(http: Http, view: str) -> None:
    async with http.ask(f"/rayplane/v1/{view}", "ann") as refused:
        assert refused.status == 403
        assert f'User "ann" cannot get path "/rayplane/v1/{view}"' in (await refused.json())["message"]


async def test_packing_is_told_whole_then_as_it_changes_and_rests_when_nobody_looks(http: Http) -> None:
    await http.grant("ann", "looks", verbs=["get"], nonResourceURLs=["/rayplane/v1/packing"])
    api, packed = http.stack.client(), http.stack.servers[0].registry.packed
    await api.create("nodes", node("node-0"))
    async with http.ask("/rayplane/v1/packing", "ann") as answer:
        first = await _line(answer)
        assert (first["whole"], first["used"], list(first["nodes"])) == (True, 0, ["node-0"])
        made = await api.create("pods", pod("web", on="node-0"))
        second = await _line(answer)
        assert (second["whole"], second["nodes"]["node-0"]["held"]) == (False, {"Pod/default/web": [1, 500, 2**30]})
        revision = made["metadata"]["resourceVersion"]
    await api.delete("pods", "web", "default", grace_period_s=0)
    async with http.ask(f"/rayplane/v1/packing?at={revision}", "ann") as then:
        assert (await then.json(content_type=None))["used"] == 1
    async with http.ask("/rayplane/v1/packing?at=soon", "ann") as refused:
        assert refused.status == 400
    assert packed.rests


async def test_the_supervisor_is_asked_for_the_rest(http: Http) -> None:
    await http.grant("ann", "looks", verbs=["get"], nonResourceURLs=["/rayplane/v1/*"])
    async with http.ask("/rayplane/v1/control-plane", "ann") as answer:
        assert await answer.text() == '{"control-plane":0,"faults":null}\n{"control-plane":1,"faults":null}\n'
    await http.grant("ann", "sees", verbs=["list"], apiGroups=["chaos.rayplane.io"], resources=["faults"])
    async with http.ask("/rayplane/v1/control-plane", "ann") as answer:
        assert (await _line(answer))["faults"] == []
    async with http.ask("/rayplane/v1/control-plane", "ann", "POST") as refused:
        assert refused.status == 403


async def test_who_asks_once_has_a_seat_meanwhile_and_who_looks_on_has_none(http: Http) -> None:
    await http.grant("ann", "looks", verbs=["get"], nonResourceURLs=["/rayplane/v1/*"])
    for view in ("history", "control-plane"):
        async with http.ask(f"/rayplane/v1/{view}", "ann") as answer:
            assert answer.status == 200
    assert http.supervisor.seated == [["/rayplane/v1/history"], []]


def test_who_asks_once_is_answered_in_time_or_told_so() -> None:
    async def told() -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b"{}"

    async def seen() -> bytes:
        return await anext(_soon(30.0, told()))

    with pytest.raises(TimeoutError):
        VirtualLoop().run(seen())


def test_what_goes_on_ends_as_watches_do_so_that_rights_are_looked_at_anew() -> None:
    async def told() -> AsyncGenerator[bytes, None]:
        while True:
            await asyncio.sleep(1.0)
            yield b"{}"

    async def seen() -> int:
        return len([one async for one in _until(asyncio.get_running_loop().time() + 3.5, told())])

    assert VirtualLoop().run(seen()) == 3


@pytest.mark.parametrize(
    ("view", "rule"),
    [
        ("explain?namespace=default&name=web", {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
        (
            "why?resource=deployments.apps&namespace=default&name=web",
            {"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]},
        ),
        ("changes?from=1&to=2", {"verbs": ["list"], "apiGroups": ["*"], "resources": ["*"]}),
    ],
)
async def test_what_tells_of_objects_takes_the_right_to_those(http: Http, view: str, rule: dict[str, Any]) -> None:
    await http.grant("ann", "looks", verbs=["get"], nonResourceURLs=["/rayplane/v1/*"])
    async with http.ask(f"/rayplane/v1/{view}", "ann") as refused:
        assert refused.status == 403
    await http.grant("ann", "reads", **rule)
    async with http.ask(f"/rayplane/v1/{view}", "ann") as answer:
        assert answer.status == 200


async def test_faults_are_a_matter_of_the_right_to_faults_and_not_to_the_path(http: Http) -> None:
    await http.grant("ann", "looks", verbs=["*"], nonResourceURLs=["/rayplane/v1/*"])
    fault = {"fault": "kill: {target: leader}"}
    async with http.ask("/rayplane/v1/faults", "ann", "POST", fault) as refused:
        assert refused.status == 403
    await http.grant("ann", "strikes", verbs=["create"], apiGroups=["chaos.rayplane.io"], resources=["faults"])
    async with http.ask("/rayplane/v1/faults", "ann", "POST", fault) as begun:
        assert await begun.json() == {"id": "7", **fault, "by": "ann"}
    async with http.ask("/rayplane/v1/faults", "ann", "POST", {"fault": 1}) as refused:
        assert refused.status == 400
    async with http.ask("/rayplane/v1/faults", "ann", "POST", fault, **{"Content-Type": "text/plain"}) as refused:
        assert refused.status == 415, "a page of anybody could send it"
    async with http.ask("/rayplane/v1/faults?id=7", "ann", "DELETE") as refused:
        assert refused.status == 403


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_right_to_one_fault_by_name_is_none_to_begin_or_list_others(http: Http, method: str) -> None:
    rule = {"apiGroups": ["chaos.rayplane.io"], "resources": ["faults"], "resourceNames": ["f-1"]}
    await http.grant("ann", "one", verbs=["*"], **rule)
    async with http.ask("/rayplane/v1/faults?id=f-1", "ann", method, {"fault": "kill: {target: leader}"}) as refused:
        assert refused.status == 403


async def _line(answer: aiohttp.ClientResponse) -> Any:
    return orjson.loads(await answer.content.readline())

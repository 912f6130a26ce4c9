"""Priority and fairness in a server: who waits, who is refused, and what changes when its objects do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.bootstrap_flow import AUTOUPDATE
from rayplane.control_plane.apiserver.bootstrap import keep_flow_control
from rayplane.control_plane.apiserver.config import ApiServerConfig, Limits
from rayplane.control_plane.apiserver.flowcontrol.fairness import EXEMPT_AT_ONCE, LEVELS, SCHEMAS, Fairness, elsewhere
from rayplane.control_plane.apiserver.flowcontrol.matching import Asked
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.client import ops
from rayplane.control_plane.cluster.flood import flood
from rayplane.control_plane.identities import FLOODER, MASTERS, NODES, SCHEDULER
from rayplane.control_plane.tasks import cancel_and_wait
from tests.apiserver.conftest import Stack

EVERYBODY = ("system:authenticated",)


def asked(user: str, verb: str = "get", resource: str = "pods", *groups: str, group: str = "") -> Asked:
    return Asked(user, (*groups, *EVERYBODY), verb, group, resource, "default")


REJECT = {"type": "Reject", "queuing": None}
ALICE, BOB = asked("alice"), asked("bob")
ADMIN, LEADER = asked("root", "get", "pods", MASTERS), asked("root", "update", "leases", MASTERS)


def level_of(fairness: Fairness, one: Asked) -> str:
    return fairness.flow(one).level.spec.name


async def test_without_objects_the_mandatory_ones_hold() -> None:
    fairness = Fairness(10, wait_max_s=1)
    assert level_of(fairness, ADMIN) == "exempt"
    assert level_of(fairness, ALICE) == level_of(fairness, Asked("x", (), "get", path="/version")) == "catch-all"


async def test_exempt_requests_have_no_seats_while_others_are_asked() -> None:
    fairness, go = Fairness(10, wait_max_s=1), asyncio.Event()
    queues = fairness.flow(ADMIN).level.queues
    away: list[int] = []

    async def asking(n: int) -> None:
        ticket = await fairness.seat(fairness.flow(ADMIN), Ticket())
        fairness.at_hand(ticket)
        try:
            with elsewhere():
                with elsewhere():
                    pass
                away.append(n)
                await go.wait()
            assert ticket.seats == 1
        finally:
            fairness.leave(ticket)

    asked = [asyncio.ensure_future(asking(n)) for n in range(3 * EXEMPT_AT_ONCE)]
    async with asyncio.timeout(5):
        while len(away) < len(asked):
            await asyncio.sleep(0)
        fairness.leave(await fairness.seat(fairness.flow(ADMIN), Ticket()))
    asked[0].cancel()
    go.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert (queues.seats, queues.idle, queues.live) == (0, True, {})
    with elsewhere():  # nobody's, or that of a request that has left
        assert queues.seats == 0


async def test_exempt_requests_are_worked_on_a_few_at_a_time_and_heartbeats_pass_them() -> None:
    fairness, go, done = Fairness(10, wait_max_s=1), asyncio.Event(), []

    async def stuck(n: int) -> None:
        ticket = await fairness.seat(fairness.flow(ADMIN), Ticket())
        try:
            await go.wait()
            done.append(n)
        finally:
            fairness.leave(ticket)

    burst = [asyncio.ensure_future(stuck(n)) for n in range(500)]
    await asyncio.sleep(0)
    assert fairness.in_flight["readOnly"] == EXEMPT_AT_ONCE
    async with asyncio.timeout(5):
        fairness.leave(await fairness.seat(fairness.flow(LEADER), Ticket()))
        assert not done
        for cancelled in burst[EXEMPT_AT_ONCE : EXEMPT_AT_ONCE + 100]:
            cancelled.cancel()
        go.set()
        await asyncio.gather(*burst, return_exceptions=True)
    assert len(done) == 400
    assert fairness.in_flight == {"readOnly": 0, "mutating": 0}


async def test_a_level_that_refuses_says_when_to_come_again() -> None:
    fairness = Fairness(2, wait_max_s=1)
    flow = fairness.flow(ALICE)
    tickets = [await fairness.seat(flow, Ticket()) for _ in range(2)]
    with pytest.raises(errors.TooManyRequests) as refused:
        await fairness.seat(flow, Ticket())
    assert refused.value.retry_after == 1
    for ticket in (*tickets, *tickets):  # giving back twice gives back once
        fairness.leave(ticket)
    for _ in range(2):
        await fairness.seat(flow, Ticket())
    assert flow.level.queues.seats == 2
    assert flow.counts.refused == {"concurrency-limit": 1}


@pytest_asyncio.fixture
async def small() -> AsyncIterator[Stack]:
    """A server with hardly any seats, and REST."""
    made = Stack()
    tokens = {"carol": ("carol", EVERYBODY)}
    await made.add_server(limits=Limits(requests_in_flight=8), https_address="127.0.0.1:0", static_tokens=tokens)
    yield made
    await made.stop()


def fairness_of(stack: Stack) -> Fairness:
    return stack.servers[0].registry.fairness


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def fill(fairness: Fairness, one: Asked) -> list[Ticket]:
    """All seats that its level has."""
    flow, taken = fairness.flow(one), []
    while fairness.at_once(flow, ticket := Ticket()):
        taken.append(ticket)
    return taken


async def test_who_waits_too_long_or_leaves_takes_no_seat_with_it(small: Stack) -> None:
    fairness = fairness_of(small)
    fairness._wait_max_s = 0.01
    taken = await fill(fairness, ALICE)
    flow = fairness.flow(BOB)
    with pytest.raises(errors.TooManyRequests):
        await fairness.seat(flow, Ticket())
    fairness._wait_max_s = 60
    leaves = asyncio.ensure_future(fairness.seat(flow, Ticket()))
    stays = asyncio.ensure_future(fairness.seat(flow, Ticket()))
    await until(lambda: flow.level.queues.waiting == 2)
    # Cancelled in the moment in which it is told to go on.
    fairness.leave(taken.pop())
    leaves.cancel()
    fairness.leave(await stays)
    for ticket in taken:
        fairness.leave(ticket)
    assert flow.counts.refused == {"time-out": 1, "cancelled": 1}
    assert flow.level.queues.idle and not flow.level.queues.seats and not flow.level.queues.live


async def test_levels_do_not_wait_for_each_other_and_answers_say_which_it_was(small: Stack) -> None:
    fairness = fairness_of(small)
    await small.client().create("clusterrolebindings.rbac.authorization.k8s.io", _binding("alice", "cluster-admin"))
    taken = await fill(fairness, ALICE)
    waiting = asyncio.ensure_future(small.client_as("alice").get("namespaces", "default"))
    await until(lambda: fairness.flow(ALICE).level.queues.waiting)
    # Neither those who are exempt nor other levels notice.
    async with asyncio.timeout(5), aiohttp.ClientSession(f"http://{small.servers[0].https_address}") as http:
        async with http.get("/api/v1/namespaces/default") as answer:
            exempt = await small.client().get(SCHEMAS, "exempt")
            assert answer.headers["X-Kubernetes-PF-FlowSchema-UID"] == exempt["metadata"]["uid"]
        async with http.get("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1") as answer:
            assert "global-default," in (page := await answer.text()) and "alice," in page
        async with http.get("/debug/api_priority_and_fairness/dump_priority_levels") as answer:
            [row] = [line.split() for line in (await answer.text()).splitlines() if line.startswith("global-default")]
            assert row[4] == "1,"
        async with http.get("/metrics") as answer:
            text = await answer.text()
            labels = 'flow_schema="global-default",priority_level="global-default"'
            assert f"apiserver_flowcontrol_current_inqueue_requests{{{labels}}} 1.0" in text
            assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 4.0' in text
        assert not waiting.done()
        for ticket in taken:
            fairness.leave(ticket)
        await waiting


def _binding(user: str, role: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "name": user, "apiGroup": group}
    return {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


async def test_objects_decide_from_the_moment_they_are_stored(small: Stack) -> None:
    fairness, client = fairness_of(small), small.client()
    level = {
        "metadata": {"name": "slow"},
        "spec": {
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}},
        },
    }
    rule = {"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"], "namespaces": ["*"]}
    schema = {
        "metadata": {"name": "alice"},
        "spec": {
            "matchingPrecedence": 700,
            "priorityLevelConfiguration": {"name": "slow"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "alice"}}], "resourceRules": [rule]}],
        },
    }
    await client.create(SCHEMAS, schema)
    await until(lambda: "slow" not in fairness.levels)
    assert level_of(fairness, ALICE) == "global-default", "a schema without its level is not in force"
    await client.create(LEVELS, level)
    await until(lambda: level_of(fairness, ALICE) == "slow")
    assert level_of(fairness, BOB) == level_of(fairness, asked("alice", "list")) == "global-default"
    ticket = await fairness.seat(fairness.flow(ALICE), Ticket())
    await client.delete(LEVELS, "slow")
    await until(lambda: level_of(fairness, ALICE) == "global-default")
    assert [gone.spec.name for gone in fairness.leaving] == ["slow"], "it goes when its last request does"
    fairness.leave(ticket)
    fairness._adjust(fairness.now())
    assert not fairness.leaving


async def test_what_is_ours_is_kept_unless_it_is_said_not_to(stack: Stack) -> None:
    client, registry = stack.client(), stack.servers[0].registry

    async def change(kind: str, name: str, annotation: str | None, **limited: Any) -> None:
        metadata = {"annotations": {AUTOUPDATE: annotation}}
        await client.patch(kind, name, "", {"metadata": metadata, "spec": {"limited": limited}})

    await change(LEVELS, "system", "true", nominalConcurrencyShares=7)
    await change(LEVELS, "node-high", "false", nominalConcurrencyShares=7)
    await change(LEVELS, "workload-low", None, nominalConcurrencyShares=7)  # an administrator's, by its generation
    await client.patch(LEVELS, "exempt", "", {"spec": {"exempt": {"nominalConcurrencyShares": 5}}})
    await client.patch(SCHEMAS, "exempt", "", {"metadata": {"annotations": {AUTOUPDATE: "false"}}})
    for resource, name in ((SCHEMAS, "catch-all"), (SCHEMAS, "global-default"), (LEVELS, "catch-all")):
        await client.delete(resource, name)
    ours_once = (await client.get(SCHEMAS, "service-accounts"))["spec"]
    metadata = {"name": "once-ours", "annotations": {AUTOUPDATE: "true"}}
    await client.create(SCHEMAS, {"metadata": metadata, "spec": ours_once})
    await registry.hub.fresh()
    await keep_flow_control(registry)
    await registry.hub.fresh()
    shares = {o["metadata"]["name"]: o["spec"].get("limited", {}) for o in (await client.list(LEVELS)).items}
    found = {name: limited.get("nominalConcurrencyShares") for name, limited in shares.items()}
    assert (found["system"], found["node-high"], found["workload-low"], found["catch-all"]) == (30, 7, 7, 5)
    assert (await client.get(LEVELS, "exempt"))["spec"]["exempt"]["nominalConcurrencyShares"] == 5
    schemas = {o["metadata"]["name"]: o for o in (await client.list(SCHEMAS)).items}
    assert {"catch-all", "global-default"} <= schemas.keys() and "once-ours" not in schemas
    assert schemas["exempt"]["metadata"]["annotations"][AUTOUPDATE] == "true"
    revision = registry.hub.revision
    await keep_flow_control(registry)
    assert await registry.hub.fresh() == revision, "what is as it should be is not written again"


async def test_a_lease_is_renewed_in_the_middle_of_a_burst_of_creates(stack: Stack) -> None:
    client = stack.client()
    lease = {"metadata": {"name": "leader", "namespace": "default"}, "spec": {"holderIdentity": "a"}}
    lease = await client.create("leases.coordination.k8s.io", lease)

    def config_map(n: int) -> dict:
        return {"metadata": {"name": f"c{n}", "namespace": "default"}}

    burst = [asyncio.ensure_future(client.create("configmaps", config_map(n))) for n in range(500)]
    while not any(b.done() for b in burst):
        await asyncio.sleep(0)
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    lease = await client.update("leases.coordination.k8s.io", lease)
    assert sum(b.done() for b in burst) < 250
    [beat] = await client.batch([ops.update("leases.coordination.k8s.io", lease)])
    assert not isinstance(beat, errors.ApiError)
    assert not [a for a in await asyncio.gather(*burst, return_exceptions=True) if isinstance(a, BaseException)]


async def test_watches_keep_no_seat_once_they_have_begun(small: Stack) -> None:
    fairness = fairness_of(small)
    client = small.client_as("node", NODES)
    await small.client().create("clusterrolebindings.rbac.authorization.k8s.io", _binding("node", "cluster-admin"))
    watches = [client.watch("namespaces", send_initial_events=True) for _ in range(20)]
    for watch in watches:
        assert (await anext(watch))[0].type == "ADDED"
    queues = fairness.levels["system"].queues
    assert queues.idle and not queues.seats
    for watch in watches:
        await watch.aclose()


async def test_a_flood_waits_in_turn_as_any_user_does_and_is_answered(small: Stack) -> None:
    fairness, server = fairness_of(small), small.servers[0].grpc_address
    taken = await fill(fairness, ALICE)
    flooding = asyncio.create_task(flood(small.network, lambda: [server], 1000))
    await until(lambda: fairness.flow(ALICE).level.queues.waiting)
    # Who floods is exempt, and does not ask as that.
    assert (await small.client().list("pods")).items == []
    for ticket in taken:
        fairness.leave(ticket)
    await cancel_and_wait(flooding)
    assert (await small.client().acting(FLOODER).list("pods")).items == []


async def test_a_watch_that_finds_no_seat_is_refused_as_other_requests_are(small: Stack) -> None:
    fairness = fairness_of(small)
    await small.client().patch(LEVELS, "global-default", "", {"spec": {"limited": {"limitResponse": REJECT}}})
    await small.client().create("clusterrolebindings.rbac.authorization.k8s.io", _binding("carol", "cluster-admin"))
    carol = asked("carol", "watch", "namespaces")._replace(namespace="")
    await until(lambda: not fairness.flow(carol).level.spec.queues)
    taken = await fill(fairness, carol)
    headers, url = {"Authorization": "Bearer carol"}, "/api/v1/namespaces?watch=1"
    async with asyncio.timeout(5), aiohttp.ClientSession(f"http://{small.servers[0].https_address}") as http:
        async with http.get(url, headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert (await answer.json())["reason"] == "TooManyRequests"
        for ticket in taken:
            fairness.leave(ticket)
        async with http.get(url, headers=headers) as answer:
            assert answer.status == 200 and answer.headers["X-Kubernetes-PF-FlowSchema-UID"]
            assert b"ADDED" in await answer.content.readline()
            assert fairness.flow(carol).level.queues.idle


async def test_a_body_that_comes_slowly_takes_no_seat(small: Stack) -> None:
    fairness = fairness_of(small)
    await small.client().create("clusterrolebindings.rbac.authorization.k8s.io", _binding("carol", "cluster-admin"))
    host, _, port = small.servers[0].https_address.rpartition(":")
    head = (
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer carol\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    for _, writer in slow:
        writer.write(head.encode())
        await writer.drain()
    headers = {"Authorization": "Bearer carol"}
    async with asyncio.timeout(10), aiohttp.ClientSession(f"http://{small.servers[0].https_address}") as http:
        async with http.get("/api/v1/namespaces/default", headers=headers) as answer:
            assert answer.status == 200
        assert not sum(fairness.in_flight.values())
    for _, writer in slow:
        writer.transport.abort()


async def test_elections_of_components_have_seats_of_their_own(small: Stack) -> None:
    fairness = fairness_of(small)
    renewal = asked(SCHEDULER, "update", "leases", group="coordination.k8s.io")
    assert level_of(fairness, renewal) == "leader-election"
    assert level_of(fairness, asked("alice", "update", "leases", group="coordination.k8s.io")) == "global-default"


def test_a_server_without_seats_is_refused() -> None:
    with pytest.raises(ValueError, match="limits"):
        ApiServerConfig(etcd_endpoints=("a:1",), limits=Limits(requests_in_flight=0)).validate()

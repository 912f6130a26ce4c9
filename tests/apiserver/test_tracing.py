"""Explained requests: which steps they met, who may see it, and that nobody pays for it who does not ask."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rayplane.control_plane.apiserver.rest.server import TRACE, TRACE_ID
from rayplane.control_plane.apiserver.tracing import recent
from rayplane.control_plane.apiserver.tracing.recent import RECENT, About, Recent
from rayplane.control_plane.apiserver.tracing.spans import (
    SPANS_MAX,
    Trace,
    changes,
    following,
    note,
    span,
    spanned,
    traced,
)
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.test_policies import binding, config, enforce, policy, valid
from tests.apiserver.test_webhooks import Hooks, add, configure, hooks, webhook  # noqa: F401

RBAC = "rbac.authorization.k8s.io"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def ticking() -> Trace:
    return Trace(map(float, itertools.count()).__next__)


# --- spans ----------------------------------------------------------------------------------------


def test_what_is_not_traced_is_nothing() -> None:
    assert not traced()
    with span("a") as step:
        assert not step
        note(x=1)
        step.note({"x": 1})


def test_steps_are_one_inside_the_other_and_say_how_long_they_took() -> None:
    trace = ticking()
    with following(trace, "request"):
        with span("a"):
            note(x=1, empty="")
            with span("b"):
                pass
        with pytest.raises(ValueError), span("c"):
            raise ValueError("no")
    assert not traced()
    found = [(s["name"], s["depth"], s["at"], s["seconds"], s.get("facts")) for s in trace.steps()]
    assert found == [
        ("request", 0, 1.0, 7.0, None),
        ("a", 1, 2.0, 3.0, {"x": "1"}),
        ("b", 2, 3.0, 1.0, None),
        ("c", 1, 6.0, 1.0, {"error": "ValueError: no"}),
    ]


async def test_tasks_of_a_request_tell_of_themselves_in_their_place() -> None:
    @spanned("leaf", about=lambda n: {"n": n}, answered=lambda found: {"found": found})
    async def leaf(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    async def branch(n: int) -> None:
        with span(f"branch {n}"):
            await asyncio.gather(leaf(n), leaf(n))

    trace = ticking()
    with following(trace, "request"):
        await asyncio.gather(branch(1), branch(2))
    assert [s["depth"] for s in trace.steps() if s["name"] == "leaf"] == [2] * 4
    assert sorted(s["facts"]["found"] for s in trace.steps() if s["name"] == "leaf") == ["2", "2", "4", "4"]
    assert await leaf(3) == 6


def test_however_many_steps_and_facts_there_are_a_trace_stays_small() -> None:
    trace = ticking()
    with following(trace, "request"):
        for _ in range(SPANS_MAX * 2):
            with span("again"):
                note(**{f"fact {n}": "x" * 10_000 for n in range(100)})
    assert len(trace.spans) == SPANS_MAX and trace.left_out == SPANS_MAX + 1
    assert max(len(str(step)) for step in trace.steps()) < 10_000


def test_what_changed_is_told_by_its_path_alone() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": "secret"}, "gone": 1}
    now = {"a": 1, "b": {"c": [1, 3], "d": "other"}, "new": 1}
    assert changes(before, now) == ["b.c[1]", "b.d", "gone", "new"]
    assert changes({n: 0 for n in range(100)}, {}, most=3) == ["0", "1", "2"]


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_BYTES_MAX", 2000)
    kept = Recent("s", make_env().clock.now)
    ids = [kept.over(About("REST", "GET", "/\udcff" + "x" * 10_000, code=500), 0.1) for _ in range(20)]
    assert kept.get(ids[0]) is None and kept.get(ids[-1]) is not None
    assert len(kept.all()) < 3000
    assert await kept.after(19, 0.0) != await kept.after(20, 0.0)
    kept.stop()


# --- requests -------------------------------------------------------------------------------------


class Rest:
    """A client of the first server's REST face."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with asyncio.timeout(60), self._http.request(method, path, json=body, headers=named) as answer:
            json = await answer.json() if answer.content_type == "application/json" else await answer.text()
            return answer.status, json, dict(answer.headers)

    async def explained(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        _, _, found = await self.ask(method, path, body, **{TRACE: "1"}, **headers)
        return (await self.ask("GET", f"{RECENT}/{found[TRACE_ID]}"))[1]


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Stack]:
    made = Stack()
    await made.add_server(https_address="127.0.0.1:0", static_tokens={"carol": ("carol", ("system:authenticated",))})
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def rest(served: Stack) -> AsyncIterator[Rest]:
    async with aiohttp.ClientSession(f"http://{served.servers[0].https_address}") as http:
        yield Rest(http)


def facts(entry: dict[str, Any], step: str) -> list[dict[str, str]]:
    return [one.get("facts", {}) for one in entry["steps"] if one["name"] == step]


async def grant(stack: Stack, role: str, *rules: dict[str, Any]) -> None:
    """Give carol these rights."""
    client = stack.client()
    await client.create(f"clusterroles.{RBAC}", {"metadata": {"name": role}, "rules": list(rules)})
    subject = {"kind": "User", "name": "carol", "apiGroup": RBAC}
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
    await client.create(
        f"clusterrolebindings.{RBAC}", {"metadata": {"name": f"{role}-binding"}, "roleRef": ref, "subjects": [subject]}
    )


async def test_a_write_is_explained_from_who_asked_to_what_was_stored(
    served: Stack,
    rest: Rest,
    hooks: Hooks,  # noqa: F811
) -> None:
    client = served.client()
    hooks.answers["m"] = lambda _: {**add("/data/added", "x"), "warnings": ["careful"]}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m")))
    await enforce(client, policy(**valid("object.data.a != 'c'", message="not c")), binding())
    await grant(served, "writer", {"verbs": ["create"], "apiGroups": [""], "resources": ["configmaps"]})
    await grant(served, "looker", {"verbs": ["get"], "nonResourceURLs": [RECENT]})
    carol = {"Authorization": "Bearer carol"}
    entry = await rest.explained("POST", CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", **config()}, **carol)
    assert (entry["code"], entry["user"], entry["method"], entry["path"]) == (201, "carol", "POST", CONFIG_MAPS)
    assert (entry["flowSchema"], entry["priorityLevel"]) == ("global-default", "global-default")
    [who] = facts(entry, "authentication")
    assert who == {"token": "bearer", "user": "carol", "groups": "system:authenticated"}
    assert any(
        "ClusterRoleBinding" in f["reason"] and "writer-binding" in f["reason"] for f in facts(entry, "authorization")
    )
    assert facts(entry, "flow control")[0]["flow"] == "carol"
    [hook] = facts(entry, "webhook")
    assert (hook["name"], hook["patched"], hook["warnings"]) == ("m.example.com", "/data/added", "careful")
    assert facts(entry, "call") == [{"url": hooks.client("m")["url"]}]
    assert facts(entry, "policy") == [{"name": "p", "bindings": "b"}]
    names = [step["name"] for step in entry["steps"]]
    assert {"decoding", "validation", "admission NamespaceLifecycle", "admission Quotas", "encoding"} <= {*names}
    assert any(name.startswith("etcd") for name in names)
    assert all(0 <= step["at"] <= step["at"] + step["seconds"] <= entry["seconds"] + 1e-3 for step in entry["steps"])

    body = {"apiVersion": "v1", "kind": "ConfigMap", **config("d"), "data": {"a": "c"}}
    refused = await rest.explained("POST", CONFIG_MAPS, body, **carol)
    assert refused["code"] == 422 and "not c" in refused["message"]
    assert facts(refused, "policy")[0]["refused"] == "not c"
    forbidden = await rest.explained("DELETE", f"{CONFIG_MAPS}/c", **carol)
    assert forbidden["code"] == 403 and facts(forbidden, "authorization")[0]["decision"] == "forbid"


async def test_what_a_plugin_changed_is_told(served: Stack, rest: Rest) -> None:
    await served.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    entry = await rest.explained("POST", "/api/v1/namespaces/default/pods", pod)
    [said] = facts(entry, "admission ServiceAccounts")
    assert "spec.serviceAccountName" in said["changed"]
    assert facts(entry, "authorization")[0]["authorizer"] == "system:masters may do everything"


async def test_who_may_not_look_is_not_told_and_leaves_nothing(served: Stack, rest: Rest) -> None:
    await grant(served, "reader", {"verbs": ["get"], "apiGroups": [""], "resources": ["namespaces"]})
    carol = {"Authorization": "Bearer carol"}
    status, _, headers = await rest.ask("GET", "/api/v1/namespaces/default", **carol, **{TRACE: "1"})
    assert status == 200 and TRACE_ID not in headers
    status, _, headers = await rest.ask("GET", "/version", Authorization="Bearer wrong", **{TRACE: "1"})
    assert status == 401 and TRACE_ID not in headers
    for path in (RECENT, f"{RECENT}/apiserver-0-1", f"{RECENT}?after=0"):
        assert (await rest.ask("GET", path, **carol))[0] == 403
    assert not served.servers[0].registry.recent.followed
    assert (await rest.ask("GET", RECENT))[1] == {"last": 0, "recent": []}
    assert (await rest.ask("GET", f"{RECENT}/apiserver-0-1"))[0] == 404
    assert (await rest.ask("GET", f"{RECENT}?after=x"))[0] == 400


async def test_who_follows_sees_all_requests_of_both_faces(served: Stack, rest: Rest) -> None:
    server = served.servers[0].registry
    last = (await rest.ask("GET", f"{RECENT}?after=0"))[1]["last"]
    assert server.recent.followed
    waiting = asyncio.ensure_future(rest.ask("GET", f"{RECENT}?after={last}&wait=9"))
    await asyncio.sleep(0)
    await served.client().get("namespaces", "default")
    _, page, _ = await waiting
    [entry] = page["recent"]
    assert (entry["face"], entry["method"], entry["path"]) == ("gRPC", "get", "/api/v1/namespaces/default")
    assert facts(entry, "authorization")
    await rest.ask("GET", "/api/v1/nodes")
    [entry] = (await rest.ask("GET", f"{RECENT}?after={page['last']}"))[1]["recent"]
    assert (entry["face"], entry["path"]) == ("REST", "/api/v1/nodes")
    server.recent._stop()
    await rest.ask("GET", "/api/v1/nodes")
    assert len((await rest.ask("GET", RECENT))[1]["recent"]) == 2


async def test_failed_and_slow_requests_are_kept_without_being_asked_for(
    served: Stack, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = served.servers[0].registry

    async def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "get", broken)
        await rest.ask("GET", "/api/v1/namespaces/default")
    monkeypatch.setattr(recent, "SLOW_S", 0.0)
    await rest.ask("GET", "/api/v1/nodes")
    failed, slow, *_ = (await rest.ask("GET", RECENT))[1]["recent"]
    assert failed["code"] == 500 and "a bug" in failed["message"] and "steps" not in failed
    assert slow["path"] == "/api/v1/nodes" and slow["code"] == 200

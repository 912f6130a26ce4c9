"""The kubelet's port: who may read which page of a node."""

import asyncio
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import ADMINISTRATORS, Identity
from rayplane.node.errors import NotHere
from rayplane.node.streaming import web as module
from rayplane.node.streaming.web import (
    REVIEWS_MAX,
    REVIEWS_OF_PEER_MAX,
    KubeletWeb,
    Owners,
    reviewer,
    subresources,
    token_owner,
)

ADMIN, JANE = Identity("admin", (MASTERS,)), Identity("jane", ("readers",))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/stats/summary", ("stats",)),
        ("/metrics", ("metrics",)),
        ("/metrics/cadvisor", ("metrics",)),
        ("/metricsx", ("proxy",)),
        ("/logs/", ("log",)),
        ("/pods", ("pods", "proxy")),
        ("/healthz/ping", ("healthz", "proxy")),
        ("/configz", ("configz", "proxy")),
        ("/flagz", ("configz",)),
        ("/statusz", ("statusz",)),
        ("/metrics/slis", ("metrics",)),
        ("/run/default/web/main", ("proxy",)),
        ("/", ("proxy",)),
    ],
)
def test_each_path_is_a_part_of_a_node(path: str, parts: tuple[str, ...]) -> None:
    assert subresources(path) == parts


class Port:
    """A handler, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *allowed: str) -> None:
        self.asked: list[tuple[str, str, str, str]] = []
        self.identity: Identity | None = None
        monkeypatch.setattr(module, "identity_of_transport", lambda _: self.identity)
        self._allowed = allowed
        self.owners: dict[str, Identity] = {}
        self.answering = asyncio.Event()
        self.answering.set()
        self._web = KubeletWeb(self._own, self._page, self._review, self._owner, trusted=ADMINISTRATORS, node="n1")

    async def get(
        self,
        identity: Identity | None,
        path: str,
        method: str = "GET",
        token: str = "",
        peer: str = "10.0.0.1",
        **query: str,
    ) -> tuple[int, str]:
        self.identity = identity
        headers = {"Authorization": token} if token else {}
        request: Any = SimpleNamespace(
            path=path,
            rel_url=SimpleNamespace(raw_query_string=urlencode(query)),
            method=method,
            query=query,
            headers=headers,
            transport=None,
            remote=peer,
        )
        answer: Any = await self._web(request)
        return answer.status, answer.text.strip()

    async def _own(self, request: Any) -> Any:
        return module.text(200, f"own {request.path}")

    async def _page(self, node: str, path: str, query: str, accept: str) -> tuple[bytes, str, int]:
        if node != "n1":
            raise NotHere(f"node {node} is not on this host")
        return f"{path} of {node} {query}".strip().encode(), "text/plain", 200

    async def _owner(self, token: str) -> Identity | None:
        await self.answering.wait()
        return self.owners.get(token)

    async def _review(self, identity: Identity, verb: str, part: str, node: str) -> bool:
        self.asked.append((identity.user, verb, part, node))
        return part in self._allowed


async def test_administrators_read_all_and_the_hosts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch)
    assert await port.get(ADMIN, "/stats/summary") == (200, "/stats/summary of n1")
    assert await port.get(ADMIN, "/metrics") == (200, "own /metrics")
    assert await port.get(ADMIN, "/healthz", verbose="") == (200, "/healthz of n1 verbose=")
    assert (await port.get(ADMIN, "/pods", node="n9"))[0] == 404
    assert port.asked == []


async def test_others_read_what_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch, "metrics", "proxy")
    assert await port.get(JANE, "/metrics") == (200, "/metrics of n1")
    assert await port.get(JANE, "/configz") == (200, "/configz of n1")
    assert (await port.get(JANE, "/stats/summary"))[0] == 403
    assert port.asked == [("jane", "get", part, "n1") for part in ("metrics", "configz", "proxy", "stats")]
    assert await port.get(JANE, "/debug/log") == (200, "own /debug/log")  # which judges for itself
    for identity, method in ((Identity("", ("readers",)), "GET"), (JANE, "BREW")):
        assert (await port.get(identity, "/metrics/cadvisor", method))[0] == 403


async def test_who_shows_a_token_reads_what_its_owner_may(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch, "metrics")
    port.owners = {"janes": JANE, "admins": ADMIN}
    assert await port.get(None, "/metrics", token="Bearer janes") == (200, "/metrics of n1")
    assert port.asked == [("jane", "get", "metrics", "n1")]
    assert (await port.get(None, "/stats/summary", token="bearer janes"))[0] == 403
    # A token is worth what the API says, whatever groups its owner is of: what is the host's own needs a certificate.
    assert (await port.get(None, "/pods", token="Bearer admins"))[0] == 403
    for token in ("", "Bearer", "Bearer nobodys", "Basic janes"):
        assert (await port.get(None, "/metrics", token=token))[0] == 401
    assert await port.get(JANE, "/metrics", token="Bearer nobodys") == (200, "/metrics of n1")


async def test_bogus_tokens_shut_out_neither_who_is_known_nor_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch, "metrics")
    port.owners = {"janes": JANE}
    assert (await port.get(None, "/metrics", token="Bearer janes"))[0] == 200
    port.answering.clear()

    def come(peer: str, count: int) -> list[asyncio.Task[tuple[int, str]]]:
        bogus = (port.get(None, "/metrics", token="Bearer nobodys", peer=peer) for _ in range(count))
        return [asyncio.create_task(one) for one in bogus]

    asking = come("10.0.0.9", REVIEWS_OF_PEER_MAX)
    await asyncio.sleep(0)
    assert (await port.get(None, "/metrics", token="Bearer nobodys", peer="10.0.0.9"))[0] == 429
    for n in range(REVIEWS_MAX // REVIEWS_OF_PEER_MAX - 1):
        asking += come(f"10.0.1.{n}", REVIEWS_OF_PEER_MAX)
    await asyncio.sleep(0)
    assert (await port.get(None, "/metrics", token="Bearer nobodys"))[0] == 429
    assert (await port.get(None, "/metrics"))[0] == 401, "who shows no token takes no place"
    assert (await port.get(None, "/metrics", token="Bearer janes"))[0] == 200
    port.answering.set()
    assert {status for status, _ in await asyncio.gather(*asking)} == {401}
    assert (await port.get(None, "/metrics", token="Bearer nobodys", peer="10.0.0.9"))[0] == 401


async def test_an_owner_is_remembered_for_a_while_and_a_stranger_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    asked: list[str] = []

    async def ask(token: str) -> Identity | None:
        asked.append(token)
        return JANE if token == "janes" else None

    owners = Owners(ask)
    for _ in range(2):
        assert await owners.owner("janes", "10.0.0.1") == JANE
    monkeypatch.setattr(module, "KEPT_S", 120.0)
    for _ in range(2):
        assert await owners.owner("janes", "10.0.0.1") == JANE
        assert await owners.owner("nobodys", "10.0.0.1") is None
    assert asked == ["janes", "janes", "janes", "nobodys", "nobodys"]


async def test_a_token_is_whose_the_api_says() -> None:
    class Client:
        answer: Any = None

        async def create(self, resource: str, body: dict[str, Any]) -> Any:
            assert (resource, body["spec"]) == ("tokenreviews.authentication.k8s.io", {"token": "t"})
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    client = Client()
    owner = token_owner(client)  # type: ignore[arg-type]
    user = {"username": "jane", "groups": ["readers"]}
    client.answer = {"status": {"authenticated": True, "user": user}}
    assert await owner("t") == JANE
    for client.answer in ({"status": {"user": user}}, {"status": {"authenticated": True}}, {}, ServiceUnavailable("")):
        assert await owner("t") is None


async def test_nobody_may_while_the_api_does_not_answer() -> None:
    created: list[dict[str, Any]] = []

    class Client:
        def __init__(self) -> None:
            self.answer: Any = {"status": {"allowed": True}}

        async def create(self, resource: str, body: dict[str, Any]) -> Any:
            created.append(body)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    client = Client()
    review = reviewer(client)  # type: ignore[arg-type]
    assert await review(JANE, "get", "stats", "n1")
    (asked,) = created
    assert (asked["spec"]["user"], asked["spec"]["groups"]) == ("jane", ["readers"])
    attributes = asked["spec"]["resourceAttributes"]
    assert (attributes["resource"], attributes["subresource"], attributes["name"]) == ("nodes", "stats", "n1")
    for client.answer in ({"status": {}}, ServiceUnavailable("down")):
        assert not await review(JANE, "get", "stats", "n1")

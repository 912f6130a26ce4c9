"""The kubelet's port: who may read which page of a node."""

from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import ADMINISTRATORS, Identity
from rayplane.node.errors import NotHere
from rayplane.node.streaming import web as module
from rayplane.node.streaming.web import KubeletWeb, reviewer, subresources

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
        self._web = KubeletWeb(self._own, self._page, self._review, trusted=ADMINISTRATORS, node="n1")

    async def get(self, identity: Identity | None, path: str, method: str = "GET", **query: str) -> tuple[int, str]:
        self.identity = identity
        request: Any = SimpleNamespace(path=path, method=method, query=query, headers={}, transport=None)
        answer: Any = await self._web(request)
        return answer.status, answer.text.strip()

    async def _own(self, request: Any) -> Any:
        return module.text(200, f"own {request.path}")

    async def _page(self, node: str, path: str, accept: str) -> tuple[bytes, str, int]:
        if node != "n1":
            raise NotHere(f"node {node} is not on this host")
        return f"{path} of {node}".encode(), "text/plain", 200

    async def _review(self, identity: Identity, verb: str, part: str, node: str) -> bool:
        self.asked.append((identity.user, verb, part, node))
        return part in self._allowed


async def test_administrators_read_all_and_the_hosts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch)
    assert await port.get(ADMIN, "/stats/summary") == (200, "/stats/summary of n1")
    assert await port.get(ADMIN, "/metrics") == (200, "own /metrics")
    assert (await port.get(ADMIN, "/pods", node="n9"))[0] == 404
    assert port.asked == []


async def test_others_read_what_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port(monkeypatch, "metrics", "proxy")
    assert await port.get(JANE, "/metrics") == (200, "/metrics of n1")
    assert await port.get(JANE, "/configz") == (200, "/configz of n1")
    assert (await port.get(JANE, "/stats/summary"))[0] == 403
    assert port.asked == [("jane", "get", part, "n1") for part in ("metrics", "configz", "proxy", "stats")]
    assert await port.get(JANE, "/debug/log") == (200, "own /debug/log")  # which judges for itself
    for identity, method in ((None, "GET"), (Identity("", ("readers",)), "GET"), (JANE, "BREW")):
        assert (await port.get(identity, "/metrics/cadvisor", method))[0] == 403


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

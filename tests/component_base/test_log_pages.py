"""The paths about a component's log, over a real port: what is told, to whom, and to how many at a time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from rayplane.control_plane.component_base import log_pages, logs
from rayplane.control_plane.component_base.debugging import serve
from rayplane.control_plane.component_base.log_pages import LOG, READERS_MAX, LogQuery
from rayplane.control_plane.identities import API_SERVERS, MASTERS
from rayplane.control_plane.rpc import Server
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Authority, Credentials

AUTHORITY = Authority.create("test")
ADMIN = AUTHORITY.issue("kubernetes-admin", [MASTERS])
OTHER = AUTHORITY.issue("system:apiserver", [API_SERVERS])
log = logging.getLogger("x")


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Server]:
    """The port of a-0, which has said three things; beside it b-0 logs, in the same process."""
    logs.to_files(directory / "process.log", shared=True)
    network = GrpcNetwork(AUTHORITY.issue("a-0", ["test"]))
    with logs.speaking("a", "a-0"):
        server = await serve(network, "127.0.0.1:0", lambda: ())
        for number in range(3):
            log.warning("a says %d", number)
    with logs.speaking("b", "b-0"):
        log.warning("b says it")
    assert server is not None
    try:
        yield server
    finally:
        await server.stop()
        await network.close()


@contextlib.asynccontextmanager
async def asked(
    server: Server, query: dict[str, str], credentials: Credentials = ADMIN, method: str = "GET"
) -> AsyncIterator[aiohttp.ClientResponse]:
    *_, context = credentials.contexts()
    context.set_alpn_protocols(["http/1.1"])
    url = f"https://{server.address}{LOG}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, params=query, ssl=context, server_hostname=INTERNAL_SERVER_NAME) as answer,
    ):
        yield answer


async def told(server: Server, **query: str) -> tuple[int, str]:
    async with asked(server, query) as answer:
        return answer.status, await answer.text()


def messages(text: str) -> list[str]:
    return [line.rpartition(": ")[2] for line in text.splitlines()]


async def test_a_component_tells_its_own_log_and_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "gone-0.log").write_text("1: its last words\n")
    (tmp_path.parent / "secret.log").write_text("no log of a component\n")
    async with served(tmp_path) as server:
        status, text = await told(server)
        assert (status, messages(text)) == (200, ["a says 0", "a says 1", "a says 2"])
        assert messages((await told(server, tail="2"))[1]) == ["a says 1", "a says 2"]
        assert messages((await told(server, of="b-0"))[1]) == ["b says it"]
        assert messages((await told(server, of="gone-0"))[1]) == ["its last words"]
        assert (await told(server, of="c-0"))[0] == 404
        for wrong in ({"of": "../secret"}, {"of": "a/b"}, {"tail": "-2"}, {"tail": "x"}, {"follow": "perhaps"}):
            assert (await told(server, **wrong))[0] == 400, wrong
        async with asked(server, {}, method="PUT") as answer:
            assert answer.status == 405


async def test_only_administrators_are_told(tmp_path: Path) -> None:
    async with served(tmp_path) as server, asked(server, {}, OTHER) as answer:
        assert answer.status == 403 and "a says" not in await answer.text()


async def test_a_log_that_is_followed_is_told_as_it_grows_until_the_component_stops(tmp_path: Path) -> None:
    async with served(tmp_path) as server, asked(server, LogQuery("a-0", 0, True).as_query()) as answer:
        assert answer.status == 200
        with logs.speaking("a", "a-0"):
            log.warning("a says more")
        assert messages((await answer.content.readline()).decode()) == ["a says more"]
        await server.stop()
        with contextlib.suppress(aiohttp.ClientError):
            assert await answer.content.read() == b""


async def test_so_many_read_at_a_time_and_who_leaves_makes_room(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        async with contextlib.AsyncExitStack() as readers:
            for _ in range(READERS_MAX):
                answer = await readers.enter_async_context(asked(server, {"follow": "true"}))
                assert answer.status == 200
            assert (await told(server))[0] == 429
        while (await told(server))[0] == 429:
            await asyncio.sleep(0.01)
        assert (await told(server))[0] == 200


async def test_an_answer_has_a_bound_however_fast_the_log_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_pages, "LOG_BYTES_MAX", 300_000)
    async with served(tmp_path) as server:
        (tmp_path / "a-0.log").write_bytes((b"x" * 999 + b"\n") * 1000)
        status, text = await told(server)
    assert status == 200 and 300_000 <= len(text) < 400_000


async def test_who_logs_to_no_file_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        [files], logging.getLogger().handlers = logging.getLogger().handlers, []
        assert (await told(server))[0] == 404
        files.close()

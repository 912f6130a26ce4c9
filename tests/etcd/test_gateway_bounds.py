"""Bodies of the gateway that are meant to hurt: looked at once, refused in words, parsed beside the loop when long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.etcd.server.web.gateway import calls, syntax
from rayplane.control_plane.etcd.server.web.gateway.calls import Requests
from rayplane.control_plane.etcd.server.web.gateway.syntax import Extent, JsonError
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb


def reader(chunks: list[bytes]) -> Callable[[], object]:
    waiting = iter(chunks)

    async def read() -> bytes:
        return next(waiting, b"")

    return read


async def test_a_text_in_pieces_is_parsed_when_its_brackets_close(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def first_value(text: str, start: int = 0) -> object:
        nonlocal tries
        tries += 1
        return syntax.first_value(text, start)

    monkeypatch.setattr(calls, "first_value", first_value)
    chunks = [b'{"compare":[', *[b'{"key":"}"},'] * 5000, b'{"key":"YQ=="}]}']
    requests = Requests(reader(chunks), pb.TxnRequest)  # type: ignore[arg-type]
    with pytest.raises(JsonError):  # "}" is no base64
        await requests.first()
    assert tries <= 3


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"success":[{"request_txn":' * 3000,
        b'{"success":[{"request_txn":' * 3000 + b"{}" + b"}]}" * 3000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"key":"' + b"a" * 1_000_000,
        b" " * 1_000_000 + b"x",
        b'{"key":"' + b"!" * 1_000_000 + b'"}',
        b'{"limit":' + b"9" * 100_000 + b"}",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_hostile_bodies_are_errors_of_json(body: bytes, whole: bool) -> None:
    chunks = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    kind = pb.TxnRequest if b"success" in body else pb.RangeRequest
    # Of this folder's loops time is virtual, and a thread takes none: a real one waits for it.
    with pytest.raises(JsonError), asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(Requests(reader(chunks), kind, whole=whole).first())  # type: ignore[arg-type]


async def test_a_body_has_a_largest_size() -> None:
    chunks = [b'{"key":"', *[b"a" * 65_536] * 200]
    with pytest.raises(RpcError, match="received message larger than max"):
        await Requests(reader(chunks), pb.RangeRequest).first()  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.text(alphabet='a"\\{}[] ', max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\}', max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4) | st.dictionaries(st.text(max_size=2), JSON), st.integers(1, 7))
def test_an_extent_is_closed_at_the_end_and_not_before(value: object, step: int) -> None:
    text = json.dumps(value)
    extent = Extent()
    for at in range(0, len(text), step):
        assert not extent.closed
        extent.feed(text[at : at + step])
    assert extent.closed

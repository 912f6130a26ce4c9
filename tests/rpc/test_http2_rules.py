"""HTTP/2 without sockets: peers that break the rules of a connection, and the bounds of what a peer may ask."""

import itertools
from collections.abc import Callable

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rayplane.control_plane.rpc.http2 import ErrorCode, ProtocolError, encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.http2.headers import HEADERS_BYTES_MAX
from tests.rpc.http2_peer import (
    REQUEST,
    RESPONSE,
    H2Peer,
    Recorder,
    client,
    exchange,
    frame,
    frames_in,
    opened,
    request,
    server,
    settings,
    window_update,
)
from tests.tiers import examples

_BAD_FRAMES = {
    "data of no stream": (frame(f.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data of a stream that never was": (frame(f.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data of a stream of the server": (frame(f.DATA, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "headers of no stream": (request(0), ErrorCode.PROTOCOL_ERROR),
    "headers of an even stream": (request(4), ErrorCode.PROTOCOL_ERROR),
    "headers that are no hpack": (frame(f.HEADERS, f.END_HEADERS, 3, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "short priority in headers": (
        frame(f.HEADERS, f.END_HEADERS | f.HAS_PRIORITY, 3, b"xx"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "padding longer than the frame": (frame(f.DATA, f.PADDED, 1, b"\x05data"), ErrorCode.PROTOCOL_ERROR),
    "padding without its length": (frame(f.HEADERS, f.END_HEADERS | f.PADDED, 3, b""), ErrorCode.PROTOCOL_ERROR),
    "priority of no stream": (frame(f.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "short priority": (frame(f.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "reset of no stream": (frame(f.RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "reset of a stream that never was": (frame(f.RST_STREAM, 0, 9, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "short reset": (frame(f.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(f.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings cut short": (frame(f.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "acknowledgement with settings": (frame(f.SETTINGS, f.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "push that is neither on nor off": (settings(push=2), ErrorCode.PROTOCOL_ERROR),
    "window too large": (settings(window=2**31), ErrorCode.FLOW_CONTROL_ERROR),
    "window of a stream grown too large": (
        window_update(1, 2**31 - 1 - 70_000) + settings(window=2**31 - 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "frames too small": (settings(frame=100), ErrorCode.PROTOCOL_ERROR),
    "frames too large": (settings(frame=1 << 24), ErrorCode.PROTOCOL_ERROR),
    "push promise": (frame(f.PUSH_PROMISE, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "ping of a stream": (frame(f.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "short ping": (frame(f.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway of a stream": (frame(f.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "short goaway": (frame(f.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "window update of nothing": (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "short window update": (frame(f.WINDOW_UPDATE, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "stream window overflow": (window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "connection window overflow": (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "window of a stream that never was": (window_update(9, 1), ErrorCode.PROTOCOL_ERROR),
    "continuation of nothing": (frame(f.CONTINUATION, f.END_HEADERS, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "headers interrupted": (frame(f.HEADERS, 0, 3, b"") + frame(f.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "headers continued elsewhere": (
        frame(f.HEADERS, 0, 3, b"") + frame(f.CONTINUATION, f.END_HEADERS, 5, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers too large": (
        frame(f.HEADERS, f.END_HEADERS, 3, encode_headers([*REQUEST, (b"x", b"x" * HEADERS_BYTES_MAX)])),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "headers that unfold": (  # references to one large entry of the table
        frame(f.HEADERS, f.END_HEADERS, 3, hpack.Encoder().encode([("x", "y" * 3000)]) + b"\xbe" * 100),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a frame too large": (f.HEAD.pack(4, 1, f.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("bad", _BAD_FRAMES)
def test_a_broken_rule_ends_the_connection_with_its_code(bad: str) -> None:
    ours = server()
    ours.connection.receive(request(1))
    ours.connection.take()
    data, code = _BAD_FRAMES[bad]
    with pytest.raises(ProtocolError) as e:
        ours.connection.receive(data)
    assert e.value.code is code
    kind, _, _, payload = frames_in(ours.connection.take())[-1]
    assert (kind, payload[:8]) == (f.GOAWAY, f.U32.pack(ours.connection._last_stream) + f.U32.pack(code))
    # What was read already still comes; nobody may make sense of it.
    events = list(ours.events)
    ours.connection.receive(request(11))
    assert ours.events == events


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1\r\n", f.PREFACE + request(1), f.PREFACE + frame(f.SETTINGS, f.ACK, 0)],
)
def test_a_client_that_does_not_begin_as_it_must_is_turned_away(first: bytes) -> None:
    with pytest.raises(ProtocolError):
        Recorder().connection.receive(first)


def test_a_server_that_does_not_speak_http2_is_called_so() -> None:
    with pytest.raises(ProtocolError, match="not HTTP/2"):
        Recorder(client=True).connection.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@hypothesis_settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=80), st.integers(0, 255), st.integers(0, 10), st.integers(0, 3), st.booleans())
def test_no_frame_does_worse_than_break_the_connection(
    payload: bytes, flags: int, kind: int, number: int, is_client: bool
) -> None:
    ours = client() if is_client else server()
    if is_client:
        ours.connection.send_headers(ours.connection.open(), encode_headers(REQUEST))
    else:
        ours.connection.receive(request(1))
    try:
        ours.connection.receive(frame(kind, flags, number, payload))
    except ProtocolError:
        assert frames_in(ours.connection.take())[-1][0] == f.GOAWAY


# Floods.


def test_settings_pings_and_refusals_are_answered_until_there_are_too_many() -> None:
    for flood in (frame(f.PING, 0, 0, bytes(8)), settings(window=5)):
        ours = server()
        ours.connection.receive(flood * f.CONTROL_FRAMES_MAX)
        assert len(frames_in(ours.connection.take())) == f.CONTROL_FRAMES_MAX
        with pytest.raises(ProtocolError) as e:
            ours.connection.receive(flood * (f.CONTROL_FRAMES_MAX + 1))
        assert e.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_new_windows_for_many_streams_count_as_many() -> None:
    ours = server()
    opened(ours, f.STREAMS_MAX)
    with pytest.raises(ProtocolError) as e:
        ours.connection.receive(settings(window=5) * 50)
    assert e.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_more_streams_than_allowed_are_refused() -> None:
    ours = server()
    opened(ours, f.STREAMS_MAX + 2)
    assert len(ours.connection.streams) == f.STREAMS_MAX
    assert [k for k, *_ in frames_in(ours.connection.take())] == [f.RST_STREAM] * 2


def _begun_and_reset(number: int) -> bytes:
    return request(number) + frame(f.RST_STREAM, 0, number, f.U32.pack(8))


def _begun_and_broken(number: int) -> bytes:
    return request(number, end=True) + frame(f.DATA, 0, number, b"x")


@pytest.mark.parametrize("ruin", [_begun_and_reset, _begun_and_broken])
def test_calls_that_are_only_begun_to_be_reset_end_the_connection(ruin: Callable[[int], bytes]) -> None:
    ours = server()
    numbers = itertools.count(1, 2)
    ours.connection.receive(b"".join(ruin(n) for n in itertools.islice(numbers, f.RESETS_MAX)))
    ours.connection.forgive()
    ours.connection.receive(b"".join(ruin(n) for n in itertools.islice(numbers, f.RESETS_MAX)))
    with pytest.raises(ProtocolError, match="begun and reset"):
        ours.connection.receive(ruin(next(numbers)))


def test_calls_that_are_answered_may_be_reset_at_will() -> None:
    ours = server()
    for number in range(1, 2 * f.RESETS_MAX + 3, 2):
        ours.connection.receive(request(number))
        ours.connection.send_headers(ours.connection.streams[number], encode_headers(RESPONSE))
        ours.connection.receive(frame(f.RST_STREAM, 0, number, f.U32.pack(8)))
    assert len(ours.seen("reset")) == f.RESETS_MAX + 1


def test_a_header_block_in_many_parts_is_put_together_and_one_in_too_many_is_refused() -> None:
    block = encode_headers([*REQUEST, (b"x", b"y" * 1000)])
    parts = [frame(f.CONTINUATION, 0, 1, block[n : n + 4]) for n in range(0, len(block), 4)]
    ours = server()
    ours.connection.receive(frame(f.HEADERS, f.END_STREAM, 1, b""))
    ours.connection.receive(b"".join(parts) + frame(f.CONTINUATION, f.END_HEADERS, 1, b""))
    assert ours.ended == [1]
    with pytest.raises(ProtocolError, match="headers of more than"):
        ours.connection.receive(frame(f.HEADERS, 0, 3, b"") + frame(f.CONTINUATION, 0, 3, b"") * 1100)


def test_large_headers_are_sent_in_parts_that_the_peer_takes() -> None:
    ours, peer = Recorder(client=True), H2Peer(client=False)
    exchange(ours, peer)
    fields = [*REQUEST, (b"x", b"y" * 50_000)]
    ours.connection.send_headers(ours.connection.open(), encode_headers(fields), end=True)
    exchange(ours, peer)
    assert peer.headers[1] == [fields]
    assert peer.ended == [1]


def test_a_client_runs_out_of_stream_numbers() -> None:
    ours = client()
    ours.connection._next_stream = f.STREAM_ID_MAX
    assert not ours.connection.exhausted
    assert ours.connection.open().id == f.STREAM_ID_MAX
    assert ours.connection.exhausted

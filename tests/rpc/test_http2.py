"""HTTP/2 without sockets: against the `h2` library, and against peers that break the rules."""

import itertools

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rayplane.control_plane.rpc.http2 import Connection, ErrorCode, HeaderBlock, ProtocolError, encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.http2.headers import HEADERS_BYTES_MAX, HeaderDecoder, Kind
from tests.rpc.http2_peer import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    H2Peer,
    Recorder,
    client,
    exchange,
    frame,
    frames_in,
    request,
    server,
    settings,
    window_update,
)

BODIES = st.lists(st.integers(0, 30_000) | st.integers(0, 40), min_size=1, max_size=4)
SIZES = st.lists(st.integers(1, 30) | st.integers(500, 30_000), min_size=1, max_size=5)
WINDOWS = st.integers(500, 20_000) | st.just(1 << 20)
FRAMES = st.sampled_from([f.FRAME_DEFAULT, 50_000])


def _body(number: int, size: int) -> bytes:
    return bytes([number % 251]) * size


# Against the h2 library.


@hypothesis_settings(max_examples=30, deadline=None)
@given(up=BODIES, down=BODIES, sizes=SIZES, window=WINDOWS, largest=FRAMES)
def test_a_server_and_h2_understand_each_other_however_the_bytes_are_cut(
    up: list[int], down: list[int], sizes: list[int], window: int, largest: int
) -> None:
    ours, peer = Recorder(), H2Peer(client=True, window=window, frame=largest)
    pieces = itertools.cycle(sizes)
    streams = [1 + 2 * n for n in range(len(up))]
    for number, size in zip(streams, up, strict=True):
        peer.h2.send_headers(number, REQUEST)
        peer.send(number, _body(number, size))
    exchange(ours, peer, pieces)
    assert [(s, h) for s, h in ours.seen("headers")] == [(n, REQUEST) for n in streams]
    assert sorted(ours.ended) == streams
    assert {n: ours.data[n] for n in streams} == {n: _body(n, s) for n, s in zip(streams, up, strict=True)}
    for stream, size in zip(list(ours.connection.streams.values()), itertools.cycle(down), strict=False):
        ours.connection.send_headers(stream, encode_headers(RESPONSE))
        ours.connection.send_data(stream, _body(stream.id, size))
        ours.connection.send_data(stream, b"last")
        ours.connection.send_headers(stream, encode_headers(TRAILERS), end=True)
    exchange(ours, peer, pieces)
    assert sorted(peer.ended) == streams
    for number, size in zip(streams, itertools.cycle(down), strict=False):
        assert peer.data[number] == _body(number, size) + b"last"
        assert peer.headers[number] == [RESPONSE, TRAILERS]
    assert not ours.connection.streams


@hypothesis_settings(max_examples=30, deadline=None)
@given(up=BODIES, down=BODIES, sizes=SIZES, window=WINDOWS, largest=FRAMES)
def test_a_client_and_h2_understand_each_other_however_the_bytes_are_cut(
    up: list[int], down: list[int], sizes: list[int], window: int, largest: int
) -> None:
    ours, peer = Recorder(client=True), H2Peer(client=False, window=window, frame=largest)
    pieces = itertools.cycle(sizes)
    exchange(ours, peer, pieces)
    for size in up:
        stream = ours.connection.open()
        ours.connection.send_headers(stream, encode_headers(REQUEST))
        ours.connection.send_data(stream, _body(stream.id, size), end=True)
    exchange(ours, peer, pieces)
    streams = sorted(peer.headers)
    assert [peer.data[n] for n in streams] == [_body(n, s) for n, s in zip(streams, up, strict=True)]
    assert sorted(peer.ended) == streams
    for number, size in zip(streams, itertools.cycle(down), strict=False):
        peer.h2.send_headers(number, RESPONSE)
        peer.send(number, _body(number, size))
    exchange(ours, peer, pieces)
    assert sorted(ours.ended) == streams
    assert [ours.data[n] for n in streams] == [
        _body(n, s) for n, s in zip(streams, itertools.cycle(down), strict=False)
    ]
    assert not ours.connection.streams


def test_pings_and_resets_cross_in_both_directions() -> None:
    ours, peer = Recorder(), H2Peer(client=True)
    for number in (1, 3):
        peer.h2.send_headers(number, REQUEST)
    exchange(ours, peer)
    peer.h2.ping(b"12345678")
    ours.connection.ping()
    ours.connection.reset(ours.connection.streams[1], ErrorCode.CANCEL)
    peer.h2.reset_stream(3, ErrorCode.REFUSED_STREAM)
    exchange(ours, peer)
    assert peer.pings == 1
    assert ours.seen("pong") == [()]
    assert peer.resets == [(1, ErrorCode.CANCEL)]
    assert ours.seen("reset") == [(3, ErrorCode.REFUSED_STREAM)]
    assert not ours.connection.streams


def test_going_away_names_the_last_stream_and_refuses_those_after_it() -> None:
    ours = server()
    ours.connection.receive(request(5))
    ours.connection.go_away(ErrorCode.NO_ERROR, "bye")
    ours.connection.receive(request(7))
    [goaway, refusal] = frames_in(ours.connection.take())
    assert goaway == (f.GOAWAY, 0, 0, f.U32.pack(5) + f.U32.pack(0) + b"bye")
    assert refusal == (f.RST_STREAM, 0, 7, f.U32.pack(ErrorCode.REFUSED_STREAM))
    assert list(ours.connection.streams) == [5]


def test_a_client_is_told_that_the_server_goes_away() -> None:
    ours = client()
    ours.connection.receive(frame(f.GOAWAY, 0, 0, f.U32.pack(7) + f.U32.pack(11) + b"too much"))
    assert ours.seen("goaway") == [(7, 11, "too much")]


# Windows.


def _opened(ours: Recorder, count: int = 1) -> None:
    """Requests that have ended."""
    ours.connection.receive(b"".join(request(1 + 2 * n, end=True) for n in range(count)))


def _sent(ours: Recorder) -> dict[int, bytes]:
    sent: dict[int, bytes] = {}
    for kind, _, stream, payload in frames_in(ours.connection.take()):
        if kind == f.DATA:
            sent[stream] = sent.get(stream, b"") + payload
    return sent


def test_trailers_wait_for_data_that_the_window_holds_back() -> None:
    ours = server(window=10)
    _opened(ours)
    stream = ours.connection.streams[1]
    ours.connection.send_message(stream, encode_headers(RESPONSE), b"x" * 25, encode_headers(TRAILERS))
    assert [k for k, *_ in frames_in(ours.connection.take())] == [f.HEADERS, f.DATA]
    assert stream.blocked
    ours.connection.receive(window_update(1, 10))
    assert _sent(ours) == {1: b"x" * 10}
    ours.connection.receive(window_update(1, 10))
    *_, last = frames_in(ours.connection.take())
    assert last[:3] == (f.HEADERS, f.END_HEADERS | f.END_STREAM, 1)
    assert not ours.connection.streams


def test_nothing_follows_trailers_that_wait() -> None:
    ours = server(window=10)
    _opened(ours)
    stream = ours.connection.streams[1]
    ours.connection.send_data(stream, b"x" * 11)
    ours.connection.send_headers(stream, encode_headers(TRAILERS), end=True)
    ours.connection.send_data(stream, b"late")
    ours.connection.receive(window_update(1, 100))
    assert _sent(ours) == {1: b"x" * 11}


def test_a_smaller_window_may_be_negative_and_stops_what_is_sent() -> None:
    ours = server(window=100)
    _opened(ours)
    stream = ours.connection.streams[1]
    ours.connection.send_data(stream, b"x" * 80)
    ours.connection.receive(settings(window=10))  # 70 bytes too many have been sent
    ours.connection.send_data(stream, b"y" * 5)
    assert _sent(ours) == {1: b"x" * 80}
    ours.connection.receive(window_update(1, 70))
    assert _sent(ours) == {}
    ours.connection.receive(window_update(1, 3))
    assert _sent(ours) == {1: b"yyy"}
    ours.connection.receive(settings(window=12))
    assert _sent(ours) == {1: b"yy"}
    assert ours.seen("writable") == [(1,)]


def test_an_end_without_data_passes_a_closed_window_and_leaves_it_as_it_is() -> None:
    ours = client(window=100)
    stream = ours.connection.open()
    ours.connection.send_headers(stream, encode_headers(REQUEST))
    ours.connection.send_data(stream, b"x" * 80)
    ours.connection.receive(settings(window=10))
    ours.connection.send_data(stream, b"", end=True)
    assert frames_in(ours.connection.take())[-1] == (f.DATA, f.END_STREAM, 1, b"")
    assert stream.send_window == -70
    assert not stream.blocked


def test_a_connection_window_is_shared_and_nobody_starves() -> None:
    ours = server(window=1 << 20)
    _opened(ours, 3)
    for stream in ours.connection.streams.values():
        ours.connection.send_data(stream, _body(stream.id, 60_000))
    assert {n: len(d) for n, d in _sent(ours).items()} == {1: 60_000, 3: 5_535}
    ours.connection.receive(window_update(0, 1000))
    ours.connection.receive(window_update(0, 1000))
    assert {n: len(d) for n, d in _sent(ours).items()} == {3: 1000, 5: 1000}
    ours.connection.receive(window_update(0, 1 << 20))
    assert {n: len(d) for n, d in _sent(ours).items()} == {3: 53_465, 5: 59_000}
    assert ours.seen("writable") == [(1,), (3,), (5,)]


def test_a_whole_answer_keeps_to_the_window_of_the_connection() -> None:
    ours = server(window=1 << 20)
    _opened(ours, 5)
    for stream in list(ours.connection.streams.values()):
        ours.connection.send_message(stream, encode_headers(RESPONSE), bytes(16_000), encode_headers(TRAILERS))
    assert sum(len(d) for d in _sent(ours).values()) == f.WINDOW_DEFAULT
    assert list(ours.connection.streams) == [9]
    ours.connection.receive(window_update(0, 1 << 20))
    assert len(_sent(ours)[9]) == 80_000 - f.WINDOW_DEFAULT
    assert not ours.connection.streams


def test_streams_that_their_own_window_blocks_cost_nothing_when_that_of_the_connection_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = server(window=0)
    _opened(ours, 500)
    for stream in ours.connection.streams.values():
        ours.connection.send_data(stream, b"data")
    tried = []
    monkeypatch.setattr(Connection, "_pump", lambda self, stream: tried.append(stream.id))
    ours.connection.receive(window_update(0, 1) * 500)
    assert tried == []


def test_what_is_taken_may_be_sent_again_and_what_is_not_may_not() -> None:
    takes, leaves = server(), server()
    leaves.takes = False
    for ours in (takes, leaves):
        ours.connection.receive(request(1))
        for _ in range(4):
            ours.connection.receive(frame(f.DATA, 0, 1, b"x" * f.FRAME_BYTES_MAX))
    assert leaves.connection.take() == b""
    assert [fr for fr in frames_in(takes.connection.take()) if fr[2] == 1] == [
        (f.WINDOW_UPDATE, 0, 1, f.U32.pack(f.STREAM_WINDOW // 2))
    ] * 2
    takes.connection.receive(frame(f.DATA, 0, 1, b"x"))
    with pytest.raises(ProtocolError, match="window of stream 1"):
        leaves.connection.receive(frame(f.DATA, 0, 1, b"x"))


def test_padding_uses_the_window_and_gives_it_back() -> None:
    ours = server()
    ours.connection.receive(request(1))
    padded = frame(f.DATA, f.PADDED, 1, b"\xff" + b"data" + bytes(255))
    for _ in range(5000):  # more than the window in all
        ours.connection.receive(padded)
    assert ours.data[1] == b"data" * 5000


@pytest.mark.parametrize("state", ["reset", "answered", "unread"])
def test_a_connection_stays_open_whatever_became_of_a_stream(state: str) -> None:
    """Data for streams that are over must not use the connection's window up."""
    ours = server()
    ours.takes = state != "unread"
    data = frame(f.DATA, 0, 1, b"x" * f.FRAME_BYTES_MAX)
    for number in range(1, 65, 2):
        ours.connection.receive(request(number))
        stream = ours.connection.streams[number]
        if state == "reset":
            ours.connection.reset(stream, ErrorCode.CANCEL)
        elif state == "answered":
            ours.connection.send_headers(stream, encode_headers(RESPONSE), end=True)
            ours.connection.reset(stream, ErrorCode.NO_ERROR)
        for _ in range(4):
            ours.connection.receive(data[:5] + f.U32.pack(number) + data[9:])
    credit = sum(
        f.U32.unpack(p)[0] for k, _, s, p in frames_in(ours.connection.take()) if k == f.WINDOW_UPDATE and not s
    )
    assert credit >= 32 * f.STREAM_WINDOW - f.CONNECTION_WINDOW // 2


# Streams that are over.


@pytest.mark.parametrize(
    "late",
    [
        frame(f.DATA, 0, 1, b"x"),
        frame(f.RST_STREAM, 0, 1, bytes(4)),
        window_update(1, 5),
        frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, encode_headers(TRAILERS)),
        frame(f.PRIORITY, 0, 1, bytes(5)),
        frame(250, 0, 1, b"unknown"),
    ],
)
@pytest.mark.parametrize("by", ["us", "them"])
def test_frames_that_crossed_the_end_of_a_stream_are_ignored(late: bytes, by: str) -> None:
    ours = server()
    ours.connection.receive(request(1))
    if by == "us":
        ours.connection.reset(ours.connection.streams[1], ErrorCode.CANCEL)
    else:
        ours.connection.receive(frame(f.RST_STREAM, 0, 1, f.U32.pack(8)))
    before = list(ours.events)
    ours.connection.take()
    ours.connection.receive(late)
    assert ours.events == before
    assert not ours.connection.has_output


def test_nothing_is_sent_on_a_stream_that_was_reset() -> None:
    ours = server(window=1)
    ours.connection.receive(request(1))
    stream = ours.connection.streams[1]
    ours.connection.send_data(stream, b"held back")
    ours.connection.receive(frame(f.RST_STREAM, 0, 1, f.U32.pack(8)))
    ours.connection.take()
    ours.connection.send_headers(stream, encode_headers(RESPONSE))
    ours.connection.send_data(stream, b"more")
    ours.connection.send_headers(stream, encode_headers(TRAILERS), end=True)
    ours.connection.reset(stream, ErrorCode.CANCEL)
    ours.connection.consumed(stream, 1 << 20)
    ours.connection.receive(window_update(0, 1000) + settings(window=1000))
    assert [k for k, *_ in frames_in(ours.connection.take())] == [f.SETTINGS]
    assert not stream.blocked


@pytest.mark.parametrize(
    "frames",
    [
        frame(f.DATA, 0, 1, b"x"),
        frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, encode_headers(TRAILERS)),
    ],
)
def test_what_follows_the_end_of_a_request_ends_the_stream(frames: bytes) -> None:
    ours = server()
    ours.connection.receive(request(1, end=True) + frames + request(3))
    assert ours.seen("reset") == [(1, ErrorCode.STREAM_CLOSED)]
    assert list(ours.connection.streams) == [3]


def test_trailers_end_a_request() -> None:
    ours = server()
    ours.connection.receive(request(1) + frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, encode_headers(TRAILERS)))
    assert ours.ended == [1]


def test_headers_in_the_middle_of_a_request_end_the_stream_only() -> None:
    ours = server()
    ours.connection.receive(request(1) + request(1) + request(3))
    assert ours.seen("reset") == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert list(ours.connection.streams) == [3]


# Malformed messages.


@pytest.mark.parametrize(
    "fields",
    [
        [*REQUEST[:2], *REQUEST[3:]],
        [*REQUEST, (b":path", b"/again")],
        [REQUEST[0], *REQUEST],
        [*REQUEST[:4], (b":status", b"200")],
        [*REQUEST[:4], (b":strange", b"1")],
        [*REQUEST, (b"Upper", b"case")],
        [*REQUEST, (b"", b"no name")],
        [*REQUEST, (b"with space", b"1")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"transfer-encoding", b"chunked")],
        [*REQUEST, (b"te", b"gzip")],
        [*REQUEST, (b"x", b"a\r\nb")],
        [*REQUEST, (b"x", b"a\0b")],
        RESPONSE,
        TRAILERS,
    ],
)
def test_a_malformed_request_is_reset_and_the_connection_lives_on(fields: list[tuple[bytes, bytes]]) -> None:
    ours = server()
    ours.connection.receive(frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, encode_headers(fields)))
    assert frames_in(ours.connection.take()) == [(f.RST_STREAM, 0, 1, f.U32.pack(ErrorCode.PROTOCOL_ERROR))]
    ours.connection.receive(request(3))
    assert ours.seen("headers") == [(3, REQUEST)]


def test_a_malformed_answer_ends_its_stream() -> None:
    ours = client()
    ours.connection.send_headers(ours.connection.open(), encode_headers(REQUEST), end=True)
    ours.connection.receive(frame(f.HEADERS, f.END_HEADERS, 1, encode_headers([*RESPONSE, (b"UP", b"")])))
    assert ours.seen("reset") == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert not ours.connection.streams


# Peers that break the rules of a connection.

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


@hypothesis_settings(max_examples=200, deadline=None)
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
    _opened(ours, f.STREAMS_MAX)
    with pytest.raises(ProtocolError) as e:
        ours.connection.receive(settings(window=5) * 50)
    assert e.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_more_streams_than_allowed_are_refused() -> None:
    ours = server()
    _opened(ours, f.STREAMS_MAX + 2)
    assert len(ours.connection.streams) == f.STREAMS_MAX
    assert [k for k, *_ in frames_in(ours.connection.take())] == [f.RST_STREAM] * 2


def _begun_and_reset(number: int) -> bytes:
    return request(number) + frame(f.RST_STREAM, 0, number, f.U32.pack(8))


def _begun_and_broken(number: int) -> bytes:
    return request(number, end=True) + frame(f.DATA, 0, number, b"x")


@pytest.mark.parametrize("ruin", [_begun_and_reset, _begun_and_broken])
def test_calls_that_are_only_begun_to_be_reset_end_the_connection(ruin: "type[_begun_and_reset]") -> None:
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


# Header blocks.

FIELDS = st.lists(st.tuples(st.from_regex(rb"[a-z][a-z-]{0,20}", fullmatch=True), st.binary(max_size=300)), max_size=8)


@given(FIELDS)
def test_encoded_headers_are_what_hpack_reads(fields: list[tuple[bytes, bytes]]) -> None:
    fields = [*REQUEST, (b":status", b"404"), *fields]
    assert [tuple(h) for h in hpack.Decoder().decode(encode_headers(fields), raw=True)] == fields


@hypothesis_settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([(f"n{n}", f"v{v}") for n in range(4) for v in range(3)]), max_size=5)))
def test_remembered_blocks_mean_what_they_meant_whatever_the_table_holds(blocks: list[list[tuple[str, str]]]) -> None:
    """The encoder's table is small, so that entries are dropped and numbers mean something else all the time."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    encoder.header_table_size = 120
    for n, fields in enumerate([*blocks, *blocks]):
        if n % 3 == 2:
            encoder.header_table_size = 60 + 60 * (n % 2)
        got = decoder.decode(encoder.encode(fields)).fields
        assert got == [(a.encode(), b.encode()) for a, b in fields]


def test_a_block_that_comes_again_is_decoded_once_and_what_was_made_of_it_kept() -> None:
    decoder, block = HeaderDecoder(), encode_headers(REQUEST)
    decoder.decode(block).meaning = "seen"
    assert decoder.decode(block).meaning == "seen"
    decoder.decode(hpack.Encoder().encode([("new", "entry")]))
    assert decoder.decode(block).meaning is None
    for n in range(200):  # does not grow, and does not stop remembering
        decoder.decode(encode_headers([(b"n", b"%d" % n)]))
    assert len(decoder._remembered) <= 64
    decoder.decode(block).meaning = "again"
    assert decoder.decode(block).meaning == "again"


@hypothesis_settings(max_examples=300)
@given(st.binary(max_size=60))
def test_no_block_does_worse_than_break_the_connection(block: bytes) -> None:
    try:
        assert isinstance(HeaderDecoder().decode(block), HeaderBlock)
    except ProtocolError as e:
        assert e.code is ErrorCode.COMPRESSION_ERROR


def test_the_kind_of_a_block_shows_in_its_pseudo_headers() -> None:
    kinds = [HeaderBlock(fields).kind for fields in (REQUEST, RESPONSE, TRAILERS, [])]
    assert kinds == [Kind.REQUEST, Kind.RESPONSE, Kind.TRAILERS, Kind.TRAILERS]

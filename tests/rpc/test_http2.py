"""HTTP/2 without sockets: against the `h2` library, and against peers that break the rules."""

import itertools

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rayplane.control_plane.rpc.http2 import Connection, ErrorCode, ProtocolError, encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
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
    opened,
    request,
    server,
    settings,
    window_update,
)
from tests.tiers import examples

BODIES = st.lists(st.integers(0, 30_000) | st.integers(0, 40), min_size=1, max_size=4)
SIZES = st.lists(st.integers(1, 30) | st.integers(500, 30_000), min_size=1, max_size=5)
WINDOWS = st.integers(500, 20_000) | st.just(1 << 20)
FRAMES = st.sampled_from([f.FRAME_DEFAULT, 50_000])


def _body(number: int, size: int) -> bytes:
    return bytes([number % 251]) * size


# Against the h2 library.


@hypothesis_settings(max_examples=examples(30), deadline=None)
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


@hypothesis_settings(max_examples=examples(30), deadline=None)
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


def _sent(ours: Recorder) -> dict[int, bytes]:
    sent: dict[int, bytes] = {}
    for kind, _, stream, payload in frames_in(ours.connection.take()):
        if kind == f.DATA:
            sent[stream] = sent.get(stream, b"") + payload
    return sent


def test_trailers_wait_for_data_that_the_window_holds_back() -> None:
    ours = server(window=10)
    opened(ours)
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
    opened(ours)
    stream = ours.connection.streams[1]
    ours.connection.send_data(stream, b"x" * 11)
    ours.connection.send_headers(stream, encode_headers(TRAILERS), end=True)
    ours.connection.send_data(stream, b"late")
    ours.connection.receive(window_update(1, 100))
    assert _sent(ours) == {1: b"x" * 11}


def test_a_smaller_window_may_be_negative_and_stops_what_is_sent() -> None:
    ours = server(window=100)
    opened(ours)
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
    opened(ours, 3)
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
    opened(ours, 5)
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
    opened(ours, 500)
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

"""The bytes of gRPC."""

import gzip
import zlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc import grpc_wire as wire
from rayplane.control_plane.rpc.http2 import HeaderBlock


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 60), min_size=1))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(messages: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(wire.frame, messages))
    deframer, got, at, n = wire.Deframer(None), [], 0, 0
    while at < len(stream):
        size = sizes[n % len(sizes)]
        got += deframer.feed(stream[at : at + size])
        at, n = at + size, n + 1
        assert deframer.complete == (at >= len(stream) or _ends_at(messages, at))
    assert got == messages


def _ends_at(messages: list[bytes], at: int) -> bool:
    ends, end = set(), 0
    for m in messages:
        end += 5 + len(m)
        ends.add(end)
    return at in ends


def _compressed(data: bytes) -> bytes:
    return b"\1" + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_messages_are_inflated_and_plain_ones_among_them_are_not(encoding: bytes, compress: object) -> None:
    deframer = wire.Deframer(encoding)
    squeezed = compress(b"hello" * 100)  # type: ignore[operator]
    assert deframer.feed(_compressed(squeezed) + wire.frame(b"plain")) == [b"hello" * 100, b"plain"]
    assert deframer.error is None


BOMB = gzip.compress(bytes(wire.MESSAGE_BYTES_MAX + 1), 1, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "data", "code", "text"),
    [
        (b"gzip", b"\0\xff\xff\xff\xff", grpc.StatusCode.RESOURCE_EXHAUSTED, "4294967295 vs. 67108864"),
        (b"gzip", _compressed(BOMB), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
        (b"gzip", _compressed(b"junk"), grpc.StatusCode.INTERNAL, "cannot decompress"),
        (b"gzip", _compressed(gzip.compress(b"x" * 99, mtime=0)[:-9]), grpc.StatusCode.INTERNAL, "cut short"),
        (b"snappy", _compressed(b""), grpc.StatusCode.UNIMPLEMENTED, 'grpc-encoding "snappy"'),
        (None, _compressed(b""), grpc.StatusCode.INTERNAL, "compressed flag"),
        (b"identity", _compressed(b""), grpc.StatusCode.INTERNAL, "compressed flag"),
    ],
)
def test_what_cannot_be_read_ends_the_stream_after_what_could(
    encoding: bytes | None, data: bytes, code: grpc.StatusCode, text: str
) -> None:
    deframer = wire.Deframer(encoding)
    assert deframer.feed(wire.frame(b"good") + data + wire.frame(b"lost")) == [b"good"]
    assert deframer.error is not None
    assert deframer.error.code is code
    assert text in deframer.error.message
    assert deframer.feed(wire.frame(b"lost")) == []


@given(st.floats(1e-6, 1e9))
def test_a_timeout_is_never_told_shorter_than_it_is_nor_much_longer(seconds: float) -> None:
    encoded = wire.encode_timeout(seconds)
    told = wire.decode_timeout(encoded)
    assert len(encoded) <= 9
    assert min(seconds, 99_999_999) <= told * (1 + 1e-9)
    assert told <= seconds * 17 / 16 + 1.001e-3 or seconds > 90_000


def test_whole_seconds_are_told_exactly() -> None:
    assert [wire.encode_timeout(s) for s in (1, 5.0, 20, 3600)] == [b"1000m", b"5000m", b"20000m", b"3600000m"]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"2H", 7200), (b"3M", 180), (b"4S", 4), (b"5m", 0.005), (b"6u", 6e-6), (b"7n", 7e-9)]
)
def test_every_unit_of_a_timeout_is_understood(value: bytes, seconds: float) -> None:
    assert wire.decode_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"5", b"S", b"-1S", b"1.5S", b"123456789S", b"1x"])
def test_a_timeout_that_is_none_is_an_error(value: bytes) -> None:
    with pytest.raises(RpcError, match="malformed grpc-timeout"):
        wire.decode_timeout(value)


@given(
    st.sampled_from([c for c in grpc.StatusCode if c is not grpc.StatusCode.OK]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.binary(max_size=100),
    st.binary(max_size=100),
)
def test_an_error_travels_whole(code: grpc.StatusCode, message: str, details: bytes, status: bytes) -> None:
    fields = wire.status_fields(RpcError(code, message, details, google_status=status), 64 * 1024)
    assert all(32 <= c < 127 for _, value in fields for c in value)
    got = wire.error_in(HeaderBlock(fields))
    assert got is not None
    assert (got.code, got.message, got.details, got.google_status) == (code, message, details, status)


def test_an_error_too_long_for_headers_is_cut() -> None:
    fields = wire.status_fields(RpcError(grpc.StatusCode.INTERNAL, "ü" * 100_000, bytes(100_000)), 64 * 1024)
    assert sum(len(n) + len(v) for n, v in fields) < 16_000
    got = wire.error_in(HeaderBlock(fields))
    assert got is not None
    assert got.message == "ü" * (wire.STATUS_MESSAGE_BYTES_MAX // len("%C3%BC"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5000), st.integers(0, 9000), st.integers(0, 9000))
def test_an_error_is_no_longer_than_the_peer_takes(message: str, details: int, status: int) -> None:
    """The code always comes, and the details that libraries know before our own."""
    error = RpcError(grpc.StatusCode.ABORTED, message, bytes(details), google_status=bytes(status))
    fields = wire.status_fields(error, 8192)
    assert sum(len(n) + len(v) + 32 for n, v in fields) <= 8192
    got = wire.error_in(HeaderBlock(fields))
    assert got is not None
    assert got.code is grpc.StatusCode.ABORTED
    assert message.startswith(got.message.rstrip("\N{REPLACEMENT CHARACTER}"))
    if status < 4096:
        assert len(got.google_status) == status


@pytest.mark.parametrize(
    ("status", "code"),
    [(b"99", "UNKNOWN"), (b"junk", "UNKNOWN"), (b"9" * 10_000, "UNKNOWN"), (b"16", "UNAUTHENTICATED")],
)
def test_a_status_nobody_knows_is_unknown(status: bytes, code: str) -> None:
    got = wire.error_in(
        HeaderBlock([(b"grpc-status", status), (wire.DETAILS, b"no base64!"), (b"grpc-message", b"%zz")])
    )
    assert got is not None
    assert (got.code.name, got.message) == (code, "%zz")


@pytest.mark.parametrize(("status", "code"), [(b"200", "UNKNOWN"), (b"404", "UNIMPLEMENTED"), (b"503", "UNAVAILABLE")])
def test_without_a_grpc_status_that_of_http_counts(status: bytes, code: str) -> None:
    got = wire.error_in(HeaderBlock([(b":status", status)]))
    assert got is not None
    assert got.code.name == code


def test_custom_metadata_is_text_and_leaves_the_protocols_own_names_alone() -> None:
    fields = [(b":path", b"/"), (b"te", b"trailers"), (b"grpc-timeout", b"1S"), (b"x-bin", b"AA"), (b"token", b"t.1")]
    fields += [(b"user-agent", b"me/1"), (b"group", b"a"), (b"group", b"b")]
    assert wire.metadata_of(HeaderBlock(fields)) == {"token": "t.1", "user-agent": "me/1", "group": "a,b"}
    assert wire.metadata_fields({"Token": "t.1"}) == [(b"token", b"t.1")]
    assert wire.metadata_fields(None) == []


@pytest.mark.parametrize("name", ["te", "grpc-timeout", ":path", "", "x y", "x-bin", "ü", "content-type"])
def test_metadata_under_other_names_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named"):
        wire.metadata_fields({name: "v"})


@pytest.mark.parametrize("value", ["ü", "a\nb", "\0"])
def test_metadata_that_is_no_ascii_text_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        wire.metadata_fields({"name": value})


@pytest.mark.parametrize(
    ("content_type", "grpc_it_is"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=1", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_grpc_is_known_by_its_content_type(content_type: bytes | None, grpc_it_is: bool) -> None:
    assert wire.is_grpc(content_type) is grpc_it_is

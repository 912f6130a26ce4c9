"""Header blocks: against the `hpack` library, and against peers that break the rules."""

import hpack
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, ProtocolError, encode_headers
from rayplane.control_plane.rpc.http2.headers import HeaderDecoder, Kind
from tests.rpc.http2_peer import (
    REQUEST,
    RESPONSE,
    TRAILERS,
)
from tests.tiers import examples

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


@hypothesis_settings(max_examples=examples(300))
@given(st.binary(max_size=60))
def test_no_block_does_worse_than_break_the_connection(block: bytes) -> None:
    try:
        assert isinstance(HeaderDecoder().decode(block), HeaderBlock)
    except ProtocolError as e:
        assert e.code is ErrorCode.COMPRESSION_ERROR


def test_the_kind_of_a_block_shows_in_its_pseudo_headers() -> None:
    kinds = [HeaderBlock(fields).kind for fields in (REQUEST, RESPONSE, TRAILERS, [])]
    assert kinds == [Kind.REQUEST, Kind.RESPONSE, Kind.TRAILERS, Kind.TRAILERS]

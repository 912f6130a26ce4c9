"""Capabilities of files on their way from a layer to the machine and back."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.images.file_capabilities import for_layer, for_pods, of_record, record

NUMBERS = st.integers(0, 2**32 - 1)
SETS = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(st.booleans(), SETS, NUMBERS, NUMBERS)
def test_what_the_machine_keeps_is_for_its_pods_and_a_layers_is_anybodys(
    effective: bool, sets: tuple[int, ...], root: int, other: int
) -> None:
    plain = struct.pack("<5I", 0x02000000 | effective, *sets)
    kept = for_pods(plain, root)
    assert kept == struct.pack("<6I", 0x03000000 | effective, *sets, root)
    assert for_layer(kept) == for_layer(plain) == plain
    assert for_pods(kept, other) == for_pods(plain, other)
    assert of_record(record(plain)) == plain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        struct.pack("<3I", 0x01000001, 1, 0),  # of kernels before 2.6.25
        struct.pack("<6I", 0x02000001, 1, 0, 0, 0, 0),
        struct.pack("<5I", 0x03000001, 1, 0, 0, 0),
        struct.pack("<5I", 0x04000001, 1, 0, 0, 0),
    ],
)
def test_what_is_no_such_attribute_is_none(data: bytes) -> None:
    assert for_layer(data) == for_pods(data, 0) == b""

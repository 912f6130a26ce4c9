"""Long answers in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.apiserver.rest.answers import Joined


@given(
    st.lists(st.binary(max_size=4), max_size=70), st.binary(max_size=3), st.binary(max_size=3), st.binary(max_size=3)
)
def test_the_pieces_of_a_joined_text_are_the_text(items: list[bytes], head: bytes, tail: bytes, glue: bytes) -> None:
    joined = Joined(head, items, tail, glue=glue)
    assert b"".join(joined) == head + glue.join(items) + tail
    assert joined.size == len(b"".join(joined))
    assert len(list(joined)) == len(joined)

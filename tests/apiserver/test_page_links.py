"""Pages that are shown below another path: which addresses in them change, however their bytes come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.apiserver.rest.page_links import TAG_MAX, PageLinks


def located(address: str) -> str:
    return f"/below{address}" if address.startswith("/") else address


def shown(*parts: bytes) -> bytes:
    links = PageLinks(located)
    return b"".join([*map(links.feed, parts), links.end()])


@pytest.mark.parametrize(
    ("page", "below"),
    [
        (b'<a href="/x">test</a>', b'<a href="/below/x">test</a>'),
        (b"<IMG class='a' SRC = '/x?a=1&amp;b'/>", b"<IMG class='a' SRC = '/below/x?a=1&amp;b'/>"),
        (b"<form action=/x method=post>", b"<form action=/below/x method=post>"),
        (b'<a title="a > b" href="/x">', b'<a title="a > b" href="/below/x">'),
        (b'<video poster="/p" src="/v"></video>', b'<video poster="/below/p" src="/below/v"></video>'),
        (b'<a href="x/y">\xff\xfe</a>', b'<a href="x/y">\xff\xfe</a>'),
        (b'<p title="/x">href="/x" < 3 </p>', b'<p title="/x">href="/x" < 3 </p>'),
        (b'<a data-href="/x">', b'<a data-href="/x">'),
        (b'it ends in <a href="/x', b'it ends in <a href="/x'),
    ],
)
def test_addresses_of_attributes_change_and_nothing_else(page: bytes, below: bytes) -> None:
    assert shown(page) == below


PAGE = b'<!doctype html><p>a < b<a href="/x">1</a><img src=\'/y\' alt="<"><script>if (a<b) c()</script><link href=/z>'


@given(st.lists(st.integers(0, len(PAGE)), max_size=6))
def test_a_page_is_the_same_in_whatever_parts_it_comes(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(PAGE)]
    parts = [PAGE[a:b] for a, b in pairwise(at)]
    assert (
        shown(*parts)
        == shown(PAGE)
        == PAGE.replace(b'"/x', b'"/below/x').replace(b"'/y", b"'/below/y").replace(b"=/z", b"=/below/z")
    )


def test_a_tag_that_never_ends_is_not_kept() -> None:
    links = PageLinks(located)
    begun = b"<a " + b"x" * TAG_MAX
    assert links.feed(begun) + links.end() == begun
    assert links.feed(b"<" * 3 * TAG_MAX) + links.end() == b"<" * 3 * TAG_MAX

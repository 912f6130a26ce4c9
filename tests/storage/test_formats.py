"""Formats of kept data: older is read, newer refused with the way back, and a mark never goes down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.storage.env import SimulatedDisk
from rayplane.storage.env.marks import MARK_FILE, checked, raise_mark
from rayplane.storage.formats import FIRST, MEMBER, CorruptMark, Kept, Mark, NewerFormat, check, raised

KEPT = Kept("a test's data", 3, "make it anew")


@given(st.integers(1, 9), st.text(max_size=8))
def test_what_is_newer_is_refused_and_nothing_else(number: int, build: str) -> None:
    mark = Mark(number, build)
    assert Mark.decode(mark.encode(), "here") == mark
    if number <= KEPT.newest:
        check(KEPT, mark, where="here", build="1.0")
        return
    with pytest.raises(NewerFormat) as refusal:
        check(KEPT, mark, where="here", build="1.0")
    told = str(refusal.value)
    assert "here" in told and "1.0" in told and KEPT.back in told
    assert (build or "newer rayplane") in told


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_mark_is_only_ever_raised(is_: int, to: int) -> None:
    higher = raised(Mark(is_, "a"), to, "b")
    assert (higher or Mark(is_, "a")) == (Mark(to, "b") if to > is_ else Mark(is_, "a"))


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b"7", b'{"format": "2", "build": ""}', b'{"format": 0, "build": ""}']
)
def test_a_mark_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptMark, match="here is damaged"):
        Mark.decode(content, "here")


async def test_a_directory_is_used_until_a_newer_build_has_marked_it() -> None:
    disk = SimulatedDisk()
    mark = checked(disk, KEPT, "1.0")
    assert mark == Mark(FIRST, "")
    mark = await raise_mark(disk, mark, FIRST, "1.0")
    assert not disk.exists(MARK_FILE)
    await raise_mark(disk, mark, KEPT.newest, "1.0")
    assert checked(disk, KEPT, "1.0") == Mark(KEPT.newest, "1.0")
    with pytest.raises(NewerFormat, match=r"made by rayplane 1\.0; this is rayplane 0\.9, which reads up to 2"):
        checked(disk, Kept(KEPT.what, 2, KEPT.back), "0.9")


def test_the_way_back_of_a_member_is_its_build_or_a_snapshot() -> None:
    with pytest.raises(NewerFormat, match=r"start it with that build, or restore a snapshot with `rayplane restore"):
        check(MEMBER, Mark(MEMBER.newest + 1, "7.0"), where="/data/member-0", build="0.1.0")

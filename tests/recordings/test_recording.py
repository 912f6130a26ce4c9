"""What is recorded is read again as it was; what nobody recorded is refused, whatever it is, and takes no memory."""

import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.invariants import History
from rayplane.control_plane.recordings import BadRecording, Ending, Head, Recording, Tape, read, tape
from rayplane.control_plane.recordings.recording import Mark
from tests.recordings.made import END, EVIL, HEAD, STARTED, named, packed, web

Read = Callable[[bytes], Recording]


@pytest.fixture
def opened(tmp_path: Path) -> Read:
    def made(data: bytes) -> Recording:
        (tmp_path / "file").write_bytes(data)
        return read(tmp_path / "file")

    return made


def test_objects_are_as_they_were_at_each_moment(opened: Read) -> None:
    found = opened(web())

    def then(at_s: float) -> tuple[int, list[tuple[str, str]]]:
        moment = found.moment(at_s)
        return moment.revision, [(meta.name(o), meta.node_name(o)) for o in found.objects("pods", moment)]

    assert then(0.0) == (0, [])
    assert then(1.5) == (11, [("web", "")])
    assert then(2.0) == then(5.999) == (12, [("web", "node-0")])
    assert then(6.0) == then(1e9) == (14, [])
    assert not found.objects("pods", found.moment(3.0), "elsewhere")
    assert [one.get("error") for at in (1, 4) for one in found.state(found.moment(at))["members"]] == [None, EVIL]
    assert found.state(found.moment(0.1)) == {}
    assert found.marks == [
        Mark("fault", "stop: leader → member-0", 3.0, 5.0),
        Mark("violation", f"one leader: {EVIL}", 4.0, 4.0),
    ]
    assert [(one.name, one.seen, len(one.wrong)) for one in found.invariants] == [
        ("one leader", True, 1),
        ("nothing lost", False, 0),
    ]


def test_what_was_there_before_recording_began_anew_is_gone_unless_it_is_told_again(opened: Read) -> None:
    made, history = Tape(Head(of="chaos", name="x", seed=1, started=STARTED)), History()
    history.begin(1.0, 5, [("pods", named("a")), ("pods", named("b"))])
    made.begun(history)
    history.begin(3.0, 9, [("pods", named("b"))])
    made.begun(history)
    found = opened(made.finished(Ending(end_s=4.0, ok=True, faults=[], invariants={})))
    names = [[meta.name(o) for o in found.objects("pods", found.moment(at_s))] for at_s in (2.0, 3.0)]
    assert names == [["a", "b"], ["b"]]


def test_the_same_history_makes_the_same_file_and_no_secret_is_in_it(opened: Read) -> None:
    assert web() == web()
    found = opened(web())
    [secret] = found.objects("secrets", found.moment(1.0))
    assert secret["data"] == {"password": "Kioq"}


def test_a_full_tape_says_from_when_on_it_knows_nothing(opened: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "LINES_MAX", 5)
    found = opened(web())
    assert found.full_s == 0.6 and found.end_s == 8.0 and len(found.marks) == 2
    assert found.objects("nodes", found.moment(8.0)) and not found.objects("pods", found.moment(8.0))


def test_a_file_that_is_cut_anywhere_is_refused(opened: Read) -> None:
    whole = web()
    for size in [*range(0, len(whole), 9), *range(len(whole) - 12, len(whole))]:
        with pytest.raises(BadRecording, match=r"cut|gzip"):
            opened(whole[:size])
    with pytest.raises(BadRecording, match="after its end"):
        opened(whole + b"x")


POD = {"at": 1.0, "revision": 3, "resource": "pods", "object": {"metadata": {"name": "a"}}}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "midst"),
        ([HEAD], "midst"),
        ([b"{", END], "no JSON"),
        ([b"[]", END], "mapping"),
        ([END], "rayplane"),
        ([HEAD | {"version": 2}, END], "newer release"),
        ([HEAD | {"of": "x"}, END], "chaos"),
        ([HEAD | {"seed": "1"}, END], "seed"),
        ([HEAD | {"started": "9999-12-31T23:00:00Z"}, END], "started"),
        ([HEAD, END, END], "after the end"),
        ([HEAD, {"at": -1, "begin": 1}, END], "seconds"),
        ([HEAD, {"at": 2, "begin": 1}, {"at": 1, "begin": 1}, END], "seconds from 2"),
        ([HEAD, {"at": 1e300, "begin": 1}, END], "seconds"),
        ([HEAD, {"at": 1, "begin": True}, END], "whole number"),
        ([HEAD, {"at": 1}, END], "known here"),
        ([HEAD, POD, POD | {"revision": 2}, END], "from 3"),
        ([HEAD, POD | {"resource": "../pods"}, END], "none"),
        ([HEAD, POD | {"object": []}, END], "mapping"),
        ([HEAD, POD | {"object": {"metadata": {"name": 1}}}, END], "text"),
        ([HEAD, POD | {"object": {"metadata": {"name": "a" * 1000}}}, END], "longer"),
        ([HEAD, {"at": 1, "revision": 1, "resource": "pods", "gone": "x"}, END], "never there"),
        ([HEAD, {"at": 1, "state": {"members": [1]}}, END], "mapping"),
        ([HEAD, {"at": 1, "state": {"members": [{"name": 1}]}}, END], "text"),
        ([HEAD, {"at": 1, "state": {"actors": [{"name": "a"}] * 1001}}, END], "more than"),
        ([HEAD, END | {"faults": [{"text": "x", "from": "y"}]}], "seconds"),
        ([HEAD, END | {"failures": 1}], "list"),
    ],
)
def test_what_no_tape_writes_is_refused_in_words(opened: Read, lines: list[Any], why: str) -> None:
    with pytest.raises(BadRecording, match=why):
        opened(packed(*lines))


def test_objects_that_nothing_could_write_again_are_refused(opened: Read) -> None:
    deep = b'{"at": 1, "revision": 1, "resource": "x.y", "object": {"metadata": {"name": "a"}, "spec": %s}}'
    with pytest.raises(BadRecording, match="deep"):
        opened(packed(HEAD, deep % (b"[" * 500 + b"]" * 500), END))


def test_a_line_without_an_end_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=tape.GZIP)
    parts = [packer.compress(b" " * (1 << 20)) for _ in range(64)]
    (tmp_path / "bomb").write_bytes(b"".join([*parts, packer.flush()]))
    tracemalloc.start()
    try:
        with pytest.raises(BadRecording, match="larger than any recording"):
            read(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 * tape.LINE_MAX
    finally:
        tracemalloc.stop()

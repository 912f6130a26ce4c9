"""What is recorded is read again as it was; what nobody recorded is refused, whatever it is, and takes no memory."""

import re
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.invariants import History, Judge, Violation
from rayplane.control_plane.recordings import BadRecording, Ending, Head, Recording, Tape, read, recording, tape
from rayplane.control_plane.recordings.recording import Mark
from rayplane.control_plane.recordings.tape import Struck
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
        Mark("violation", EVIL, 4.0, 4.0, "one leader"),
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


def started() -> tuple[Tape, Judge]:
    """A tape, and the judge that tells it what happens."""
    made, judge = Tape(Head(of="chaos", name="x" * 20_000, seed=1, started=STARTED)), Judge(())
    judge.listener = made
    return made, judge


def over(**more: Any) -> Ending:
    return Ending(**{"end_s": 9.0, "ok": False, "faults": [], "invariants": {}, **more})


def test_what_is_longer_than_may_be_read_is_cut_as_it_is_recorded(opened: Read) -> None:
    made, _ = started()
    made.state(1.0, {"members": [], "actors": [{"name": str(number)} for number in range(1500)]})
    long = "é" * 20_000
    wrong = [Violation(long, long, 1.0)] * 30
    found = opened(
        made.finished(over(invariants={long: wrong}, failures=[long], faults=[Struck(long, ["lb"], 1.0, None)]))
    )
    assert len(found.state(found.moment(2.0))["actors"]) == tape.ROWS_MAX
    assert {len(text) for text in (found.name, *found.failures, found.invariants[0].name)} == {tape.TEXT_MAX}
    assert [mark.kind for mark in found.marks] == ["fault", *["violation"] * tape.WRONG_MAX]


def test_an_ending_that_fits_no_line_has_the_first_of_what_happened(opened: Read) -> None:
    made, _ = started()
    text = "x" * tape.TEXT_MAX
    found = opened(made.finished(over(events=[(float(number), text) for number in range(3000)], failures=["it"])))
    assert found.failures == ["it"] and 500 < len(found.events) < tape.LINE_MAX / len(text)
    assert found.events[-1][0] == len(found.events) - 1


def nested(levels: int) -> dict[str, Any]:
    """An object of so many levels."""
    spec: Any = {}
    for _ in range(levels - 2):
        spec = [spec]
    return named("deep", spec=spec)


@pytest.mark.parametrize("levels", [tape.DEPTH_MAX + 1, 254, 300])
def test_an_object_that_is_nested_too_deep_is_recorded_by_its_name_alone(opened: Read, levels: int) -> None:
    made, judge = started()
    judge.begin(0.5, 1, [("things.x.y", nested(levels))])
    judge.changed(1.0, "things.x.y", nested(tape.DEPTH_MAX), 2)
    judge.changed(2.0, "things.x.y", nested(levels), 3)
    judge.changed(3.0, "things.x.y", named("deep"), 4, gone=True)
    found = opened(made.finished(over()))
    then = [found.objects("things.x.y", found.moment(at_s)) for at_s in (0.5, 1.0, 2.0, 3.0)]
    brief = [{"metadata": named("deep")["metadata"]}]
    assert then == [brief, [nested(tape.DEPTH_MAX)], brief, []]


def test_a_secret_is_masked_whatever_kind_it_says_that_it_is(opened: Read) -> None:
    made, judge = started()
    judge.changed(1.0, "secrets", named("s", apiVersion="x/v1", kind="Thing", data={"password": "aHVudGVyMg=="}), 2)
    found = opened(made.finished(over()))
    assert [one["data"] for one in found.objects("secrets", found.moment(1.0))] == [{"password": "Kioq"}]


def test_what_was_never_there_is_not_recorded_as_gone(opened: Read) -> None:
    made, judge = started()
    judge.changed(1.0, "pods", named("a"), 2, gone=True)
    assert not opened(made.finished(over())).resources()


def damage(opened: Read, data: bytes) -> str:
    """What is wrong with a file, which is opened as far as it is good, and refused where nothing is."""
    try:
        found = opened(data)
    except BadRecording as e:
        return str(e)
    assert found.damage in found.failures[-1]
    return found.damage


def test_a_file_that_is_cut_anywhere_is_good_up_to_there(opened: Read) -> None:
    whole = web()
    for size in [*range(0, len(whole), 9), *range(len(whole) - 12, len(whole))]:
        assert re.search("cut|gzip", damage(opened, whole[:size]))
    found = opened(whole[:-1])  # of its sum alone
    assert found.ok is opened(whole).ok and found.end_s == 8.0
    assert "after its end" in damage(opened, whole + b"x")


def test_a_bad_line_costs_what_follows_it_alone(opened: Read) -> None:
    other = POD | {"at": 2.0, "object": {"metadata": {"name": "b"}}}
    found = opened(packed(HEAD, POD, b"{", other, END))
    assert (found.damage, found.ok, found.end_s) == ("line 3: the line: it is no JSON", False, 1.0)
    assert [meta.name(o) for o in found.objects("pods", found.moment(9.0))] == ["a"]
    half = opened(packed(HEAD, POD, END | {"failures": ["it", 1]}))
    assert not half.ok and "failures" in half.damage and half.resources()


def test_what_the_tape_writes_is_read_however_long_names_are_and_many_resources(opened: Read) -> None:
    made, judge = started()
    long = "x" * 20_000
    judge.begin(0.5, 1, [(f"things.of{n}", named("a")) for n in range(tape.RESOURCES_MAX + 5)])
    judge.changed(1.0, "things.of0", named(long), 2)
    judge.changed(2.0, "things.of0", named(long), 3, gone=True)
    found = opened(made.finished(over(faults=[Struck("kill", [long], 1.0, None)])))
    assert found.damage == "" and len(found.resources()) == tape.RESOURCES_MAX
    names = [[meta.name(o) for o in found.objects("things.of0", found.moment(at_s))] for at_s in (1.0, 2.0)]
    assert names == [["a", long], ["a"]]


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
        ([HEAD, {"at": 1, "revision": 1, "resource": "pods", "gone": "x"}, END], "not there"),
        ([HEAD, POD, {"at": 1, "revision": 3, "resource": "pods", "gone": "x" * 9000}, END], "not there"),
        ([HEAD, {"at": 1, "state": {"members": [1]}}, END], "mapping"),
        ([HEAD, {"at": 1, "state": {"members": [{"name": 1}]}}, END], "text"),
        ([HEAD, {"at": 1, "state": {"actors": [{"name": "a"}] * 1001}}, END], "more than"),
        ([HEAD, END | {"faults": [{"text": "x", "from": "y"}]}], "seconds"),
        ([HEAD, END | {"failures": 1}], "list"),
        ([HEAD, END | {"failures": [""] * 5001}], "more than"),
        ([HEAD, END | {"events": [{}] * 5001}], "more than"),
        ([HEAD, END | {"invariants": [{"name": "a", "wrong": [{"at": 0, "text": ""}] * 21}]}], "more than 20"),
    ],
)
def test_what_no_tape_writes_is_refused_in_words(opened: Read, lines: list[Any], why: str) -> None:
    assert re.search(why, damage(opened, packed(*lines)))


def test_objects_that_nothing_could_write_again_are_refused(opened: Read) -> None:
    deep = b'{"at": 1, "revision": 1, "resource": "x.y", "object": {"metadata": {"name": "a"}, "spec": %s}}'
    assert "deep" in damage(opened, packed(HEAD, deep % (b"[" * 500 + b"]" * 500), END))


def test_no_more_is_kept_of_objects_than_a_file_may_have_however_shortly_it_says_it(
    opened: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = b'{"at": 1, "revision": 1, "resource": "x.y", "object": {"metadata": {"name": "a"}, "spec": [1e15%s]}}'
    lines = [HEAD, short % (b",1e15" * 1000), END]
    assert opened(packed(*lines)).resources()
    monkeypatch.setattr(recording, "BYTES_MAX", 6000)
    assert "of objects" in damage(opened, packed(*lines))


def test_many_beginnings_cost_no_more_than_what_they_end() -> None:
    def steps(count: int) -> int:
        """Lines of code that the reading of so many objects, and of so many beginnings after them, takes."""
        objects = [POD | {"object": {"metadata": {"name": f"a{number}"}}} for number in range(count)]
        lines = [orjson.dumps(one) for one in [HEAD, *objects, *[{"at": 1, "begin": 3}] * count, END]]
        seen, before = 0, sys.gettrace()

        def step(frame: Any, event: str, _: Any) -> Any:
            nonlocal seen
            seen += event == "line"
            return step

        sys.settrace(step)
        try:
            Recording(lines)
        finally:
            sys.settrace(before)
        return seen

    assert steps(200) < 3 * steps(100)


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

"""Invariants of answers and of etcd: each holds of a good history, and finds the bug that is planted in a bad one."""

from typing import Any

import pytest

from rayplane.control_plane.invariants import Answer, Hashed, Invariant, Leads, Listed
from rayplane.control_plane.invariants.answers import CachesTrue, NothingLost, VersionsMonotonic
from rayplane.control_plane.invariants.catalogue import BUILTIN
from rayplane.control_plane.invariants.history import REFUSED, UNKNOWN
from rayplane.control_plane.invariants.members import HashesEqual, KeyLedger, OneLeader
from tests.invariants.histories import Line, judged, named

A, B = ("configmaps", named("a")), ("configmaps", named("b"))


def answer(verb: str, revision: int, at_s: float, key: str = "", **more: Any) -> Answer:
    given: dict[str, Any] = {"client": "c", "called_s": at_s, "returned_s": at_s + 1.0, "server": "apiserver-1"} | more
    return Answer(verb=verb, resource="configmaps", key=key, revision=revision, **given)


def listed(revision: int, **versions: int) -> Listed:
    return Listed("apiserver-0", "configmaps", revision, {f"default/{name}": v for name, v in versions.items()})


# What is there at first is of revision 10; lines are of 11, 12, ...
GOOD: list[tuple[type[Invariant], list[Line]]] = [
    (VersionsMonotonic, [answer("list", 12, 1), answer("list", 12, 3), answer("create", 13, 5), answer("list", 13, 7)]),
    # Two at the same time may be answered in any order.
    (VersionsMonotonic, [answer("list", 15, 1), answer("list", 12, 1.5)]),
    (VersionsMonotonic, [answer("list", 15, 1), answer("list", 12, 3, client="d")]),
    (VersionsMonotonic, [answer("list", 15, 1), answer("get", 12, 3, "default/a")]),
    (NothingLost, [A, answer("create", 11, 1, "default/a"), A, answer("update", 13, 1, "default/b"), B]),
    (NothingLost, [answer("create", 0, 1, "default/a", outcome=UNKNOWN), B]),
    (NothingLost, [answer("create", 11, 1, "default/a", outcome=REFUSED), B]),
    (CachesTrue, [A, B, listed(12, a=11, b=12), A, ("configmaps", named("b"), "gone"), A]),
    (CachesTrue, [A, B, A, ("configmaps", named("b"), "gone"), listed(12, a=11, b=12), A]),
    (CachesTrue, [A, listed(13, a=11, b=12), B, ("pods", named("p")), A]),
    (OneLeader, [Leads("member-0", 1), Leads("member-1", 2), Leads("member-0", 1), Leads("member-0", 3)]),
    (HashesEqual, [Hashed("member-0", 5, 1, 7), Hashed("member-1", 5, 1, 7), Hashed("member-1", 5, 2, 8)]),
]
BAD: list[tuple[type[Invariant], list[Line], str]] = [
    (VersionsMonotonic, [answer("list", 15, 1), answer("list", 12, 3)], "version 12 after it was told 15"),
    (VersionsMonotonic, [answer("create", 15, 1, "default/a"), answer("list", 14, 3, server="x")], "by x was answered"),
    (
        VersionsMonotonic,
        [answer("get", 15, 1, "default/a"), answer("get", 14, 3, "default/a")],
        "shows version 14 after 15",
    ),
    (NothingLost, [answer("create", 11, 1, "default/a"), B, B], "acknowledged at version 11, and etcd has nothing"),
    (NothingLost, [B, answer("create", 11, 1, "default/a")], "acknowledged at version 11"),
    # The very last write: nothing comes after it.
    (NothingLost, [B, answer("create", 12, 1, "default/a")], "acknowledged at version 12"),
    (CachesTrue, [A, B, listed(12, a=11), A], "default/b at version 12 as of None, and etcd had 12"),
    (CachesTrue, [A, A, listed(12, a=11), A], "as of 11, and etcd had 12"),
    (CachesTrue, [A, ("configmaps", named("a"), "gone"), listed(12, a=11), A], "and etcd had None"),
    (OneLeader, [Leads("member-0", 1), Leads("member-1", 1)], "member-1 and member-0 both lead in term 1"),
    (HashesEqual, [Hashed("member-0", 5, 1, 7), Hashed("member-1", 5, 1, 8)], "hold different data at revision 5"),
]


@pytest.mark.parametrize(("kind", "lines"), GOOD)
def test_a_good_history_is_good(kind: type[Invariant], lines: list[Line]) -> None:
    assert judged(kind, lines) == []


@pytest.mark.parametrize(("kind", "lines", "said"), BAD)
def test_a_planted_bug_is_found_and_nothing_else(kind: type[Invariant], lines: list[Line], said: str) -> None:
    [found] = judged(kind, lines)
    assert said in found


def test_every_invariant_has_a_planted_bug() -> None:
    from tests.invariants.test_objects import BAD as OBJECTS

    assert {kind.name for kind, *_ in [*BAD, *OBJECTS]} == {name for name, _ in BUILTIN}


def test_one_client_of_etcd_that_is_served_well() -> None:
    ledger = KeyLedger()
    for number, key in enumerate((b"a", b"b", b"c"), start=5):
        ledger.begin(key, b"1")
        assert ledger.wrote(key, number, ledger.revision) == []
        assert ledger.read(key, [b"1"], number, number) == []
        assert ledger.told(key, number) == []
    ledger.begin(b"unsure", b"1")
    assert ledger.listed(ledger.wanted(), {k: (b"1", n) for n, k in enumerate((b"a", b"b", b"c"), 5)}, 9, 7) == []
    assert ledger.missed() == []
    assert ledger.retire(1) == [b"a", b"b", b"c"] and ledger.wanted() == []


def test_what_a_client_of_etcd_must_not_be_told() -> None:
    ledger = KeyLedger()
    ledger.begin(b"a", b"1")
    assert ledger.wrote(b"a", 5, 5) == ["a write got revision 5 after the client had seen 5"]
    assert "cannot be read" in ledger.read(b"a", [], 5, 5)[0]
    assert "after the client saw 5" in ledger.read(b"a", [b"1"], 4, 5)[0]
    assert "is lost: found None" in ledger.listed([b"a"], {}, 5, 5)[0]
    assert ledger.missed() == ["the watch told of a at revision 0, not 5"]
    assert ledger.retire(0) == [], "what the watch has not told yet is still wanted"
    assert ledger.told(b"a", 5) == []
    assert ledger.told(b"a", 5) == ["the watch told of revision 5 after 5"]
    assert "and again at 6" in ledger.told(b"a", 6)[0]

"""Users' own checks beside those of the tree; whatever they do, the judge goes on and its memory has bounds."""

import types
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from rayplane.control_plane import invariants
from rayplane.control_plane.invariants import (
    BadInvariants,
    Change,
    Hashed,
    History,
    Invariant,
    Judge,
    Leads,
    Violation,
    made_by,
)
from rayplane.control_plane.invariants.history import RECENT
from rayplane.control_plane.invariants.judge import KEPT
from rayplane.control_plane.invariants.members import HashesEqual, OneLeader
from rayplane.control_plane.invariants.pods import OneOfAName
from rayplane.control_plane.invariants.stored import Place, object_at, place_of
from tests.invariants.histories import named, pod, tell

ROOT: dict[str, Any] = {"securityContext": {"runAsUser": 0}}


def documented() -> dict[str, Any]:
    """The checks in the documentation, as a user's module has them."""
    [text] = [part for part in (invariants.__doc__ or "").split("\n\n    ") if part.startswith("def ")]
    rest = (invariants.__doc__ or "").partition(text)[2].partition("\n\nA file")[0]
    module = types.ModuleType("checks")
    module.__dict__["Invariant"] = Invariant
    source = "\n".join(line.removeprefix("    ") for line in f"    {text}{rest}".splitlines())
    exec(source, module.__dict__)
    return vars(module)


def test_the_checks_in_the_documentation_work() -> None:
    found = made_by(documented())
    assert [name for name, _ in found] == ["no pod runs as root", "never fewer than two"]
    told: list[Violation] = []
    judge = Judge(found, told.append)
    tell(judge, [("pods", pod("a")), ("pods", pod("b", **ROOT)), ("pods", pod("c"))])
    assert [v.text for v in told] == ["pod b runs as root"] == judge.unsettled()
    tell(judge, [("pods", pod("b"), "gone")])
    assert judge.unsettled() == [] and judge.counts["no pod runs as root"] == 1


def test_a_check_with_a_state_is_made_anew_for_each_run() -> None:
    class Counts(Invariant):
        """A check that finds every second change."""

        name = "counts"

        def __init__(self) -> None:
            self.seen = 0

        def changed(self, change: Change, history: History) -> Iterator[str]:
            self.seen += 1
            if self.seen == 2:
                yield f"{change.kind} {change.key}"

    for _ in range(2):
        judge = Judge(made_by({"INVARIANTS": [Counts]}))
        tell(judge, [("pods", pod("a"))])
        assert judge.violations == []
    tell(judge, [("pods", pod("a"))])
    assert [v.text for v in judge.violations] == ["MODIFIED default/a"]


def test_what_nobody_could_look_at_is_said() -> None:
    mine = made_by({"INVARIANTS": [broken]})
    judge = Judge([(OneLeader.name, OneLeader), (HashesEqual.name, HashesEqual), (OneOfAName.name, OneOfAName), *mine])
    judge.observed(1.0, Leads("member-0", 1))
    judge.observed(1.0, Hashed("member-0", 5, 1, 7))
    assert judge.unseen() == [HashesEqual.name, OneOfAName.name], "one alone is equal to nobody"
    judge.observed(1.0, Hashed("member-1", 5, 1, 7))
    assert judge.unseen() == [OneOfAName.name]


def broken(history: History) -> Iterable[str]:
    raise KeyError("spec")


def endless(history: History) -> Iterator[str]:
    while True:
        yield f"at {history.time_s}"


def test_a_check_that_fails_is_a_violation_and_one_that_never_ends_is_cut_off() -> None:
    judge = Judge(made_by({"INVARIANTS": (broken, endless)}))
    tell(judge, [("pods", named(f"p{n}")) for n in range(KEPT + 5)])
    assert judge.violations[0].text == "the check itself failed: KeyError: 'spec'"
    assert judge.counts["broken"] == 1 and judge.counts["endless"] > KEPT and len(judge.violations) == 1 + KEPT


@pytest.mark.parametrize("listed", [1, "text", [None], [Judge]])
def test_what_is_no_check_is_refused(listed: Any) -> None:
    with pytest.raises(BadInvariants, match="INVARIANTS"):
        made_by({"INVARIANTS": listed})
    assert made_by({}) == ()


def test_the_history_remembers_the_latest_changes_only() -> None:
    judge = Judge(())
    tell(judge, [("configmaps", named("a")) for _ in range(RECENT + 10)])
    history = judge.history
    assert len(history.list("configmaps")) == 1 and history.since(5) is None
    assert [c.revision for c in history.since(history.revision - 2) or ()] == [history.revision, history.revision - 1]


@pytest.mark.parametrize(
    ("key", "place"),
    [
        (b"/registry/pods/default/a", Place("pods", "default", "a")),
        (b"/registry/minions/n1", Place("nodes", "", "n1")),
        (b"/registry/services/specs/default/a", Place("services", "default", "a")),
        (b"/registry/example.com/widgets/default/w", Place("widgets.example.com", "default", "w")),
        (b"/registry/example.com/cells/c", Place("cells.example.com", "", "c")),
        (b"/registry/leases/kube-system/x", None),
        (b"/registry/pods/default", None),
        (b"/registry/", None),
        (b"/registry/\xff/x", None),
    ],
)
def test_keys_of_etcd_are_places_of_objects(key: bytes, place: Place | None) -> None:
    assert place_of(key) == place


@pytest.mark.parametrize("value", [b"", b"k8s:enc:aes", b"{", b"[]", b'{"metadata": 1}'])
def test_what_cannot_be_read_is_an_object_with_a_name(value: bytes) -> None:
    metadata = {"name": "a", "namespace": "default", "resourceVersion": "7"}
    assert object_at(Place("pods", "default", "a"), value, 7) == {"metadata": metadata}

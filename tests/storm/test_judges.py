"""What storms are made of and judged by, without a cluster."""

import pytest

from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.faults.vocabulary import Stop
from tests.storm.oracle import Answer, Ledger
from tests.storm.plan import THE_PROCESS, Compact, Plan, Timed
from tests.storm.truth import Attempt, Held, Report, failing, lies


@pytest.mark.parametrize("host", [PROCESS, RAY])
def test_a_plan_is_a_function_of_its_seed(host: str) -> None:
    first = (Timed(0.0, Compact()),)
    plan = Plan(host=host, seed=5, seconds=600, first=first)
    acts = plan.acts()
    assert acts == Plan(host=host, seed=5, seconds=600, first=first).acts()
    assert acts != Plan(host=host, seed=6, seconds=600).acts()
    assert acts[0] == first[0]
    assert all(0 <= t.at_s <= 600 for t in acts) and acts == sorted(acts, key=lambda t: t.at_s)
    # Only what has a process of its own can stand still alone.
    assert {t.act.target == THE_PROCESS for t in acts if isinstance(t.act, Stop)} == {host == PROCESS}
    assert len({type(t.act) for t in acts}) == 10


class TestLedger:
    def test_an_acknowledged_write_must_be_there(self) -> None:
        ledger = Ledger()
        ledger.wrote("k", "a", Answer.DONE)
        ledger.wrote("k", "b", Answer.DONE)
        ledger.judge({"k": "b"})
        assert ledger.problems == []
        ledger.judge({"k": "a"})
        ledger.judge({})
        assert ledger.problems == ["in the end: k is 'a', not 'b'", "in the end: k is None, not 'b'"]

    def test_a_write_without_an_answer_may_be_there_until_a_later_one_is_acknowledged(self) -> None:
        ledger = Ledger()
        ledger.wrote("k", "a", Answer.DONE)
        ledger.wrote("k", "b", Answer.UNKNOWN)
        ledger.wrote("k", None, Answer.UNKNOWN)
        for there in ({"k": "a"}, {"k": "b"}, {}):
            ledger.judge(there)
        assert ledger.problems == []
        ledger.read("k", "b")
        assert ledger.may_be("k") == ["b"]
        ledger.wrote("k", "c", Answer.UNKNOWN)
        ledger.wrote("k", "d", Answer.DONE)
        assert ledger.may_be("k") == ["d"]

    def test_reading_what_was_there_before_says_nothing_of_a_write_that_may_still_come(self) -> None:
        ledger = Ledger()
        ledger.wrote("k", "a", Answer.DONE)
        ledger.wrote("k", "b", Answer.UNKNOWN)
        ledger.read("k", "a")
        assert ledger.may_be("k") == ["a", "b"]

    def test_a_refused_write_must_not_be_there(self) -> None:
        ledger = Ledger()
        ledger.wrote("k", "a", Answer.REFUSED)
        ledger.read("k", "a")
        assert ledger.problems == ["k is 'a', not None, though that write was refused"]

    def test_what_nobody_wrote_must_not_be_there(self) -> None:
        ledger = Ledger()
        ledger.judge({"ghost": "x"})
        assert ledger.problems == ["in the end: ghost is 'x', not None"]


class TestTruth:
    held = Held(what="member-1 stands still", names=("member-1",), since=10.0, until=20.0, felt_after_s=1.0)

    def said(self, asked: float, answered: float, *faults: str) -> list[str]:
        return lies([self.held], [Report(asked=asked, answered=answered, healthy=not faults, faults=faults)])

    def test_a_fault_that_held_all_the_time_must_be_named(self) -> None:
        assert self.said(12, 18, "member-1: does not answer") == []
        assert "but: healthy" in self.said(12, 12.1)[0]
        assert "but: member-0: has no leader" in self.said(12, 18, "member-0: has no leader")[0]

    def test_one_that_came_or_went_meanwhile_may_be_named(self) -> None:
        for asked, answered in ((5, 9), (9, 12), (10.5, 12), (19, 21), (21, 22)):
            assert self.said(asked, answered) == []

    def test_healthy_and_faults_contradict_each_other(self) -> None:
        assert lies([], [Report(asked=0, answered=1, healthy=True, faults=("lb: is away",))])
        assert lies([], [Report(asked=0, answered=1, healthy=False, faults=())])

    def test_writes_that_fail_before_and_after_an_answer_make_healthy_a_lie(self) -> None:
        attempts = [Attempt(0, 1, True), *(Attempt(n, n + 0.9, False) for n in range(2, 12)), Attempt(12, 13, True)]
        [held] = failing("apiserver-0", attempts)
        assert (held.since, held.until, held.since + held.felt_after_s) == (2, 10, 4.9)
        assert lies([held], [Report(asked=6, answered=7, healthy=True, faults=())])
        assert lies([held], [Report(asked=10.5, answered=11, healthy=True, faults=())]) == []

    def test_a_few_failures_are_none(self) -> None:
        assert list(failing("apiserver-0", [Attempt(n, n + 1, n % 4 == 0) for n in range(20)])) == []

"""Members killed under load, as processes. `python -m tests.etcd.crash --kills 500` is the long form."""

import random

import pytest

from tests.etcd.crash import Ledger, crash

KILLS = 24


@pytest.mark.turn(0, of=2)
@pytest.mark.e2e
@pytest.mark.timeout(300)
async def test_no_kill_loses_an_acknowledged_write() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"python -m tests.etcd.crash --kills {KILLS} --seed {seed}")
    run = await crash(KILLS, seed, say=print)
    assert sum(run.kills.values()) >= KILLS and len(run.ledger.acknowledged) > 100


# What would the check say if something were wrong?


def ledger_of(*changes: dict[bytes, bytes | None]) -> Ledger:
    """A ledger whose history has these changes from revision 2 on, all acknowledged."""
    ledger = Ledger()
    for revision, change in enumerate(changes, 2):
        ledger.history[revision] = change
        ledger.acknowledge(revision, change)
    ledger.revision = len(changes) + 1
    return ledger


def test_the_check_sees_a_lost_write() -> None:
    ledger = ledger_of({b"a": b"1"}, {b"a": b"2", b"b": b"2"})
    ledger.check_acknowledged()
    assert not ledger.problems
    del ledger.history[3]
    ledger.check_acknowledged()
    assert "acknowledged at 3" in ledger.problems[0]


def test_the_check_sees_half_a_transaction_and_a_changed_value() -> None:
    for there in ({b"a": b"2"}, {b"a": b"2", b"b": b"3"}):
        ledger = ledger_of({b"a": b"1"}, {b"a": b"2", b"b": b"2"})
        ledger.history[3] = dict(there)
        ledger.check_acknowledged()
        assert ledger.problems


def test_the_check_sees_a_revision_given_twice() -> None:
    ledger = ledger_of({b"a": b"1"})
    ledger.acknowledge(2, {b"b": b"1"})
    assert "given to two writes" in ledger.problems[0]


def test_the_state_is_what_the_history_leads_to() -> None:
    ledger = ledger_of({b"a": b"1"}, {b"b": b"1"}, {b"a": None}, {b"b": b"2", b"c": b"2"})
    assert ledger.state() == {b"b": (b"2", 5), b"c": (b"2", 5)}

"""The sequential lease: what its clients may have been told, and what they may not."""

from math import inf
from typing import Any

import pytest

from rayplane.control_plane.invariants.lease_model import Attach, Grant, LeaseModel, Look, Renew, Revoke
from rayplane.control_plane.invariants.linearizable import NotLinearizable, Operation, assert_linearizable

A, B = b"a", b"b"
BOTH, NONE = frozenset((A, B)), frozenset[bytes]()
GRANTED, ATTACHED = (Grant(1), True), (Attach(1, (A, B)), True)


def told(*calls: tuple[Any, Any]) -> list[Operation]:
    """One after the other; None: nobody knows what came of it."""
    return [Operation("c", 2 * n, what, inf if out is None else 2 * n + 1, out) for n, (what, out) in enumerate(calls)]


@pytest.mark.parametrize(
    "calls",
    [
        (GRANTED, ATTACHED, (Look(1), BOTH), (Renew(1), True), (Look(1), BOTH), (Revoke(1), True), (Look(1), NONE)),
        (GRANTED, ATTACHED, (Look(1), BOTH), (Look(1), NONE), (Renew(1), False), (Revoke(1), False)),
        (GRANTED, (Attach(1, (A, B)), None), (Look(1), NONE), (Look(1), BOTH)),
        (GRANTED, ATTACHED, (Revoke(1), None), (Look(1), BOTH), (Renew(1), True), (Look(1), NONE)),
        ((Grant(1), None), (Renew(1), False), (Renew(1), True)),
        (GRANTED, (Grant(1), False), (Renew(2), False), (Renew(1), True)),
    ],
)
def test_what_one_lease_can_tell(calls: tuple[Any, ...]) -> None:
    assert_linearizable(LeaseModel(), told(*calls))


@pytest.mark.parametrize(
    "calls",
    [
        (GRANTED, ATTACHED, (Look(1), frozenset((A,)))),
        (GRANTED, ATTACHED, (Renew(1), False), (Look(1), BOTH)),
        (GRANTED, ATTACHED, (Look(1), NONE), (Renew(1), True)),
        (GRANTED, ATTACHED, (Revoke(1), True), (Look(1), BOTH)),
        (GRANTED, (Renew(1), False), ATTACHED),
        (GRANTED, GRANTED, (Attach(1, (A,)), True), (Look(1), NONE), (Look(1), frozenset((A,)))),
        ((Renew(1), True),),
        (ATTACHED,),
    ],
    ids=["half", "outlived", "undead", "revoked", "late", "back", "nobody's", "never granted"],
)
def test_what_no_lease_can_tell(calls: tuple[Any, ...]) -> None:
    with pytest.raises(NotLinearizable):
        assert_linearizable(LeaseModel(), told(*calls))

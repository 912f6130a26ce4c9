"""New objects by the tables of each group of kinds: good ones pass, and what is wrong with others is told."""

from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from tests.api.kinds import test_network_rules as network
from tests.api.kinds import test_policy_rules as policy
from tests.api.kinds import test_storage_rules as storage
from tests.api.kinds import test_workload_rules as workload
from tests.api.kinds.changes import Changes, refused, updated

GROUPS: list[Any] = [network, policy, storage, workload]
GOOD = {kind: good for group in GROUPS for kind, good in group.GOOD.items()}
CASES = [
    pytest.param(GOOD[kind], *case, id=f"{kind}-{i}")
    for group in GROUPS
    for kind, cases in group.CASES.items()
    for i, case in enumerate(cases)
]


def test_no_kind_stands_in_two_tables() -> None:
    assert len(GOOD) == sum(len(group.GOOD) for group in GROUPS)


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_good_ones_pass(good: Object) -> None:
    assert refused(good, {}) == []
    assert updated(good, {}, {})[1] == []


@pytest.mark.parametrize(("good", "changes", "found"), CASES)
def test_what_is_wrong_with_new_ones(good: Object, changes: Changes, found: list[str]) -> None:
    assert refused(good, changes) == found

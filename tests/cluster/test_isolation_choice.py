"""Whether the pods of a cluster are isolated: what was asked for, what the machine can, what its addresses say."""

import pytest

from rayplane.control_plane.cluster import isolation
from rayplane.control_plane.cluster.config import AUTO, NAMESPACES, NONE, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.isolation import decide
from rayplane.node.runtime.isolation.probe import Found


@pytest.fixture
def said() -> list[str]:
    return []


def on_a_machine(monkeypatch: pytest.MonkeyPatch, found: Found) -> None:
    monkeypatch.setattr(isolation, "probe", lambda: found)


@pytest.mark.parametrize(
    ("asked", "can", "isolated"),
    [
        (AUTO, True, True),
        (AUTO, False, False),
        (NAMESPACES, True, True),
        (NONE, True, False),
        ("", True, False),
    ],
)
async def test_a_new_cluster_has_what_is_asked_for_and_can_be_had(
    monkeypatch: pytest.MonkeyPatch, said: list[str], asked: str, can: bool, isolated: bool
) -> None:
    on_a_machine(monkeypatch, Found(can, "" if can else "no user namespaces"))
    config = ClusterConfig(runtime="process", isolation=asked)
    assert await decide(config, None, said.append) == isolated
    assert bool(said) == (asked in (AUTO, NAMESPACES)) and ("no user namespaces" in str(said)) == (not can)


async def test_what_cannot_be_had_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    on_a_machine(monkeypatch, Found(False, "no user namespaces"))
    with pytest.raises(ClusterError, match="no user namespaces"):
        await decide(ClusterConfig(runtime="process", isolation=NAMESPACES), None, said.append)


@pytest.mark.parametrize("before", [True, False])
async def test_a_cluster_with_data_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, said: list[str], before: bool
) -> None:
    on_a_machine(monkeypatch, Found(not before))
    plan = AddressPlan(0, isolated=before)
    for asked in (AUTO, ""):
        assert await decide(ClusterConfig(runtime="process", isolation=asked), plan, said.append) == before
    with pytest.raises(UsageError):
        await decide(ClusterConfig(runtime="process", isolation=NONE if before else NAMESPACES), plan, said.append)

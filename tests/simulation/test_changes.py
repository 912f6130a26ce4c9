"""Members and API servers come and go while others die."""

from typing import Any

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.supervisor.etcd import EtcdMembers
from rayplane.control_plane.etcd.server.replication.membership_changes import MembershipChanger
from rayplane.control_plane.simulation import SimulationResult, load_scenario, parse_scenario, simulate
from rayplane.control_plane.simulation.scenario import Change, Rage

pytestmark = pytest.mark.timeout(600)


@pytest.mark.turn(1, of=2)
@pytest.mark.parametrize("seed", [1])
def test_a_cluster_changes_through_a_storm(seed: int) -> None:
    result = simulate(load_scenario("changes"), seed)
    assert result.ok, str(result)
    assert result.acknowledged > 150


ALL_SERVERS_MOVE = """
duration: 30s
cluster: {timing: fast, members: 3, apiservers: 2, nodes: 2, schedulers: 1, controllers: 1}
client: {write_every: 1s, ask_every: 150ms}
steps:
  - await: {ready: cluster}
  - apply:
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: 2
        selector: {matchLabels: {app: web}}
        template:
          metadata: {labels: {app: web}}
          spec: {containers: [{name: web, image: web}]}
  - replace: apiserver-0
  - replace: apiserver-1
  - replace: apiserver-0
  - await: {ready: cluster, within: 15s}
  - scale: {deployment: web, replicas: 4}
  - await: {deployment: web, replicas: 4, within: 15s}
expect:
  - {ready: cluster}
"""


def test_all_api_servers_get_other_addresses_faster_than_anybody_asks() -> None:
    result = simulate(parse_scenario(ALL_SERVERS_MOVE, source="moves"), 1)
    assert result.ok, str(result)
    assert result.acknowledged > 60


def removed_while_another_is_down() -> SimulationResult:
    text = """
duration: 10s
cluster: {timing: fast, members: 5, nodes: 1, apiservers: 1, schedulers: 1, controllers: 1}
client: {write_every: 1s, ask_every: 3s}
steps:
  - await: {ready: cluster}
  # One alone would be replaced after some starts that fail.
  - kill: {member: member-0, back: never}
  - kill: {member: member-1, back: never}
  - sleep: 1s
  - remove: member-2
  - await: {ready: cluster, within: 15s}
"""
    return simulate(parse_scenario(text, source="removal"), 1)


@pytest.mark.turn(0, of=2)
def test_no_member_goes_while_the_rest_would_be_no_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = removed_while_another_is_down()
    [why] = refused.failures
    assert "not all other members are healthy" in why
    assert refused.acknowledged > 60  # it works on while the removal is tried

    async def enough_are_healthy(self: MembershipChanger, enough: Any) -> None:
        pass

    async def is_healthy(self: EtcdMembers, member: Any) -> bool:
        return True

    monkeypatch.setattr(MembershipChanger, "_check_health", enough_are_healthy)
    monkeypatch.setattr(EtcdMembers, "_is_healthy", is_healthy)
    gone = removed_while_another_is_down()
    assert not gone.ok
    assert "not all other members are healthy" not in str(gone.failures)
    assert gone.acknowledged < 40


def test_steps_that_change_a_cluster_are_read() -> None:
    steps = "[{add: member}, {remove: apiserver-1}, {replace: member-0}, {storm: {for: 1m, every: 2s}}]"
    assert parse_scenario(f"steps: {steps}", source="x").steps == (
        Change("add", "member"),
        Change("remove", "apiserver-1"),
        Change("replace", "member-0"),
        Rage(60.0, 2.0),
    )


@pytest.mark.parametrize(
    "step", ["{add: node}", "{add: [member]}", "{remove: 3}", "{storm: {every: 0s}}", "{storm: {of: x}}"]
)
def test_a_wrong_change_is_refused_with_its_place(step: str) -> None:
    with pytest.raises(UsageError, match=r"steps\[0\]"):
        parse_scenario(f"steps: [{step}]", source="x")


def test_a_change_of_an_actor_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="member-9"):
        simulate(parse_scenario("steps: [{replace: member-9}]", source="x"), 1)

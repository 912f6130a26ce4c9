"""Versions that a REST client is shown, through the load balancer, while servers lag, die and lose etcd's leader."""

import asyncio
from collections.abc import Callable

import pytest

from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.simulation import Planted, SimulationResult, parse_scenario, simulate
from rayplane.proto.etcd import rpc_pb2 as pb

pytestmark = pytest.mark.timeout(600)

# Members are cut off with the servers that watch on them, the leader dies under writes, and servers under everything.
SCENARIO = """
duration: 45s
cluster: {timing: fast, nodes: 1, schedulers: 1, controllers: 1}
network: {loss: 0.005}
client: {write_every: 2s, ask_every: 60ms}
steps:
  - await: {ready: cluster}
  - partition: {hosts: [[member-0]], for: 5s}
  - sleep: 6s
  - partition: {hosts: [[member-1]], for: 5s}
  - kill: {apiserver: apiserver-0, back: 2s}
  - sleep: 6s
  - kill: {target: leader, back: 2s}
  - sleep: 5s
  - stop: {target: apiserver-1, for: 3s}
  - sleep: 4s
  - partition: {hosts: [[member-2, apiserver-1]], for: 5s}
  - sleep: 6s
  - kill: {target: leader, back: 1s}
  - kill: apiserver
  - sleep: 5s
"""

Wrap = Callable[[str, Component], None]


def run(seed: int, wrap: Wrap | None = None) -> SimulationResult:
    return simulate(parse_scenario(SCENARIO, source="versions"), seed, planted=Planted(wrap=wrap))


def found(mark: str, wrap: Wrap, seeds: int = 3) -> bool:
    return any(mark in failure for seed in range(1, seeds + 1) for failure in run(seed, wrap).failures)


@pytest.mark.turn(0, of=3)
@pytest.mark.parametrize("seed", [1])
def test_no_client_is_sent_back_and_every_one_reads_its_own_writes(seed: int) -> None:
    result = run(seed)
    assert result.ok, str(result)
    assert result.acknowledged > 60


@pytest.mark.turn(1, of=3)
def test_a_server_that_answers_from_a_cache_that_lags_is_found() -> None:
    def lagging(name: str, component: Component) -> None:
        if isinstance(component, ApiServer) and name == "apiserver-0":
            hub = component.registry.hub
            take = hub._take

            def late(response: pb.WatchResponse) -> None:
                asyncio.get_running_loop().call_later(0.5, take, response)

            async def fresh() -> int:
                return hub.revision

            hub._take, hub.fresh = late, fresh  # type: ignore[method-assign]

    assert found("REST: a list was answered at version", lagging, seeds=1)


@pytest.mark.turn(2, of=3)
def test_a_watch_cache_that_loses_a_change_is_found() -> None:
    def forgetful(name: str, component: Component) -> None:
        if isinstance(component, ApiServer):
            hub = component.registry.hub
            apply = hub._apply

            def lose(cache: ResourceCache, key: str, value: bytes | None, revision: int) -> None:
                if cache.info.plural != "configmaps" or revision % 5:
                    apply(cache, key, value, revision)

            hub._apply = lose  # type: ignore[method-assign, assignment]

    assert found("REST: ", forgetful, seeds=1)

"""The REST face behind the load balancer, in virtual time: what breaks its promises is found by a seed."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.loadbalancer import LoadBalancer
from rayplane.control_plane.rpc.sockets import STREAM_BYTES
from rayplane.control_plane.simulation import Planted, SimulationResult, parse_scenario, simulate

pytestmark = pytest.mark.timeout(600)

# API servers die under requests, the load balancer too, and the client is cut off from some of them.
SCENARIO = """
duration: 22s
cluster: {timing: fast, nodes: 1, schedulers: 1, controllers: 1}
network: {loss: 0.005}
client: {write_every: 2s, ask_every: 80ms}
steps:
  - await: {ready: cluster}
  - sleep: 1s
  - kill: {apiserver: apiserver-0, back: 2s}
  - sleep: 3500ms
  - kill: {apiserver: apiserver-1, back: 2s}
  - sleep: 3s
  - kill: lb
  - sleep: 2500ms
  - kill: apiserver
  - sleep: 2s
"""


def run(seed: int, wrap: Callable[[str, Component], None] | None = None) -> SimulationResult:
    return simulate(parse_scenario(SCENARIO, source="rest"), seed, planted=Planted(wrap=wrap))


def found(mark: str, wrap: Callable[[str, Component], None], seeds: int = 3) -> bool:
    """Whether one of a few seeds finds a violation that says this."""
    return any(mark in failure for seed in range(1, seeds + 1) for failure in run(seed, wrap).failures)


@pytest.mark.parametrize("seed", [2])
def test_acknowledged_requests_hold_while_servers_and_balancer_die(seed: int) -> None:
    result = run(seed)
    assert result.ok, str(result)
    assert result.acknowledged > 60


def test_a_run_asks_no_clock_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
duration: 6s
cluster: {timing: fast, members: 1, nodes: 1, apiservers: 1, schedulers: 1, controllers: 1}
client: {ask_every: 100ms}
"""
    scenario = parse_scenario(text, source="clock")
    usual = simulate(scenario, 1)
    hours = itertools.count(0, 3600)
    for name, module in list(sys.modules.items()):
        if name.startswith("aiohttp") and hasattr(module, "monotonic"):
            monkeypatch.setattr(module, "monotonic", lambda: float(next(hours)))
    assert simulate(scenario, 1).trace_hash == usual.trace_hash
    assert usual.ok, str(usual)
    assert next(hours) > 0


@pytest.mark.turn(0, of=3)
def test_a_server_that_acknowledges_before_etcd_is_found() -> None:
    async def late(write: Any, arguments: Any) -> None:
        await asyncio.sleep(0.3)
        await write(*arguments)

    def hasty(name: str, component: Component) -> None:
        if not isinstance(component, ApiServer):
            return
        patch = component.registry.patch
        tasks: set[asyncio.Task[None]] = set()

        async def acknowledge(user: Any, target: Any, kind: Any, body: bytes, options: Any) -> Any:
            if target.info.name != "configmaps":
                return await patch(user, target, kind, body, options)
            shown = await patch(user, target, kind, body, replace(options, dry_run=True))
            tasks.add(asyncio.create_task(late(patch, (user, target, kind, body, options))))
            return shown

        component.registry.patch = acknowledge  # type: ignore[method-assign]

    assert found("REST: ", hasty, seeds=1)


@pytest.mark.turn(1, of=3)
def test_a_watch_that_drops_an_event_when_it_begins_again_is_found() -> None:
    def forgetful(name: str, component: Component) -> None:
        if isinstance(component, ApiServer):
            watch = component.registry.watch

            def skip(user: Any, target: Any, options: Any) -> Any:
                if target.info.name == "configmaps" and options.resource_version:
                    options = replace(options, resource_version=str(int(options.resource_version) + 3))
                return watch(user, target, options)

            component.registry.watch = skip  # type: ignore[method-assign, assignment]

    assert found("REST: the watch did not tell of", forgetful)


class _Impatient(LoadBalancer):
    """A load balancer that gives a request that is not answered at once to another server as well."""

    async def _carry(self, task: Any, upstream: Any, reader: Any, writer: Any) -> None:
        with contextlib.closing(upstream[2]):
            request = await reader.read(STREAM_BYTES)
            upstream[2].write(request)
            try:
                answer = await asyncio.wait_for(upstream[1].read(STREAM_BYTES), 0.004)
            except TimeoutError:
                answer, other = b"", await self._connect()
                if other is not None:
                    upstream = other
                    upstream[2].write(request)
            writer.write(answer)
            await super()._carry(task, upstream, reader, writer)


@pytest.mark.turn(2, of=3)
def test_a_balancer_that_sends_a_request_twice_is_found() -> None:
    def hedge(name: str, component: Component) -> None:
        if isinstance(component, LoadBalancer):
            component.__class__ = _Impatient

    assert found("REST: ", hedge, seeds=1)

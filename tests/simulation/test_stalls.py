"""Processes that stand still for some seconds, as on a busy machine: who stood still knows it, and blames nobody."""

import asyncio
import contextvars
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.client import LeaderElector
from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.controllers.nodelifecycle import NodeLifecycleController
from rayplane.control_plane.simulation import Planted, VirtualLoop, parse_scenario, simulate
from rayplane.control_plane.simulation.loop import LIFE, Life
from tests.tiers import todays_part

pytestmark = pytest.mark.timeout(300)

SCENARIO = """
duration: 1s
cluster: {timing: fast, nodes: 3}
client: {write_every: 200ms}
steps:
  - await: {ready: cluster}
  - sleep: 40s
expect:
  - {ready: cluster}
"""
# Longer than a node's grace period and than a leader's lease.
STALL_S = 6.0
FIRST_S, EVERY_S = 10.0, 13.0


class _Stalls:
    """A fault that pauses the actors whose names begin with `victim`, one after the other."""

    def __init__(self, victim: str) -> None:
        self._victim = victim
        self.done: list[str] = []

    def plant(self, name: str, _component: Component) -> None:
        life = LIFE.get()
        if not name.startswith(self._victim) or life is None:
            return
        when = FIRST_S + EVERY_S * len(self.done)
        self.done.append(name)
        # In nobody's life: what belongs to a paused cell does not run.
        asyncio.get_running_loop().call_later(when, self._pause, life, context=contextvars.Context())

    def _pause(self, life: Life) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        life.paused = True
        loop.call_later(STALL_S, loop.revive, life)


@pytest.mark.parametrize("victim", todays_part(2, ["apiserver", "controllers", "scheduler", "member"]))
def test_no_node_is_lost_because_somebody_else_stood_still(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []
    judge = NodeLifecycleController._lost

    def record(self: NodeLifecycleController, node: Any, now: Any) -> Any:
        lost.append(meta.name(node))
        return judge(self, node, now)

    monkeypatch.setattr(NodeLifecycleController, "_lost", record)
    terms: list[str] = []
    hold = LeaderElector._hold

    async def count(self: LeaderElector, lead: Any) -> None:
        terms.append(self._name)
        await hold(self, lead)

    monkeypatch.setattr(LeaderElector, "_hold", count)
    stalls = _Stalls(victim)
    result = simulate(parse_scenario(SCENARIO, source="stalls"), 5, planted=Planted(wrap=stalls.plant))
    assert len(stalls.done) > 1
    assert result.ok, str(result)
    assert lost == []
    if victim in ("apiserver", "member"):
        assert sorted(terms) == ["kube-controller-manager", "kube-scheduler"]

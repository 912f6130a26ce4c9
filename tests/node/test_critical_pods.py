"""Room for critical pods: whom a node ends for them, and that it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.bootstrap import SYSTEM_CRITICAL
from rayplane.control_plane.api.meta import Object
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.admission import room_of
from rayplane.node.kubelet.preemption import MESSAGE, Holder, victims
from tests.fakes import FakeClient
from tests.node.conftest import make_pod

MakeHost = Callable[..., Awaitable[NodeHost]]


def asks(cpu: int = 0, *, most: bool = False) -> Object:
    requests = {"cpu": f"{cpu}m", "memory": "1Mi"} if cpu else {}
    return {"resources": {"requests": requests, **({"limits": requests} if most else {})}}


def of(name: str, cpu: int = 0, *, most: bool = False, priority: int = 0, **more: Any) -> Object:
    return make_pod(name, container=asks(cpu, most=most), priority=priority, **more)


def holder(pod: Object, *, is_ending: bool = False) -> Holder:
    return Holder(pod, room_of(pod), is_ending)


def names(found: list[Holder]) -> list[str]:
    return [meta.name(one.pod) for one in found]


VIP = of("vip", 500, priority=SYSTEM_CRITICAL)


@pytest.mark.parametrize(
    ("lacking", "expected"),
    [
        ({"cpu": 100}, ["small"]),  # the one that frees enough and least beyond
        ({"cpu": 250}, ["large"]),
        ({"cpu": 350}, ["large", "small"]),
        ({"pods": 1}, ["best"]),  # a class that promises nothing comes first
        ({"cpu": 900}, ["small", "large", "sure"]),
        ({"cpu": 2000}, []),  # in vain for anybody
    ],
)
def test_those_that_promise_least_go_first_and_no_more_than_needed(
    lacking: dict[str, int], expected: list[str]
) -> None:
    there = [of("best"), of("small", 150), of("large", 300), of("sure", 500, most=True)]
    there.append(of("other", 900, priority=SYSTEM_CRITICAL))
    assert sorted(names(victims(VIP, lacking, [holder(one) for one in there]))) == sorted(expected)


def test_nobody_is_ended_for_a_pod_that_is_not_critical_nor_where_others_end_anyway() -> None:
    there = [holder(of("p", 500))]
    assert not victims(of("q", 500, priority=SYSTEM_CRITICAL - 1), {"cpu": 100}, there)
    going = holder(of("going", 300), is_ending=True)
    assert names(victims(VIP, {"cpu": 300}, [*there, going])) == ["going"]
    assert names(victims(VIP, {"cpu": 301}, [*there, going])) == ["going", "p"]


@given(
    st.lists(st.tuples(st.sampled_from([0, 100, 200, 300]), st.booleans(), st.integers(0, 2)), max_size=6),
    st.integers(1, 900),
)
def test_what_is_ended_is_enough_and_there_is_somebody_whenever_anything_helps(
    given_pods: list[tuple[int, bool, int]], lacking: int
) -> None:
    ranks = (0, SYSTEM_CRITICAL, SYSTEM_CRITICAL + 1000)
    there = [holder(of(f"p{i}", cpu, most=most, priority=ranks[rank]))
             for i, (cpu, most, rank) in enumerate(given_pods)]  # fmt: skip
    found = victims(VIP, {"cpu": lacking}, there)
    may = [one for one, (_, _, rank) in zip(there, given_pods, strict=True) if rank == 0]
    helps = any(sum(one.room.cpu for one in some) >= lacking
                for size in range(1, len(may) + 1) for some in combinations(may, size))  # fmt: skip
    assert bool(found) == helps
    if found:
        assert sum(one.room.cpu for one in found) >= lacking and all(one in may for one in found)


async def test_a_critical_pod_gets_its_room_on_a_full_node(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", cpu="1"))

    def phase(name: str) -> str:
        return str(meta.status(api.pod(name)).get("phase"))

    for one in (of("meek", 600), of("weak", 400)):
        api.put("pods", one)
    await api.until(lambda: phase("meek") == phase("weak") == "Running")
    api.put("pods", of("late", 100))
    await api.until(lambda: phase("late") == "Failed")
    api.put("pods", of("vip", 300, priority=SYSTEM_CRITICAL))
    await api.until(lambda: phase("vip") == "Running")
    status = meta.status(api.pod("weak"))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Preempting", MESSAGE)
    condition = meta.get_condition(api.pod("weak"), "DisruptionTarget") or {}
    assert (condition["status"], condition["reason"]) == ("True", "TerminationByKubelet")
    assert phase("meek") == "Running"
    await api.until(lambda: api.events("Preempting") == [MESSAGE])


async def test_a_critical_pod_that_does_not_want_the_node_ends_nobody(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", cpu="1"))
    api.put("pods", of("meek", 800))
    await api.until(lambda: meta.status(api.pod("meek")).get("phase") == "Running")
    api.put("pods", of("vip", 300, priority=SYSTEM_CRITICAL, nodeSelector={"disk": "ssd"}))
    await api.until(lambda: meta.status(api.pod("vip")).get("phase") == "Failed")
    assert meta.status(api.pod("meek"))["phase"] == "Running"

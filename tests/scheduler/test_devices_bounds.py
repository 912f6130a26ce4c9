"""The search for devices has bounds: no claim holds up the scheduler, and the pod says what is the matter."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.scheduler import Failure, Placement, device_expressions
from rayplane.control_plane.scheduler.work import DECISION_MAX, NODE_MAX, Allowance
from tests.scheduler.build import World, info, node, pod
from tests.scheduler.test_dynamic_resources import DRIVER, exactly, got, gpu, offered, user, wanted, world


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is spent, in order."""
    found: list[int] = []
    real = Allowance.spend

    def spend(self: Allowance, units: int) -> None:
        found.append(units)
        real(self, units)

    monkeypatch.setattr(Allowance, "spend", spend)
    return found


def told(here: World, one: dict[str, Any]) -> str:
    """What a try that comes to nothing says."""
    [decision] = here.cycle.schedule([info(one)])
    assert isinstance(decision, Failure), decision.node
    return decision.message


def big(nodes: int, *devices: dict[str, Any]) -> World:
    found = World(*(node(f"n{number:03}") for number in range(nodes)))
    found.cluster.devices.set_class({"metadata": {"name": "gpu"}, "spec": {}})
    for number in range(nodes):
        found.cluster.devices.set_slice(offered(f"n{number:03}", *devices))
    return found


def puzzle(name: str = "x") -> dict[str, Any]:
    """Many ways to begin, none to end: the last request wants what the device model of nobody is."""
    never = exactly("never", expression=f'device.attributes["{DRIVER}"].model == "none"')
    return wanted(name, *(exactly(f"r{number}") for number in range(8)), never)


def test_a_puzzle_is_given_up_on_each_node_and_all_of_a_decision_has_a_bound(spent: list[int]) -> None:
    here = big(60, *(gpu(f"g{number:02}") for number in range(30)))
    here.cluster.devices.set_claim(puzzle())
    tries = 0
    while True:
        spent.clear()
        tries += 1
        text = told(here, user("p", "x"))
        assert sum(spent) <= DECISION_MAX + NODE_MAX + max(spent)
        if "nodes are to be looked at still" not in text:
            break
    assert text.startswith("0/60 nodes are available: 60 timed out trying to allocate devices.")
    assert 60 * NODE_MAX // DECISION_MAX <= tries < 60


def test_dear_expressions_are_evaluated_a_few_at_a_time_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = 0
    real = device_expressions.DeviceExpressions.matches

    def matches(self: Any, expression: str, device: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        return real(self, expression, device)

    monkeypatch.setattr(device_expressions.DeviceExpressions, "matches", matches)
    here = big(20, gpu("g0"), gpu("g1"))
    numbers = ", ".join(map(str, range(150)))
    dear = f"[{numbers}].all(x, [{numbers}].all(y, x + y >= 0)) && device.driver == 'none'"
    here.cluster.devices.set_claim(wanted("x", exactly(expression=dear)))
    seen = []
    for _ in range(100):
        before = evaluations
        text = told(here, user("p", "x"))
        seen.append(evaluations - before)
        if "nodes are to be looked at still" not in text:
            break
    assert "20 cannot allocate all claims" in text
    assert sum(seen) == 40 and max(seen) <= 8


def test_an_expression_that_fails_is_asked_once_of_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = device_expressions.compile

    def noted(text: str, *more: Any, **options: Any) -> Any:
        compiled.append(text)
        return real(text, *more, **options)

    monkeypatch.setattr(device_expressions, "compile", noted)
    here = big(10, gpu("g0"))
    here.cluster.devices.set_claim(wanted("x", exactly(expression="device.(")))
    for _ in range(3):
        assert "10 CEL compile error: " in here.fail(user("p", "x"))
    assert len(compiled) == 1


def test_a_node_that_was_found_is_taken_though_others_were_not_looked_at() -> None:
    here = big(400, *(gpu(f"g{number:02}") for number in range(30)))
    selective = f'device.attributes["{DRIVER}"].model == "a100"'
    for number in range(12):
        here.cluster.devices.set_claim(wanted(f"x{number}", exactly(expression=selective)))
        assert here.place(user(f"p{number}", f"x{number}"))


def test_the_next_try_goes_on_where_the_last_one_ended_and_ordinary_pods_go_between() -> None:
    here = big(300, *(gpu(f"g{number:02}") for number in range(30)))
    last = offered("n299", gpu("g0", model="h100"))
    last["spec"]["pool"]["generation"] = 2
    here.cluster.devices.set_slice(last)
    here.cluster.devices.set_claim(wanted("x", exactly(expression=f'device.attributes["{DRIVER}"].model == "h100"')))
    tries = 0
    while not isinstance(decision := here.cycle.schedule([info(user("p", "x"))])[0], Placement):
        assert decision.is_fault, "it is tried again by itself"
        assert here.place(pod(f"ordinary-{tries}"))
        tries += 1
    assert decision.node == "n299" and 0 < tries < 20


def test_a_claim_has_32_devices_at_most() -> None:
    here = world(offered("b", *(gpu(f"g{number:02}") for number in range(40))))
    devices = here.cluster.devices
    devices.set_claim(wanted("x", exactly("one", count=20), exactly("two", count=13)))
    words = "claim default/x: number of requested devices 33 exceeds the claim limit of 32"
    assert words in here.fail(user("p", "x"))
    alternatives = [{"name": name, "deviceClassName": "gpu", "count": count} for name, count in (("a", 13), ("b", 12))]
    devices.set_claim(wanted("y", exactly("one", count=20), {"name": "two", "firstAvailable": alternatives}))
    assert here.place(user("q", "y")) == "b"
    assert len(got(here, "y")) == 32
    devices.set_claim(wanted("z", exactly(allocationMode="All")))
    assert "3 cannot allocate all claims" in here.fail(user("r", "z"))


def test_a_pod_may_have_many_claims() -> None:
    here = world(offered("b", *(gpu(f"g{number:03}") for number in range(600))))
    names = [f"x{number}" for number in range(500)]
    for name in names:
        here.cluster.devices.set_claim(wanted(name, exactly()))
    decision = here.decide(user("p", *names))
    assert isinstance(decision, (Placement, Failure))
    assert isinstance(decision, Placement) or "devices" in decision.message


def test_preemption_spends_nothing_of_its_own(spent: list[int]) -> None:
    here = big(60, *(gpu(f"g{number:02}") for number in range(30)))
    here.cluster.devices.set_claim(puzzle())
    for name, _ in here.snapshot.nodes():
        here.run({**pod(f"low-{name}", cpu="4"), "spec": {**pod("l", cpu="4")["spec"], "nodeName": name}})
    spent.clear()
    here.cycle.schedule([info(user("p", "x", priority=10, cpu="1"))])
    assert sum(spent) <= DECISION_MAX + NODE_MAX + max(spent, default=0)


def test_one_node_with_many_devices_is_looked_at_over_several_tries(spent: list[int]) -> None:
    here = big(1, *(gpu(f"g{number:02}") for number in range(60)))
    numbers = ", ".join(map(str, range(150)))
    dear = f"[{numbers}].all(x, [{numbers}].all(y, x + y >= 0)) && device.driver == 'none'"
    here.cluster.devices.set_claim(wanted("x", exactly(expression=dear)))
    tries, text = 0, ""
    while "1 cannot allocate all claims" not in text:
        spent.clear()
        text, tries = told(here, user("p", "x")), tries + 1
        assert sum(spent) <= DECISION_MAX + NODE_MAX + max(spent)
    assert tries > 1


def test_what_changes_all_the_time_keeps_no_node_from_being_looked_at() -> None:
    devices = [gpu(f"g{number:02}") for number in range(30)]
    here = big(30, *devices)
    last = offered("n029", *devices, gpu("wanted", model="none"))
    last["spec"]["pool"]["generation"] = 2
    here.cluster.devices.set_slice(last)
    here.cluster.devices.set_claim(puzzle())
    for _ in range(20):
        here.cluster.devices.version += 1
        [decision] = here.cycle.schedule([info(user("p", "x"))])
        if isinstance(decision, Placement):
            break
    assert isinstance(decision, Placement) and decision.node == "n029"

"""The search for devices against one that tries everything: it finds a choice when there is one, and a right one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.scheduler import Placement
from tests.scheduler.build import World, node
from tests.scheduler.devices_reference import Devices, chosen
from tests.scheduler.dice import SEEDS, Dice
from tests.scheduler.random_devices import claim, devices, rules
from tests.scheduler.test_dynamic_resources import offered, user
from tests.tiers import examples


@settings(max_examples=examples(300))
@given(seed=SEEDS, most=st.integers(1, 4), count=st.integers(1, 3))
def test_a_choice_is_found_when_there_is_one_and_is_right(seed: int, most: int, count: int) -> None:
    dice = Dice(seed)
    given_devices, amount, given_rules = devices(dice, most), dice.randint(1, 4), rules(dice)
    here, twin = World(node("b")), Devices(given_devices, {"c": amount * 10**9}, given_rules)
    index = here.cluster.devices
    index.set_class({"metadata": {"name": "gpu"}, "spec": {}})
    counters = [{"name": "s", "counters": {"c": {"value": str(amount)}}}]
    index.set_slice(offered("b", *given_devices, sharedCounters=counters))
    for rule in given_rules:
        index.set_rule(rule)
    for number in range(count):
        mine = [claim(dice, f"{name}{number}") for name in "xy"]
        for one in mine:
            index.set_claim(one)
        decision = here.decide(user(f"p{number}", *(one["metadata"]["name"] for one in mine)))
        there_is = twin.choice(mine) is not None
        assert isinstance(decision, Placement) is there_is
        if not there_is:
            continue
        found = [index.allocation(f"default/{one['metadata']['name']}") or {} for one in mine]
        assert twin.is_right(mine, [chosen(one, got) for one, got in zip(mine, found, strict=True)])
        for one, got in zip(mine, found, strict=True):
            if number % 2:  # as it is told once it is written
                index.set_claim({**one, "status": {"allocation": got}})
            twin.had += got["devices"]["results"]

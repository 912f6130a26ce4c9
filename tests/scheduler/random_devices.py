"""Random devices, claims to them and taints of them, out of Dice."""

from __future__ import annotations

from typing import Any

from tests.scheduler.dice import Dice
from tests.scheduler.test_dynamic_resources import DRIVER, wanted

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"default": "2", "validValues": ["1", "2", "4"]},
    {"default": "1", "validRange": {"min": "1", "max": "6", "step": "500m"}},
    {"default": "2", "validRange": {"min": "2", "step": "2"}},
)


def taint(dice: Dice) -> dict[str, Any]:
    return {"key": dice.choice("ab"), "effect": dice.choice(["NoSchedule", "NoExecute", "None"])}


def devices(dice: Dice, most: int = 4) -> list[dict[str, Any]]:
    found = []
    for number in range(dice.randint(1, most)):
        one: dict[str, Any] = {"name": f"g{number}", "attributes": {"model": {"string": dice.choice("xy")}}}
        if not dice.maybe():
            one["attributes"]["numa"] = {"int": dice.randint(0, 1)}
        if dice.coin():
            capacity: dict[str, Any] = {"value": dice.choice("48")}
            if dice.coin():
                one["allowMultipleAllocations"] = True
                policy = dice.choice(POLICIES)
                capacity |= {"requestPolicy": policy} if policy else {}
            one["capacity"] = {"memory": capacity}
        if dice.maybe():
            used = {"c": {"value": str(dice.randint(1, 3))}}
            one["consumesCounters"] = [{"counterSet": "s", "counters": used}]
        if dice.maybe():
            one["taints"] = dice.few(taint, 0, 2)
        found.append(one)
    return found


def wish(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {"deviceClassName": "gpu"}
    if dice.coin():
        expression = f'device.attributes["{DRIVER}"].model == "{dice.choice("xy")}"'
        found["selectors"] = [{"cel": {"expression": expression}}]
    if dice.maybe():
        found["allocationMode"] = "All"
    elif dice.maybe():
        found["count"] = 2
    if dice.maybe():
        found["capacity"] = {"requests": {"memory": dice.choice(["1", "1500m", "3", "5"])}}
    if dice.maybe():
        found["tolerations"] = [{"key": dice.choice("ab"), "operator": "Exists"}]
    return found


def claim(dice: Dice, name: str) -> dict[str, Any]:
    requests: list[dict[str, Any]] = []
    for number in range(dice.randint(1, 2)):
        if dice.maybe():
            alternatives = [{"name": f"a{at}", **wish(dice)} for at in range(2)]
            requests.append({"name": f"r{number}", "firstAvailable": alternatives})
        else:
            one = wish(dice)
            if dice.maybe():
                one["adminAccess"] = True
            requests.append({"name": f"r{number}", "exactly": one})
    more: dict[str, Any] = {}
    if dice.maybe():
        rule: dict[str, Any] = {dice.choice(["matchAttribute", "distinctAttribute"]): f"{DRIVER}/numa"}
        if dice.coin():
            rule["requests"] = ["r0"]
        more["constraints"] = [rule]
    return wanted(name, *requests, **more)


def rules(dice: Dice) -> list[dict[str, Any]]:
    found = []
    for number in range(dice.choice([0, 0, 1, 2])):
        spec: dict[str, Any] = {"taint": taint(dice)}
        if dice.coin():
            spec["deviceSelector"] = {"device": f"g{dice.randint(0, 3)}"}
        found.append({"metadata": {"name": f"rule-{number}"}, "spec": spec})
    return found

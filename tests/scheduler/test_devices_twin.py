"""The search for devices against one that tries everything: it finds a choice when there is one, and a right one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.scheduler import Placement
from tests.scheduler.build import World, node
from tests.scheduler.devices_reference import Choice, Devices
from tests.scheduler.test_dynamic_resources import DRIVER, offered, user, wanted
from tests.tiers import examples

MAYBE = st.integers(0, 3).map(lambda n: n == 0)
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"default": "2", "validValues": ["1", "2", "4"]},
    {"default": "1", "validRange": {"min": "1", "max": "6", "step": "500m"}},
    {"default": "2", "validRange": {"min": "2", "step": "2"}},
)
TAINTS = st.fixed_dictionaries(
    {"key": st.sampled_from(["a", "b"]), "effect": st.sampled_from(["NoSchedule", "NoExecute", "None"])}
)


@st.composite
def devices(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        one: dict[str, Any] = {
            "name": f"g{number}",
            "attributes": {"model": {"string": draw(st.sampled_from("xy"))}},
        }
        if not draw(MAYBE):
            one["attributes"]["numa"] = {"int": draw(st.integers(0, 1))}
        if draw(st.booleans()):
            capacity: dict[str, Any] = {"value": draw(st.sampled_from(["4", "8"]))}
            if draw(st.booleans()):
                one["allowMultipleAllocations"] = True
                policy = draw(st.sampled_from(POLICIES))
                capacity |= {"requestPolicy": policy} if policy else {}
            one["capacity"] = {"memory": capacity}
        if draw(MAYBE):
            used = {"c": {"value": str(draw(st.integers(1, 3)))}}
            one["consumesCounters"] = [{"counterSet": "s", "counters": used}]
        if draw(MAYBE):
            one["taints"] = draw(st.lists(TAINTS, max_size=2))
        found.append(one)
    return found


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {"deviceClassName": "gpu"}
    if draw(st.booleans()):
        expression = f'device.attributes["{DRIVER}"].model == "{draw(st.sampled_from("xy"))}"'
        found["selectors"] = [{"cel": {"expression": expression}}]
    if draw(MAYBE):
        found["allocationMode"] = "All"
    elif draw(MAYBE):
        found["count"] = 2
    if draw(MAYBE):
        found["capacity"] = {"requests": {"memory": draw(st.sampled_from(["1", "1500m", "3", "5"]))}}
    if draw(MAYBE):
        found["tolerations"] = [{"key": draw(st.sampled_from("ab")), "operator": "Exists"}]
    return found


@st.composite
def claims(draw: st.DrawFn, name: str) -> dict[str, Any]:
    requests = []
    for number in range(draw(st.integers(1, 2))):
        if draw(MAYBE):
            alternatives = [{"name": f"a{at}", **draw(wishes())} for at in range(2)]
            requests.append({"name": f"r{number}", "firstAvailable": alternatives})
        else:
            wish = draw(wishes())
            if draw(MAYBE):
                wish["adminAccess"] = True
            requests.append({"name": f"r{number}", "exactly": wish})
    more: dict[str, Any] = {}
    if draw(MAYBE):
        rule: dict[str, Any] = {draw(st.sampled_from(["matchAttribute", "distinctAttribute"])): f"{DRIVER}/numa"}
        if draw(st.booleans()):
            rule["requests"] = ["r0"]
        more["constraints"] = [rule]
    return wanted(name, *requests, **more)


@st.composite
def rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.sampled_from([0, 0, 1, 2]))):
        spec: dict[str, Any] = {"taint": draw(TAINTS)}
        if draw(st.booleans()):
            spec["deviceSelector"] = {"device": f"g{draw(st.integers(0, 3))}"}
        found.append({"metadata": {"name": f"rule-{number}"}, "spec": spec})
    return found


def chosen(claim: dict[str, Any], allocation: dict[str, Any]) -> Choice:
    """What an allocation says, as the reference has it."""
    variants: dict[str, dict[str, Any]] = {}
    for request in claim["spec"]["devices"]["requests"]:
        variants |= {request["name"]: request["exactly"]} if "exactly" in request else {}
        variants |= {f"{request['name']}/{one['name']}": one for one in request.get("firstAvailable", [])}
    by_request: dict[str, tuple[str, ...]] = {}
    for result in allocation["devices"]["results"]:
        name = result["request"]
        by_request[name] = (*by_request.get(name, ()), result["device"])
    return tuple((name, variants[name], picked) for name, picked in by_request.items())


@settings(max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    given_devices=devices(),
    amount=st.integers(1, 4),
    given_rules=rules(),
    pods=st.lists(st.tuples(claims("x"), claims("y")), min_size=1, max_size=3),
)
def test_a_choice_is_found_when_there_is_one_and_is_right(
    given_devices: list[dict[str, Any]],
    amount: int,
    given_rules: list[dict[str, Any]],
    pods: list[tuple[dict[str, Any], ...]],
) -> None:
    here, twin = World(node("b")), Devices(given_devices, {"c": amount * 10**9}, given_rules)
    index = here.cluster.devices
    index.set_class({"metadata": {"name": "gpu"}, "spec": {}})
    counters = [{"name": "s", "counters": {"c": {"value": str(amount)}}}]
    index.set_slice(offered("b", *given_devices, sharedCounters=counters))
    for rule in given_rules:
        index.set_rule(rule)
    for number, pair in enumerate(pods):
        mine = [{**one, "metadata": {**one["metadata"], "name": f"{one['metadata']['name']}{number}"}} for one in pair]
        for one in mine:
            index.set_claim(one)
        decision = here.decide(user(f"p{number}", *(one["metadata"]["name"] for one in mine)))
        there_is = any(twin.is_right(mine, choice) for choice in twin.choices(mine))
        assert isinstance(decision, Placement) is there_is
        if not there_is:
            continue
        found = [index.allocation(f"default/{one['metadata']['name']}") or {} for one in mine]
        assert twin.is_right(mine, [chosen(one, got) for one, got in zip(mine, found, strict=True)])
        for one, got in zip(mine, found, strict=True):
            if number % 2:  # as it is told once it is written
                index.set_claim({**one, "status": {"allocation": got}})
            twin.had += got["devices"]["results"]

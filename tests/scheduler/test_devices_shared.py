"""Devices that claims share, that are bound to a node, that administrators taint: what is written into the claim."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.resource.resource_claim import RULES
from rayplane.control_plane.scheduler import Failure, Placement
from tests.scheduler.build import World
from tests.scheduler.test_dynamic_resources import DRIVER, exactly, got, gpu, offered, user, wanted, world


def shared(name: str, memory: str = "40Gi", policy: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    capacity = {"memory": {"value": memory, **({"requestPolicy": policy} if policy else {})}}
    return gpu(name, **{"allowMultipleAllocations": True, "capacity": capacity, **more})


def asks(name: str, memory: str = "", **more: Any) -> dict[str, Any]:
    if memory:
        more["capacity"] = {"requests": {"memory": memory}}
    return wanted(name, exactly(**more))


def results(of: World, claim: str) -> list[dict[str, Any]]:
    allocation = of.cluster.devices.allocation(f"default/{claim}")
    assert allocation is not None
    found: list[dict[str, Any]] = allocation["devices"]["results"]
    return found


SPAN = {"default": "2Gi", "validRange": {"min": "1Gi", "max": "20Gi", "step": "1Gi"}}
VALUES = {"default": "5Gi", "validValues": ["5Gi", "10Gi", "20Gi"]}


@pytest.mark.parametrize(
    ("policy", "memory", "taken"),
    [
        (None, "10Gi", "10Gi"),
        (None, "", "40Gi"),
        (SPAN, "", "2Gi"),
        (SPAN, "1", "1Gi"),
        (SPAN, "2500Mi", "3Gi"),
        (SPAN, "20Gi", "20Gi"),
        (VALUES, "", "5Gi"),
        (VALUES, "6Gi", "10Gi"),
    ],
)
def test_a_request_takes_what_the_policy_makes_of_it(policy: dict[str, Any] | None, memory: str, taken: str) -> None:
    here = world(offered("b", shared("g0", policy=policy)), claims=(asks("x", memory),))
    assert here.place(user("p", "x")) == "b"
    [result] = results(here, "x")
    assert result["consumedCapacity"] == {"memory": taken}


@pytest.mark.parametrize(("policy", "memory"), [(SPAN, "21Gi"), (VALUES, "21Gi"), (None, "41Gi")])
def test_a_request_that_the_policy_does_not_have_gets_nothing(policy: dict[str, Any] | None, memory: str) -> None:
    here = world(offered("b", shared("g0", policy=policy)), claims=(asks("x", memory),))
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))


def test_claims_share_a_device_until_it_is_full_and_what_is_given_back_is_free() -> None:
    claims = tuple(asks(name, "15Gi") for name in "xyz")
    here = world(offered("b", shared("g0")), claims=claims)
    first = here.decide(user("p", "x"))
    assert isinstance(first, Placement) and here.place(user("q", "y")) == "b"
    assert "3 cannot allocate all claims" in here.fail(user("r", "z"))
    one, other = results(here, "x")[0], results(here, "y")[0]
    assert one["device"] == other["device"] == "g0" and one["shareID"] != other["shareID"]
    here.cycle.forget(first.pod)
    assert here.place(user("r", "z")) == "b"


def test_what_is_written_is_what_the_api_takes_and_counts_as_what_was_promised() -> None:
    claim = asks("x", "15Gi")
    here = world(offered("b", shared("g0")), claims=(claim, asks("y", "30Gi")))
    here.place(user("p", "x"))
    allocation = here.cluster.devices.allocation("default/x")
    written = {**claim, "status": {"allocation": allocation}}
    assert RULES["ResourceClaim"].validate_status_update(written, claim) == []
    here.cluster.devices.set_claim(written)
    assert "3 cannot allocate all claims" in here.fail(user("q", "y"))
    here.cluster.devices.remove_claim("default/x")
    assert here.place(user("q", "y")) == "b"


def test_two_requests_of_a_claim_may_share_a_device_but_one_request_has_it_once() -> None:
    small: dict[str, Any] = {"capacity": {"requests": {"memory": "1Gi"}}}
    here = world(
        offered("b", shared("g0")),
        claims=(wanted("x", exactly("one", **small), exactly("two", **small)), asks("y", "1Gi", count=2)),
    )
    assert here.place(user("p", "x")) == "b"
    assert got(here, "x") == ["g0", "g0"]
    assert len({result["shareID"] for result in results(here, "x")}) == 2
    assert "3 cannot allocate all claims" in here.fail(user("q", "y"))


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ({"memory": "1Gi", f"{DRIVER}/memory": "2Gi"}, "requested with and without its domain"),
        ({"memory": "1500u"}, "cannot be represented"),
        ({"memory": "-1"}, "capacity value is negative"),
    ],
)
def test_requests_that_cannot_be_meant_say_so(requests: dict[str, str], words: str) -> None:
    span = {"validRange": {"min": "0", "step": "1m"}, "default": "1"} if words.startswith("cannot") else None
    ask = wanted("x", exactly(capacity={"requests": requests}))
    here = world(offered("b", shared("g0", policy=span)), claims=(ask,))
    assert words in here.fail(user("p", "x"))


def test_names_of_capacity_with_and_without_the_drivers_domain_are_the_same() -> None:
    ask = wanted("x", exactly(capacity={"requests": {f"{DRIVER}/memory": "1Gi"}}))
    other = wanted("y", exactly(capacity={"requests": {"other.example.com/memory": "1Gi"}}))
    here = world(offered("b", shared("g0")), claims=(ask, other))
    assert here.place(user("p", "x")) == "b"
    assert results(here, "x")[0]["consumedCapacity"] == {"memory": "1Gi"}, "as the slice spells it"
    assert "3 cannot allocate all claims" in here.fail(user("q", "y"))


def test_who_is_first_on_a_shared_partition_takes_its_counters_for_all() -> None:
    def part(name: str) -> dict[str, Any]:
        return shared(name, consumesCounters=[{"counterSet": "s", "counters": {"units": {"value": "2"}}}])

    counters = [{"name": "s", "counters": {"units": {"value": "3"}}}]
    devices = offered("b", part("g0"), part("g1"), sharedCounters=counters)
    here = world(devices, claims=tuple(asks(name, "20Gi") for name in "xyz"))
    assert here.place(user("p", "x")) == "b" and here.place(user("q", "y")) == "b"
    assert got(here, "x") == got(here, "y") == ["g0"]
    assert "3 cannot allocate all claims" in here.fail(user("r", "z"))


def test_devices_with_conditions_come_last_and_bind_to_their_node() -> None:
    words = {"bindingConditions": ["ready"], "bindingFailureConditions": ["broken"], "bindsToNode": True}
    far = offered("far", {**gpu("g0"), **words})
    del far["spec"]["nodeName"]
    far["spec"]["allNodes"] = True
    here = world(far, claims=(wanted("x", exactly()), wanted("y", exactly())))
    here.cluster.devices.set_slice(offered("zz", gpu("g1"), nodeName="a"))
    assert here.place(user("p", "x", nodeSelector={"kubernetes.io/hostname": "a"})) == "a"
    assert got(here, "x") == ["g1"]
    assert here.place(user("q", "y", nodeSelector={"kubernetes.io/hostname": "c"})) == "c"
    [result] = results(here, "y")
    assert result["bindingConditions"] == ["ready"] and result["bindingFailureConditions"] == ["broken"]
    allocation = here.cluster.devices.allocation("default/y") or {}
    field = {"key": "metadata.name", "operator": "In", "values": ["c"]}
    assert allocation["nodeSelector"] == {"nodeSelectorTerms": [{"matchFields": [field]}]}


def taint_rule(effect: str, **selector: str) -> dict[str, Any]:
    spec = {"taint": {"key": "broken", "effect": effect}, **({"deviceSelector": selector} if selector else {})}
    return {"metadata": {"name": "rule"}, "spec": spec}


@pytest.mark.parametrize(
    ("effect", "selector", "held"),
    [
        ("NoSchedule", {}, True),
        ("NoExecute", {"driver": DRIVER}, True),
        ("NoExecute", {"driver": DRIVER, "pool": "b", "device": "g0"}, True),
        ("None", {}, False),
        ("NoSchedule", {"driver": "other.example.com"}, False),
        ("NoSchedule", {"pool": "c"}, False),
        ("NoSchedule", {"device": "g1"}, False),
    ],
)
def test_rules_of_taints_keep_claims_off_what_they_select(effect: str, selector: dict[str, str], held: bool) -> None:
    here = world(offered("b", gpu("g0")), claims=(wanted("x", exactly()),))
    here.cluster.devices.set_rule(taint_rule(effect, **selector))
    decision = here.decide(user("p", "x"))
    assert isinstance(decision, Failure) is held
    if held:
        here.cluster.devices.remove_rule("rule")
        assert here.place(user("p", "x")) == "b"


def test_a_rule_that_changes_frees_what_it_held() -> None:
    tolerant = exactly(tolerations=[{"key": "broken", "operator": "Exists"}])
    here = world(offered("b", gpu("g0"), gpu("g1")), claims=(wanted("x", exactly()), wanted("y", tolerant)))
    here.cluster.devices.set_rule(taint_rule("NoSchedule"))
    here.fail(user("p", "x"))
    assert here.place(user("q", "y")) == "b", "it tolerates the taint"
    here.cluster.devices.set_rule(taint_rule("None"))
    assert here.place(user("p", "x")) == "b"


def test_all_devices_are_not_all_while_one_is_tainted_or_the_pool_is_in_change() -> None:
    here = world(offered("b", gpu("g0"), gpu("g1")), claims=(wanted("x", exactly(allocationMode="All")),))
    here.cluster.devices.set_rule(taint_rule("NoSchedule", device="g1"))
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))
    here.cluster.devices.remove_rule("rule")
    half = offered("b", gpu("g2"))
    half["metadata"]["name"], half["spec"]["pool"] = "more", {"name": "b", "generation": 2, "resourceSliceCount": 2}
    here.cluster.devices.set_slice(half)
    words = f"request r: asks for all devices, but resource pool {DRIVER}/b is currently being updated"
    assert words in here.fail(user("p", "x"))


def test_a_pool_that_names_a_device_twice_gives_none() -> None:
    here = world(offered("b", gpu("g0"), gpu("g0")), claims=(wanted("x", exactly()),))
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))


def test_an_administrator_has_a_device_once_in_a_claim_also_when_it_is_taken() -> None:
    claims = (
        wanted("x", exactly()),
        wanted("y", exactly(adminAccess=True)),
        wanted("z", exactly(adminAccess=True, count=2)),
    )
    here = world(offered("b", gpu("g0")), claims=claims)
    assert here.place(user("p", "x")) == "b" and here.place(user("q", "y")) == "b"
    assert results(here, "y")[0]["adminAccess"] is True
    assert "3 cannot allocate all claims" in here.fail(user("r", "z"))


def test_the_configuration_of_a_class_is_told_once_for_all_requests_of_it() -> None:
    opaque = {"opaque": {"driver": DRIVER, "parameters": {"a": 1}}}
    here = world(offered("b", gpu("g0"), gpu("g1"), gpu("g2")))
    devices = here.cluster.devices
    devices.set_class({"metadata": {"name": "gpu"}, "spec": {"config": [opaque]}})
    devices.set_class({"metadata": {"name": "plain"}, "spec": {}})
    other = {"name": "c", "exactly": {"deviceClassName": "plain"}}
    devices.set_claim(wanted("x", exactly("a"), exactly("b"), other, config=[{**opaque, "requests": ["c"]}]))
    devices.set_claim(wanted("y", exactly("a"), config=[{**opaque, "requests": ["a"]}]))
    here.place(user("p", "x"))
    allocation = devices.allocation("default/x") or {}
    of_class = {"source": "FromClass", "requests": ["a", "b"], **opaque}
    assert allocation["devices"]["config"] == [of_class, {"source": "FromClaim", "requests": ["c"], **opaque}]


def test_a_claim_that_a_pod_names_twice_is_allocated_once() -> None:
    here = world(offered("b", gpu("g0")), claims=(wanted("x", exactly()),))
    assert here.place(user("p", "x", "x")) == "b"
    assert got(here, "x") == ["g0"]


@pytest.mark.parametrize(("one", "other"), [({"bool": True}, {"int": 1}), ({"string": "1.2.0"}, {"version": "1.2.0"})])
def test_values_of_different_types_are_never_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    devices = [gpu("g0"), gpu("g1")]
    devices[0]["attributes"]["numa"], devices[1]["attributes"]["numa"] = one, other
    same = [{"matchAttribute": f"{DRIVER}/numa"}]
    here = world(offered("b", *devices), claims=(wanted("x", exactly(count=2), constraints=same),))
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))

"""Devices that claims ask for: which node has them, and which of them are taken."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.scheduler import Placement
from rayplane.control_plane.scheduler.binder import allocation_patch
from tests.scheduler.build import World, info, node, pod

DRIVER = "gpu.example.com"


def gpu(name: str, *, model: str = "a100", memory: str = "40Gi", numa: int = 0, **more: Any) -> dict[str, Any]:
    attributes = {"model": {"string": model}, "numa": {"int": numa}, "driver": {"version": "1.2.0"}}
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": memory}}, **more}


def offered(where: str, *devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    pool = {"name": where, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "pool": pool, "nodeName": where, "devices": list(devices), **more}
    return {"metadata": {"name": f"slice-{where}"}, "spec": spec}


def wanted(name: str, *requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {"devices": {"requests": list(requests), **more}}
    return {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"}, "spec": spec}


def exactly(name: str = "r", expression: str = "", **more: Any) -> dict[str, Any]:
    selectors = [{"cel": {"expression": expression}}] if expression else []
    return {"name": name, "exactly": {"deviceClassName": "gpu", "selectors": selectors, **more}}


def user(name: str, *claims: str, **more: Any) -> dict[str, Any]:
    return pod(name, resourceClaims=[{"name": c, "resourceClaimName": c} for c in claims], **more)


def world(*slices: dict[str, Any], claims: tuple[dict[str, Any], ...] = ()) -> World:
    found = World(node("a"), node("b"), node("c"))
    selectors = [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]
    found.cluster.devices.set_class({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}})
    for one in slices:
        found.cluster.devices.set_slice(one)
    for one in claims:
        found.cluster.devices.set_claim(one)
    return found


def got(of: World, claim: str) -> list[str]:
    allocation = of.cluster.devices.allocation(f"default/{claim}")
    assert allocation is not None
    return [result["device"] for result in allocation["devices"]["results"]]


def test_a_pod_with_claims_is_told_that_none_can_be_given_up_for_it() -> None:
    here = world(claims=(wanted("x", exactly()),))
    assert here.fail(user("p", "x")) == (
        "0/3 nodes are available: 3 cannot allocate all claims. still not schedulable, "
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )


def test_a_device_has_one_claim_and_a_forgotten_placement_gives_it_back() -> None:
    here = world(offered("b", gpu("g0")), claims=(wanted("x", exactly()), wanted("y", exactly())))
    placed = here.decide(user("p", "x"))
    assert isinstance(placed, Placement)
    assert (placed.node, placed.devices, got(here, "x")) == ("b", ("default/x",), ["g0"])
    assert "3 cannot allocate all claims" in here.fail(user("q", "y"))
    here.cycle.forget(placed.pod)
    assert here.place(user("q", "y")) == "b"


def test_who_shares_a_claim_goes_where_its_devices_are() -> None:
    here = world(offered("b", gpu("g0")), offered("c", gpu("g0")), claims=(wanted("x", exactly()),))
    assert here.place(user("p", "x")) == "b"
    assert here.place(user("q", "x")) == "b"
    text = here.fail(user("r", "x", nodeSelector={"kubernetes.io/hostname": "c"}))
    assert "1 resourceclaim not available on the node" in text


def test_a_pod_is_told_that_devices_out_of_its_reach_are_given_back() -> None:
    selector = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}
    held = wanted("x", exactly()) | {"status": {"allocation": {"devices": {"results": []}, "nodeSelector": selector}}}
    there = user("r", "x", nodeSelector={"kubernetes.io/hostname": "c"})
    for users, said in (
        ([], "deallocation of ResourceClaim completed"),
        ([{"resource": "pods", "name": "r", "uid": info(there).uid}], "deallocation of ResourceClaim completed"),
        ([{"resource": "pods", "name": "other", "uid": "uid-other"}], "still not schedulable"),
    ):
        claim = {**held, "status": {**held["status"], "reservedFor": users}}
        assert f". {said}, preemption: 0/3" in world(claims=(claim,)).fail(there)


@pytest.mark.parametrize(
    ("expression", "where"),
    [
        (f'device.attributes["{DRIVER}"].model == "h100"', "c"),
        (f'device.capacity["{DRIVER}"].memory.compareTo(quantity("50Gi")) >= 0', "c"),
        (f'device.attributes["{DRIVER}"].driver.isGreaterThan(semver("1.1.0"))', "b"),
        (f'cel.bind(own, device.attributes["{DRIVER}"], own.model == "h100")', "c"),
        ('"x" in device.attributes["other.example.com"]', ""),
        ('device.driver == "other.example.com"', ""),
    ],
)
def test_expressions_select_devices(expression: str, where: str) -> None:
    here = world(
        offered("b", gpu("g0")),
        offered("c", gpu("g0", model="h100", memory="80Gi")),
        claims=(wanted("x", exactly(expression=expression)),),
    )
    decision = here.decide(user("p", "x"))
    assert (decision.node if isinstance(decision, Placement) else "") == where


def test_an_expression_that_fails_says_so() -> None:
    expression = f'device.attributes["{DRIVER}"].nothing == "x"'
    here = world(offered("b", gpu("g0")), claims=(wanted("x", exactly(expression=expression)),))
    assert "1 CEL runtime error: no such key: nothing" in here.fail(user("p", "x"))


def test_counts_all_and_constraints() -> None:
    devices = [gpu("g0", numa=0), gpu("g1", numa=1), gpu("g2", numa=1)]
    same = [{"matchAttribute": f"{DRIVER}/numa", "requests": ["r"]}]
    here = world(
        offered("b", *devices),
        claims=(wanted("x", exactly(count=2), constraints=same), wanted("y", exactly(allocationMode="All"))),
    )
    assert "3 cannot allocate all claims" not in here.cycle.explain(info(user("p", "y"))).message
    assert here.place(user("p", "x")) == "b"
    assert got(here, "x") == ["g1", "g2"], "of one NUMA node"
    assert "3 cannot allocate all claims" in here.fail(user("q", "y")), "all means all"


def test_distinct_attributes() -> None:
    apart = [{"distinctAttribute": f"{DRIVER}/numa"}]
    here = world(
        offered("b", gpu("g0"), gpu("g1"), gpu("g2", numa=1)),
        claims=(wanted("x", exactly("one"), exactly("two"), constraints=apart),),
    )
    assert here.place(user("p", "x")) == "b"
    assert got(here, "x") == ["g0", "g2"]


def test_the_first_alternative_that_is_there_is_taken() -> None:
    def alternative(name: str, model: str) -> dict[str, Any]:
        expression = f'device.attributes["{DRIVER}"].model == "{model}"'
        return {"name": name, "deviceClassName": "gpu", "selectors": [{"cel": {"expression": expression}}]}

    request = {"name": "r", "firstAvailable": [alternative("best", "h100"), alternative("good", "a100")]}
    here = world(offered("b", gpu("g0")), claims=(wanted("x", request),))
    assert here.place(user("p", "x")) == "b"
    allocation = here.cluster.devices.allocation("default/x")
    assert allocation is not None
    assert allocation["devices"]["results"][0]["request"] == "r/good"
    field = {"key": "metadata.name", "operator": "In", "values": ["b"]}
    assert allocation["nodeSelector"] == {"nodeSelectorTerms": [{"matchFields": [field]}]}


def test_the_node_with_the_better_alternative_is_preferred() -> None:
    def alternative(name: str, model: str) -> dict[str, Any]:
        expression = f'device.attributes["{DRIVER}"].model == "{model}"'
        return {"name": name, "deviceClassName": "gpu", "selectors": [{"cel": {"expression": expression}}]}

    request = {"name": "r", "firstAvailable": [alternative("best", "h100"), alternative("good", "a100")]}
    slices = offered("b", gpu("g0")), offered("c", gpu("g0", model="h100"))
    here = world(*slices, claims=(wanted("x", request), wanted("y", request)))
    assert here.place(user("p", "x")) == "c"
    assert here.place(user("q", "y")) == "b"


def test_taints_of_devices_and_administrators() -> None:
    taint = {"key": "broken", "value": "", "effect": "NoExecute"}
    tolerations = [{"key": "broken", "operator": "Exists"}]
    here = world(
        offered("b", gpu("g0", taints=[taint])),
        claims=(
            wanted("x", exactly()),
            wanted("y", exactly(tolerations=tolerations)),
            wanted("z", exactly(tolerations=tolerations, adminAccess=True)),
        ),
    )
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))
    assert here.place(user("q", "y")) == "b"
    assert here.place(user("r", "z")) == "b", "who administers a device does not take it"


def test_partitions_share_counters() -> None:
    def part(name: str, memory: str) -> dict[str, Any]:
        used = [{"counterSet": "gpu-0", "counters": {"memory": {"value": memory}}}]
        return gpu(name, consumesCounters=used)

    shared = [{"name": "gpu-0", "counters": {"memory": {"value": "40Gi"}}}]
    devices = [part("whole", "40Gi"), part("half-0", "20Gi"), part("half-1", "20Gi")]
    claims = tuple(wanted(name, exactly()) for name in ("x", "y"))
    here = world(offered("b", *devices, sharedCounters=shared), claims=claims)
    assert here.place(user("p", "x")) == "b"
    assert got(here, "x") == ["whole"]
    assert "3 cannot allocate all claims" in here.fail(user("q", "y"))


def test_what_stands_against_all_nodes() -> None:
    here = world(offered("b", gpu("g0")))
    assert 'resourceclaim "x" not found' in here.fail(user("p", "x"))
    request = {"name": "r", "exactly": {"deviceClassName": "tpu"}}
    here.cluster.devices.set_claim(wanted("y", request))
    assert "request r: device class tpu does not exist" in here.fail(user("q", "y"))
    late = pod("t", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "t"}])
    assert 'waiting for the resourceclaim of "c" to be created' in here.fail(late)


def test_only_whole_pools_of_the_newest_generation_count() -> None:
    half = offered("b", gpu("g0"))
    half["spec"]["pool"]["resourceSliceCount"] = 2
    here = world(half, claims=(wanted("x", exactly()),))
    assert "3 cannot allocate all claims" in here.fail(user("p", "x"))
    rest = offered("b", gpu("g1"))
    rest["metadata"]["name"], rest["spec"]["pool"] = "rest", half["spec"]["pool"]
    here.cluster.devices.set_slice(rest)
    assert here.place(user("p", "x")) == "b"


def test_the_claim_is_told_its_devices_and_its_user_once() -> None:
    claim = wanted("x", exactly())
    here = world(offered("b", gpu("g0")), claims=(claim,))
    one = info(user("p", "x"))
    assert isinstance(here.cycle.schedule_one(one), Placement)
    allocation = here.cluster.devices.allocation("default/x")
    patch = allocation_patch(claim, one, allocation, "2026-01-01T00:00:00Z")
    assert allocation is not None and patch is not None
    assert patch["status"]["allocation"] == {**allocation, "allocationTimestamp": "2026-01-01T00:00:00Z"}
    assert patch["status"]["reservedFor"] == [{"resource": "pods", "name": "p", "uid": "uid-p"}]
    assert allocation_patch({**claim, "status": patch["status"]}, one, allocation, "") is None


def test_a_claim_that_two_pods_share_stays_promised_while_one_of_them_counts_on_it() -> None:
    here = world(offered("b", gpu("g0")), claims=(wanted("x", exactly()), wanted("y", exactly())))
    first, second = here.decide(user("p", "x")), here.decide(user("q", "x"))
    assert isinstance(first, Placement)
    assert isinstance(second, Placement)
    here.cycle.forget(first.pod)  # say, the other's write came first
    assert "cannot allocate all claims" in here.fail(user("other", "y"))
    here.cycle.forget(second.pod)
    assert here.place(user("other", "y")) == "b"


def test_a_device_that_is_offered_otherwise_is_looked_at_anew() -> None:
    asked = exactly(expression=f'device.attributes["{DRIVER}"].model == "h100"')
    here = world(offered("b", gpu("g0")), claims=(wanted("x", asked),))
    here.fail(user("p", "x"))
    newer = offered("b", gpu("g0", model="h100"))
    newer["metadata"]["name"] = "slice-b-2"
    newer["spec"]["pool"]["generation"] = 2
    here.cluster.devices.set_slice(newer)
    assert here.place(user("p", "x")) == "b"


def test_what_expressions_say_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.control_plane.scheduler.devices.MATCHED_MAX", 8)
    here = world(offered("b", *(gpu(f"g{number}") for number in range(4))))
    for number in range(20):
        asked = exactly(expression=f'device.driver == "none-{number}"')
        here.cluster.devices.set_claim(wanted("x", asked))
        here.fail(user("p", "x"))
    devices = here.cluster.devices
    assert len(devices._matched) + len(devices._matched_before) <= 2 * 8

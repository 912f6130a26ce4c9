"""Extended resources that devices stand behind: who gets them where, against a slow reference, and through an API."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS
from rayplane.control_plane.api.errors import Conflict
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.scheduler import Placement, Scheduler
from rayplane.control_plane.scheduler.binder import Binder
from rayplane.control_plane.scheduler.device_resources import claimed, resources_of
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient
from tests.scheduler.build import World, info, node, pod
from tests.scheduler.harness import node_of, quiet, until
from tests.scheduler.test_devices_prepared import CLASSES, SLICES
from tests.scheduler.test_dynamic_resources import DRIVER, gpu, offered
from tests.tiers import examples

GPU, NIC = "example.com/gpu", "example.com/nic"


def device_class(name: str, resource: str = "", *, created: str = "", model: str = "") -> Object:
    expression = f'device.attributes["{DRIVER}"].model == "{model}"'
    spec: dict[str, Any] = {"selectors": [{"cel": {"expression": expression}}] if model else []}
    spec |= {"extendedResourceName": resource} if resource else {}
    return {"metadata": {"name": name, "creationTimestamp": created}, "spec": spec}


def container(name: str, *, sidecar: bool = False, **counts: int) -> dict[str, Any]:
    requests = {f"example.com/{short}": str(count) for short, count in counts.items() if count}
    return {"name": name, "resources": {"requests": requests}, **({"restartPolicy": "Always"} if sidecar else {})}


def asking(name: str, *containers: dict[str, Any], first: tuple[dict[str, Any], ...] = ()) -> Object:
    one = pod(name)
    one["spec"]["containers"], one["spec"]["initContainers"] = [*containers], [*first]
    return one


# -- what is asked for -------------------------------------------------------------------------------------------


def test_the_newest_class_stands_behind_a_name_and_each_behind_its_own() -> None:
    several = [
        device_class("b", GPU, created="2026-01-02T00:00:00Z"),
        device_class("c", GPU, created="2026-01-02T00:00:00Z"),
        device_class("a", GPU, created="2026-01-01T00:00:00Z"),
    ]
    own = "deviceclass.resource.kubernetes.io"
    assert resources_of({meta.name(one): one for one in several}) == {
        GPU: "b", f"{own}/a": "a", f"{own}/b": "b", f"{own}/c": "c",
    }  # fmt: skip


def test_init_containers_use_what_those_after_them_will_have() -> None:
    one = asking(
        "p", container("main", gpu=2, nic=1), container("more", gpu=1),
        first=(container("early", gpu=4), container("side", sidecar=True, gpu=1), container("late", gpu=5)),
    )  # fmt: skip
    made = claimed(one, {GPU: "gpu", NIC: "nic"})
    requests = [(r["name"], r["exactly"]["deviceClassName"], r["exactly"]["count"])
                for r in made.claim["spec"]["devices"]["requests"]]  # fmt: skip
    assert requests == [
        ("container-1-request-0", "gpu", 1),
        ("container-2-request-0", "gpu", 2),
        ("container-3-request-0", "gpu", 2),
        ("container-3-request-1", "nic", 1),
        ("container-4-request-0", "gpu", 1),
    ]
    of_gpu = [(m["containerName"], m["requestName"][10:11]) for m in made.mappings if m["resourceName"] == GPU]
    lasting, passing = of_gpu[:3], of_gpu[3:]
    assert lasting == [("side", "1"), ("main", "3"), ("more", "4")]
    assert passing == [
        ("early", "1"), ("early", "3"), ("early", "4"), ("late", "3"), ("late", "4"), ("late", "2"),
    ]  # fmt: skip


COUNTS = st.integers(0, 2)


@st.composite
def pods(draw: st.DrawFn) -> Object:
    first = [
        container(f"i{i}", sidecar=draw(st.booleans()), gpu=draw(COUNTS), nic=draw(COUNTS))
        for i in range(draw(st.integers(0, 2)))
    ]
    last = [container(f"c{i}", gpu=draw(COUNTS), nic=draw(COUNTS)) for i in range(draw(st.integers(1, 2)))]
    return asking("p", *last, first=tuple(first))


def need(one: Object, resource: str) -> int:
    """What a pod needs at the same time, from the first container to the last."""

    def of(c: Object) -> int:
        return int(c["resources"]["requests"].get(resource, "0"))

    beside = most = 0
    for c in one["spec"]["initContainers"]:
        if "restartPolicy" in c:
            beside += of(c)
            most = max(most, beside)
        else:
            most = max(most, beside + of(c))
    return max(most, beside + sum(map(of, one["spec"]["containers"])))


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    have=st.lists(
        st.tuples(st.sampled_from([None, 0, 3]), st.sampled_from([None, 2]), st.integers(0, 4), st.integers(0, 3)),
        min_size=1,
        max_size=4,
    ),
    arrivals=st.lists(pods(), min_size=1, max_size=5),
    data=st.data(),
)
def test_pods_go_where_a_slow_count_says_they_can(
    have: list[tuple[int | None, int | None, int, int]], arrivals: list[Object], data: st.DataObject
) -> None:
    """`have`: gpus and nics that each node reports, and devices that it has of both classes."""
    world = World()
    for one in (device_class("gpu", GPU, model="g"), device_class("nic", NIC, model="n")):
        world.cluster.devices.set_class(one)
    left: dict[tuple[str, str], int] = {}
    reports: set[tuple[str, str]] = set()
    for number, (gpus, nics, of_gpu, of_nic) in enumerate(have):
        name = f"n{number}"
        told = {r: str(count) for r, count in ((GPU, gpus), (NIC, nics)) if count is not None}
        world.snapshot.set_node(NodeInfo.of(node(name, extended=told)))
        devices = [gpu(f"g{i}", model="g") for i in range(of_gpu)] + [gpu(f"k{i}", model="n") for i in range(of_nic)]
        world.cluster.devices.set_slice(offered(name, *devices))
        for resource, count, there in ((GPU, gpus, of_gpu), (NIC, nics, of_nic)):
            reports |= {(name, resource)} if count else set()
            left[name, resource] = count or there
    for number, one in enumerate(arrivals):
        one["metadata"] |= {"name": f"p{number}", "uid": f"uid-{number}"}
        names = [f"n{i}" for i in range(len(have))]
        fit = [n for n in names if all(need(one, r) <= left[n, r] for r in (GPU, NIC))]
        told_now = [n.node for n in world.cycle.explain(info(one)).nodes if n.refusal is None]
        assert told_now == fit
        decision = world.decide(one)
        assert isinstance(decision, Placement) == bool(fit)
        if not isinstance(decision, Placement):
            continue
        where = decision.node
        by_devices = [r for r in (GPU, NIC) if (where, r) not in reports and need(one, r)]
        assert bool(decision.devices) == bool(by_devices)
        if decision.devices:
            allocation = world.cluster.devices.allocation(decision.devices[0]) or {}
            kinds = [result["device"][0] for result in allocation["devices"]["results"]]
            assert [kinds.count("g"), kinds.count("k")] == [need(one, r) if r in by_devices else 0 for r in (GPU, NIC)]
        if data.draw(st.booleans()):
            world.cycle.forget(decision.pod)
            assert world.cluster.devices.to_make.keys().isdisjoint(decision.devices)
        else:
            for resource in (GPU, NIC):
                left[where, resource] -= need(one, resource)


# -- through an API ----------------------------------------------------------------------------------------------


@pytest.fixture
def api() -> FakeClient:
    found = FakeClient()
    found.put("nodes", node("n1"))
    found.put(SLICES, offered("n1", gpu("g0"), gpu("g1")))
    return found


def claims(api: FakeClient) -> list[Object]:
    return [*api.objects.get(CLAIMS, {}).values()]


async def test_a_class_that_comes_lets_a_pod_go_and_its_claim_and_status_say_what_it_has(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put("pods", asking("p", container("main", gpu=2)))
    await until(lambda: api.events("FailedScheduling"))
    assert f"1 Insufficient {GPU}" in api.events("FailedScheduling")[0]
    api.put(CLASSES, device_class("gpu", GPU))
    await until(lambda: node_of(api, "p"))
    [made] = claims(api)
    assert meta.is_controlled_by(made, api.pod("p")) and made["status"]["reservedFor"][0]["name"] == "p"
    assert [r["device"] for r in made["status"]["allocation"]["devices"]["results"]] == ["g0", "g1"]
    assert meta.annotations(made) == {"resource.kubernetes.io/extended-resource-claim": "true"}
    mapping = {"containerName": "main", "resourceName": GPU, "requestName": "container-0-request-0"}
    said = {"resourceClaimName": meta.name(made), "requestMappings": [mapping]}
    assert api.pod("p")["status"]["extendedResourceClaimStatus"] == said
    api.put("pods", asking("q", container("main", gpu=1)))
    await until(lambda: len(api.events("FailedScheduling")) == 2)
    assert "cannot allocate all claims" in api.events("FailedScheduling")[1] and len(claims(api)) == 1


async def test_a_claim_of_an_attempt_that_came_to_nothing_makes_room_for_another(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put(CLASSES, device_class("gpu", GPU))
    one = asking("p", container("main", gpu=2))
    left_over = claimed(one, {GPU: "gpu"}).claim
    result = {"request": "container-0-request-0", "driver": DRIVER, "pool": "gone", "device": "g9"}
    api.put(CLAIMS, {**left_over, "status": {"allocation": {"devices": {"results": [result]}}}})
    api.put("pods", {**one, "status": {"extendedResourceClaimStatus": {"resourceClaimName": "old"}}})
    await until(lambda: node_of(api, "p"))
    await until(lambda: api.events("FailedScheduling"))
    told = "cannot schedule extended resource claim. deletion of ResourceClaim completed, preemption: "
    assert told in api.events("FailedScheduling")[0]
    [made] = claims(api)
    assert [r["device"] for r in made["status"]["allocation"]["devices"]["results"]] == ["g0", "g1"]
    assert api.pod("p")["status"]["extendedResourceClaimStatus"]["resourceClaimName"] == meta.name(made)


async def test_a_claim_for_resources_goes_only_as_it_was_seen(api: FakeClient) -> None:
    binder = Binder(cast(ApiClient, api), cast(Any, None), Env(SystemClock(), random.Random(1), cast(Any, None)))
    one = asking("p", container("main", gpu=1))
    api.put("pods", one)
    seen = api.put(CLAIMS, claimed(one, {GPU: "gpu"}).claim)
    api.put(CLAIMS, {**seen, "status": {"allocation": {"devices": {}}}})
    assert any(isinstance(answer, Conflict) for answer in await binder.release_seen(info(one), seen))
    [left] = claims(api)
    assert not meta.is_deleting(left) and not any(verb == "patch" for verb, *_ in api.operations)
    await binder.release_seen(info(one), left)
    assert not claims(api)


async def test_a_node_that_reports_the_resource_itself_is_asked_for_no_devices(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put(CLASSES, device_class("gpu", GPU))
    api.put("nodes", node("n1", extended={GPU: "1"}))
    api.put("pods", asking("p", container("main", gpu=1)))
    await until(lambda: node_of(api, "p"))
    api.put("pods", asking("q", container("main", gpu=1)))
    await until(lambda: api.events("FailedScheduling"))
    await quiet(api)
    assert not claims(api) and "extendedResourceClaimStatus" not in (api.pod("p").get("status") or {})

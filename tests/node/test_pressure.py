"""Pressure on a node: thresholds over time, who goes first, and what is said of it."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.meta import Object
from rayplane.node.config import EvictionLimits
from rayplane.node.errors import ConfigError
from rayplane.node.kubelet.eviction_manager import GOING_MAX_S, EvictionManager
from rayplane.node.kubelet.pressure import (
    MEMORY,
    NODE_FS,
    PIDS,
    Observation,
    PodUse,
    Pressure,
    message,
    ranked,
    refusal,
    thresholds_of,
    too_much_disk,
)
from rayplane.node.lifecycle import Event, Evicted
from tests.node.conftest import make_pod
from tests.tiers import examples

MI = 1 << 20


def left(mebibytes: float) -> dict[str, Observation]:
    return {MEMORY: Observation(int(mebibytes * MI), 1024 * MI)}


def pressure(transition_s: float = 60.0, **limits: Any) -> Pressure:
    return Pressure(thresholds_of(EvictionLimits(**limits)), transition_s)


def test_a_hard_threshold_is_acted_on_at_once_and_its_condition_lasts() -> None:
    node = pressure(hard={MEMORY: "100Mi"})
    assert node.observe(left(100), 0.0) == () and not node.conditions
    (met,) = node.observe(left(99), 10.0)
    assert met.signal == MEMORY and node.conditions == {"MemoryPressure"}
    assert node.observe(left(200), 20.0) == () and node.conditions == {"MemoryPressure"}
    assert node.observe(left(200), 69.9) == () and node.conditions == {"MemoryPressure"}
    assert node.observe(left(200), 70.0) == () and not node.conditions


def test_a_soft_threshold_waits_for_its_grace_and_tells_at_once() -> None:
    node = pressure(hard={}, soft={MEMORY: "50%"}, soft_grace={MEMORY: "1m30s"})
    assert node.observe(left(511), 0.0) == () and node.conditions == {"MemoryPressure"}
    assert node.observe(left(511), 89.0) == ()
    assert len(node.observe(left(511), 90.0)) == 1
    assert node.observe(left(513), 91.0) == ()
    assert node.observe(left(511), 92.0) == ()  # it begins anew


def test_more_must_be_reclaimed_than_the_threshold_asks_for() -> None:
    node = pressure(hard={MEMORY: "100Mi"}, minimum_reclaim={MEMORY: "50Mi"})
    assert node.observe(left(120), 0.0) == ()
    assert node.observe(left(90), 1.0)
    assert node.observe(left(120), 2.0)
    assert node.observe(left(150), 3.0) == ()
    assert node.observe(left(120), 4.0) == ()


def test_memory_is_the_most_pressing() -> None:
    node = pressure(hard={NODE_FS: "10%", PIDS: "100", MEMORY: "1Gi"})
    seen = {NODE_FS: Observation(1, 100), PIDS: Observation(1, 1000), **left(1)}
    assert [t.signal for t in node.observe(seen, 0.0)] == [MEMORY, NODE_FS, PIDS]
    assert node.conditions == {"MemoryPressure", "DiskPressure", "PIDPressure"}


@pytest.mark.parametrize(
    "limits",
    [
        {"hard": {"memory": "1"}},
        {"hard": {MEMORY: "much"}},
        {"hard": {MEMORY: "100%"}},
        {"hard": {MEMORY: "x%"}},
        {"hard": {MEMORY: "-1"}},
        {"soft": {MEMORY: "1Gi"}},
        {"soft": {MEMORY: "1Gi"}, "soft_grace": {MEMORY: "soon"}},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="eviction"):
        thresholds_of(EvictionLimits(**limits))


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 50)), max_size=30))
def test_conditions_follow_what_was_seen(looks: list[tuple[int, float]]) -> None:
    """A hard threshold is acted on exactly while it is met, and its condition is true for the transition after that."""
    node, now, last = pressure(60.0, hard={MEMORY: "100Mi"}), 0.0, None
    for mebibytes, wait in looks:
        now += wait
        acted = node.observe(left(mebibytes), now)
        assert bool(acted) is (mebibytes < 100)
        last = now if acted else last
        assert bool(node.conditions) is (last is not None and (last == now or now - last < 60.0))


# --- pods -----------------------------------------------------------------------------------------


def sized(name: str, request: str = "", *, priority: int = 0, **spec: Any) -> Object:
    requests = {"requests": {"memory": request}} if request else {}
    return make_pod(name, container={"resources": requests}, priority=priority, **spec)


def test_who_exceeds_his_request_goes_first_then_who_matters_less_then_who_uses_more() -> None:
    use = {"within": 900, "over": 300, "more": 400, "dear": 800, "mirror": 999, "critical": 999}
    pods = [
        sized("within", "1000Mi"),
        sized("over", "100Mi"),
        sized("more", "100Mi"),
        sized("dear", "100Mi", priority=5),
        sized("critical", priority=2_000_000_000),
        sized("mirror", annotations={"kubernetes.io/config.mirror": "x"}),
    ]
    found = ranked(pods, MEMORY, lambda pod: PodUse({"main": use[pod["metadata"]["name"]] * MI}))
    assert [pod["metadata"]["name"] for pod in found] == ["more", "over", "dear", "within"]
    found = ranked(pods[:3], PIDS, lambda pod: PodUse(processes=use[pod["metadata"]["name"]]))
    assert [pod["metadata"]["name"] for pod in found] == ["within", "more", "over"]


def test_an_evicted_pods_message() -> None:
    (threshold,) = pressure(hard={MEMORY: "100Mi"}).observe(left(50.5), 0.0)
    text = message(threshold, left(50.5)[MEMORY], sized("a", "10Mi"), PodUse({"main": 20 * MI}))
    assert text == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51712Ki. "
        "Container main was using 20Mi, request is 10Mi, has larger consumption of memory. "
    )


def test_pods_that_write_more_than_they_may() -> None:
    pod = make_pod(
        "a",
        container={"resources": {"limits": {"ephemeral-storage": "10Mi"}}},
        volumes=[{"name": "d", "emptyDir": {"sizeLimit": "2Mi"}}, {"name": "e", "emptyDir": {}}],
    )
    assert too_much_disk(pod, {"d": 2 * MI, "e": 5 * MI}, {"main": 3 * MI}) == ""
    assert too_much_disk(pod, {"d": 3 * MI}, {}) == 'Usage of EmptyDir volume "d" exceeds the limit "2Mi". '
    total = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
    assert too_much_disk(pod, {"e": 6 * MI}, {"main": 5 * MI}) == total
    two = make_pod("b", container={"resources": {"limits": {"ephemeral-storage": "1Mi"}}})
    two["spec"]["containers"].append({"name": "free"})
    own = 'Container main exceeded its local ephemeral storage limit "1Mi". '
    assert too_much_disk(two, {}, {"main": 2 * MI, "free": 9 * MI}) == own


def test_a_node_under_pressure_takes_few_pods() -> None:
    memory, disk = frozenset({"MemoryPressure"}), frozenset({"DiskPressure"})
    tolerant = sized("c", tolerations=[{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}])
    critical = sized("d", priority=2_000_000_000)
    assert [refusal(p, memory) is None for p in (sized("a"), sized("b", "1Mi"), tolerant, critical)] == [
        *(False, True, True, True)
    ]
    assert [refusal(p, disk) is None for p in (sized("b", "1Mi"), tolerant, critical)] == [False, False, True]
    assert refusal(sized("a"), frozenset()) is None
    found = refusal(sized("a"), disk)
    assert found is not None and found.reason == "Evicted"
    assert found.message == "The node had condition: [DiskPressure]. "


# --- the manager ----------------------------------------------------------------------------------


class FakePod:
    def __init__(self, pod: Object) -> None:
        self.pod, self.takes_room = pod, True
        self.events: list[Event] = []

    def post(self, event: Event) -> None:
        self.events.append(event)


class FakeVitals:
    def __init__(self) -> None:
        self.left: Mapping[str, Observation] = left(500)
        self.volumes: dict[str, int] = {}

    async def observe(self) -> Mapping[str, Observation]:
        return self.left

    def use(self, pod: Object) -> PodUse:
        return PodUse({"main": len(pod["metadata"]["name"]) * MI})

    async def disk(self, pod: Object) -> tuple[Mapping[str, int], Mapping[str, int]]:
        return self.volumes, {}


async def test_one_pod_goes_at_a_time_and_the_node_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    vitals, pods = FakeVitals(), [FakePod(sized("a")), FakePod(sized("bb")), FakePod(sized("ccc"))]
    told: list[str] = []
    manager = EvictionManager(
        EvictionLimits(hard={MEMORY: "100Mi"}),
        vitals,
        lambda: pods,
        every_s=60.0,
        transition_s=60.0,
        changed=lambda: told.append(f"conditions {sorted(manager.conditions)}"),
        told=lambda reason, text: told.append(f"{reason}: {text}"),
    )
    await manager.look()
    assert told == []
    vitals.left = left(50)
    await manager.look()
    await manager.look()
    assert [len(pod.events) for pod in pods] == [0, 0, 1]
    (evicted,) = pods[2].events
    assert isinstance(evicted, Evicted)
    assert (evicted.reason, evicted.grace_s, evicted.disruption[0]) == ("Evicted", 1.0, "TerminationByKubelet")
    assert told == ["conditions ['MemoryPressure']", "EvictionThresholdMet: Attempting to reclaim memory"]
    pods[2].takes_room = False
    await manager.look()
    assert [len(pod.events) for pod in pods] == [0, 1, 1]
    # One that does not end holds the others up for a while only.
    monkeypatch.setattr("rayplane.node.kubelet.eviction_manager.GOING_MAX_S", GOING_MAX_S - GOING_MAX_S)
    pods[1].takes_room = True
    await manager.look()
    assert sum(len(pod.events) for pod in pods) == 3
    assert manager.evictions == {MEMORY: 3}


async def test_images_that_nobody_uses_go_before_pods() -> None:
    vitals, pods, reclaimed = FakeVitals(), [FakePod(sized("a"))], [True, False]

    async def reclaim() -> bool:
        return reclaimed.pop(0)

    ignored = lambda *_: None  # noqa: E731
    manager = EvictionManager(
        EvictionLimits(hard={NODE_FS: "100Mi"}),
        vitals,
        lambda: pods,
        every_s=60.0,
        transition_s=60.0,
        changed=ignored,
        told=ignored,
        reclaim=reclaim,
    )
    vitals.left = {NODE_FS: Observation(50 * MI, 1000 * MI)}
    await manager.look()
    assert not pods[0].events
    await manager.look()
    assert len(pods[0].events) == 1 and reclaimed == []


async def test_a_pod_whose_scratch_is_full_goes_without_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.node.kubelet.eviction_manager.MEASURING_PAUSE", 0.0)
    vitals = FakeVitals()
    pods = [FakePod(make_pod("a", volumes=[{"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}])), FakePod(sized("bb"))]
    nothing = lambda *_: None  # noqa: E731
    manager = EvictionManager(
        EvictionLimits(), vitals, lambda: pods, every_s=60.0, transition_s=60.0, changed=nothing, told=nothing
    )
    await manager.look()
    assert not pods[0].events
    vitals.volumes = {"d": 2 * MI}
    await manager.look()
    (evicted,) = pods[0].events
    assert isinstance(evicted, Evicted) and evicted.disruption == ("", "")
    assert evicted.message == 'Usage of EmptyDir volume "d" exceeds the limit "1Mi". '
    # What takes long is done seldom.
    pods[0].takes_room = False
    pods[1] = FakePod(make_pod("c", volumes=[{"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}]))
    monkeypatch.setattr("rayplane.node.kubelet.eviction_manager.MEASURING_PAUSE", 1e9)
    vitals.volumes = {}
    await manager.look()
    vitals.volumes = {"d": 2 * MI}
    await manager.look()
    assert not pods[1].events

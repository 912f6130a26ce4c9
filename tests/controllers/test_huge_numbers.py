"""Numbers that a user may write and no machine can follow: a step stays short, whatever is asked for."""

from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig
from rayplane.control_plane.controllers.job.indexes import Indexes
from rayplane.control_plane.controllers.replicaset import BURST
from rayplane.control_plane.controllers.statefulset import StatefulSetController
from tests.api.kinds.test_validation import GOOD, REGISTRY, make, problems, put
from tests.api.odd_values import fields, placed
from tests.controllers.cluster import Cluster

HUGE = 2**31 - 1
INDEXED = {"completionMode": "Indexed", "completions": HUGE}


def controlled(resource: str, o: Object) -> Cluster:
    config = ControllersConfig(identity="i", api_endpoints=("x:1",))
    cluster = Cluster(*build_controllers(config))
    o["metadata"] |= {"generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    cluster.put(resource, o)
    return cluster


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Deployment", {"replicas": HUGE}),
    ("ReplicaSet", {"replicas": HUGE}),
    ("StatefulSet", {"replicas": HUGE}),
    ("StatefulSet", {"replicas": HUGE, "podManagementPolicy": "Parallel"}),
    ("StatefulSet", {"replicas": HUGE, "ordinals": {"start": HUGE}, "podManagementPolicy": "Parallel"}),
    ("Job", {"parallelism": HUGE}),
    ("Job", {"parallelism": HUGE, "completions": HUGE}),
    ("Job", INDEXED),
    ("Job", {"parallelism": 100_000, **INDEXED}),
]


@pytest.mark.parametrize(("kind", "spec"), CASES)
def test_a_step_makes_few_pods_however_many_are_wanted(kind: str, spec: dict[str, Any]) -> None:
    def change(o: Object) -> None:
        for field, value in spec.items():
            put(f"spec.{field}", value)(o)

    o = make(kind, change)
    assert problems(kind, change) == []
    info = REGISTRY.by_kind(o["apiVersion"], kind)
    assert info is not None
    cluster = controlled(info.name, o)
    made = 0
    for _ in range(6):
        cluster.step()
        now = len(cluster.objects.get("pods", {}))
        assert now - made <= BURST
        made = now
    assert made > 0 or kind == "Deployment"


def test_a_large_set_still_becomes_whole() -> None:
    cluster = Cluster(StatefulSetController())
    selector, labels = {"matchLabels": {"a": "x"}}, {"labels": {"a": "x"}}
    template = {"metadata": labels, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": BURST + 3, "podManagementPolicy": "Parallel", "selector": selector, "template": template}
    cluster.add("statefulsets.apps", "s", spec=spec)
    cluster.settle()
    assert len(cluster.pods()) == BURST + 3


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-2,5", {0, 1, 2, 5}), ("x,1-y,²,3", {3}), ("0-9999999999", set(range(10))), ("9" * 5000, set()), ("7-", set())],
)
def test_indexes_that_cannot_be_are_passed_over(text: str, numbers: set[int]) -> None:
    assert Indexes.read(text, 10) == Indexes.of(numbers)


def test_as_many_indexes_as_there_can_be_take_no_room() -> None:
    assert Indexes.read(f"0-{HUGE}", HUGE).total == HUGE


@pytest.mark.parametrize("kind", ["Pod", "Node", "Job", "Service", "Ingress", "PersistentVolumeClaim", "CronJob"])
def test_no_odd_value_that_was_stored_stops_a_controller(kind: str) -> None:
    info = REGISTRY.by_kind(GOOD[kind]["apiVersion"], kind)
    assert info is not None
    everything = list(fields(info.api_version, kind))
    for path, value in everything[:: max(1, len(everything) // 60)]:
        o = placed(make(kind), path, value)

        def change(o: Object, path: Any = path, value: Any = value) -> None:
            o.update(placed(o, path, value))

        if path[0] in ("spec", "status") and not problems(kind, change):
            cluster = controlled(info.name, o)
            for _ in range(20):
                if not cluster.step():
                    break

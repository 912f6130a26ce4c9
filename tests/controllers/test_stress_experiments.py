"""StressChaos: which containers bear how much, and that no more is left of it than of others."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.marks import Stress, stresses
from tests.controllers.experiments import STRESSES, Experimented

BOTH = {"cpu": {"workers": 2, "load": 50}, "memory": {"workers": 4, "size": "64MB"}}


class Stressed(Experimented):
    kind = STRESSES

    def __init__(self, runtime: str = "rayplane-process://1.0.0") -> None:
        super().__init__()
        told = {"nodeInfo": {"containerRuntimeVersion": runtime}, "capacity": {"memory": "1000Mi"}}
        self.add("nodes", "n1", status=told)

    def press(self, stressors: dict[str, Any], **spec: Any) -> None:
        whole = {"mode": "one", "selector": {"pods": {"default": ["web-0"]}}, "stressors": stressors, **spec}
        own = {"name": "e", "namespace": "default"}
        self.create(
            STRESSES, {"apiVersion": mesh.API_VERSION, "kind": mesh.STRESS_CHAOS, "metadata": own, "spec": whole}
        )
        self.settle()

    def borne(self, container: str) -> list[Stress]:
        return [*stresses(meta.annotations(self.require("pods", "default", "web-0")), container).values()]


def test_the_first_container_bears_it_until_its_end() -> None:
    c = Stressed()
    c.press(BOTH, duration="30s")
    assert c.phases() == {"default/web-0/main": "Injected"}
    assert c.borne("main") == [Stress(2, 50, 4, 64 << 20)] and c.borne("side") == []
    c.advance(31)
    assert c.borne("main") == [] and "AllRecovered" in c.true()


def test_named_containers_bear_it_as_long_as_there_is_no_pause() -> None:
    c = Stressed()
    c.press({"cpu": {}}, containerNames=["side", "other"])
    assert c.borne("side") == [Stress(burning=1, load=100)] and c.borne("main") == []
    c.pause()
    assert c.borne("side") == []


@pytest.mark.parametrize("limit, size, held", [("128Mi", "25%", 32 << 20), (None, "0.5%", 5 << 20), (None, "1k", 1024)])
def test_a_share_is_one_of_what_the_container_may_have(limit: str | None, size: str, held: int) -> None:
    c = Stressed()
    if limit:
        pod = c.require("pods", "default", "web-0")
        own = {**pod["spec"]["containers"][0], "resources": {"limits": {"memory": limit}}}
        c.patch("pods", "web-0", "default", {"spec": {"containers": [own, pod["spec"]["containers"][1]]}})
    c.press({"memory": {"size": size}})
    assert c.borne("main") == [Stress(holding=1, memory=held)]


def test_containers_of_another_runtime_bear_nothing_and_it_is_said() -> None:
    c = Stressed("containerd://2.1")
    c.press(BOTH)
    assert c.borne("main") == [] and "AllInjected" not in c.true()
    [told] = [one["reason"] for one in meta.status(c.found())["conditions"] if one["type"] == "AllInjected"]
    assert "another runtime's (containerd://2.1)" in told

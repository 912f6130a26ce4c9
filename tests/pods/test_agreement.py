"""Every component decides alike about the same pod: API server, quota, scheduler, kubelet, limit ranges."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.strategy import prepare_for_create
from rayplane.control_plane.api.machinery.quantity import milli, parse, value
from rayplane.control_plane.api.quotas import usage_of
from rayplane.control_plane.scheduler.pods import PodParser
from rayplane.node.kubelet.admission import room_of
from rayplane.node.lifecycle import PodMachine
from rayplane.node.lifecycle.status import render_status
from rayplane.node.restarts import KUBERNETES_RESTARTS
from tests.pods.specs import pods, resized_pods
from tests.tiers import examples


@settings(max_examples=examples(300), deadline=None)
@given(resized_pods())
def test_scheduler_kubelet_and_quota_count_the_same_requests(pod: dict[str, Any]) -> None:
    default(pod)
    shape = PodParser().parse(pod).shape
    room, usage = room_of(pod), usage_of(pod, "pods")
    assert (room.cpu, room.memory) == (shape.requests.get("cpu", 0), shape.requests.get("memory", 0))
    counted = {name: (milli if name == "cpu" else value)(usage.get(f"requests.{name}", "0")) for name in shape.requests}
    assert {**counted, "pods": 1} == shape.requests
    assert usage["pods"] == parse(1)


@settings(max_examples=examples(300), deadline=None)
@given(pods())
def test_the_api_server_and_the_kubelet_give_the_same_class(pod: dict[str, Any]) -> None:
    default(pod)
    pod["metadata"]["uid"] = "u"
    prepare_for_create(pod)
    alone = {**pod, "status": {}}
    machine = PodMachine(alone, KUBERNETES_RESTARTS)
    assert render_status(machine, alone, host_ip="", stamp="")["qosClass"] == pod["status"]["qosClass"]

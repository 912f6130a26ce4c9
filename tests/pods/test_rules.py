"""Rules about pods against a slow twin, and cases worked by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.machinery.quantity import NANO, Quantity
from rayplane.control_plane.api.pods.ports import HostPorts, host_ports, named_port
from rayplane.control_plane.api.pods.qos import computed_qos_class, qos_class
from rayplane.control_plane.api.pods.resources import pod_limits, pod_requests, resources_changed
from rayplane.control_plane.api.pods.state import (
    available_in,
    is_mirror,
    pod_is_active,
    pod_is_available,
    pod_is_ready,
    pod_is_terminated,
)
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.api.taints import tolerates
from tests.pods import twin
from tests.pods.specs import RESOURCES, pods, resized_pods
from tests.tiers import examples

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fractions(amounts: dict[str, Quantity]) -> dict[str, twin.Amount]:
    return {name: twin.Fraction(amount.nano, NANO) for name, amount in amounts.items()}


def said(of: Any, pod: dict[str, Any]) -> dict[str, twin.Amount]:
    return {name: amount for name in RESOURCES if (amount := of(pod, name)) is not None}


@settings(max_examples=examples(400), deadline=None)
@given(resized_pods())
def test_requests_and_limits_are_those_of_the_twin(pod: dict[str, Any]) -> None:
    for made in ({**pod, "status": {}}, pod):
        assert fractions(pod_requests(made)) == said(twin.requests, made)
        assert fractions(pod_limits(made)) == said(twin.limits, made)


@settings(max_examples=examples(400), deadline=None)
@given(pods())
def test_quality_of_service_is_that_of_the_twin(pod: dict[str, Any]) -> None:
    default(pod)
    assert computed_qos_class(pod["spec"]) == twin.quality(pod["spec"])


def _pod(*containers: dict[str, Any], inits: tuple[dict[str, Any], ...] = (), **spec: Any) -> dict[str, Any]:
    named = [{"name": f"c{i}", **c} for i, c in enumerate(containers)]
    more = [{"name": f"i{i}", **c} for i, c in enumerate(inits)]
    return {"metadata": {"name": "p"}, "spec": {"containers": named, "initContainers": more, **spec}}


def _asks(cpu: str = "", memory: str = "", **more: Any) -> dict[str, Any]:
    asked = {**({"cpu": cpu} if cpu else {}), **({"memory": memory} if memory else {})}
    return {"resources": {"requests": asked, "limits": dict(asked)}, **more}


def _always(cpu: str) -> dict[str, Any]:
    return _asks(cpu, restartPolicy="Always")


@pytest.mark.parametrize(
    ("pod", "cpu"),
    [
        (_pod(_asks("1"), _asks("500m")), "1500m"),
        (_pod(_asks("1"), inits=(_asks("3"), _asks("2"))), "3"),  # one after the other
        (_pod(_asks("1"), inits=(_always("1"), _asks("3"))), "4"),  # the second beside the sidecar
        (_pod(_asks("1"), inits=(_asks("3"), _always("1"))), "3"),  # the sidecar starts when the first is done
        (_pod(_asks("2"), inits=(_always("1"), _asks("1"), _always("1"))), "4"),
        (_pod(_asks("1"), inits=(_always("1"), _always("1"), _asks("2"), _asks("1"))), "4"),
        (_pod(_asks("1"), overhead={"cpu": "250m"}), "1250m"),
        (_pod(_asks("1"), resources={"requests": {"cpu": "5"}}), "5"),
        (_pod(_asks("1"), resources={"requests": {"cpu": "0"}}), "0"),
        (_pod(_asks("1"), resources={"requests": {"memory": "1Gi"}}), "1"),
        (_pod(_asks("1"), resources={"requests": {"cpu": "5"}}, overhead={"cpu": "1"}), "6"),
        (_pod(_asks("1"), ephemeralContainers=[{"name": "e", **_asks("7")}]), "1"),
    ],
)
def test_worked_requests(pod: dict[str, Any], cpu: str) -> None:
    assert str(pod_requests(pod)["cpu"]) == cpu


def test_halves_of_a_byte_are_added_before_they_are_rounded() -> None:
    assert pod_requests(_pod(_asks(memory="1500m"), _asks(memory="1500m")))["memory"].value == 3


def test_overhead_limits_only_what_is_limited() -> None:
    over = {"cpu": "100m", "memory": "1Mi"}
    assert {k: str(v) for k, v in pod_limits(_pod(_asks("1"), overhead=over)).items()} == {"cpu": "1100m"}
    assert {k: str(v) for k, v in pod_limits(_pod(_asks("0"), overhead=over)).items()} == {"cpu": "0"}


def _report(pod: dict[str, Any], *, allocated: str = "", actual: str = "", reason: str = "") -> dict[str, Any]:
    report: dict[str, Any] = {"name": "c0"}
    if allocated:
        report["allocatedResources"] = {"cpu": allocated}
    if actual:
        report["resources"] = {"requests": {"cpu": actual}}
    pending = [{"type": "PodResizePending", "status": "True", "reason": reason}] if reason else []
    return {**pod, "status": {"containerStatuses": [report], "conditions": pending}}


@pytest.mark.parametrize(
    ("report", "cpu"),
    [
        ({"allocated": "1", "actual": "1"}, "2"),  # grows: asked for already
        ({"allocated": "3", "actual": "3"}, "3"),  # shrinks: not yet given back
        ({"allocated": "2", "actual": "3"}, "3"),
        ({"allocated": "1", "actual": "1", "reason": "Deferred"}, "2"),
        ({"allocated": "1", "actual": "1", "reason": "Infeasible"}, "1"),  # never on this node
        ({"allocated": "1", "reason": "Infeasible"}, "1"),
        ({}, "2"),
    ],
)
def test_worked_resizes(report: dict[str, str], cpu: str) -> None:
    pod = _report(_pod(_asks("2")), **report)
    assert str(pod_requests(pod)["cpu"]) == cpu
    assert str(pod_requests(pod, reported=False)["cpu"]) == "2"


def test_a_resize_reported_is_a_change_of_resources_and_a_phase_is_none() -> None:
    pod = _pod(_asks("2"))
    assert resources_changed(pod, _report(pod, allocated="3"))
    assert not resources_changed(pod, _report(pod, allocated="2", actual="2")), "it says what the spec says"
    assert not resources_changed(pod, {**pod, "status": {"phase": "Running", "containerStatuses": [{"name": "c0"}]}})
    assert resources_changed(pod, _pod(_asks("2"), inits=(_asks("1"),)))


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (_pod({}), "BestEffort"),
        (_pod(_asks("0", "0")), "BestEffort"),  # zero is none
        (_pod({"resources": {"requests": {"x.io/gpu": "1"}, "limits": {"x.io/gpu": "1"}}}), "BestEffort"),
        (_pod(_asks("1", "1Gi")), "Guaranteed"),
        (_pod({"resources": {"requests": {"cpu": "1000m", "memory": "1Gi"},
                             "limits": {"cpu": "1", "memory": "1024Mi"}}}), "Guaranteed"),
        (_pod({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}), "Guaranteed"),  # limits become requests
        (_pod(_asks("1", "0")), "Burstable"),
        (_pod(_asks("1")), "Burstable"),
        (_pod(_asks("1", "1Gi"), {}), "Burstable"),
        (_pod(_asks("1", "1Gi"), inits=({},)), "Burstable"),  # init containers count
        (_pod(_asks("1", "1Gi"), inits=(_asks("1", "1Gi", restartPolicy="Always"),)), "Guaranteed"),
        (_pod(_asks("1", "1Gi"), ephemeralContainers=[{"name": "e", "image": "i"}]), "Guaranteed"),
        (_pod({}, resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
         "Guaranteed"),
        (_pod({}, resources={"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (_pod(_asks("1", "1Gi"), resources={"requests": {"cpu": "1"}}), "Burstable"),  # the pod's own go before
        (_pod(_asks("1"), resources={"requests": {"cpu": "0"}}), "Burstable"),  # limited as its containers are
        (_pod({}, resources={"requests": {"cpu": "0"}}), "BestEffort"),
    ],
)  # fmt: skip
def test_worked_classes(pod: dict[str, Any], expected: str) -> None:
    whole = {"apiVersion": "v1", "kind": "Pod", **pod}
    default(whole)
    assert computed_qos_class(whole["spec"]) == expected


def test_a_class_once_given_stays() -> None:
    pod = _pod(_asks("1", "1Gi"))
    assert qos_class(pod) == "Guaranteed"
    assert qos_class({**pod, "status": {"qosClass": "Burstable"}}) == "Burstable"


@pytest.mark.parametrize(
    ("limits", "own", "expected"),
    [
        ({"cpu": "4"}, {}, {"cpu": "3"}),  # what the containers ask for together
        ({"cpu": "4", "memory": "1Gi"}, {}, {"cpu": "3", "memory": "1Gi"}),  # nobody asks for memory
        ({"cpu": "4"}, {"cpu": "2"}, {"cpu": "2"}),
    ],
)
def test_requests_of_the_pod_as_a_whole_follow_from_its_limits(
    limits: dict[str, str], own: dict[str, str], expected: dict[str, str]
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **_pod(_asks("1"), _asks("2"), resources={"limits": limits})}
    if own:
        pod["spec"]["resources"]["requests"] = own
    default(pod)
    assert pod["spec"]["resources"]["requests"] == expected


# --- state ----------------------------------------------------------------------------------------


def _ready(since: str | None, status: str = "True") -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, **({} if since is None else {"lastTransitionTime": since})}
    return {"metadata": {}, "status": {"phase": "Running", "conditions": [condition]}}


def test_availability_waits_for_min_ready_seconds() -> None:
    pod = _ready("2026-01-01T00:00:00Z")
    assert pod_is_ready(pod)
    assert pod_is_available(pod, 0, NOW)
    assert available_in(pod, 10, NOW + timedelta(seconds=4)) == 6
    assert not pod_is_available(pod, 10, NOW + timedelta(seconds=9.9))
    assert pod_is_available(pod, 10, NOW + timedelta(seconds=10))  # the last moment counts
    assert available_in(_ready("2026-01-01T00:00:00Z", "False"), 0, NOW) is None
    assert pod_is_available(_ready(None), 0, NOW)
    assert not pod_is_available(_ready(None), 1, NOW)  # nobody knows since when


@pytest.mark.parametrize("phase", ["", "Pending", "Running", "Unknown", "Succeeded", "Failed"])
@pytest.mark.parametrize("deleting", [False, True])
def test_a_pod_is_active_until_it_ends_or_is_deleted(phase: str, deleting: bool) -> None:
    own = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}
    pod = {"metadata": own, "status": {"phase": phase} if phase else {}}
    assert pod_is_terminated(pod) is (phase in ("Succeeded", "Failed"))
    assert pod_is_active(pod) is (phase not in ("Succeeded", "Failed") and not deleting)


def test_a_mirror_pod_is_known_by_its_annotation() -> None:
    assert is_mirror({"metadata": {"annotations": {"kubernetes.io/config.mirror": ""}}})
    assert not is_mirror({"metadata": {}})


# --- ports, taints --------------------------------------------------------------------------------


def _port(number: int, **more: Any) -> dict[str, Any]:
    return {"ports": [{"containerPort": number, **more}]}


def test_ports_are_those_of_containers_that_last() -> None:
    sidecar = {**_port(1, name="a", hostPort=11), "restartPolicy": "Always"}
    pod = _pod(_port(2, name="b", protocol="UDP"), inits=(sidecar, _port(3, name="c", hostPort=13)))
    assert named_port(pod["spec"], "a") == 1
    assert named_port(pod["spec"], "b", "UDP") == 2
    assert named_port(pod["spec"], "b") is None
    assert named_port(pod["spec"], "c") is None
    assert list(host_ports(pod["spec"])) == [("TCP", "0.0.0.0", 11)]
    assert set(host_ports({**pod["spec"], "hostNetwork": True})) == {("TCP", "0.0.0.0", 11), ("UDP", "0.0.0.0", 2)}


def test_host_ports_conflict_on_the_same_address_or_on_all() -> None:
    every, one, other = (("TCP", address, 1) for address in ("0.0.0.0", "10.0.0.1", "10.0.0.2"))
    assert HostPorts([every]).conflict([one]) and HostPorts([one]).conflict([every])
    assert HostPorts([one]).conflict([one]) and not HostPorts([other]).conflict([one])
    assert not HostPorts([every]).conflict([("UDP", "0.0.0.0", 1), ("TCP", "0.0.0.0", 2)])
    used = HostPorts([every, one, one])
    used.count(every, -1)
    used.count(one, -1)
    assert used.conflict([one]) and not used.conflict([other])
    used.count(one, -1)
    assert not used.conflict([every])


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}, True),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, False),
        ({"key": "k", "value": "w"}, False),
        ({"key": "j", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Other", "value": "v"}, False),  # unknown operators cover nothing
    ],
)
def test_tolerations(toleration: dict[str, str], expected: bool) -> None:
    assert tolerates(toleration, {"key": "k", "value": "v", "effect": "NoExecute"}) is expected


def test_claims_are_those_mounted_and_those_of_ephemeral_volumes() -> None:
    volumes = [
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
        {"name": "c", "emptyDir": {}},
    ]
    pod = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": volumes}}
    assert claims_of(pod) == ["n/data", "n/p-b"]

"""Services on a cluster of one address family: which policies, families and addresses go together."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery.resources import builtin_registry

INFO = builtin_registry().by_name("services")
SELECTOR = {"a": "b"}


def made(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "s", "namespace": "default"}
    obj = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}}
    default(obj)
    prepare_for_create(obj, INFO)
    return obj


def refused(**spec: Any) -> list[str]:
    return [str(error) for error in validate_create(made(**spec), INFO)]


@pytest.mark.parametrize(
    ("spec", "policy", "families"),
    [
        ({}, "SingleStack", ["IPv4"]),
        ({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4"]),
        ({"clusterIP": "10.0.0.1"}, "SingleStack", ["IPv4"]),
        ({"clusterIP": "None", "selector": SELECTOR}, "SingleStack", ["IPv4"]),
        ({"clusterIP": "None"}, "RequireDualStack", ["IPv4", "IPv6"]),
        ({"clusterIP": "None", "ipFamilies": ["IPv6"]}, "RequireDualStack", ["IPv6", "IPv4"]),
        ({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}, "SingleStack", ["IPv4"]),
        ({"type": "ExternalName", "externalName": "example.com"}, None, None),
    ],
)
def test_what_is_left_out(spec: dict[str, Any], policy: str | None, families: list[str] | None) -> None:
    obj = made(**spec)
    assert validate_create(obj, INFO) == []
    assert (obj["spec"].get("ipFamilyPolicy"), obj["spec"].get("ipFamilies")) == (policy, families)


FAMILIES = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
EXTERNAL = "may not be set for ExternalName services"


@pytest.mark.parametrize(
    ("spec", "errors"),
    [
        (
            {"ipFamilyPolicy": "RequireDualStack"},
            [
                'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": '
                "this cluster is not configured for dual-stack services"
            ],
        ),
        (
            {"ipFamilyPolicy": "Both"},
            [
                'spec.ipFamilyPolicy: Unsupported value: "Both": '
                'supported values: "PreferDualStack", "RequireDualStack", "SingleStack"'
            ],
        ),
        ({"ipFamilies": ["IPv6"]}, ['spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster']),
        (
            {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]},
            ['spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster'],
        ),
        ({"ipFamilies": ["IPv4", "IPv6"]}, [f'spec.ipFamilyPolicy: Invalid value: "SingleStack": {FAMILIES}']),
        ({"ipFamilies": ["IPv4", "IPv4"]}, ['spec.ipFamilies[1]: Duplicate value: "IPv4"']),
        ({"ipFamilies": ["4"]}, ['spec.ipFamilies[0]: Unsupported value: "4": supported values: "IPv4", "IPv6"']),
        (
            {"clusterIP": "fd00::1"},
            ['spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster'],
        ),
        (
            {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]},
            ['spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`'],
        ),
        (
            {"clusterIPs": ["10.0.0.1"]},
            ['spec.clusterIPs: Invalid value: ["10.0.0.1"]: must be empty when `clusterIP` is not specified'],
        ),
        (
            {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]},
            ['spec.clusterIPs: Invalid value: ["10.0.0.2"]: first value must match `clusterIP`'],
        ),
        (
            {"clusterIP": "None", "clusterIPs": ["None", "10.0.0.2"]},
            ['spec.clusterIPs: Invalid value: ["None","10.0.0.2"]: \'None\' must be the first and only value'],
        ),
        (
            {"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"]},
            [f"spec.clusterIPs: Forbidden: {EXTERNAL}", f"spec.ipFamilies: Forbidden: {EXTERNAL}"],
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
            ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
        ),
        (
            {"type": "LoadBalancer", "ports": [{"port": 10250}]},
            ["spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"],
        ),
        (
            {"healthCheckNodePort": 30000},
            [
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' "
                "and `externalTrafficPolicy` is 'Local'"
            ],
        ),
        (
            {"trafficDistribution": "Near"},
            [
                'spec.trafficDistribution: Unsupported value: "Near": '
                'supported values: "PreferClose", "PreferSameNode", "PreferSameZone"'
            ],
        ),
    ],
)
def test_what_does_not_go_together(spec: dict[str, Any], errors: list[str]) -> None:
    assert refused(**spec) == errors


def changed(old: dict[str, Any], **spec: Any) -> tuple[dict[str, Any], list[str]]:
    new = copy.deepcopy(old)
    for field, value in spec.items():
        if value is None:
            new["spec"].pop(field, None)
        else:
            new["spec"][field] = value
    default(new)
    prepare_for_update(new, old, INFO)
    return new["spec"], [str(error) for error in validate_update(new, old, INFO)]


def test_a_policy_that_is_left_out_of_an_update_stays() -> None:
    old = made(ipFamilyPolicy="PreferDualStack")
    spec, errors = changed(old, ipFamilyPolicy=None, ipFamilies=None)
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"], errors) == ("PreferDualStack", ["IPv4"], [])


def test_the_second_family_is_released_by_the_policy_alone() -> None:
    old = made(clusterIP="None")
    spec, errors = changed(old, ipFamilyPolicy="SingleStack")
    assert (spec["ipFamilies"], errors) == (["IPv4"], [])
    _, errors = changed(old, ipFamilies=["IPv4"])
    assert errors == []  # nothing of the cluster's own is behind it, and the policy asks for both
    _, errors = changed(old, ipFamilies=["IPv6", "IPv4"])
    assert errors == []  # no address of it is of a family

"""Rules of single kinds: what is refused, what never changes, what is filled in, what is dropped."""

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.kinds.rules import Status
from rayplane.control_plane.api.kinds.strategy import (
    prepare_for_create,
    prepare_for_status_update,
    prepare_for_update,
)
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.api.meta import parse_time
from tests.api.pems import AUTHORITY, STUB

REGISTRY = builtin_registry()
NOW = parse_time("2026-01-01T00:00:00Z")
Body = dict[str, Any]


def info_of(api_version: str, kind: str) -> ResourceInfo:
    info = REGISTRY.by_kind(api_version, kind)
    assert info is not None
    return info


def made(info: ResourceInfo, body: Body, name: str = "a.b.c") -> Body:
    metadata = {"name": name, "uid": "u"} | ({"namespace": "ns"} if info.namespaced else {})
    return {"apiVersion": info.api_version, "kind": info.kind, "metadata": metadata, **body}


def created(info: ResourceInfo, body: Body, name: str = "a.b.c") -> tuple[Body, set[str]]:
    """The object as it would be stored, and the fields that are wrong with it."""
    obj = made(info, body, name)
    default(obj)
    prepare_for_create(obj, info)
    return obj, {error.field for error in validate_create(obj, info)}


WEBHOOK: dict[str, Any] = {
    "name": "a.example.com",
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
    "clientConfig": {"url": "https://x"},
}
MATCH = {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"]}]}
LIMITED = {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}
SUBJECT = {"kind": "User", "user": {"name": "u"}}
ANY = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
FLOW = {
    "priorityLevelConfiguration": {"name": "l"},
    "rules": [{"subjects": [SUBJECT], "resourceRules": [{**ANY, "clusterScope": True}]}],
}
CERTIFICATE = {
    **dict.fromkeys(("podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID"), "x"),
    "signerName": "a.io/b",
    "stubPKCS10Request": STUB,
}
PEM = AUTHORITY
ADMISSION, FLOWCONTROL = "admissionregistration.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1"

# apiVersion, kind, a good body; then for each bad change of it the field that is named.
CASES: list[tuple[str, str, Body, dict[str, Body]]] = [
    (
        "apps/v1",
        "ControllerRevision",
        {"data": {}, "revision": 1},
        {"data": {"data": None}, "revision": {"revision": -1}},
    ),
    (
        "storage.k8s.io/v1",
        "CSIDriver",
        {"spec": {}},
        {
            "spec.fsGroupPolicy": {"spec": {"fsGroupPolicy": "Some"}},
            "spec.volumeLifecycleModes": {"spec": {"volumeLifecycleModes": ["Odd"]}},
            "spec.tokenRequests[1].audience": {"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}},
            "spec.tokenRequests[0].expirationSeconds": {"spec": {"tokenRequests": [{"expirationSeconds": 1}]}},
            "spec.nodeAllocatableUpdatePeriodSeconds": {"spec": {"nodeAllocatableUpdatePeriodSeconds": 9}},
        },
    ),
    (
        "storage.k8s.io/v1",
        "CSINode",
        {"spec": {"drivers": [{"name": "d.io", "nodeID": "n"}]}},
        {
            "spec.drivers[0].nodeID": {"spec": {"drivers": [{"name": "d.io"}]}},
            "spec.drivers[0].name": {"spec": {"drivers": [{"name": "D_", "nodeID": "n"}]}},
            "spec.drivers[1].name": {"spec": {"drivers": [{"name": "d", "nodeID": "n"}, {"name": "d", "nodeID": "n"}]}},
            "spec.drivers[0].allocatable.count": {
                "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": -1}}]}
            },
        },
    ),
    (
        "storage.k8s.io/v1",
        "CSIStorageCapacity",
        {"storageClassName": "s", "capacity": "1Gi"},
        {"storageClassName": {"storageClassName": ""}, "capacity": {"capacity": "-1"}},
    ),
    (
        "storage.k8s.io/v1",
        "VolumeAttachment",
        {"spec": {"attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}},
        {
            "spec.source": {"spec": {"attacher": "d.io", "nodeName": "n", "source": {}}},
            "spec.attacher": {"spec": {"nodeName": "n", "source": {"persistentVolumeName": "v"}}},
            "spec.nodeName": {"spec": {"attacher": "d.io", "source": {"persistentVolumeName": "v"}}},
        },
    ),
    (
        "storage.k8s.io/v1",
        "VolumeAttributesClass",
        {"driverName": "d.io", "parameters": {"a": "b"}},
        {"driverName": {"driverName": ""}, "parameters": {"parameters": {}}},
    ),
    (
        "node.k8s.io/v1",
        "RuntimeClass",
        {"handler": "h"},
        {"handler": {"handler": "A"}, "overhead.limits[cpu]": {"overhead": {"podFixed": {"cpu": "x"}}}},
    ),
    (
        "networking.k8s.io/v1",
        "ServiceCIDR",
        {"spec": {"cidrs": ["10.0.0.0/24", "fd00::/112"]}},
        {
            "spec.cidrs": {"spec": {"cidrs": ["10.0.0.0/24", "10.1.0.0/24"]}},
            "spec.cidrs[0]": {"spec": {"cidrs": ["10.0.0.0"]}},
        },
    ),
    (
        "certificates.k8s.io/v1",
        "PodCertificateRequest",
        {"spec": CERTIFICATE},
        {
            "spec.nodeUID": {"spec": {**CERTIFICATE, "nodeUID": ""}},
            "spec.maxExpirationSeconds": {"spec": {**CERTIFICATE, "maxExpirationSeconds": 60}},
        },
    ),
    (
        FLOWCONTROL,
        "FlowSchema",
        {"spec": FLOW},
        {
            "spec.matchingPrecedence": {"spec": {**FLOW, "matchingPrecedence": 1}},
            "spec.priorityLevelConfiguration.name": {"spec": {**FLOW, "priorityLevelConfiguration": {}}},
            "spec.rules[0].subjects": {"spec": {**FLOW, "rules": [{"nonResourceRules": [{}]}]}},
            "spec.rules[0].subjects[0].user": {
                "spec": {**FLOW, "rules": [{"subjects": [{"kind": "User"}], "nonResourceRules": [{}]}]}
            },
        },
    ),
    (
        FLOWCONTROL,
        "PriorityLevelConfiguration",
        {"spec": LIMITED},
        {
            "spec.type": {"spec": {"type": "Some"}},
            "spec.limited": {"spec": {"type": "Limited"}},
            "spec.exempt": {"spec": {**LIMITED, "exempt": {}}},
            "spec.limited.limitResponse.queuing.handSize": {
                "spec": {
                    "type": "Limited",
                    "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 2}}},
                }
            },
        },
    ),
    *(
        (
            ADMISSION,
            kind,
            {"webhooks": [WEBHOOK]},
            {
                "webhooks[0].name": {"webhooks": [{**WEBHOOK, "name": "short"}]},
                "webhooks[0].sideEffects": {"webhooks": [{**WEBHOOK, "sideEffects": "Some"}]},
                "webhooks[0].timeoutSeconds": {"webhooks": [{**WEBHOOK, "timeoutSeconds": 31}]},
                "webhooks[0].admissionReviewVersions": {"webhooks": [{**WEBHOOK, "admissionReviewVersions": ["v2"]}]},
                "webhooks[0].clientConfig": {"webhooks": [{**WEBHOOK, "clientConfig": {}}]},
                "webhooks[0].clientConfig.url": {"webhooks": [{**WEBHOOK, "clientConfig": {"url": "http://x"}}]},
                "webhooks[0].rules[0].operations[0]": {"webhooks": [{**WEBHOOK, "rules": [{"operations": ["GET"]}]}]},
            },
        )
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    ),
    (
        ADMISSION,
        "ValidatingAdmissionPolicy",
        {"spec": {"matchConstraints": MATCH, "validations": [{"expression": "true"}]}},
        {
            "spec.matchConstraints": {"spec": {"validations": [{"expression": "true"}]}},
            "spec.validations": {"spec": {"matchConstraints": MATCH}},
            "spec.validations[0].expression": {"spec": {"matchConstraints": MATCH, "validations": [{}]}},
        },
    ),
    (
        ADMISSION,
        "MutatingAdmissionPolicy",
        {
            "spec": {
                "matchConstraints": MATCH,
                "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
            }
        },
        {
            "spec.mutations": {"spec": {"matchConstraints": MATCH, "reinvocationPolicy": "Never"}},
            "spec.mutations[0].patchType": {"spec": {"matchConstraints": MATCH, "mutations": [{"patchType": "x"}]}},
            "spec.reinvocationPolicy": {"spec": {"matchConstraints": MATCH}},
        },
    ),
    (
        ADMISSION,
        "ValidatingAdmissionPolicyBinding",
        {"spec": {"policyName": "p", "validationActions": ["Deny"]}},
        {
            "spec.policyName": {"spec": {"validationActions": ["Deny"]}},
            "spec.validationActions": {"spec": {"policyName": "p"}},
            "spec.paramRef": {
                "spec": {
                    "policyName": "p",
                    "validationActions": ["Deny"],
                    "paramRef": {"parameterNotFoundAction": "Deny"},
                }
            },
        },
    ),
]


@pytest.mark.parametrize(("api_version", "kind", "good", "bad"), CASES, ids=[case[1] for case in CASES])
def test_what_a_new_object_may_look_like(api_version: str, kind: str, good: Body, bad: dict[str, Body]) -> None:
    info = info_of(api_version, kind)
    assert created(info, good)[1] == set()
    for field, change in bad.items():
        assert field in created(info, {**good, **change})[1], field


@pytest.mark.parametrize(
    ("api_version", "kind", "old", "new", "field"),
    [
        ("apps/v1", "ControllerRevision", {"data": {"a": 1}}, {"data": {"a": 2}}, "data"),
        (
            "storage.k8s.io/v1",
            "CSIDriver",
            {"spec": {"attachRequired": True}},
            {"spec": {"attachRequired": False}},
            "spec.attachedRequired",
        ),
        (
            "storage.k8s.io/v1",
            "CSINode",
            {"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}},
            {"spec": {"drivers": [{"name": "d", "nodeID": "m"}]}},
            "spec.drivers",
        ),
        (
            "storage.k8s.io/v1",
            "CSIStorageCapacity",
            {"storageClassName": "s"},
            {"storageClassName": "t"},
            "storageClassName",
        ),
        ("storage.k8s.io/v1", "VolumeAttachment", {"spec": {"nodeName": "n"}}, {"spec": {"nodeName": "m"}}, "spec"),
        (
            "storage.k8s.io/v1",
            "VolumeAttributesClass",
            {"driverName": "d", "parameters": {"a": "b"}},
            {"driverName": "d", "parameters": {"a": "c"}},
            "parameters",
        ),
        ("node.k8s.io/v1", "RuntimeClass", {"handler": "h"}, {"handler": "i"}, "handler"),
        (
            "networking.k8s.io/v1",
            "IPAddress",
            {"spec": {"parentRef": {"name": "a", "resource": "r"}}},
            {"spec": {"parentRef": {"name": "b", "resource": "r"}}},
            "spec.parentRef",
        ),
        (
            "networking.k8s.io/v1",
            "ServiceCIDR",
            {"spec": {"cidrs": ["10.0.0.0/24"]}},
            {"spec": {"cidrs": ["10.0.1.0/24"]}},
            "spec.cidrs",
        ),
        (
            "certificates.k8s.io/v1",
            "ClusterTrustBundle",
            {"spec": {"trustBundle": PEM}},
            {"spec": {"trustBundle": PEM, "signerName": "a.io/b"}},
            "spec.signerName",
        ),
        (
            "certificates.k8s.io/v1",
            "PodCertificateRequest",
            {"spec": CERTIFICATE},
            {"spec": {**CERTIFICATE, "podName": "y"}},
            "spec",
        ),
    ],
)
def test_what_never_changes(api_version: str, kind: str, old: Body, new: Body, field: str) -> None:
    info = info_of(api_version, kind)
    before, after = made(info, old), made(info, new)
    for one in (before, after):
        default(one)
    prepare_for_update(after, before, info)
    assert field in {error.field for error in validate_update(after, before, info)}
    assert field not in {error.field for error in validate_update(before, before, info)}


def test_what_fits_on_a_node_may_change() -> None:
    info = info_of("storage.k8s.io/v1", "CSINode")
    driver = {"name": "d", "nodeID": "n"}
    old = made(info, {"spec": {"drivers": [driver]}})
    new = made(info, {"spec": {"drivers": [{**driver, "allocatable": {"count": 3}}]}})
    assert validate_update(new, old, info) == []


def test_a_certificate_request_keeps_what_was_asked_for() -> None:
    info = info_of("certificates.k8s.io/v1", "CertificateSigningRequest")
    old, new = made(info, {"spec": {"request": "a"}}), made(info, {"spec": {"request": "b"}})
    prepare_for_update(new, old, info)
    assert new["spec"] == {"request": "a"}


@pytest.mark.parametrize(
    ("api_version", "kind", "name", "body", "good"),
    [
        ("networking.k8s.io/v1", "IPAddress", "fd00::1", {"spec": {"parentRef": {"name": "a", "resource": "r"}}}, True),
        (
            "networking.k8s.io/v1",
            "IPAddress",
            "10.0.0.1",
            {"spec": {"parentRef": {"name": "a", "resource": "r"}}},
            True,
        ),
        (
            "networking.k8s.io/v1",
            "IPAddress",
            "fd00:0::1",
            {"spec": {"parentRef": {"name": "a", "resource": "r"}}},
            False,
        ),
        ("networking.k8s.io/v1", "IPAddress", "web", {"spec": {"parentRef": {"name": "a", "resource": "r"}}}, False),
        (
            "certificates.k8s.io/v1",
            "ClusterTrustBundle",
            "a.io:b:x",
            {"spec": {"signerName": "a.io/b", "trustBundle": PEM}},
            True,
        ),
        (
            "certificates.k8s.io/v1",
            "ClusterTrustBundle",
            "x",
            {"spec": {"signerName": "a.io/b", "trustBundle": PEM}},
            False,
        ),
        ("certificates.k8s.io/v1", "ClusterTrustBundle", "x", {"spec": {"trustBundle": PEM}}, True),
        ("certificates.k8s.io/v1", "ClusterTrustBundle", "a:x", {"spec": {"trustBundle": PEM}}, False),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "v1.",
            {"spec": {"version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}},
            True,
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "v1.x.io",
            {"spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}},
            True,
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "x",
            {"spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}},
            False,
        ),
    ],
)
def test_names_with_a_meaning(api_version: str, kind: str, name: str, body: Body, good: bool) -> None:
    wrong = created(info_of(api_version, kind), body, name)[1]
    assert wrong == (set() if good else {"metadata.name"})


def test_defaults_of_flow_control() -> None:
    assert created(info_of(FLOWCONTROL, "FlowSchema"), {"spec": FLOW})[0]["spec"]["matchingPrecedence"] == 1000
    limited = created(info_of(FLOWCONTROL, "PriorityLevelConfiguration"), {"spec": LIMITED})[0]["spec"]["limited"]
    assert (limited["nominalConcurrencyShares"], limited["lendablePercent"]) == (30, 0)
    assert limited["limitResponse"]["queuing"] == {"queues": 64, "handSize": 8, "queueLengthLimit": 50}


def test_defaults_of_admission_policies() -> None:
    spec = {"matchConstraints": {"resourceRules": [{"operations": ["*"]}]}}
    spec = created(info_of(ADMISSION, "ValidatingAdmissionPolicy"), {"spec": spec})[0]["spec"]
    assert spec["failurePolicy"] == "Fail"
    assert spec["matchConstraints"] == {
        "matchPolicy": "Equivalent",
        "namespaceSelector": {},
        "objectSelector": {},
        "resourceRules": [{"operations": ["*"], "scope": "*"}],
    }


def test_a_service_account_keeps_the_names_of_its_secrets_only() -> None:
    account, _ = created(info_of("v1", "ServiceAccount"), {"secrets": [{"name": "s", "namespace": "other"}]})
    assert account["secrets"] == [{"name": "s"}]


def test_a_claim_says_its_source_in_both_fields() -> None:
    source = {"kind": "PersistentVolumeClaim", "name": "c"}
    info = info_of("v1", "PersistentVolumeClaim")
    for given in ("dataSource", "dataSourceRef"):
        spec = created(info, {"spec": {given: dict(source)}})[0]["spec"]
        assert spec["dataSource"] == spec["dataSourceRef"] == source
    elsewhere = {**source, "namespace": "other"}
    assert "dataSource" not in created(info, {"spec": {"dataSourceRef": elsewhere}})[0]["spec"]


WITH_STATUS = [info for info in REGISTRY.all() if isinstance(rules_for(info).status, Status)]


@pytest.mark.parametrize("info", WITH_STATUS, ids=lambda info: f"{info.api_version}/{info.kind}")
def test_a_status_is_written_through_its_subresource_only(info: ResourceInfo) -> None:
    spec: Body = {"containers": []} if info.kind == "Pod" else {"template": {}}
    new = made(info, {"spec": spec, "status": {"odd": True}})
    old = made(info, {"spec": spec, "status": {"kept": True}})
    prepare_for_update(new, old, info)
    assert new["status"] == {"kept": True}
    fresh = made(info, {"spec": spec, "status": {"odd": True}})
    prepare_for_create(fresh, info)
    assert ("odd" in (fresh.get("status") or {})) is (info.kind == "Node")
    written = made(info, {"spec": {"other": 1}, "status": {"odd": True}})
    prepare_for_status_update(written, old, info)
    assert written["spec"] == spec and written["status"]["odd"]


@pytest.mark.parametrize(
    ("api_version", "kind", "body", "cells"),
    [
        ("storage.k8s.io/v1", "CSIStorageCapacity", {"storageClassName": "s", "capacity": "1Gi"}, ["s", "1Gi"]),
        ("storage.k8s.io/v1", "VolumeAttributesClass", {"driverName": "d.io"}, ["d.io", "<unknown>"]),
        ("certificates.k8s.io/v1", "ClusterTrustBundle", {"spec": {"signerName": "a.io/b"}}, ["a.io/b"]),
        (ADMISSION, "MutatingAdmissionPolicy", {"spec": {"mutations": [{}]}}, [1, "<unset>", "<unknown>"]),
        (ADMISSION, "MutatingAdmissionPolicyBinding", {"spec": {"policyName": "p"}}, ["p", "<unset>", "<unknown>"]),
    ],
)
def test_columns(api_version: str, kind: str, body: Body, cells: list[Any]) -> None:
    info = info_of(api_version, kind)
    table = to_table(rules_for(info).printer, [made(info, body)], now=NOW)
    assert table["rows"][0]["cells"] == ["a.b.c", *cells]


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v1", "PodTemplate"),
        (ADMISSION, "MutatingAdmissionPolicy"),
        (ADMISSION, "MutatingAdmissionPolicyBinding"),
    ],
)
def test_changes_are_counted(api_version: str, kind: str) -> None:
    info = info_of(api_version, kind)
    old = made(info, {})
    prepare_for_create(old, info)
    assert old["metadata"]["generation"] == 1
    new = made(info, {"template": {"spec": {}}, "spec": {"podInfoOnMount": True}})
    prepare_for_update(new, old, info)
    assert new["metadata"]["generation"] == 2

"""Tables: the cells kubectl shows, the object beside each row, custom columns."""

from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.registry import ROOMS, rules_for, rules_of
from rayplane.control_plane.api.kinds.rules import PLAIN
from rayplane.control_plane.api.machinery.jsonpath import JsonPathError, find
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.durations import human_duration

REGISTRY = builtin_registry()
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
CREATED = "2026-01-01T11:59:58Z"


def info_of(obj: dict[str, Any]) -> ResourceInfo:
    info = REGISTRY.by_kind(obj["apiVersion"], obj["kind"])
    assert info is not None
    return info


def cells(api_version: str, kind: str, **rest: Any) -> list[Any]:
    metadata = {"name": "x", "creationTimestamp": CREATED, **rest.pop("metadata", {})}
    obj = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
    table = to_table(rules_for(info_of(obj)).printer, [obj], now=NOW)
    row: list[Any] = table["rows"][0]["cells"]
    assert len(row) == len(table["columnDefinitions"])
    return row


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"),
        (599, "9m59s"), (600, "10m"), (10799, "179m"), (10800, "3h"), (12000, "3h20m"),
        (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (50 * 3600, "2d2h"),
        (8 * 86400, "8d"), (729 * 86400, "729d"), (730 * 86400, "2y"), (750 * 86400, "2y20d"),
        (3000 * 86400, "8y"),
    ],
)  # fmt: skip
def test_durations(span: int, text: str) -> None:
    assert human_duration(span) == text


def pod_cells(status: dict[str, Any], **rest: Any) -> list[Any]:
    spec = rest.pop("spec", {"containers": [{"name": "a"}, {"name": "b"}]})
    return cells("v1", "Pod", spec=spec, status=status, **rest)


def running(name: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "ready": True, "restartCount": 0, "state": {"running": {}}, **rest}


def test_pending_pod() -> None:
    none = "<none>"
    assert pod_cells({"phase": "Pending"}) == [
        "x", "0/2", "Pending", "0", "2s", none, none, none, none
    ]  # fmt: skip


def test_running_pod_with_restarts() -> None:
    ended = {"terminated": {"finishedAt": "2026-01-01T11:55:00Z", "exitCode": 1}}
    status = {
        "phase": "Running",
        "podIPs": [{"ip": "127.1.0.2"}],
        "containerStatuses": [running("a", restartCount=2, lastState=ended), running("b")],
    }
    spec = {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]}
    assert pod_cells(status, spec=spec)[1:7] == [
        "2/2", "Running", "2 (5m ago)", "2s", "127.1.0.2", "n1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"waiting": {"reason": "CrashLoopBackOff"}}, "CrashLoopBackOff"),
        ({"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "OOMKilled"),
        ({"terminated": {"exitCode": 3}}, "ExitCode:3"),
        ({"terminated": {"signal": 9}}, "Signal:9"),
    ],
)
def test_container_state_shows_as_status(state: dict[str, Any], text: str) -> None:
    status = {"phase": "Running", "containerStatuses": [{"name": "a", "state": state}]}
    assert pod_cells(status)[2] == text


def test_completed_beside_running_is_not_ready() -> None:
    done = {"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}
    status = {"phase": "Running", "containerStatuses": [done, running("b")]}
    assert pod_cells(status)[1:3] == ["1/2", "NotReady"]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"running": {}}, "Init:0/1"),
        ({"waiting": {"reason": "PodInitializing"}}, "Init:0/1"),
        ({"waiting": {"reason": "ErrImagePull"}}, "Init:ErrImagePull"),
        ({"terminated": {"exitCode": 2}}, "Init:ExitCode:2"),
        ({"terminated": {"exitCode": 0}}, "Pending"),
    ],
)
def test_init_containers(state: dict[str, Any], text: str) -> None:
    spec = {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}
    status = {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]}
    assert pod_cells(status, spec=spec)[2] == text


def test_deleted_pod_is_terminating_until_it_ended() -> None:
    deleted = {"deletionTimestamp": CREATED}
    assert pod_cells({"phase": "Running"}, metadata=deleted)[2] == "Terminating"
    assert pod_cells({"phase": "Succeeded"}, metadata=deleted)[2] == "Succeeded"


def test_ended_pods_carry_a_row_condition() -> None:
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "status": {"phase": "Failed"},
    }
    (row,) = to_table(rules_for(info_of(obj)).printer, [obj], now=NOW)["rows"]
    assert row["conditions"][0]["type"] == "Completed"
    assert row["conditions"][0]["reason"] == "Failed"


def test_deployment() -> None:
    template = {"spec": {"containers": [{"name": "m", "image": "i"}]}}
    spec = {"replicas": 3, "selector": {"matchLabels": {"a": "web"}}, "template": template}
    status = {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}
    row = cells("apps/v1", "Deployment", spec=spec, status=status)
    assert row == ["x", "1/3", 2, 1, "2s", "m", "i", "a=web"]


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        (
            {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"},
             "ports": [{"port": 80, "nodePort": 31492, "protocol": "TCP"}]},
            {},
            ["NodePort", "10.0.0.1", "<none>", "80:31492/TCP", "2s", "a=b"],
        ),
        (
            {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": []},
            {},
            ["LoadBalancer", "10.0.0.1", "<pending>", "<none>", "2s", "<none>"],
        ),
        (
            {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": []},
            {"loadBalancer": {"ingress": [{"ip": "127.3.0.1"}]}},
            ["LoadBalancer", "10.0.0.1", "127.3.0.1", "<none>", "2s", "<none>"],
        ),
        (
            {"type": "ExternalName", "externalName": "e.com"},
            {},
            ["ExternalName", "<none>", "e.com", "<none>", "2s", "<none>"],
        ),
    ],
)  # fmt: skip
def test_services(spec: dict[str, Any], status: dict[str, Any], expected: list[Any]) -> None:
    assert cells("v1", "Service", spec=spec, status=status)[1:] == expected


def test_node() -> None:
    row = cells(
        "v1",
        "Node",
        metadata={"labels": {"node-role.kubernetes.io/worker": ""}},
        spec={"unschedulable": True},
        status={
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.37.0"},
            "addresses": [{"type": "InternalIP", "address": "127.1.0.1"}],
        },
    )
    assert row[1:6] == ["Ready,SchedulingDisabled", "worker", "2s", "v1.37.0", "127.1.0.1"]


def test_storage() -> None:
    claim = cells(
        "v1",
        "PersistentVolumeClaim",
        spec={"volumeName": "v", "volumeMode": "Filesystem"},
        status={"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"]},
    )
    assert claim == ["x", "Bound", "v", "5Gi", "RWO", "", "<unset>", "2s", "Filesystem"]
    standard = cells(
        "storage.k8s.io/v1",
        "StorageClass",
        metadata={"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        provisioner="p",
    )
    assert standard[0] == "x (default)"


def test_jobs_and_cron_jobs() -> None:
    row = cells(
        "batch/v1",
        "Job",
        spec={"completions": 3},
        status={
            "succeeded": 3,
            "startTime": "2026-01-01T11:00:00Z",
            "completionTime": "2026-01-01T11:03:20Z",
            "conditions": [{"type": "Complete", "status": "True"}],
        },
    )
    assert row[1:4] == ["Complete", "3/3", "3m20s"]
    cron = cells("batch/v1", "CronJob", spec={"schedule": "@daily"}, status={})
    assert cron[1:6] == ["@daily", "<none>", "False", 0, "<none>"]


def test_small_kinds() -> None:
    assert cells("v1", "ConfigMap", data={"a": "1"}, binaryData={"b": ""})[1] == 2
    assert cells("v1", "Secret", type="Opaque", data={"a": ""})[1:3] == ["Opaque", 1]
    event = cells(
        "v1",
        "Event",
        type="Normal",
        reason="Scheduled",
        message="done\n",
        count=4,
        lastTimestamp=CREATED,
        firstTimestamp="2026-01-01T11:00:00Z",
        involvedObject={"kind": "Pod", "name": "p"},
        source={"component": "kubelet", "host": "n1"},
    )
    assert event == [
        "2s", "Normal", "Scheduled", "pod/p", "", "kubelet, n1", "done", "60m", 4, "x"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding",
         {"spec": {"policyName": "p", "paramRef": {"name": "a"}}}, ["p", "*/a"]),
        ("admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding",
         {"spec": {"policyName": "p", "paramRef": {"name": "a", "namespace": "n"}}}, ["p", "n/a"]),
        ("admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding",
         {"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"a": "b"}}}}},
         ["p", "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"]),
        ("certificates.k8s.io/v1 CertificateSigningRequest",
         {"spec": {"signerName": "s", "username": "u", "expirationSeconds": 86400},
          "status": {"conditions": [{"type": "Failed"}], "certificate": "YQ=="}},
         ["2s", "s", "u", "24h", "Pending,Failed,Issued"]),
        ("certificates.k8s.io/v1 ClusterTrustBundle", {"spec": {}}, ["<none>"]),
        ("v1 Endpoints", {"subsets": [{"notReadyAddresses": [{"ip": "1.1.1.1"}]}]}, [""]),
        ("v1 Endpoints", {}, ["<none>"]),
        ("v1 PersistentVolume", {"spec": {}}, ["0"]),
        ("discovery.k8s.io/v1 EndpointSlice",
         {"addressType": "IPv4", "ports": [{"port": 80, "name": "a"}, {"name": "b"}, {}]}, ["IPv4", "80,b,*"]),
        ("networking.k8s.io/v1 IPAddress",
         {"spec": {"parentRef": {"group": "x.Io", "resource": "services", "namespace": "n", "name": "a"}}},
         ["services.x.io/n/a"]),
        ("networking.k8s.io/v1 Ingress",
         {"spec": {"rules": [{"host": h} for h in "abc"] + [{}, {"host": "d"}]},
          "status": {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "h"}, {"ip": "1.1.1.1"}]}}},
         ["<none>", "a,b,c + 2 more...", "1.1.1.1,9.9.9.9,h"]),
        ("rbac.authorization.k8s.io/v1 ClusterRoleBinding",
         {"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "a"}]},
         ["ClusterRole/r", "2s", "", "", "a"]),
        ("storage.k8s.io/v1 CSIStorageCapacity", {"storageClassName": "s"}, ["s", "<unset>"]),
        ("flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration",
         {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"queuing": {}}}}},
         ["Limited", 0, 0, 0, 0]),
    ],
)  # fmt: skip
def test_cells_of_single_kinds(kind: str, body: dict[str, Any], shown: list[Any]) -> None:
    api_version, _, name = kind.partition(" ")
    assert cells(api_version, name, **body)[1 : 1 + len(shown)] == shown


def test_the_first_address_of_a_kind_is_shown() -> None:
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]
    assert cells("v1", "Node", status={"addresses": addresses})[5] == "10.0.0.1"


def test_flow_schemas_are_shown_in_the_order_in_which_they_are_asked() -> None:
    kind = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema"}
    objects = [
        {**kind, "metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}}
        for name, precedence in (("a", 900), ("b", 1), ("c", 900))
    ]
    rows = to_table(rules_for(info_of(objects[0])).printer, objects, now=NOW)["rows"]
    assert [row["cells"][0] for row in rows] == ["b", "a", "c"]


@pytest.mark.parametrize("kind", sorted(ROOMS), ids=lambda kind: "/".join(kind))
def test_every_printer_copes_with_an_empty_object(kind: tuple[str, str]) -> None:
    printer = rules_of(*kind).printer
    assert len(printer.row({"metadata": {"name": "x"}}, NOW)) == len(printer.columns)
    assert [column.format for column in printer.columns].count("name") >= 1


def test_what_comes_beside_the_cells() -> None:
    obj = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "resourceVersion": "7"},
        "data": {},
    }
    printer = rules_for(info_of(obj)).printer
    table = to_table(printer, [obj], now=NOW)
    assert table["metadata"] == {"resourceVersion": "7"}
    assert table["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
    assert to_table(printer, [obj], now=NOW, include_object="Object")["rows"][0]["object"] is obj
    assert to_table(printer, [obj], now=NOW, include_object="None")["rows"][0]["object"] is None
    assert to_table(printer, [obj], now=NOW, header=False)["columnDefinitions"] is None
    listed = to_table(printer, [], now=NOW, metadata={"resourceVersion": "9", "continue": "c"})
    assert listed["metadata"] == {"resourceVersion": "9", "continue": "c"} and listed["rows"] == []


def test_custom_columns() -> None:
    obj = {
        "metadata": {"name": "x", "creationTimestamp": CREATED},
        "spec": {"size": 3, "on": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {
            "name": "Ready",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
        },
        {"name": "Missing", "type": "string", "jsonPath": ".spec.none"},
        {"name": "NotUnderstood", "type": "string", "jsonPath": ".spec[?(@.x"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    table = to_table(PLAIN.printer, [obj], now=NOW, columns=columns)
    assert table["rows"][0]["cells"] == ["x", 3, True, "True", None, None, "2s"]
    size = table["columnDefinitions"][1]
    said = "Custom resource definition column (in JSONPath format): .spec.size"
    assert (size["name"], size["description"]) == ("Size", said)
    plain = to_table(PLAIN.printer, [obj], now=NOW, columns=[])
    assert plain["rows"][0]["cells"] == ["x", "2s"]
    assert [(one["name"], one["type"]) for one in plain["columnDefinitions"]] == [("Name", "string"), ("Age", "date")]


@pytest.mark.parametrize(
    ("kind", "value", "cell"),
    [
        ("string", {"b": [1, None], "a": "x"}, '{"a":"x","b":[1,null]}'),
        ("string", ["x", 2], '["x",2]'),
        ("string", 5, "5"),
        ("string", 5.0, "5"),
        ("string", 1.5, "1.5"),
        ("string", False, "false"),
        ("string", None, None),
        ("integer", 5.7, 5),
        ("integer", "5", None),
        ("integer", True, None),
        ("number", True, None),
        ("number", 5, 5),
        ("boolean", "true", None),
        ("date", "2026-01-01T11:59:00Z", "60s"),
        ("date", "yesterday", "<invalid>"),
        ("date", 5, None),
    ],
)
def test_a_custom_cell_is_of_the_type_of_its_column(kind: str, value: Any, cell: Any) -> None:
    columns = [{"name": "C", "type": kind, "jsonPath": ".spec.value"}]
    made = {"metadata": {"name": "x"}, "spec": {"value": value}}
    assert to_table(PLAIN.printer, [made], now=NOW, columns=columns)["rows"][0]["cells"] == ["x", cell]


def test_of_several_values_a_custom_cell_shows_the_first() -> None:
    columns = [{"name": "C", "type": "string", "jsonPath": ".spec.hosts[*].name"}]
    made = {"metadata": {"name": "x"}, "spec": {"hosts": [{"name": "a"}, {"name": "b"}]}}
    assert to_table(PLAIN.printer, [made], now=NOW, columns=columns)["rows"][0]["cells"] == ["x", "a"]


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], "Pending"),
        ([{"type": "Issued", "status": "True"}], "Issued"),
        ([{"type": "Denied", "status": "True"}], "Denied"),
        ([{"type": "Failed", "status": "False"}], "Pending"),
    ],
)
def test_pod_certificate_requests(conditions: list[dict[str, Any]], state: str) -> None:
    spec = {"podName": "p", "serviceAccountName": "s", "nodeName": "n", "signerName": "e.com/s"}
    row = cells("certificates.k8s.io/v1", "PodCertificateRequest", spec=spec, status={"conditions": conditions})
    assert row == ["x", "p", "s", "n", "e.com/s", state]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        ("{.a.b}", [1]),
        ("$.a['c.d']", [2]),
        (r".a.c\.d", [2]),
        (".l[0]", [{"n": "x", "v": 1}]),
        (".l[-1].v", [2]),
        (".l[*].v", [1, 2]),
        ('.l[?(@.n=="y")].v', [2]),
        (".l[?(@.v!=2)].n", ["x"]),
        (".none.at.all", []),
        (".l[9]", []),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    value = {"a": {"b": 1, "c.d": 2}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}
    assert find(value, path) == found


def test_paths_that_are_not_understood_are_refused() -> None:
    with pytest.raises(JsonPathError):
        find({}, ".a[0:4:2]")

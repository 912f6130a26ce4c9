"""Addresses, environment, volume content, command lines, admission, probe thresholds, log selection."""

import base64
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.patching import apply_patch
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.durations import parse_span
from rayplane.node.config import NodeConfig, NodeHostConfig
from rayplane.node.environment import (
    PodFacts,
    container_env,
    env_references,
    expand,
    field_value,
    resource_value,
    service_links,
)
from rayplane.node.errors import AddressesExhausted, ConfigError, ContainerConfigError, MountError
from rayplane.node.images.containers import own_command
from rayplane.node.kubelet import registration
from rayplane.node.kubelet.addresses import AddressPool
from rayplane.node.kubelet.admission import NOTHING, Room, refuse, room_of
from rayplane.node.kubelet.node_lease import AT_FIRST, OTHERS, Turns, rounds, stand_in
from rayplane.node.kubelet.prober import ProbeCounter, Thresholds
from rayplane.node.kubelet.status_manager import Written, own_part
from rayplane.node.runtime import LogOptions, Mount, StartOrder
from rayplane.node.runtime.command import Layout, command_line
from rayplane.node.runtime.logs import LogLine, parse_line, select_lines
from rayplane.node.shim.processes import MARK
from rayplane.node.volumes.projected import TokenWanted, tokens_wanted, volume_files

FACTS = PodFacts("10.0.0.2", "10.0.0.1", "n1", "4", "8Gi")
POD: Object = {
    "metadata": {"name": "web-0", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": 'x"y'}},
    "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]},
}


# --- addresses ------------------------------------------------------------------------------------


def test_addresses_rotate_and_run_out() -> None:
    pool = AddressPool("127.16.0.0/29", offset=3)
    assert pool.node_address == "127.16.0.1"
    taken = [pool.take() for _ in range(5)]
    assert taken == ["127.16.0.5", "127.16.0.6", "127.16.0.2", "127.16.0.3", "127.16.0.4"]
    with pytest.raises(AddressesExhausted):
        pool.take()
    pool.give_back("127.16.0.6")
    assert pool.take() == "127.16.0.6"


def test_addresses_to_avoid_come_last() -> None:
    pool = AddressPool("127.16.0.0/29")
    pool.avoid("127.16.0.2")
    pool.avoid("10.9.9.9")
    assert [pool.take() for _ in range(5)][-1] == "127.16.0.2"


@example([True] * 13 + [False, False, True], 0)
@given(st.lists(st.booleans(), max_size=80), st.integers(0, 1 << 24))
def test_no_address_is_had_twice(steps: list[bool], offset: int) -> None:
    pool = AddressPool("127.16.3.0/28", offset=offset)
    held: list[str] = []
    last_given_back = ""
    for take in steps:
        if take and len(held) < 13:
            address = pool.take()
            assert address not in held
            # With others free, an address just given back is not the next one.
            assert address != last_given_back or len(held) == 12
            held.append(address)
            last_given_back = ""
        elif held:
            last_given_back = held.pop()
            pool.give_back(last_given_back)


# --- environment ----------------------------------------------------------------------------------


def test_expansion() -> None:
    env = {"A": "1", "B": "$(A)"}
    assert expand("$(A)-$(B)-$(C)-$$(A)-$$$(A)-$A-$", env) == "1-$(A)-$(C)-$(A)-$1-$A-$"


def test_sources_in_order_of_precedence() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": True}}],
        "env": [
            {"name": "P_one", "value": "own"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "MISSING", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": True}}},
            {"name": "REF", "value": "$(S)"},
        ],
    }
    secret = {"kind": "Secret", "data": {"k": base64.b64encode(b"hidden").decode()}}
    found: dict[tuple[str, str], dict[str, Any] | None] = {
        ("configmaps", "m"): {"data": {"one": "1", "two": "2"}, "binaryData": {"zero": "AA=="}},
        ("secrets", "s"): secret,
        ("secrets", "gone"): None,
    }
    env = container_env(container, POD, FACTS, found=found)
    assert env == {"P_one": "own", "P_two": "2", "S": "hidden", "REF": "hidden"}
    assert [(r.name, r.optional) for r in env_references(container)] == [
        ("m", False), ("gone", True), ("s", False), ("m", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "found", "message"),
    [
        ({"configMapKeyRef": {"name": "m", "key": "k"}}, None, 'configmap "m" not found'),
        ({"configMapKeyRef": {"name": "m", "key": "k"}}, {"data": {}}, "couldn't find key k in ConfigMap ns/m"),
        (
            {"configMapKeyRef": {"name": "m", "key": "k"}},
            {"binaryData": {"k": "aGk="}},
            "couldn't find key k in ConfigMap ns/m",
        ),
        ({"fieldRef": {"fieldPath": "spec.nope"}}, None, "fieldPath spec.nope is not supported"),
    ],
)
def test_what_is_missing_is_named(source: dict[str, Any], found: Object | None, message: str) -> None:
    container = {"env": [{"name": "X", "valueFrom": source}]}
    with pytest.raises(ContainerConfigError) as error:
        container_env(container, POD, FACTS, found={("configmaps", "m"): found})
    assert str(error.value) == message


def test_fields_and_resources() -> None:
    container = POD["spec"]["containers"][0]
    assert field_value("metadata.labels['b']", POD, FACTS) == "2"
    assert field_value("metadata.labels", POD, FACTS) == 'a="x\\"y"\nb="2"'
    assert field_value("status.podIP", POD, FACTS) == "10.0.0.2"
    assert resource_value({"resource": "limits.cpu"}, container, FACTS) == "2"
    assert resource_value({"resource": "limits.cpu", "divisor": "1m"}, container, FACTS) == "1500"
    assert resource_value({"resource": "requests.memory", "divisor": "1Mi"}, container, FACTS) == "64"
    assert resource_value({"resource": "limits.memory", "divisor": "1Gi"}, container, FACTS) == "8"


def test_service_links() -> None:
    service = {
        "metadata": {"name": "my-db"},
        "spec": {"clusterIP": "10.1.1.1", "ports": [{"name": "sql", "port": 5432}]},
    }
    links = service_links(service)
    assert links["MY_DB_SERVICE_HOST"] == "10.1.1.1"
    assert links["MY_DB_SERVICE_PORT_SQL"] == "5432"
    assert links["MY_DB_PORT_5432_TCP_ADDR"] == "10.1.1.1"
    assert service_links({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}) == {}


def test_a_pod_without_service_links_finds_the_api() -> None:
    ports = {"clusterIP": "10.1.1.1", "ports": [{"port": 443}]}
    services = [
        {"metadata": {"namespace": space, "name": name}, "spec": ports}
        for space, name in (("default", "kubernetes"), ("ns", "db"))
    ]
    assert "DB_SERVICE_HOST" in container_env({}, POD, FACTS, found={}, services=services)
    alone = {**POD, "spec": {**POD["spec"], "enableServiceLinks": False}}
    env = container_env({}, alone, FACTS, found={}, services=services)
    assert env == service_links(services[0]) and env["KUBERNETES_SERVICE_HOST"] == "10.1.1.1"


# --- volumes --------------------------------------------------------------------------------------


def test_projected_volumes() -> None:
    sources = [
        {"configMap": {"name": "m", "items": [{"key": "one", "path": "sub/one", "mode": 0o400}]}},
        {"secret": {"name": "s", "optional": True}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"serviceAccountToken": {"path": "token"}},
    ]
    volume = {"name": "v", "projected": {"sources": sources, "defaultMode": 0o600}}
    found = {
        ("configmaps", "m"): {"data": {"one": "1", "two": "2"}, "binaryData": {"zero": "AA=="}},
        ("secrets", "s"): None,
    }
    (wanted,) = tokens_wanted(volume)
    files = volume_files(volume, POD, FACTS, found=found, tokens={wanted: "t"})
    shown = {path: (file.data, file.mode) for path, file in files.items()}
    assert shown == {"sub/one": (b"1", 0o400), "name": (b"web-0", 0o600), "token": (b"t", 0o600)}
    assert wanted == TokenWanted("", 3607)


def test_a_missing_secret_is_named() -> None:
    volume = {"name": "v", "secret": {"secretName": "s"}}
    with pytest.raises(MountError, match=r'MountVolume\.SetUp failed for volume "v" : secret "s" not found'):
        volume_files(volume, POD, FACTS, found={}, tokens={})


# --- command lines --------------------------------------------------------------------------------


def order(**container: Any) -> StartOrder:
    container = {"name": "c", **container}
    mounts = (Mount("data", "/data", "/real/data"), Mount("deep", "/data/deep/", "/real/deep"))
    pod = {"metadata": {"name": "web-0"}, "spec": {"containers": [container]}}
    env = container.pop("own_env", {})
    return StartOrder(pod, container, 1, "rayplane://1", "127.16.0.9", "web", env=env, mounts=mounts)


LAYOUT = Layout("/pod/root", "/pod/term", "/pod/root/srv")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("/data", "/real/data"),
        ("/data/x", "/real/data/x"),
        ("/data/deep/x", "/real/deep/x"),
        ("cat </data/x >/data/deep", "cat </real/data/x >/real/deep"),
        ("--dir=/data:/data/deep", "--dir=/real/data:/real/deep"),
        ("/database /mnt/data ./data", "/database /mnt/data ./data"),
        ("0.0.0.0:80 10.0.0.0.0", "127.16.0.9:80 10.0.0.0.0"),
        ("echo x > /dev/termination-log", "echo x > /pod/term"),
    ],
)
def test_paths_and_addresses_are_rewritten(text: str, result: str) -> None:
    assert command_line(order(command=[text]), LAYOUT, path="/bin").argv == [result]


def test_environment_of_a_process() -> None:
    line = command_line(
        order(command=["run", "$(DIR)"], args=["$(POD)"], own_env={"DIR": "/data/a", "PATH": "/own"}),
        LAYOUT,
        path="/bin",
    )
    assert line.argv == ["run", "/real/data/a", "$(POD)"]
    assert line.env["PATH"] == "/own"
    assert line.env["RAYPLANE_MOUNT_DATA"] == "/real/data"
    assert (line.env["HOSTNAME"], line.env["POD_IP"]) == ("web", "127.16.0.9")
    assert line.cwd == "/pod/root/srv"
    mark = line.env[MARK]
    assert command_line(order(command=["x"], own_env={MARK: "other"}), LAYOUT, path="").env[MARK] == mark


def test_a_container_without_a_command_is_a_process_only_where_it_is_used_by_hand() -> None:
    terminal = {"stdin": True, "tty": True}
    assert own_command({"command": ["run"], "args": ["x"]}) == ["run", "x"]
    assert own_command({"args": ["x"]}) == own_command({"args": ["x"], "tty": True}) == []
    assert own_command({"args": ["x"]} | terminal) == ["x"]
    assert own_command(terminal) == ["sh"]
    assert own_command({"stdin": True, "args": ["sh", "-c", "x"]}) == ["sh", "-c", "x"]


# --- small things ---------------------------------------------------------------------------------


def test_admission_counts_init_containers_once() -> None:
    def asks(cpu: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}, **more}

    spec = {
        "containers": [asks("1"), asks("500m")],
        "initContainers": [asks("100m", restartPolicy="Always"), asks("1900m"), asks("1")],
    }
    assert room_of({"spec": spec}).cpu == 2000  # the second init container beside the sidecar
    assert refuse(Room(2000, 0), NOTHING, Room(2000, 0, 1)) is None
    refused = refuse(Room(1, 0), Room(2000, 0, 1), Room(2000, 0, 5))
    assert refused is not None
    assert refused.reason == "OutOfcpu"
    assert "requested: 1, used: 2000, capacity: 2000" in refused.message
    full = refuse(Room(0, 0), Room(0, 0, 5), Room(2000, 0, 5))
    assert full is not None and full.reason == "OutOfpods"


def test_probe_thresholds() -> None:
    counter = ProbeCounter(Thresholds.of({"successThreshold": 2, "failureThreshold": 3}))
    results = [True, True, True, False, False, True, False, False, False, False]
    verdicts = [counter.add(ok) for ok in results]
    assert verdicts == [None, True, None, None, None, None, None, None, False, None]


def test_log_selection() -> None:
    lines = [LogLine(f"2026-01-01T00:00:0{i}.5Z", b"line %d\n" % i) for i in range(4)]
    assert select_lines(lines, LogOptions(tail_lines=1)) == b"line 3\n"
    assert select_lines(lines, LogOptions(tail_lines=0)) == b""
    assert select_lines(lines, LogOptions(since="2026-01-01T00:00:02Z")) == b"line 2\nline 3\n"
    assert select_lines(lines[:1], LogOptions(timestamps=True)) == b"2026-01-01T00:00:00.5Z line 0\n"
    assert parse_line(b"2026-01-01T00:00:00Z a b\n") == LogLine("2026-01-01T00:00:00Z", b"a b\n")


def test_time_spans() -> None:
    assert [parse_span(t) for t in ("2", "0.5", "250ms", "3s", "2m", "1h")] == [2, 0.5, 0.25, 3, 120, 3600]
    for text in ("", "x", "-1", "nan"):
        with pytest.raises(ValueError):
            parse_span(text)


def test_bad_configurations_are_refused() -> None:
    def config(*nodes: NodeConfig, **more: Any) -> NodeHostConfig:
        return NodeHostConfig(nodes=nodes, apiservers=("a:1",), **more)

    config(NodeConfig("a")).validate()
    for bad in (
        config(),
        config(NodeConfig("a"), NodeConfig("a")),
        config(NodeConfig("a", runtime="docker")),
        config(NodeConfig("a", memory="lots")),
        NodeHostConfig(nodes=(NodeConfig("a"),), apiservers=()),
    ):
        with pytest.raises(ConfigError):
            bad.validate()


def test_references_that_double_a_value_again_and_again_are_refused() -> None:
    doubled = [{"name": "A0", "value": "x" * 100}]
    doubled += [{"name": f"A{n}", "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(1, 40)]
    with pytest.raises(ContainerConfigError, match="expand to more than 1048576 characters"):
        container_env({"name": "c", "env": doubled}, POD, FACTS, found={})
    copied = [{"name": "A", "value": "x" * 1_000_000}, *({"name": f"B{n}", "value": "$(A)"} for n in range(10_000))]
    with pytest.raises(ContainerConfigError, match="the environment has more than 4194304 characters"):
        container_env({"name": "c", "env": copied}, POD, FACTS, found={})
    assert expand("$(A)$(A)", {"A": "x" * 1000}) == "x" * 2000


@pytest.mark.parametrize("nodes", [1, 2, 6, 7, 200])
def test_each_node_of_a_host_has_its_turn_at_its_lease_and_the_first_always(nodes: int) -> None:
    turns, at_first = Turns(), set[int]()
    assert turns.take(0) == []
    for registered in range(1, nodes + 1, 50):
        at_first.update(turns.take(registered))
    while len(at_first) < nodes:
        now = turns.take(nodes)
        assert now[0] == 0
        assert len(now) <= 1 + AT_FIRST
        at_first.update(now)
    for _ in range(3):
        taken = [turns.take(nodes) for _ in range(rounds(nodes))]
        assert {n for now in taken for n in now} == set(range(nodes))
        # However many there are, as many are written each time.
        assert all(now[0] == 0 and len(now) <= 1 + OTHERS for now in taken)
    assert len(turns.take(nodes, stands=False)) == min(nodes, 1 + AT_FIRST)
    assert (stand_in([f"n{n}" for n in range(nodes)]) == "") is (rounds(nodes) == 1)


def test_a_nodes_status_leaves_what_others_said_meanwhile() -> None:
    config = NodeConfig("n1")
    known: dict[str, Any] = {"status": {"conditions": [{"type": "KernelDeadlock", "status": "False"}]}}
    status = registration.node_status(config, known, node_ip="10.0.0.1", port=1, stamp="later")
    node = {"apiVersion": "v1", "kind": "Node", **known}
    node["status"] = {**known["status"], "addresses": [{"type": "ExternalIP", "address": "1.2.3.4"}]}
    node["status"]["conditions"] = [{"type": "KernelDeadlock", "status": "True"}]
    patch = registration.status_patch(known, status)
    written = apply_patch("strategic", node, patch, definition_of("v1", "Node"))["status"]
    said = {c["type"]: c["status"] for c in written["conditions"]}
    assert said.pop("KernelDeadlock") == "True" and said.pop("Ready") == "True" and set(said.values()) == {"False"}
    assert [a["type"] for a in written["addresses"]] == ["InternalIP", "Hostname"]
    assert written["capacity"] == status["capacity"] and "volumesInUse" not in written


def test_a_pods_status_leaves_what_others_said_meanwhile() -> None:
    gate, passing = {"type": "a.b/gate", "status": "False"}, {"type": "PodResizePending", "status": "True"}
    known = {"status": {"conditions": [gate, passing, {"type": "Ready", "status": "False"}]}}
    status = {
        "conditions": [{"type": "Ready", "status": "True"}, gate],
        "podIPs": [{"ip": "10.0.0.2"}],
        "phase": "Running",
    }
    pod = {
        "status": {
            "conditions": [{**gate, "status": "True"}, *known["status"]["conditions"][1:]],
            "podIPs": [{"ip": "10.0.0.1"}],
        }
    }
    patch = {"status": own_part(known, status)}
    written = apply_patch("strategic", pod, patch, definition_of("v1", "Pod"))["status"]
    assert {c["type"]: c["status"] for c in written.pop("conditions")} == {"a.b/gate": "True", "Ready": "True"}
    assert written == {"podIPs": [{"ip": "10.0.0.2"}], "phase": "Running"}
    assert own_part(known, {"phase": "Failed"}) == {"phase": "Failed"}


@pytest.mark.parametrize("seen", [True, False])
def test_conditions_that_became_true_keep_no_reason_why_they_were_not(seen: bool) -> None:
    unready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "unready: [c]"}
    ready = {"type": "Ready", "status": "True"}
    pod = {"status": {"conditions": [unready, {"type": "PodScheduled", "status": "True"}]}}
    known = pod if seen else {"status": {"conditions": pod["status"]["conditions"][1:]}}
    patch = {"status": own_part(known, {"conditions": [ready]}, Written(explained=frozenset({"Ready"})))}
    for before, after in ((pod, [ready]), ({"status": {}}, [ready])):
        written = apply_patch("strategic", before, patch, definition_of("v1", "Pod"))["status"]
        assert [c for c in written["conditions"] if c["type"] == "Ready"] == after


def test_a_pods_status_takes_back_what_it_does_not_show_yet() -> None:
    """The API has what was written before, and the kubelet has not heard of that."""
    seen = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    told = [{"type": kind, "status": "True"} for kind in ("Ready", "PodResizePending")]
    patch = {"status": own_part(seen, seen["status"], Written(passing=frozenset({"PodResizePending"})))}
    assert apply_patch("strategic", {"status": {"conditions": told}}, patch, definition_of("v1", "Pod")) == seen

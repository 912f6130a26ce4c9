"""What users may ask of a cluster, and what it consists of."""

import json
import random
import subprocess
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rayplane.control_plane.api.audit import default_policy
from rayplane.control_plane.apiserver.config import AuditConfig, Timing
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.cli.app import app
from rayplane.control_plane.cluster import ray_cluster
from rayplane.control_plane.cluster.components import build
from rayplane.control_plane.cluster.config import NODES_MAX, SLOTS, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, NotUp, UsageError
from rayplane.control_plane.cluster.isolation import decide
from rayplane.control_plane.cluster.launch import down, going_on
from rayplane.control_plane.cluster.pki import Secrets, issue, kubeconfig
from rayplane.control_plane.cluster.ports import RANGE, can_bind, free_port, share
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology, crowded, founding
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.tls import identity_of
from rayplane.control_plane.timings import FAST, KUBERNETES
from rayplane.storage.env import Env, LocalDisk, SystemClock

MACHINES = (Machine("10.0.0.1", "a"), Machine("10.0.0.2", "b"))


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"name": ""}, "--name ''"),
        ({"name": "-x"}, "--name '-x'"),
        ({"name": "x" * 41}, "at most 40"),
        ({"name": "../x"}, "--name '../x'"),
        ({"history": "long"}, "--history"),
        ({"history": "0"}, "--history '0': use a span such as 30m or 1h, at most 168h"),
        ({"history": "1000h"}, "at most 168h"),
        ({"host": "cloud"}, "--host 'cloud': use ray or process"),
        ({"runtime": "docker"}, "--runtime 'docker'"),
        ({"timing": "slow"}, "--timing 'slow'"),
        ({"egress": "all"}, "--egress 'all': use none or relay"),
        ({"egress_allow": "169.254.169.254/8"}, "--egress-allow: 169.254.169.254/8 has host bits set"),
        ({"network_policy": "maybe"}, "--network-policy 'maybe': use auto or on or off"),
        ({"members": 0}, "--members 0"),
        ({"members": 4}, "--members 4: use an odd number"),
        ({"members": -1}, "--members -1"),
        ({"members": 11}, "--members 11: use 1 to 9"),
        ({"apiservers": 0}, "--apiservers 0"),
        ({"schedulers": 0}, "--schedulers 0"),
        ({"controllers": 10}, "--controllers 10"),
        ({"nodes": -1}, "--nodes -1"),
        ({"nodes_per_host": 0}, "--nodes-per-host 0"),
        ({"nodes": 90, "nodes_per_host": 90}, "at most 8000"),
        ({"node_cpu": "lots"}, "--node-cpu 'lots'"),
        ({"node_cpu": "0"}, "--node-cpu '0'"),
        ({"node_memory": "-1Gi"}, "--node-memory '-1Gi'"),
        ({"address": "auto", "host": "process"}, "--address"),
        ({"audit_policy": "rules: []"}, "--audit-policy is no Policy of audit.k8s.io/v1"),
        ({"ray_tls": True, "host": "process"}, "--ray-tls"),
        ({"ray_tls": True, "address": "auto"}, "--ray-tls"),
    ],
)
def test_a_bad_flag_is_named(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        ClusterConfig(**flags).validate()
    assert said in str(raised.value)


def test_the_defaults_and_unusual_but_good_flags_pass() -> None:
    ClusterConfig().validate()
    ClusterConfig(name="a", members=1, nodes=0, node_cpu="500m", node_memory="1.5Gi", address="auto").validate()


def test_clusters_of_one_machine_have_addresses_of_their_own() -> None:
    plans = [AddressPlan(slot) for slot in range(SLOTS)]
    networks = [IPv4Network(c) for p in plans for c in (p.pod_cidr, p.service_cidr, p.external_cidr)]
    assert all(not a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
    for plan in plans:
        assert IPv4Network(plan.claim_address[0]).subnet_of(IPv4Network(plan.external_cidr))
        assert IPv4Network(plan.ingress_address.partition(":")[0]).subnet_of(IPv4Network(plan.external_cidr))
    assert not any(n.overlaps(IPv4Network("127.0.0.0/20")) for n in networks)


@pytest.mark.parametrize(("nodes", "pods"), [(0, 110), (1, 110), (2048, 110), (2049, 110), (4097, 61), (NODES_MAX, 61)])
def test_each_node_of_a_large_cluster_has_a_range_and_each_of_its_pods_an_address(nodes: int, pods: int) -> None:
    config = ClusterConfig(nodes=nodes)
    ranges = IPv4Network(AddressPlan(0).pod_cidr).subnets(new_prefix=config.node_prefix)
    first, count = next(ranges), 1 + sum(1 for _ in ranges)
    assert count >= nodes
    assert config.node_pods == pods <= first.num_addresses - 3


def test_how_many_clusters_fit_is_told_by_the_help() -> None:
    assert SLOTS > 7
    said = " ".join(CliRunner().invoke(app, ["up", "--help"]).output.split())
    assert f"At most {SLOTS} clusters run on a machine" in said


@pytest.mark.parametrize(("slot", "pods"), [(0, "127.16.0.0/13"), (6, "127.112.0.0/13")])
def test_a_cluster_of_an_older_version_keeps_its_addresses(slot: int, pods: str) -> None:
    assert AddressPlan(slot).pod_cidr == pods


# --- topology -----------------------------------------------------------------------------------


def test_roles_are_spread_over_the_machines_and_nodes_are_numbered_through() -> None:
    topology = founding(ClusterConfig(nodes=2, nodes_per_host=3), MACHINES)
    assert [i.machine.id for i in topology.of(Role.MEMBER)] == ["a", "b", "a"]
    assert [i.machine.id for i in topology.of(Role.APISERVER)] == ["a", "b"]
    nodes = [i.nodes for i in topology.of(Role.NODE_HOST)]
    assert nodes == [("node-0", "node-1", "node-2"), ("node-3", "node-4", "node-5")]
    assert crowded(topology) == ["member"]
    with pytest.raises(ClusterError, match="no machine"):
        founding(ClusterConfig(), ())


def test_freed_names_are_given_again_and_custom_ones_are_respected() -> None:
    topology = founding(ClusterConfig(), MACHINES)
    assert topology.next_name(Role.MEMBER) == "member-3"
    assert topology.without("member-1").next_name(Role.MEMBER) == "member-1"
    assert topology.next_node() == "node-3"
    with pytest.raises(UsageError, match="an actor called 'member-1' already"):
        topology.with_instance(Instance("member-1", Role.MEMBER, MACHINES[0]))


def test_actors_and_nodes_are_found_by_name_or_the_names_there_are_are_told() -> None:
    topology = founding(ClusterConfig(), MACHINES)
    assert topology.node_host("node-1").name == topology.node_host("node-host-1").name == "node-host-1"
    with pytest.raises(UsageError, match=r"no actor is called 'x'; there are supervisor, lb, member-0"):
        topology.get("x")
    with pytest.raises(UsageError, match="no node is called 'x'"):
        topology.node_host("x")


_NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_INSTANCES = st.builds(
    Instance,
    name=_NAMES,
    role=st.sampled_from(Role),
    machine=st.builds(Machine, address=_NAMES, id=_NAMES),
    ports=st.dictionaries(_NAMES, st.integers(1, 65535), max_size=2),
    nodes=st.lists(_NAMES, max_size=3).map(tuple),
    joins=st.booleans(),
    phase=st.sampled_from(Phase),
    replaces=_NAMES,
)


@given(st.lists(_INSTANCES, max_size=4, unique_by=lambda i: i.name))
def test_a_topology_survives_json(instances: list[Instance]) -> None:
    topology = Topology(tuple(instances))
    assert Topology.from_json(json.loads(json.dumps(topology.to_json()))) == topology


def test_a_topology_that_an_earlier_version_wrote_is_read() -> None:
    written = Instance("member-0", Role.MEMBER, MACHINES[0], {"client": 1}, joins=True).to_json()
    del written["phase"], written["replaces"]
    (member,) = Topology.from_json({"run": "r", "instances": [written]}).instances
    assert (member.phase, member.replaces, member.joins) == (Phase.ACTIVE, "", True)


# --- ports --------------------------------------------------------------------------------------


def test_a_free_port_is_free_and_not_taken() -> None:
    rng = random.Random(1)
    port = free_port("127.0.0.1", (), rng)
    assert port in RANGE and can_bind("127.0.0.1", port)
    with pytest.raises(ClusterError, match="no free port"):
        free_port("127.0.0.1", RANGE, rng)


def test_clusters_that_start_at_once_choose_from_ports_of_their_own() -> None:
    shares = [share(AddressPlan(slot)) for slot in range(SLOTS)]
    assert len({port for ports in shares for port in ports}) == sum(map(len, shares))
    assert all(port in RANGE for ports in shares for port in ports)
    rng = random.Random(1)
    assert free_port("127.0.0.1", (), rng, shares[3]) in shares[3]
    # A very large cluster needs more than its share.
    assert free_port("127.0.0.1", shares[3], rng, shares[3]) in RANGE


def test_a_port_in_use_is_not_free_and_foreign_addresses_count_as_free() -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not can_bind("127.0.0.1", server.getsockname()[1])
    assert can_bind("192.0.2.1", 20_100)


# --- state --------------------------------------------------------------------------------------


def _state() -> ClusterState:
    config = ClusterConfig(name="x", nodes=1)
    return ClusterState(config, AddressPlan(2), founding(config, MACHINES), True, {"pid": 7})


def test_the_state_survives_being_written(tmp_path: Path) -> None:
    directory = StateDir(tmp_path / "new" / "x")
    directory.create()
    directory.write(_state())
    assert directory.read() == directory.read_running() == _state()
    assert (tmp_path / "new" / "x").stat().st_mode & 0o777 == 0o700
    directory.write(replace(_state(), running=False))
    with pytest.raises(NotUp, match=r"run `rayplane up --state-dir [^ ]+`"):
        directory.read_running()
    directory.purge()
    assert directory.read() is None and not directory.path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {"name": "x", "colour": "blue"}}'])
def test_a_damaged_state_is_told_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(ClusterError, match=r"cluster\.json is damaged .* `rayplane down --purge --state-dir [^ ]+`"):
        StateDir(tmp_path).read()


def test_a_state_directory_that_cannot_be_made_is_a_cluster_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="choose a writable --state-dir") as e:
        StateDir(tmp_path / "file" / "x").create()
    assert str(e.value).count("choose") == 1
    assert StateDir(tmp_path / "file" / "x").read() is None


def test_the_default_directory_is_named_after_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert StateDir.of("x", None).path == Path.home() / ".rayplane" / "x"
    assert StateDir.of("x", "/tmp/y").path == Path("/tmp/y")
    monkeypatch.chdir(tmp_path)
    assert StateDir.of("x", "y").flags("x") == f" --name x --state-dir {tmp_path}/y"
    assert StateDir.of("default", "a b").flags("default") == f" --state-dir '{tmp_path}/a b'"
    assert (StateDir.of("x", None).flags("x"), StateDir.of("default", None).flags("default")) == (" --name x", "")
    assert StateDir.of("x", "y").kubeconfig == tmp_path / "y" / "kubeconfig"  # KUBECONFIG is used elsewhere too


# --- keys ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    return Secrets.create("x")


def test_secrets_are_kept_for_the_owner_only(secrets: Secrets, tmp_path: Path) -> None:
    assert Secrets.read(tmp_path / "pki") is None
    secrets.write(tmp_path / "pki")
    assert Secrets.read(tmp_path / "pki") == secrets
    assert {f.stat().st_mode & 0o077 for f in (tmp_path / "pki").iterdir()} == {0}


@pytest.mark.parametrize(
    ("role", "user", "groups"),
    [
        (Role.APISERVER, "system:apiserver", ("system:apiservers",)),
        (Role.SCHEDULER, "system:kube-scheduler", ()),
        (Role.CONTROLLERS, "system:kube-controller-manager", ()),
        (Role.NODE_HOST, "system:node:node-7", ("system:nodes", "rayplane:node-hosts", "system:node:node-8")),
        (Role.MEMBER, "system:etcd:x-0", ("system:etcd-members",)),
        (Role.SUPERVISOR, "system:rayplane:x-0", ("system:masters",)),
        (Role.LOAD_BALANCER, "system:rayplane:x-0", ()),
    ],
)
def test_who_an_actor_is(secrets: Secrets, role: Role, user: str, groups: tuple[str, ...]) -> None:
    instance = Instance("x-0", role, MACHINES[0], nodes=("node-7", "node-8"))
    credentials = issue(secrets.authority, instance, "127.24.0.1")
    identity = identity_of(credentials.cert)
    assert (identity.user, identity.groups) == (user, groups)
    names = x509.load_pem_x509_certificate(credentials.cert).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "10.0.0.1" in [str(a) for a in names.value.get_values_for_type(x509.IPAddress)]


def test_only_who_needs_a_secret_gets_it(secrets: Secrets) -> None:
    topology = founding(ClusterConfig(), MACHINES)
    maker = SpecMaker(config=ClusterConfig(), plan=AddressPlan(0), secrets=secrets, state_dir="/x")
    for instance in topology.instances:
        spec = maker.make(instance, topology, restarted=False)
        has_authority = spec.secrets is not None and spec.secrets.ca_key != b""
        assert has_authority == (instance.role is Role.SUPERVISOR)
        has_tokens = spec.secrets is not None and spec.secrets.token_key != b""
        assert has_tokens == (instance.role in (Role.SUPERVISOR, Role.APISERVER))
        assert spec.data_dir == f"/x/data/{instance.name}"


def test_the_timing_of_a_cluster_stays_until_another_is_asked_for() -> None:
    slow = ClusterConfig(timing="kubernetes")
    assert going_on(slow, ClusterConfig()).timings is KUBERNETES
    assert going_on(slow, ClusterConfig(timing="fast")).timings is FAST
    assert going_on(ClusterConfig(), slow).timings is KUBERNETES
    assert going_on(ClusterConfig(), ClusterConfig()).timings is FAST
    with pytest.raises(UsageError, match="--timing"):
        ClusterConfig(timing="none").validate()


def test_history_stays_as_long_as_was_asked_for_and_reaches_the_api_servers() -> None:
    assert going_on(ClusterConfig(history="1h"), ClusterConfig()).history_s == 3600
    assert going_on(ClusterConfig(history="1h"), ClusterConfig(history="30m")).history_s == 1800
    kept, none = (Timing.of(FAST, ClusterConfig(history=text).history_s) for text in ("1h", ""))
    assert (kept.history_s, kept.clock_interval_s > 0) == (3600, True)
    assert (none.history_s, none.clock_interval_s) == (0, 0)


def test_an_audit_policy_stays_with_the_cluster_until_another_is_asked_for(secrets: Secrets, tmp_path: Path) -> None:
    policy = default_policy()
    config = ClusterConfig(audit_policy=policy)
    assert going_on(config, ClusterConfig()) == config
    assert going_on(ClusterConfig(ray_tls=True), ClusterConfig()).ray_tls
    assert going_on(ClusterConfig(), ClusterConfig(ray_tls=True)).ray_tls
    assert not going_on(ClusterConfig(host="process"), ClusterConfig(ray_tls=True)).ray_tls
    assert going_on(config, ClusterConfig(audit_policy="none")).audit_policy == ""
    assert going_on(ClusterConfig(members=5), config) == ClusterConfig(members=5, audit_policy=policy)
    # The file goes with the text that came from it.
    from_file = ClusterConfig(audit_policy=policy, audit_policy_file="/a")
    assert going_on(from_file, ClusterConfig()) == from_file and going_on(config, from_file) == from_file
    assert going_on(from_file, config) == config
    kept = ClusterConfig.from_json(json.loads(json.dumps(config.to_json())))
    member = Instance("member-0", Role.MEMBER, MACHINES[0], {"client": 1})
    placed = Instance("apiserver-0", Role.APISERVER, MACHINES[0], {"grpc": 2, "https": 3})
    topology = Topology((member, placed), "run")
    maker = SpecMaker(config=kept, plan=AddressPlan(0), secrets=secrets, state_dir=str(tmp_path))
    spec = maker.make(placed, topology, restarted=True)
    env = Env(SystemClock(), random.Random(1), LocalDisk(tmp_path))
    server = build(spec, env, MemoryNetwork(Fabric(), "a"), tls_dir=None)
    assert isinstance(server, ApiServer)
    assert server.config.audit == AuditConfig(policy)


def test_the_kubeconfig_holds_all_it_needs(secrets: Secrets) -> None:
    admin = secrets.authority.issue("kubernetes-admin", ["system:masters"])
    found = yaml.safe_load(kubeconfig("x", "https://127.0.0.1:1", admin))
    assert found["current-context"] == found["contexts"][0]["name"] == "rayplane-x"
    assert found["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert set(found["clusters"][0]["cluster"]) == {"server", "certificate-authority-data"}
    assert set(found["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


async def test_a_state_nobody_can_read_can_be_purged(tmp_path: Path) -> None:
    directory = StateDir(tmp_path / "c")
    directory.create()
    (directory.path / "cluster.json").write_text("{")
    with pytest.raises(ClusterError, match="--purge"):
        await down(directory, lambda _: None)
    await down(directory, lambda _: None, purge=True)
    assert not directory.path.exists()


@pytest.mark.processes
def test_a_session_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """After a restart of the machine its number may be somebody else's."""
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        ray_cluster.stop({"pid": other.pid, "dir": str(tmp_path / "ray")})
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_policies_that_must_be_kept_need_pods_with_networks_of_their_own() -> None:
    asked = ClusterConfig(runtime="process", network_policy="on")
    for config, before in ((asked, None), (asked, AddressPlan(slot=1))):
        with pytest.raises(UsageError, match="--network-policy on: they are kept with --isolation namespaces alone"):
            await decide(config, before, lambda said: None)
    assert not await decide(ClusterConfig(network_policy="on"), None, lambda said: None)

"""What a runtime is told of a pod and its containers. Pure."""

import base64
import json
from typing import Any

import pytest

from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.node.config import NodeConfig, NodeHostConfig, cri_path
from rayplane.node.errors import ConfigError, ContainerConfigError
from rayplane.node.runtime import PodPlace, StartOrder
from rayplane.node.runtime.cri.configs import (
    MASKED,
    OWNER,
    READ_ONLY,
    Node,
    Prepared,
    container_config,
    propagation_of,
    sandbox_config,
)
from rayplane.node.runtime.cri.credentials import credentials_for
from rayplane.node.runtime.cri.images import check_user, name_and_id
from rayplane.node.runtime.cri.resources import cgroup_parent, container_resources, oom_score, page_size
from rayplane.proto.cri import cri_pb2 as pb
from tests.node.conftest import make_pod

NODE = Node("me", "n1", 8 << 30, profiles="/host/seccomp")
POD, CONTAINER, MACHINE = pb.NamespaceMode.POD, pb.NamespaceMode.CONTAINER, pb.NamespaceMode.NODE


def sandbox(pod: Any, **place: Any) -> pb.PodSandboxConfig:
    found = PodPlace("uid-p", "", "", "name", "/d", pod=pod, **place)
    return sandbox_config(found, NODE, attempt=2, log_directory="/d/logs")


def config(pod: Any, image: pb.Image | None = None, **order: Any) -> pb.ContainerConfig:
    made = StartOrder(pod, pod["spec"]["containers"][0], 3, "", "", **order)
    return container_config(made, Prepared(image or pb.Image(id="sha256:1"), "main/3.log", ()), NODE)


def test_a_sandbox_says_who_it_is_and_whose() -> None:
    pod = make_pod("p", annotations={"a": "b"})
    pod["metadata"]["labels"] = {"app": "web"}
    found = sandbox(pod, files={"/etc/resolv.conf": b"nameserver 1.2.3.4\nsearch x y\noptions ndots:5 rotate\n"})
    assert found.metadata == pb.PodSandboxMetadata(name="p", uid="uid-p", namespace="default", attempt=2)
    assert dict(found.labels) == {
        "app": "web",
        "io.kubernetes.pod.name": "p",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": "uid-p",
        OWNER: "me",
    }
    assert (found.hostname, found.log_directory, dict(found.annotations)) == ("name", "/d/logs", {"a": "b"})
    dns = found.dns_config
    assert ([*dns.servers], [*dns.searches], [*dns.options]) == (["1.2.3.4"], ["x", "y"], ["ndots:5", "rotate"])


@pytest.mark.parametrize(
    ("spec", "network", "pid", "ipc"),
    [
        ({}, POD, CONTAINER, POD),
        ({"shareProcessNamespace": True}, POD, POD, POD),
        ({"hostNetwork": True, "hostPID": True, "hostIPC": True}, MACHINE, MACHINE, MACHINE),
    ],
)
def test_namespaces_are_shared_as_the_pod_says(spec: dict[str, Any], network: int, pid: int, ipc: int) -> None:
    pod = make_pod("p", **spec)
    for security in (sandbox(pod).linux.security_context, config(pod).linux.security_context):
        options = security.namespace_options
        assert (options.network, options.pid, options.ipc) == (network, pid, ipc)


def test_ports_of_the_machine_lead_to_those_of_containers() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP", "hostIP": "1.1.1.1"}, {"containerPort": 81}]
    pod = make_pod("p", container={"ports": ports})
    (found,) = sandbox(pod).port_mappings
    assert (found.protocol, found.container_port, found.host_port) == (pb.Protocol.UDP, 80, 8080)
    assert not sandbox(make_pod("p", container={"ports": ports}, hostNetwork=True), host_network=True).port_mappings


def test_commands_are_expanded_and_variables_are_bytes() -> None:
    container = {"command": ["run", "$(A)"], "args": ["$$(A)", "$(B)"], "workingDir": "/w", "tty": True, "stdin": True}
    found = config(make_pod("p", container=container), env={"A": "1", "L": "\udcff"})
    assert ([*found.command], [*found.args]) == (["run", "1"], ["$(A)", "$(B)"])
    assert {e.key: e.value for e in found.envs} == {"A": b"1", "L": b"\xff"}
    assert (found.working_dir, found.tty, found.stdin, found.log_path) == ("/w", True, True, "main/3.log")
    assert (found.image.image, found.image.user_specified_image) == ("sha256:1", "app:1")
    assert found.labels["io.kubernetes.container.name"] == "main"


def test_what_the_container_says_of_security_goes_before_what_the_pod_says() -> None:
    own = {
        "runAsUser": 7,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
    }
    whole = {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 8, "supplementalGroups": [9]}
    pod = make_pod("p", container={"securityContext": own}, securityContext=whole)
    found = config(pod).linux.security_context
    assert (found.run_as_user.value, found.run_as_group.value) == (7, 6)
    assert [*found.supplemental_groups] == [8, 9]
    assert (found.readonly_rootfs, found.no_new_privs, found.privileged) == (True, True, False)
    assert ([*found.capabilities.add_capabilities], [*found.capabilities.drop_capabilities]) == (["NET_ADMIN"], ["ALL"])
    assert found.seccomp.localhost_ref == "/host/seccomp/p.json", "runtimes know nothing of the node's directory"
    assert ([*found.masked_paths], [*found.readonly_paths]) == ([*MASKED], [*READ_ONLY])
    of_sandbox = sandbox(pod).linux.security_context
    assert (of_sandbox.run_as_user.value, of_sandbox.run_as_group.value) == (5, 6)


@pytest.mark.parametrize(
    ("image", "said", "number", "name"),
    [
        (pb.Image(), {}, 0, ""),
        (pb.Image(uid=pb.Int64Value(value=7)), {}, 7, ""),
        (pb.Image(username="www"), {}, None, "www"),
        (pb.Image(username="www"), {"runAsUser": 0}, 0, ""),
    ],
)
def test_a_container_runs_as_its_images_user_where_its_pod_says_none(
    image: pb.Image, said: dict[str, int], number: int | None, name: str
) -> None:
    """Runtimes refuse a group (`runAsGroup`) without a user."""
    pod = make_pod("p", securityContext={"runAsGroup": 3000, **said})
    found = config(pod, image).linux.security_context
    assert (found.run_as_user.value if found.HasField("run_as_user") else None, found.run_as_username) == (number, name)
    assert found.run_as_group.value == 3000


def test_privileged_containers_see_everything() -> None:
    own = {"privileged": True, "allowPrivilegeEscalation": False}
    pod = make_pod("p", container={"securityContext": own})
    found = config(pod).linux.security_context
    assert (found.privileged, found.no_new_privs, [*found.masked_paths]) == (True, False, [])
    assert sandbox(pod).linux.security_context.privileged


def test_limits_are_quotas_and_bytes() -> None:
    resources = {"limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "250m"}}
    pod = make_pod("p", container={"resources": resources})
    found = container_resources(pod, pod["spec"]["containers"][0], node_memory=1 << 30)
    assert (found.cpu_shares, found.cpu_quota, found.cpu_period) == (256, 150_000, 100_000)
    assert found.memory_limit_in_bytes == found.memory_swap_limit_in_bytes == 64 << 20
    assert [(h.page_size, h.limit) for h in found.hugepage_limits] == [("2MB", 4 << 20)]
    tiny = make_pod("p", container={"resources": {"limits": {"cpu": "1m"}}})
    assert container_resources(tiny, tiny["spec"]["containers"][0], node_memory=1).cpu_quota == 1000


@pytest.mark.parametrize(("size", "name"), [(2 << 20, "2MB"), (1 << 30, "1GB"), (64 << 10, "64KB"), (3, "3B")])
def test_sizes_of_pages(size: int, name: str) -> None:
    assert page_size(size) == name


@pytest.mark.parametrize(
    ("resources", "spec", "score"),
    [
        ({}, {}, 1000),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}, {}, -997),
        ({"requests": {"memory": "1Gi"}}, {}, 875),
        ({"requests": {"memory": "8Gi"}}, {}, 3),
        ({"requests": {"memory": "1"}}, {}, 999),
        ({}, {"priorityClassName": "system-node-critical"}, -997),
    ],
)
def test_who_ends_first_when_memory_is_short(resources: dict[str, Any], spec: dict[str, Any], score: int) -> None:
    pod = make_pod("p", container={"resources": resources}, **spec)
    asked = {"1Gi": 1 << 30, "8Gi": 8 << 30, "1": 1}.get((resources.get("requests") or {}).get("memory", ""), 0)
    assert oom_score(pod, asked, 8 << 30) == score


def test_cgroups_are_named_as_the_runtime_wants() -> None:
    pod = make_pod("p")
    assert cgroup_parent(pod, "a-b", pb.CgroupDriver.CGROUPFS) == "/kubepods/besteffort/poda-b"
    assert cgroup_parent(pod, "a-b", pb.CgroupDriver.SYSTEMD) == "kubepods-besteffort-poda_b.slice"
    limits = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
    pod = make_pod("p", container={"resources": limits})
    assert cgroup_parent(pod, "a-b", pb.CgroupDriver.CGROUPFS) == "/kubepods/poda-b"


def test_how_mounts_pass_on() -> None:
    container = {"volumeMounts": [{"name": "v", "mountPath": "/a", "mountPropagation": "HostToContainer"}]}
    assert propagation_of(container, "/a") == pb.MountPropagation.PROPAGATION_HOST_TO_CONTAINER
    assert propagation_of(container, "/b") == pb.MountPropagation.PROPAGATION_PRIVATE


@pytest.mark.parametrize(
    ("security", "image", "refused"),
    [
        ({}, pb.Image(), False),
        ({"runAsNonRoot": True}, pb.Image(), True),
        ({"runAsNonRoot": True}, pb.Image(uid=pb.Int64Value(value=0)), True),
        ({"runAsNonRoot": True}, pb.Image(uid=pb.Int64Value(value=5)), False),
        ({"runAsNonRoot": True}, pb.Image(username="nobody"), True),
        ({"runAsNonRoot": True, "runAsUser": 0}, pb.Image(uid=pb.Int64Value(value=5)), True),
        ({"runAsNonRoot": True, "runAsUser": 5}, pb.Image(), False),
    ],
)
def test_who_must_not_be_root_is_not(security: dict[str, Any], image: pb.Image, refused: bool) -> None:
    pod = make_pod("p", securityContext=security)
    if refused:
        with pytest.raises(ContainerConfigError):
            check_user(pod, pod["spec"]["containers"][0], image)
    else:
        check_user(pod, pod["spec"]["containers"][0], image)


def secret(key: str, content: Any) -> dict[str, Any]:
    return {"type": f"kubernetes.io/{key[1:]}", "data": {key: base64.b64encode(json.dumps(content).encode()).decode()}}


@pytest.mark.parametrize(
    ("said", "tags", "digests", "shown"),
    [
        (
            "box",
            ["docker.io/library/a:1", "docker.io/library/box:latest"],
            [],
            ("docker.io/library/box:latest", "sha256:1"),
        ),
        ("box:1", ["docker.io/library/a:1"], [], ("docker.io/library/a:1", "sha256:1")),
        ("r.io/a", [], ["q.io/b@sha256:2", "r.io/a@sha256:3"], ("q.io/b@sha256:2", "r.io/a@sha256:3")),
        ("box:1", [], [], ("docker.io/library/box:1", "sha256:1")),
    ],
)
def test_images_are_shown_in_full(said: str, tags: list[str], digests: list[str], shown: tuple[str, str]) -> None:
    assert name_and_id(said, pb.Image(id="sha256:1", repo_tags=tags, repo_digests=digests)) == shown


@pytest.mark.parametrize(
    ("image", "users"),
    [
        ("reg.example.com/team/app:1", ["team", "registry"]),
        ("reg.example.com/teams/app@sha256:" + "0" * 64, ["registry"]),
        ("reg.example.com:5000/app", []),
        ("a.example.org/app", ["any"]),
        ("a.b.example.org/app", []),
        ("nginx", ["hub"]),
        ("localhost/app", []),
    ],
)
def test_registries_are_shown_what_the_pods_secrets_have_for_them(image: str, users: list[str]) -> None:
    entries = {
        "reg.example.com": {"auth": base64.b64encode(b"registry:p").decode()},
        "https://reg.example.com/team": {"username": "team", "password": "p"},
        "*.example.org": {"username": "any"},
        "https://index.docker.io/v1/": {"username": "hub"},
    }
    broken = [None, {"data": {".dockerconfigjson": "!"}}, secret(".dockercfg", ["no", "map"]), {}]
    found = credentials_for(image, [*broken, secret(".dockerconfigjson", {"auths": entries})])
    assert [auth.username for auth in found] == users
    assert [auth.username for auth in credentials_for(image, [secret(".dockercfg", entries)])] == users


@pytest.mark.parametrize(
    ("runtime", "path"),
    [
        ("cri:unix:///run/c.sock", "/run/c.sock"),
        ("cri:/run/c.sock", "/run/c.sock"),
        ("cri:tcp://x", ""),
        ("process", ""),
    ],
)
def test_a_runtime_is_named_by_its_socket(runtime: str, path: str) -> None:
    assert cri_path(runtime) == path
    config = NodeHostConfig(nodes=(NodeConfig("n", runtime=runtime),), apiservers=("a:1",))
    of_cluster = ClusterConfig(runtime=runtime)
    if path or runtime == "process":
        config.validate()
        of_cluster.validate()
        assert config.runs_processes and not config.isolates
    else:
        with pytest.raises(ConfigError, match="cri:unix:///PATH"):
            config.validate()
        with pytest.raises(UsageError, match="cri:unix:///PATH"):
            of_cluster.validate()

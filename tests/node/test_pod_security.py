"""What is read of a pod's security context, without a kernel to hold it."""

import base64
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.building import Step
from rayplane.node.images.users import User
from rayplane.node.kernel_parameters import forbidden
from rayplane.node.kubelet.admission import forbids
from rayplane.node.runtime.isolation import seccomp
from rayplane.node.runtime.isolation.build_runner import IsolatedRunner
from rayplane.node.runtime.isolation.pods import memory_volumes, oom_score, shares
from rayplane.node.runtime.isolation.rootfs import SKELETON, Box, Machine, plan, skeleton
from rayplane.node.runtime.isolation.users import USUAL, Identity, identity, known_groups
from rayplane.storage.beneath import Beneath
from tests.node.conftest import make_pod

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("net.ipv4.tcp_syncookies", False),
        ("net/ipv4/tcp_syncookies", False),
        ("net.ipv4/tcp_syncookies", True),
        ("kernel.shm_rmid_forced", False),
        ("kernel.msgmax", True),
        ("net.ipv4.conf.all.forwarding", True),
    ],
)
def test_kernel_parameters_that_are_not_known_to_be_a_pods_own_are_refused(name: str, refused: bool) -> None:
    pod = make_pod("p", securityContext={"sysctls": [{"name": name, "value": "1"}]})
    assert bool(forbidden(pod["spec"])) == refused
    refusal = forbids(pod)
    assert (refusal is not None and refusal.reason == "SysctlForbidden") == refused


def test_a_user_has_the_groups_that_the_containers_files_say() -> None:
    passwd = "root:x:0:0::/:\n# odd\nx:x\nu:x:77:88::/:\n"
    group = "a:x:5:u,v\nb:x:6:uu\nc:x:7:v,u\nd:x:bad:u\ne\n"
    assert known_groups(passwd, group, 77) == (88, [5, 7])
    assert known_groups(passwd, group, 0) == (0, [])
    assert known_groups(passwd, group, 5) == (None, [])


def test_an_identity_is_the_containers_before_the_pods() -> None:
    outer = {"runAsUser": 5, "runAsGroup": 6, "supplementalGroups": [7, 8], "fsGroup": 8, "runAsNonRoot": True}
    assert identity({"securityContext": outer}, {}) == Identity(uid=5, gid=6, groups=(7, 8))
    own = {"securityContext": {"runAsUser": 9, "capabilities": {"drop": ["ALL"], "add": ["CAP_NET_RAW"]}}}
    found = identity({"securityContext": outer | {"supplementalGroupsPolicy": "Strict"}}, own)
    assert (found.uid, found.merges, found.capabilities) == (9, False, frozenset({"NET_RAW"}))
    with pytest.raises(ContainerConfigError):
        identity({"securityContext": outer}, {"securityContext": {"runAsUser": 0}})


@pytest.mark.parametrize(
    ("resources", "score"),
    [
        ({}, 1000),
        ({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}, -997),
        ({"requests": {"memory": "1Gi"}}, 750),
        ({"requests": {"memory": "4Gi"}}, 3),
        ({"requests": {"cpu": "1"}}, 999),
    ],
)
def test_who_asked_for_much_memory_goes_late(resources: dict[str, Any], score: int) -> None:
    pod = make_pod("p", container={"resources": resources})
    assert oom_score(pod, pod["spec"]["containers"][0], 4 * GIB) == score


def test_a_volume_in_memory_is_bounded_by_itself_its_pod_and_its_node() -> None:
    def sizes(limit: str, **spec: Any) -> dict[str, dict[str, int]]:
        source = {"medium": "Memory"} | ({"sizeLimit": limit} if limit else {})
        volumes = [{"name": "m", "emptyDir": source}, {"name": "disk", "emptyDir": {}}]
        return memory_volumes(make_pod("p", volumes=volumes, **spec), 4 * GIB)

    limited = {"resources": {"limits": {"memory": "2Gi"}}}
    assert sizes("") == {"m": {"size": 4 * GIB}}
    assert sizes("", container=limited) == {"m": {"size": 2 * GIB}}
    assert sizes("1Gi", container=limited, securityContext={"fsGroup": 5}) == {"m": {"size": GIB, "gid": 5}}
    assert sizes("3Gi", container=limited) == {"m": {"size": 2 * GIB}}


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ({}, "user uts net ipc"),
        ({"hostNetwork": True, "hostIPC": True}, "user uts"),
        ({"shareProcessNamespace": True}, "user uts net ipc pid"),
        ({"hostPID": True}, "user uts net ipc"),
    ],
)
def test_every_pod_has_a_user_namespace_of_its_own(spec: dict[str, Any], kinds: str) -> None:
    assert shares(make_pod("p", **spec), 0)["kinds"] == kinds.split()


def test_proc_is_masked_before_anything_is_mounted_there() -> None:
    steps = [step["do"] for step in plan(Machine({}, ()), Box("/sys/0", {}, shm="/sys/own/shm"))]
    assert steps.index("proc") < steps.index("mask") < steps.index("pivot")
    assert "mask" not in [s["do"] for s in plan(Machine({}, ()), Box("/sys/0", {}, shm="/x", unmasked=True))]


def test_roots_without_an_image_share_what_is_below_all_of_them() -> None:
    machine = Machine({"bin": "usr/bin"}, ("usr", "etc"), {"/home/me/env": "/sys/1"})
    shared = {step["at"]: step for step in skeleton(machine)}
    assert shared["/bin"] == {"do": "link", "at": "/bin", "to": "usr/bin"}
    assert shared["/tmp"]["mode"] == 0o1777 and {"/usr", "/etc", "/home/me/env", "/proc", "/dev", "/sys"} < {*shared}
    assert {shared[above]["mode"] for above in ("/home", "/home/me", "/var")} == {0o755}, "others have to pass, too"
    first, *others = plan(machine, Box("/sys/0/box", {}, shm="/sys/own/shm"))
    assert (first["do"], first["upper"]) == ("image", "/sys/0/box/root-upper")
    assert [f"{first['base']}/{layer}" for layer in first["lower"]] == [SKELETON]
    layers = {step["at"]: (step["lower"], step["upper"]) for step in others if step["do"] == "overlay"}
    assert {*layers} == {"/usr", "/etc", "/home/me/env"} and len({upper for _, upper in layers.values()}) == 3


# --- filters of system calls ----------------------------------------------------------------------


def test_a_capability_lifts_what_is_refused_without_it() -> None:
    def refused(*capabilities: str) -> set[str]:
        return {name for rule in seccomp.usual(frozenset(capabilities)).rules for name in rule.names if not rule.args}

    assert {"mount", "setns", "keyctl", "bpf", "clone3"} <= refused()
    assert refused() - refused("SYS_ADMIN") >= {"mount", "setns", "clone3"} and "keyctl" in refused("SYS_ADMIN")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "no"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"] * 5000, "action": "SCMP_ACT_ERRNO"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [3]}]},
    ],
)
def test_a_profile_that_is_none_says_so(document: Any) -> None:
    with pytest.raises(ContainerConfigError):
        seccomp.read(document)


@pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp here")
@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"])
def test_a_profile_becomes_what_the_kernel_takes(default: str) -> None:
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 1}]
    rules = [
        {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": args},
    ]
    program = seccomp.compiled(seccomp.read({"defaultAction": default, "syscalls": rules}))
    assert len(program) > 32


# With rights that change nothing: of the machine's root this tries what it could do.
GIVE = """
import base64, os, sys
from rayplane.node.runtime.isolation import syscalls
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
syscalls.set_filter(base64.b64decode(sys.argv[1]))
path, uid, gid = sys.argv[2], os.getuid(), os.getgid()
for user, group in ((999, 999), (999, -1), (-1, 999), (uid, gid)):
    os.chown(path, user, group)
    os.lchown(path, user, group)
    os.chown(path, user, group, dir_fd=0, follow_symlinks=False)
    with open(path) as file:
        os.fchown(file.fileno(), user, group)
print(os.stat(path).st_uid == uid, os.stat(path).st_gid == gid)
"""


@pytest.mark.processes
@pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp here")
@pytest.mark.parametrize("kind", [seccomp.RUNTIME_DEFAULT, seccomp.UNCONFINED])
def test_root_of_one_number_gives_files_to_others_in_vain_and_unharmed(tmp_path: Path, kind: str) -> None:
    def made(*capabilities: str, one_user: bool) -> str:
        container = {"securityContext": {"seccompProfile": {"type": kind}}}
        return seccomp.filter_of({}, container, frozenset(capabilities), Beneath(tmp_path), one_user=one_user)

    ordinary = made("CHOWN", one_user=False)
    assert made(one_user=True) == made(one_user=False), "who may not give files is told so by the kernel"
    assert made("CHOWN", one_user=True) != ordinary and bool(ordinary) == (kind == seccomp.RUNTIME_DEFAULT)
    (file := tmp_path / "file").touch()
    asked = [sys.executable, "-c", GIVE, made("CHOWN", one_user=True), str(file)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp here")
def test_a_filter_is_found_below_the_hosts_directory_or_by_its_whole_path(tmp_path: Path) -> None:
    """Clients of CRI name it by the second, as it has them do; pods cannot."""
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    for name, below in (("p.json", tmp_path), (str(tmp_path / "p.json"), tmp_path / "other")):
        profile = {"seccompProfile": {"type": "Localhost", "localhostProfile": name}}
        assert seccomp.filter_of({}, {"securityContext": profile}, USUAL, Beneath(below), one_user=False)


@pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp here")
def test_a_filter_for_files_given_in_vain_is_for_nothing_else(tmp_path: Path) -> None:
    container = {"securityContext": {"seccompProfile": {"type": seccomp.UNCONFINED}}}
    made = seccomp.filter_of({}, container, frozenset({"CHOWN"}), Beneath(tmp_path), one_user=True)
    steps = struct.iter_unpack("=HBBI", base64.b64decode(made))
    allow, succeed = 0x7FFF_0000, 0x0005_0000
    assert {value for code, _, _, value in steps if code == 0x06} == {allow, succeed}


def test_builds_give_no_files_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image would say that they are root's, and be run where its users are others."""
    runner = IsolatedRunner(tmp_path, network=False, output=1, epoch=0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    order = runner._order(Step(str(tmp_path), [], ["true"], {}, User(), "/"))
    assert order["identity"]["filter"] == seccomp.filter_of({}, {}, USUAL, Beneath(tmp_path), one_user=False)

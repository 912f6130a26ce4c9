"""Security contexts of isolated pods, looked at from inside: what a container may not do, and whose its files are."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime.isolation import seccomp
from rayplane.node.runtime.isolation.ownership import give_to_group
from tests.fakes import FakeClient
from tests.node.isolated import SLEEP, Isolating, ended, isolating, make_isolating
from tests.node.processes import NODE, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
filtering = pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of a user without subordinate numbers are all his own")


# As `ping` does for a user without rights.
PING = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as asking:
    asking.sendto(bytes([8, 0, 0, 0, 0, 1, 0, 1]), ("127.0.0.1", 0))
    print("it answers" if asking.recv(64)[0] == 0 else "it does not")
"""


def of_machine(parameter: str) -> str:
    return Path("/proc/sys", parameter).read_text()


def secured(**context: Any) -> dict[str, Any]:
    return {"securityContext": context}


@filtering
async def test_a_container_has_the_usual_filter_unless_it_wants_none(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    script = "grep Seccomp: /proc/self/status; unshare -Ur true 2>&1; true"
    usual = await ended(api, host, script)
    assert "Seccomp:\t2" in usual and "Operation not permitted" in usual
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    # A command beside it is no way around.
    assert "Operation not permitted" in (await run_in(host, "box", "unshare", "-Ur", "true"))[1].decode()
    profile = {"type": "Unconfined"}
    script = "unshare -Ur true && echo it may"
    assert await ended(api, host, script, name="none", container=secured(seccompProfile=profile)) == "it may\n"
    assert await ended(api, host, script, name="all", container=secured(privileged=True)) == "it may\n"


@filtering
async def test_root_of_a_pod_gives_files_to_whom_it_likes(api: FakeClient, make_isolating: Isolating) -> None:
    """Where there is one user they stay his."""
    host = await make_isolating(NODE)
    script = "cd /tmp && touch f && install -m 600 -o 70 -g 70 f g && chown -R 999:999 f && stat -c %u:%g f g"
    said = await ended(api, host, script)
    assert said.split() == (["999:999", "70:70"] if os.geteuid() == 0 else ["0:0", "0:0"])


@filtering
@pytest.mark.parametrize("escalates", [True, False])
async def test_a_filter_of_the_machines_own_holds(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path, escalates: bool
) -> None:
    directory = tmp_path / "host0" / "seccomp"
    directory.mkdir(parents=True)
    deny = {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    (directory / "no-dirs.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [deny]}))
    host = await make_isolating(NODE)
    profile = {"type": "Localhost", "localhostProfile": "no-dirs.json"}
    context = secured(seccompProfile=profile, allowPrivilegeEscalation=escalates, runAsUser=1000)
    assert "No space left" in await ended(api, host, "mkdir /tmp/d 2>&1", container=context)
    missing = secured(seccompProfile={"type": "Localhost", "localhostProfile": "missing.json"})
    api.put("pods", shell("bad", SLEEP, container=missing))
    await api.until(lambda: "cannot load seccomp profile" in state(api, "bad").get("waiting", {}).get("message", ""))


async def test_what_proc_tells_of_the_machine_is_hidden(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    script = (
        "ls -A /proc/acpi /proc/scsi 2>/dev/null | wc -l; wc -c < /proc/kcore; echo 1 > /proc/sys/net/ipv4/ip_forward"
    )
    assert (await ended(api, host, f"({script}) 2>&1")).split()[-3:] == ["Read-only", "file", "system"]
    assert "Read-only" not in await ended(api, host, script, name="all", container=secured(privileged=True))
    assert "Read-only" not in await ended(
        api, host, script, name="proc", container=secured(procMount="Unmasked"), hostUsers=False
    )


async def test_kernel_parameters_are_a_pods_own(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    parameters = [
        {"name": "net.ipv4.ip_local_port_range", "value": "40000 50000"},
        {"name": "kernel/shm_rmid_forced", "value": "1"},
    ]
    script = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced"
    before = of_machine("net/ipv4/ip_local_port_range")
    said = await ended(api, host, script, securityContext={"sysctls": parameters})
    assert said.split() == ["40000", "50000", "1"]
    assert of_machine("net/ipv4/ip_local_port_range") == before
    api.put("pods", shell("bad", SLEEP, securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}))
    await api.until(lambda: phase(api, "bad") == "Failed")
    status = api.pod("bad")["status"]
    assert (status["reason"], "kernel.msgmax" in status["message"]) == ("SysctlForbidden", True)
    pinging = secured(runAsUser=7, runAsGroup=8)
    assert await ended(api, host, f"{sys.executable} -c '{PING}'", name="ping", container=pinging) == "it answers\n"


async def test_a_pod_that_must_not_be_root_is_not(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    assert await ended(api, host, "id -u", container=secured(runAsNonRoot=True)) == "65534\n"
    api.put("pods", shell("bad", SLEEP, container=secured(runAsNonRoot=True, runAsUser=0)))
    await api.until(lambda: "breaks non-root policy" in state(api, "bad").get("waiting", {}).get("message", ""))


@as_root
async def test_users_reach_what_is_theirs_in_roots_that_hosts_make_for_nobody_else(
    api: FakeClient, make_isolating: Isolating
) -> None:
    before = os.umask(0o077)
    try:
        host = await make_isolating(NODE)
    finally:
        os.umask(before)
    api.put("configmaps", {"metadata": {"name": "own", "namespace": "default"}, "data": {"ca.crt": "known"}})
    mount = {"volumeMounts": [{"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}
    volumes = [{"name": "own", "configMap": {"name": "own"}}]
    script = f"cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; {sys.executable} -c 'print(1)'"
    said = await ended(api, host, script, container={**mount, **secured(runAsUser=1000)}, volumes=volumes)
    assert said == "known1\n"


@as_root
async def test_groups_are_those_of_the_pod_and_of_the_containers_files(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    mount = {"volumeMounts": [{"name": "etc", "mountPath": "/etc"}]}
    users = "echo u:x:77:88::/:/bin/sh > /etc/passwd; echo g:x:99:a,u > /etc/group"
    init = {"name": "users", "image": "x", "command": ["sh", "-c", users]} | mount | secured(runAsUser=0)
    more: dict[str, Any] = {"container": mount, "initContainers": [init], "volumes": [{"name": "etc", "emptyDir": {}}]}
    for policy, groups in (("Merge", "5 88 99"), ("Strict", "5 88")):
        context = {"supplementalGroups": [5], "supplementalGroupsPolicy": policy, "runAsUser": 77}
        said = await ended(api, host, "id -G", name=policy.lower(), securityContext=context, **more)
        assert sorted(said.split()) == groups.split()
        user = api.pod(policy.lower())["status"]["containerStatuses"][0]["user"]["linux"]
        assert sorted(map(str, {user["gid"], *user["supplementalGroups"]})) == groups.split()


@as_root
async def test_volumes_belong_to_the_group_of_the_pods_files(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    volumes = [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "memory")]
    mounts.append({"name": "disk", "mountPath": "/part", "subPath": "a/b"})
    script = (
        "touch /disk/f /memory/f /part/f; stat -c '%a %g' /disk /memory /part && stat -c %g /disk/f /memory/f /part/f"
    )
    spec = {"fsGroup": 2000, "runAsUser": 1000, "runAsGroup": 3000}
    said = await ended(api, host, script, container={"volumeMounts": mounts}, volumes=volumes, securityContext=spec)
    assert said.splitlines() == ["2777 2000"] * 3 + ["2000"] * 3


async def test_a_volume_in_memory_is_shared_by_containers_and_holds_what_it_may(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    volumes = [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    mounts = {"volumeMounts": [{"name": "m", "mountPath": "/m"}]}
    init = {"name": "first", "image": "x", "command": ["sh", "-c", "echo kept > /m/f"], **mounts}
    script = "cat /m/f; df -T /m | grep -o tmpfs | head -1; head -c 2000000 /dev/zero > /m/big 2>&1; wc -c < /m/big"
    said = (await ended(api, host, f"({script}) 2>&1", container=mounts, initContainers=[init], volumes=volumes)).split(
        "\n"
    )
    assert said[:2] == ["kept", "tmpfs"] and int(said[-2]) < 1 << 20


async def test_the_kernel_is_told_who_is_to_go_first(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    assert await ended(api, host, "cat /proc/self/oom_score_adj") == "1000\n"


def test_a_group_gets_files_and_follows_no_link(tmp_path: Path) -> None:
    group, outside = os.getegid(), tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    volume = tmp_path / "volume"
    (volume / "deep").mkdir(parents=True)
    (volume / "deep" / "f").write_text("x")
    (volume / "deep" / "f").chmod(0o600)
    (volume / "link").symlink_to(outside)
    give_to_group(str(volume), group, on_mismatch=True)
    assert oct(volume.stat().st_mode & 0o7777) == oct((volume / "deep").stat().st_mode & 0o7777) == "0o2775"
    assert (volume / "deep" / "f").stat().st_mode & 0o777 == 0o660 and outside.stat().st_mode & 0o777 == 0o600
    (volume / "deep" / "f").chmod(0o600)
    give_to_group(str(volume), group, on_mismatch=True)
    assert (volume / "deep" / "f").stat().st_mode & 0o777 == 0o600
    give_to_group(str(volume), group, on_mismatch=False)
    assert (volume / "deep" / "f").stat().st_mode & 0o777 == 0o660

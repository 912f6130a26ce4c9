"""User and group numbers of isolated containers: how the machine's namespace maps them, and as whom a container runs.

A user without subordinate numbers has one number in the namespace, 0, which stands for himself; every file of a pod is
his. A container that asks for another number (`runAsUser`) then sees that one in a namespace of its own, without any
capability. Root of the machine gives pods a range of numbers that nobody else has: root of a pod is nobody there.
Source: user_namespaces(7), capabilities(7), core/v1 SecurityContext.
"""

import functools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.node.errors import ContainerConfigError

RANGE_FIRST = 1_000_000_000
"""Numbers of the machine that pods of root have, from here on; systemd leaves this part of its range to containers."""
RANGE_COUNT = 65536
NOBODY = 65534
GROUPS_MAX = 1024

_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_USUAL = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
    AUDIT_WRITE
"""
CAPABILITIES = tuple(_NAMES.split())
"""Names by number, from linux/capability.h."""
USUAL = frozenset(_USUAL.split())
"""What container runtimes leave to a container."""


def maps_many() -> bool:
    """Whether this user namespace has more than one number."""
    return _numbers() > 1


@functools.cache
def _numbers() -> int:
    with open("/proc/self/uid_map") as f:
        return int(f.readline().split()[2])


def write_maps(process: str) -> None:
    """Give a new user namespace the numbers of this one. `process`: the directory in /proc of one that is in it."""
    for name in ("uid_map", "gid_map"):
        with open(f"{process}/{name}", "w") as f:
            f.write(f"0 0 {_numbers()}")


def of_pods(number: int) -> int:
    """A user's or group's number if it is one that pods of root have on the machine, else root's."""
    return number if RANGE_FIRST <= number < RANGE_FIRST + RANGE_COUNT else 0


def give(path: str, mode: int, group: int = 0) -> None:
    """Let pods have what the node host made, as their root's: once, since what they change is theirs. A link is given,
    and not what it leads to.

    Raises OSError.
    """
    status = os.lstat(path)
    if os.geteuid() == 0:
        if status.st_uid:
            return
        os.chown(path, RANGE_FIRST, RANGE_FIRST + group, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, mode)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with groups and capabilities, as whom a container runs. Numbers are those it sees.

    `gid`: None for the one that the container's /etc/passwd says; `merges`: /etc/group adds to the groups; `filter`: of
    system calls (see `seccomp`), empty for none.
    """

    uid: int = 0
    gid: int | None = None
    groups: tuple[int, ...] = ()
    merges: bool = True
    capabilities: frozenset[str] = USUAL
    no_new_privileges: bool = False
    filter: str = ""

    def to_json(self) -> dict[str, Any]:
        numbers = sorted(CAPABILITIES.index(name) for name in self.capabilities)
        return {
            "uid": self.uid,
            "gid": self.gid,
            "groups": self.groups,
            "merges": self.merges,
            "capabilities": numbers,
            "no_new_privileges": self.no_new_privileges,
            "filter": self.filter,
        }


def identity(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Identity:
    """The identity of a container by its own and its pod's security context. Raises ContainerConfigError."""
    outer, own = pod.get("securityContext") or {}, container.get("securityContext") or {}

    def setting(name: str) -> Any:
        value = own.get(name)
        return outer.get(name) if value is None else value

    uid, gid = setting("runAsUser"), setting("runAsGroup")
    if setting("runAsNonRoot"):
        if uid == 0:
            raise ContainerConfigError("container's runAsUser breaks non-root policy")
        uid = NOBODY if uid is None else uid  # programs of the machine have no user of their own
    groups = [int(g) for g in outer.get("supplementalGroups") or ()]
    if outer.get("fsGroup") is not None:
        groups.append(int(outer["fsGroup"]))
    return Identity(
        uid=int(uid or 0),
        gid=None if gid is None else int(gid),
        groups=tuple(dict.fromkeys(groups)),
        merges=outer.get("supplementalGroupsPolicy") != "Strict",
        capabilities=_capabilities(own),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
    )


def _capabilities(context: Mapping[str, Any]) -> frozenset[str]:
    if context.get("privileged"):
        return frozenset(CAPABILITIES)
    changes = context.get("capabilities") or {}
    added, dropped = _names(changes.get("add")), _names(changes.get("drop"))
    known = frozenset(CAPABILITIES)
    kept = frozenset[str]() if "ALL" in dropped else USUAL
    kept = known if "ALL" in added else kept | (added & known)
    return kept - dropped


def known_groups(passwd: str, group: str, uid: int) -> tuple[int | None, list[int]]:
    """A user's own group, and those he is a member of, by the text of /etc/passwd and /etc/group."""
    name, own = "", None
    for fields in (line.split(":") for line in passwd.splitlines()):
        if len(fields) > 3 and fields[2] == str(uid) and fields[3].isdecimal():
            name, own = fields[0], int(fields[3])
            break
    found = [
        int(fields[2])
        for fields in (line.split(":") for line in group.splitlines())
        if name and len(fields) > 3 and fields[2].isdecimal() and name in fields[3].split(",")
    ]
    return own, found[:GROUPS_MAX]


def _names(names: Iterable[str] | None) -> frozenset[str]:
    return frozenset(name.upper().removeprefix("CAP_") for name in names or ())

"""Filters of system calls for containers: the usual one of container runtimes, and those of the machine's owner.

A filter is made outside of pods, by libseccomp where it is there (`pyseccomp`), and handed to containers as what the
kernel takes. Source: seccomp(2), OCI runtime specification "Seccomp", Docker documentation "Seccomp security profiles".
"""

import base64
import errno
import functools
import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rayplane.node.errors import ContainerConfigError
from rayplane.storage.beneath import Beneath

RUNTIME_DEFAULT, UNCONFINED = "RuntimeDefault", "Unconfined"
RULES_MAX = 4096
_PROFILE_BYTES_MAX = 1 << 20
_ACTIONS = {
    "SCMP_ACT_ALLOW": "ALLOW",
    "SCMP_ACT_ERRNO": "ERRNO",
    "SCMP_ACT_KILL": "KILL_THREAD",
    "SCMP_ACT_KILL_THREAD": "KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS": "KILL_PROCESS",
    "SCMP_ACT_LOG": "LOG",
    "SCMP_ACT_TRAP": "TRAP",
}
_COMPARISONS = {
    "SCMP_CMP_NE": "NE",
    "SCMP_CMP_LT": "LT",
    "SCMP_CMP_LE": "LE",
    "SCMP_CMP_EQ": "EQ",
    "SCMP_CMP_GE": "GE",
    "SCMP_CMP_GT": "GT",
    "SCMP_CMP_MASKED_EQ": "MASKED_EQ",
}
#: Refused with EPERM unless the container has the capability; none lifts what stands at "".
_DENIED = {
    "": """
        add_key keyctl request_key get_mempolicy set_mempolicy set_mempolicy_home_node mbind migrate_pages move_pages
        io_uring_setup io_uring_enter io_uring_register userfaultfd uselib ustat sysfs _sysctl nfsservctl query_module
        create_module get_kernel_syms vm86 vm86old kexec_load kexec_file_load swapon swapoff
    """,
    "SYS_ADMIN": """
        mount umount umount2 pivot_root unshare setns mount_setattr move_mount open_tree open_tree_attr fsopen fsconfig
        fsmount fspick bpf perf_event_open lookup_dcookie quotactl quotactl_fd fanotify_init setdomainname
    """,
    "SYS_PTRACE": "kcmp process_madvise",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_MODULE": "init_module finit_module delete_module",
    "SYS_TIME": "settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_BOOT": "reboot",
    "SYS_PACCT": "acct",
    "SYS_TTY_CONFIG": "vhangup",
}
#: Calls that give files, and the index of the user among their arguments; the group comes after.
_GIVING = {"chown": 1, "chown32": 1, "lchown": 1, "lchown32": 1, "fchown": 1, "fchown32": 1, "fchownat": 2}
_NEW_NAMESPACES = 0x7E02_0080
_AF_VSOCK = 40
_UNKNOWN = -1


def filter_of(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    capabilities: frozenset[str],
    profiles: Beneath,
    *,
    one_user: bool,
) -> str:
    """The filter that a container asks for, compiled; empty for none. `profiles`: the directory of the machine's own;
    `one_user`: the container is root where there is no other user.

    One that does not say has the usual one, as under a kubelet with `seccompDefault`, where the machine can make it.
    One of the machine's own stays as its owner wrote it, for one user too. Raises ContainerConfigError.
    """
    own = container.get("securityContext") or {}
    wanted = own.get("seccompProfile") or (pod.get("securityContext") or {}).get("seccompProfile") or {}
    kind = wanted.get("type") or RUNTIME_DEFAULT
    unconfined = own.get("privileged") or kind == UNCONFINED
    if unconfined or kind == RUNTIME_DEFAULT:
        rules = () if unconfined else usual(capabilities).rules
        rules += giving_to_nobody() if one_user and "CHOWN" in capabilities else ()
        foreign = "ALLOW" if unconfined else "ERRNO"
        return compiled(Profile("ALLOW", rules, foreign=foreign)) if rules and library() is not None else ""
    name = wanted["localhostProfile"]
    if name.startswith("/"):  # as clients of CRI name one; a pod of the API cannot
        name, profiles = name.lstrip("/"), Beneath("/")
    try:
        return compiled(read(json.loads(profiles.read(name, _PROFILE_BYTES_MAX))))
    except (OSError, ValueError) as e:
        raise ContainerConfigError(f"cannot load seccomp profile {name!r} below {profiles.root}: {e}") from e


@dataclass(frozen=True, slots=True)
class Rule:
    """An action on system calls. `args`: (index, comparison, value, second value), all of which must hold."""

    names: tuple[str, ...]
    action: str
    number: int = errno.EPERM
    args: tuple[tuple[int, str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules, and what is done where none fits."""

    default: str
    rules: tuple[Rule, ...]
    number: int = errno.EPERM
    foreign: str = "ERRNO"
    """What is done with calls of an architecture that the rules are not for."""


def usual(capabilities: frozenset[str]) -> Profile:
    """What container runtimes refuse to a container by default."""
    denied = [n for lifted_by, names in _DENIED.items() if lifted_by not in capabilities for n in names.split()]
    rules = [Rule(tuple(denied), "ERRNO")]
    if "SYS_ADMIN" not in capabilities:
        flags = [1 << bit for bit in range(32) if _NEW_NAMESPACES >> bit & 1]
        rules += [Rule(("clone",), "ERRNO", args=((0, "MASKED_EQ", flag, flag),)) for flag in flags]
        # Its flags are in memory, where no filter can look: programs then use `clone`.
        rules.append(Rule(("clone3",), "ERRNO", errno.ENOSYS))
    rules.append(Rule(("socket",), "ERRNO", args=((0, "EQ", _AF_VSOCK, 0),)))
    return Profile("ALLOW", tuple(rules))


def giving_to_nobody() -> tuple[Rule, ...]:
    """What lets root give files to users that its namespace has no number for: it succeeds, and they stay root's.

    Else programs fail that do so as a matter of course: `tar` of `kubectl cp`, entrypoints of databases' images.
    """
    return tuple(
        Rule((name,), "ERRNO", 0, args=((index, "GT", 0, 0),))
        for name, user in _GIVING.items()
        for index in (user, user + 1)
    )


def read(document: Any) -> Profile:
    """A profile in the form of the OCI runtime specification. Raises ContainerConfigError."""
    try:
        default = _ACTIONS[document["defaultAction"]]
        rules = tuple(_rule(part) for part in document.get("syscalls") or ())
        number = int(document.get("defaultErrnoRet") or errno.EPERM)
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise ContainerConfigError(f"seccomp profile: {type(e).__name__}: {e}") from e
    if sum(len(rule.names) for rule in rules) > RULES_MAX:
        raise ContainerConfigError(f"seccomp profile: more than {RULES_MAX} system calls are named")
    return Profile(default, rules, number)


def _rule(part: Mapping[str, Any]) -> Rule:
    args = tuple(
        (int(a["index"]), _COMPARISONS[a["op"]], int(a["value"]), int(a.get("valueTwo") or 0))
        for a in part.get("args") or ()
    )
    number = int(part.get("errnoRet") or errno.EPERM)
    return Rule(tuple(str(name) for name in part["names"]), _ACTIONS[part["action"]], number, args)


@functools.cache
def library() -> ModuleType | None:
    """`pyseccomp` with its library, None where one of them is not there."""
    try:
        return importlib.import_module("pyseccomp")
    except (ImportError, RuntimeError, OSError):
        return None


@functools.lru_cache(64)
def compiled(profile: Profile) -> str:
    """A profile as the kernel takes it, in base64. Raises ContainerConfigError where it cannot be."""
    made = library()
    if made is None:
        raise ContainerConfigError("seccomp profile: libseccomp is not on this machine, or pyseccomp is not installed")
    try:
        default = _action(made, profile.default, profile.number)
        program = made.SyscallFilter(defaction=default)
        program.set_attr(made.Attr.ACT_BADARCH, _action(made, profile.foreign, errno.EPERM))
        for arch in _also(made):
            program.add_arch(arch)
        for rule in profile.rules:
            action = _action(made, rule.action, rule.number)
            if action != default:  # which the library refuses
                for name in rule.names:
                    _add(made, program, action, name, rule)
        with tempfile.TemporaryFile() as file:
            program.export_bpf(file)
            file.seek(0)
            return base64.b64encode(file.read()).decode()
    except (OSError, ValueError) as e:
        raise ContainerConfigError(f"seccomp profile: {e}") from e


def _action(made: ModuleType, name: str, number: int) -> Any:
    return made.ERRNO(number) if name == "ERRNO" else getattr(made, name)


def _also(made: ModuleType) -> list[Any]:
    """Other calls that a processor takes beside its own: a filter of one alone would let them by."""
    arch = made.Arch
    return {arch.X86_64: [arch.X86, arch.X32], arch.AARCH64: [arch.ARM]}.get(made.system_arch(), [])


def _add(made: ModuleType, program: Any, action: Any, name: str, rule: Rule) -> None:
    if made.resolve_syscall(made.Arch.NATIVE, name) == _UNKNOWN:
        return  # a call that the library is older than
    args = [made.Arg(index, getattr(made, how), value, second) for index, how, value, second in rule.args]
    program.add_rule(action, name, *args)

"""Namespace calls of Linux that Python 3.11 does not offer: clone(2), unshare(2), setns(2), mount(2), pivot_root(2).

Each raises OSError as `os` does.
"""

import ctypes
import os
import platform
import signal
from collections.abc import Iterable

CLONE_PARENT = 0x0000_8000
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 0x4_0000, 0x8_0000
MNT_DETACH = 2

PR_SET_DUMPABLE = 4
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522

#: (clone, pivot_root, keyctl) by machine; the arguments of clone that are used here come in one order on all of them.
_NUMBERS = {"x86_64": (56, 155, 250), "aarch64": (220, 41, 219), "riscv64": (220, 41, 219)}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_CLOSE_RANGE, _CLOSE_RANGE_CLOEXEC, _MOST = 436, 4, 0xFFFF_FFFF  # one number on all machines, as of all newer calls
_OPEN_TREE, _MOVE_MOUNT = 428, 429
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _AT_RECURSIVE, _MOVE_MOUNT_F_EMPTY_PATH = 0x1, 0x1000, 0x8000, 0x4
_AT_FDCWD = -100
_MOUNT_SETATTR, _MOUNT_ATTR_RDONLY = 442, 0x1
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

# The interpreter's lock stays held in a call: a process that is cloned has one thread, and goes on in Python.
_libc = ctypes.PyDLL(None, use_errno=True)


def _number(which: int) -> int:
    try:
        return _NUMBERS[platform.machine()][which]
    except KeyError:
        raise OSError(38, f"namespaces on {platform.machine()} machines are not known here") from None


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def clone(flags: int) -> int:
    """As `os.fork`, with new namespaces for the child. Only for a process with one thread."""
    none = ctypes.c_ulong(0)
    number = ctypes.c_long(_number(0))
    return _check(_libc.syscall(number, ctypes.c_ulong(flags | signal.SIGCHLD), none, none, none, none), "clone")


def unshare(flags: int) -> None:
    """Go into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Go into the namespace that `fd` shows, which must be of this kind; by a pidfd, into those of a process."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system, or with MS_BIND a tree."""
    words = [word.encode(errors="surrogateescape") or None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"{source or kind} at {target}")


def copy_tree(fd: int) -> int:
    """A copy of the mounts at and below a descriptor's place, nowhere mounted yet: a descriptor for `attach`."""
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
    return _check(
        _libc.syscall(ctypes.c_long(_OPEN_TREE), ctypes.c_int(fd), b"", ctypes.c_uint(flags)), "copy of a mount"
    )


def attach(tree: int, target: str) -> None:
    """Mount what `copy_tree` gave."""
    words = (ctypes.c_int(tree), b"", ctypes.c_int(_AT_FDCWD), os.fsencode(target))
    _check(_libc.syscall(ctypes.c_long(_MOVE_MOUNT), *words, ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)), target)


def unmount(target: str) -> None:
    _check(_libc.umount2(target.encode(), MNT_DETACH), target)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root; the old one appears at `old`."""
    _check(_libc.syscall(ctypes.c_long(_number(1)), new.encode(), old.encode()), f"pivot_root {new}")


def set_host_name(name: str) -> None:
    data = name.encode()
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), "sethostname")


def prctl(option: int, value: int = 0, more: int = 0) -> None:
    words = (ctypes.c_ulong(value), ctypes.c_ulong(more), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(_libc.prctl(option, *words), f"prctl {option}")


def leave_session_keys() -> None:
    """Have none of the keys of the session that this process was started in (keyctl(2)); all below it neither."""
    none = ctypes.c_void_p(0)
    _libc.syscall(ctypes.c_long(_number(2)), ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), none)  # a kernel may have none


def close_on_exec(first: int) -> None:
    """Have no descriptor from `first` on in the program that comes."""
    _close_range(first, _MOST, _CLOSE_RANGE_CLOEXEC)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor that is not among `kept`."""
    first = 0
    for fd in sorted(set(kept)):
        if fd > first:
            _close_range(first, fd - 1, 0)
        first = fd + 1
    _close_range(first, _MOST, 0)


def _close_range(first: int, last: int, flags: int) -> None:
    words = (ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))
    _check(_libc.syscall(ctypes.c_long(_CLOSE_RANGE), *words), "close_range")


def set_filter(program: bytes) -> None:
    """Have the kernel look at every system call from now on by a program of 8-byte instructions (seccomp(2))."""
    held = ctypes.create_string_buffer(program, len(program))
    header = _FilterProgram(len(program) // 8, ctypes.addressof(held))
    words = (ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(header), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(_libc.prctl(_PR_SET_SECCOMP, *words), "seccomp")


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def make_mount_read_only(target: str, *, recursive: bool) -> None:
    """Make what is mounted there read-only; `recursive`: and what is mounted below."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    words = (ctypes.c_int(_AT_FDCWD), os.fsencode(target), flags, ctypes.byref(attributes))
    _check(_libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *words, ctypes.c_size_t(ctypes.sizeof(attributes))), target)


def set_capabilities(numbers: "frozenset[int]") -> None:
    """Make `numbers` the permitted, effective and inheritable capabilities (capabilities(7)) of this process."""
    mask = sum(1 << n for n in numbers)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _check(_libc.capset(header, data), "capset")

"""Memory file systems of pods: /dev/shm, which containers of a pod share, and volumes of medium Memory.

They stand in the shim's mount namespace, below `OWN`, live as long as their pod, and go with the shim.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.rootfs import OWN

SHM_BYTES = 64 << 20
"""As container runtimes give to /dev/shm."""
SHM = "shm"
VOLUME = "volume-"
"""Before the name of a volume, as the name of what keeps it."""
MACHINE = ""
"""Stands for the pod whose /dev/shm those have that share the machine's."""


def place(uid: str, name: str) -> str:
    """Where the shim has something of a pod."""
    return f"{_directory(uid)}/{name}"


def _directory(uid: str) -> str:
    return f"{OWN}/{hashlib.blake2s(uid.encode(), digest_size=12).hexdigest()}"


def keep(uid: str, wanted: Mapping[str, Mapping[str, int]]) -> None:
    """Make file systems for a pod. `wanted`: by name, `size` in bytes and the group of files, `gid`. Raises OSError."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    os.makedirs(_directory(uid), mode=0o711, exist_ok=True)
    for name, settings in wanted.items():
        at = place(uid, name)
        os.mkdir(at)
        mode = 0o1777 if name == SHM else 0o2777 if "gid" in settings else 0o777
        noexec = syscalls.MS_NOEXEC if name == SHM else 0
        data = ",".join([f"mode={mode:o}", *(f"{setting}={value}" for setting, value in settings.items())])
        syscalls.mount(name, at, "tmpfs", flags | noexec, data)


def drop(uid: str) -> None:
    """Let go of what a pod has here. What still runs of it keeps it until then."""
    directory = _directory(uid)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):  # it was not mounted yet
                syscalls.unmount(f"{directory}/{name}")
            os.rmdir(f"{directory}/{name}")
        os.rmdir(directory)

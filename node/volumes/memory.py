"""Volumes in memory of pods whose runtime makes none by itself: file systems of this machine, mounted at their volumes.

They live as long as their pod, whoever dies: a host that was killed finds them where they were, and who removes a
pod's files, ends the host or takes its cluster down unmounts them. Only root may mount.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from rayplane.node.runtime.isolation import syscalls

_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
#: Tells these from file systems that others have mounted below the same directory, which are theirs to unmount.
_SOURCE = "rayplane-memory"
#: How mountinfo tells a blank, a tab, a newline and a backslash (proc_pid_mountinfo(5)).
_ESCAPED = re.compile(r"\\([0-7]{3})")


def mount_in_memory(path: str, settings: Mapping[str, int]) -> None:
    """Have a directory in memory, if it is not so already. `settings`: `size` in bytes, where it has one.

    Raises OSError.
    """
    if os.path.ismount(path):
        return  # an earlier life of the host did it, and the pod goes on
    size = f",size={settings['size']}" if "size" in settings else ""
    syscalls.mount(_SOURCE, path, "tmpfs", _FLAGS, f"mode=0777{size}")


def unmount(path: str) -> None:
    """Give back what is in memory; nothing where there is none. Raises OSError."""
    if os.path.ismount(path):
        syscalls.unmount(path)


def unmount_below(directory: str) -> None:
    """Give back all volumes in memory below a directory."""
    above = os.path.realpath(directory)
    try:
        told = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except FileNotFoundError:
        return  # no Linux, or nothing that could mount
    for path in _in_memory(told):
        if path.startswith(f"{above}/"):
            with contextlib.suppress(OSError):  # another user's, or it went
                syscalls.unmount(path)


def _in_memory(text: str) -> list[str]:
    """Where volumes in memory are mounted, those that lie over others first."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[1:2] == [_SOURCE]:
            found.append(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4]))
    return found[::-1]

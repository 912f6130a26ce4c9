"""Files of volumes given to a pod's group (fsGroup), so that whoever is in it may read and write them.

Where the pods of a machine have one user's number, every file is his, and there is no group to give it to.
Source: core/v1 PodSecurityContext (fsGroup, fsGroupChangePolicy), Kubernetes concepts "Configure a Security Context".
"""

import os
import stat

_FILE, _DIRECTORY = 0o660, stat.S_ISGID | 0o770


def give_to_group(path: str, group: int, *, on_mismatch: bool) -> None:
    """Give a volume's files to a group, links not followed. `on_mismatch`: only if its directory is not the group's.

    Raises OSError.
    """
    top = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(top.st_mode):
        return
    if on_mismatch and top.st_gid == group and top.st_mode & _DIRECTORY == _DIRECTORY:
        return
    for _, _, names, directory in os.fwalk(path, follow_symlinks=False):
        for name in names:
            _give(name, directory, group)
        os.fchown(directory, -1, group)
        os.fchmod(directory, stat.S_IMODE(os.fstat(directory).st_mode) | _DIRECTORY)


def _give(name: str, directory: int, group: int) -> None:
    """One file, by a descriptor: a pod that has the volume too may put a link in its place meanwhile."""
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            os.chown(f"/proc/self/fd/{fd}", -1, group)
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode) | _FILE)
    finally:
        os.close(fd)

"""Control groups of pods that runtimes make at their kubelet's word, and leave when the pod has gone."""

import contextlib
import glob
import os

ROOT = "/sys/fs/cgroup"
_TIERS = ("", "burstable/", "besteffort/")


def remove_groups(uid: str, root: str = ROOT) -> None:
    """Remove what is empty of a pod's: all its processes have ended. `root`: of the groups' file systems."""
    if not uid or "/" in uid:
        return
    for mount in (root, *glob.glob(f"{root}/*")):
        for tier in _TIERS:
            with contextlib.suppress(OSError):
                os.rmdir(f"{mount}/kubepods/{tier}pod{uid}")

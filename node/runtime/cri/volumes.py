"""Files of pods of another runtime: there numbers of users and groups are the machine's own."""

import os
import stat
from collections.abc import Sequence

from rayplane.control_plane.api import meta
from rayplane.node.runtime import PodPlace
from rayplane.node.runtime.isolation.ownership import give_to_group


def give(path: str, mode: int, group: int = 0) -> None:
    """Let pods have what the node host made, whoever they run as. A link is given, and not what it leads to.

    Raises OSError.
    """
    if os.geteuid() == 0:
        os.chown(path, -1, group, follow_symlinks=False)
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        os.chmod(path, mode)


def give_volumes(place: PodPlace, own: Sequence[str]) -> None:
    """Let a pod, and the group of its files, have those of its volumes that are below `own`: other paths are the
    machine's. Raises OSError."""
    context = meta.spec(place.pod).get("securityContext") or {}
    group, on_mismatch = context.get("fsGroup"), context.get("fsGroupChangePolicy") == "OnRootMismatch"
    for path in place.volumes.values():
        if not any(path.startswith(f"{directory}/") for directory in own):
            continue
        if not os.listdir(path):
            give(path, 0o777)  # once: how a volume in use is kept is its pods' to say
        if group is not None and os.geteuid() == 0:
            give_to_group(path, int(group), on_mismatch=on_mismatch)

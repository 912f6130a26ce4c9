"""Vitals of a node whose pods are processes: what it and its machine have left, and what its pods use."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.node.config import NodeConfig
from rayplane.node.kubelet.pressure import (
    IMAGE_FS,
    IMAGE_INODES,
    MEMORY,
    NODE_FS,
    NODE_INODES,
    PIDS,
    Observation,
    PodUse,
)
from rayplane.node.runtime import ContainerRun

#: Of one pod at most so many files are counted.
FILES_MAX = 200_000


class MachineVitals:
    """The vitals of one node. `root`: the directory of its pods; `runs`: of each pod by its uid, by container;
    `images`: tells where the images are, empty where that is the disk of the pods.
    """

    def __init__(
        self,
        config: NodeConfig,
        runs: Callable[[], Mapping[str, Mapping[str, ContainerRun]]],
        root: Path,
        images: Callable[[], str] = str,
    ) -> None:
        self._memory = quantity.value(config.memory)
        self._runs, self._root, self._images = runs, root, images

    async def observe(self) -> Mapping[str, Observation]:
        used = sum(run.usage({}).memory_bytes for runs in self._runs().values() for run in runs.values() if run.real)
        seen = await asyncio.get_running_loop().run_in_executor(None, _of_machine, self._root, self._images())
        left = self._memory - used
        if MEMORY in seen:
            left = min(left, seen[MEMORY].available)
        return {**seen, MEMORY: Observation(max(0, left), self._memory)}

    def use(self, pod: Object) -> PodUse:
        usages = {name: run.usage(pod) for name, run in (self._runs().get(meta.uid(pod)) or {}).items()}
        memory = {name: usage.memory_bytes for name, usage in usages.items()}
        return PodUse(memory, processes=sum(usage.processes for usage in usages.values()))

    async def disk(self, pod: Object) -> tuple[Mapping[str, int], Mapping[str, int]]:
        scratch = [v["name"] for v in meta.spec(pod).get("volumes") or () if "emptyDir" in v]
        names = [c["name"] for c in meta.spec(pod)["containers"]]
        place = self._root / meta.uid(pod)

        def count() -> tuple[dict[str, int], dict[str, int]]:
            volumes = {name: place / "volumes" / name for name in scratch}
            # What is in memory is on no disk, and holds itself to its limit.
            on_disk = {name: bytes_below(path) for name, path in volumes.items() if not os.path.ismount(path)}
            return on_disk, {name: bytes_below(place / "containers" / name) for name in names}

        return await asyncio.get_running_loop().run_in_executor(None, count)


def bytes_below(directory: Path) -> int:
    """Bytes on the disk of what is in a directory, of as many files as are counted; no link is followed."""
    total = files = 0
    for above, _, names in os.walk(directory):
        for name in names:
            files += 1
            try:
                total += os.lstat(os.path.join(above, name)).st_blocks * 512
            except OSError:
                continue  # it went meanwhile
        if files > FILES_MAX:
            break
    return total


def _of_machine(root: Path, images: str) -> dict[str, Observation]:
    """What can be told of this machine."""
    seen: dict[str, Observation] = {}
    try:
        for place, space, inodes in ((root, NODE_FS, NODE_INODES), (images or root, IMAGE_FS, IMAGE_INODES)):
            disk = os.statvfs(place)
            seen[space] = Observation(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
            if disk.f_files:  # some file systems do not count them
                seen[inodes] = Observation(disk.f_favail, disk.f_files)
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(told[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        seen[MEMORY] = Observation(free, total)
        most = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        seen[PIDS] = Observation(max(0, most - running), most)
    except (OSError, KeyError, ValueError):
        return seen
    return seen

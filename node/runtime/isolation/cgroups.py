"""Control groups of pods and containers, where the machine lets its user have some: limits, use, lack of memory.

A node host has a group of its own, in it one for each pod, and in that one for each container. Version 2: the nearest
group above this process that is its user's and hands its controllers on (as systemd delegates them). Version 1: below
this process' group of each controller, which only root may do. Source: cgroups(7), Linux documentation cgroup-v1 and
cgroup-v2.
"""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayplane.node.runtime.isolation.limits import NEW, Limits, files_v1, files_v2

CONTROLLERS = ("cpu", "memory", "pids")
_V1 = (*CONTROLLERS, "cpuacct")
PREFIX = "rayplane-host-"
_NO_CPU_BOUND = {"cpu.max": "max", "cpu.cfs_quota_us": "-1"}
_PASSES, _PASS_S = 100, 0.02  # whoever forks meanwhile is met again


@dataclass(frozen=True, slots=True)
class Use:
    """Processor time in nanoseconds, and bytes that cannot be given back at once; ends by lack of memory until now; how
    many processes there are."""

    cpu_ns: int
    memory_bytes: int
    kills: int
    processes: int


class Group:
    """A group: one directory, or in version 1 one for each controller. Methods raise OSError unless they say else."""

    def __init__(self, directories: Mapping[str, str], version: int) -> None:
        self._directories = directories
        self.version = version

    def below(self, name: str) -> "Group":
        return Group({controller: f"{path}/{name}" for controller, path in self._directories.items()}, self.version)

    @property
    def paths(self) -> list[str]:
        return [*dict.fromkeys(self._directories.values())]

    def make(self, *, hands_on: bool = False) -> bool:
        """Make it; whether it is new. `hands_on`: groups are to be in it, and no processes."""
        is_new = True
        for path in self.paths:
            try:
                os.makedirs(path)
            except FileExistsError:
                is_new = False
        if hands_on and self.version == 2:
            there = _words(f"{self.paths[0]}/cgroup.controllers")
            wanted = " ".join(f"+{controller}" for controller in CONTROLLERS if controller in there)
            _write(f"{self.paths[0]}/cgroup.subtree_control", wanted)
        return is_new

    def set(self, limits: Limits, *, is_new: bool = False) -> None:
        """Set what the machine has controllers for. `is_new`: it is as it was made."""
        files = files_v2(limits) if self.version == 2 else files_v1(limits)
        if is_new:
            files = {name: value for name, value in files.items() if NEW.get(name) != value}
        for name, value in files.items():
            directory = self._directories.get(name.partition(".")[0])
            if directory is not None and os.path.exists(f"{directory}/{name}"):
                _write(f"{directory}/{name}", value)

    def lift_cpu(self) -> None:
        """Take its bound of processor time away, for the end of what is in it. What has gone meanwhile is nothing."""
        for name, value in _NO_CPU_BOUND.items():
            file = f"{self._directories.get('cpu', '')}/{name}"
            with contextlib.suppress(OSError):
                if os.path.exists(file):
                    _write(file, value)

    def entries(self) -> list[int]:
        """Descriptors: a process that writes 0 to them is in the group. The caller closes them."""
        return [os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for path in self.paths]

    def use(self) -> Use:
        """What it uses. What cannot be read counts as nothing."""
        processes = len([*_words(f"{self.paths[0]}/cgroup.procs")])
        if self.version == 2:
            (path,) = self.paths
            cpu = _number(f"{path}/cpu.stat", "usage_usec") * 1000
            memory = _number(f"{path}/memory.current") - _number(f"{path}/memory.stat", "inactive_file")
            return Use(cpu, max(0, memory), _number(f"{path}/memory.events", "oom_kill"), processes)
        memory_dir = self._directories.get("memory", "")
        cpu = _number(f"{self._directories.get('cpuacct', '')}/cpuacct.usage")
        memory = _number(f"{memory_dir}/memory.usage_in_bytes") - _number(
            f"{memory_dir}/memory.stat", "total_inactive_file"
        )
        return Use(cpu, max(0, memory), _number(f"{memory_dir}/memory.oom_control", "oom_kill"), processes)

    def remove(self) -> None:
        """Kill what is in it and below, and remove it. Never raises: what stays is told by its being there."""
        for _ in range(_PASSES):
            if not any([self._remove(path) for path in self.paths]):
                return
            time.sleep(_PASS_S)  # a process that was killed is in it until it is gone

    def _remove(self, path: str) -> bool:
        """Whether something of it is left."""
        with contextlib.suppress(OSError):
            if os.path.exists(f"{path}/cgroup.kill"):
                _write(f"{path}/cgroup.kill", "1")
        for directory, _, _ in os.walk(path, topdown=False):
            for pid in map(int, _words(f"{directory}/cgroup.procs")):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if pid:  # else it is of other namespaces, and 0 would be this one's group
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return os.path.exists(path)


def find(host: str, *, proc: str = "/proc/self", mounts: str = "/proc/self/mountinfo") -> Group | None:
    """The group of a host that this process may have below its own, not made yet; None where it may have none.

    `host`: a name of it on this machine.
    """
    own = _own(Path(f"{proc}/cgroup").read_text())
    found = mounted(Path(mounts).read_text())
    name = f"{PREFIX}{hashlib.blake2s(host.encode(), digest_size=8).hexdigest()}"
    if "" in found and "" in own:
        for path in _upwards(found[""], own[""]):
            if _hands_on(path):
                return Group(dict.fromkeys((*CONTROLLERS, ""), f"{path}/{name}"), 2)
    places = {c: found[c] + own[c].rstrip("/") for c in _V1 if c in found and c in own}
    usable = {c: f"{path}/{name}" for c, path in places.items() if os.access(path, os.W_OK)}
    return Group(usable, 1) if "memory" in usable and os.geteuid() == 0 else None


def _own(text: str) -> dict[str, str]:
    """This process' group by controller, "" for version 2 (proc_pid_cgroup(5))."""
    return {
        controller: path
        for line in text.splitlines()
        for _, controllers, path in [line.split(":", 2)]
        for controller in controllers.split(",")
    }


def mounted(text: str) -> dict[str, str]:
    """Where groups are mounted, whole, by controller, "" for version 2 (proc_pid_mountinfo(5))."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), (*after.split(), "", "", "")[:3]
        if kind == "cgroup2":
            found.setdefault("", fields[4])
        elif kind == "cgroup":
            for controller in options.split(","):
                found.setdefault(controller, fields[4])
    return found


def _upwards(top: str, own: str) -> Iterator[str]:
    path = own.rstrip("/")
    while True:
        yield top + path
        if not path:
            return
        path = path.rpartition("/")[0]


def _hands_on(path: str) -> bool:
    """Whether groups with controllers can be made here: it is ours, and has handed memory on."""
    files = (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
    return all(os.access(file, os.W_OK) for file in files) and "memory" in _words(f"{path}/cgroup.subtree_control")


def _words(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return ()


def _number(path: str, key: str = "") -> int:
    """A number in a file: all of it, or the line of a key."""
    words = [*_words(path)]
    try:
        return int(words[words.index(key) + 1] if key else words[0])
    except (ValueError, IndexError):
        return 0


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)

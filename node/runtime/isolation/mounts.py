"""The root of a container, made in the child that is going to be it: the steps of a plan from `rootfs`, one by one.

A source is opened where the machine's files still are, and below the root that its step names: no link of a pod's
making leads out of it. A target of a step after `pivot` is a path as the container sees it: its links lead to its own
files and to nothing else, since the machine's are gone by then. Even /proc may be the pod's there.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayplane.node.runtime.isolation import syscalls
from rayplane.storage.beneath import Beneath

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_CALM = syscalls.MS_NOSUID | syscalls.MS_NODEV
_NEW_ROOT = "/"
_LAYER_MODE = 0o755
_DATA_MAX = 4095  # mount(2) takes a page
#: Below /proc: what containers may read only, and what they do not see.
_KEPT = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_HIDDEN = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")


class Builder:
    """A builder that carries out steps.

    It knows where the new root stands before it is the root.
    """

    def __init__(self, sources: Mapping[int, int], root: str = "") -> None:
        self._sources = sources
        self._root = root

    def source(self, step: Mapping[str, Any]) -> int:
        return self._sources[id(step)]

    def at(self, step: Mapping[str, Any]) -> str:
        return f"{self._root}{step['at']}"

    def place(self, source: str | int, target: str) -> None:
        """Have something of the source's sort to mount on."""
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.makedirs(target, exist_ok=True)
        elif not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o644))

    # --- steps ------------------------------------------------------------------------------------

    def root(self, step: Mapping[str, Any]) -> None:
        """A directory that becomes the root."""
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(f"/proc/self/fd/{self.source(step)}", step["on"], "", syscalls.MS_BIND)
        self._root = step["on"]

    def bind(self, step: Mapping[str, Any]) -> None:
        source, target = self.source(step), os.path.realpath(self.at(step))
        self.place(source, target)
        syscalls.attach(source, target)
        if step.get("read_only"):
            syscalls.make_mount_read_only(target, recursive=step["recursive"])

    def overlay(self, step: Mapping[str, Any]) -> None:
        """Layers below what the container writes."""
        target = self.at(step)
        os.makedirs(target, exist_ok=True)
        data = f"lowerdir={':'.join(step['lower'])}{_own_layer(step)},userxattr"
        syscalls.mount("overlay", target, "overlay", 0, data)

    def image(self, step: Mapping[str, Any]) -> None:
        """A root of layers below what the container writes."""
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        _lay_over(step, step["on"], _own_layer(step))
        self._root = step["on"]

    def link(self, step: Mapping[str, Any]) -> None:
        if not os.path.lexists(self.at(step)):
            os.symlink(step["to"], self.at(step))

    def directory(self, step: Mapping[str, Any]) -> None:
        target = self.at(step)
        if "mode" not in step:
            with contextlib.suppress(FileExistsError):
                os.makedirs(os.path.realpath(target))
            return
        if os.path.islink(target) or (os.path.exists(target) and not os.path.isdir(target)):
            os.unlink(target)  # an image's: nothing of it may be followed before its root is the root
        os.makedirs(target, exist_ok=True)
        os.chmod(target, step["mode"])

    def pivot(self, step: Mapping[str, Any]) -> None:
        """Go to the new root and let the old one go, before any path of the pod's is followed."""
        old = os.open("/", os.O_PATH | os.O_CLOEXEC)
        os.chdir(self._root)
        syscalls.pivot_root(".", ".")
        os.fchdir(old)
        os.close(old)
        syscalls.unmount(".")
        os.chdir("/")
        self._root = ""

    def tmpfs(self, step: Mapping[str, Any]) -> None:
        target = self.at(step)
        os.makedirs(target, exist_ok=True)
        syscalls.mount("tmpfs", target, "tmpfs", _CALM, step.get("data", ""))

    def proc(self, step: Mapping[str, Any]) -> None:
        target = self.at(step)
        os.makedirs(target, exist_ok=True)
        syscalls.mount("proc", target, "proc", _CALM | syscalls.MS_NOEXEC)

    def mask(self, step: Mapping[str, Any]) -> None:
        """Hide what /proc tells of the machine and its devices, and let nobody write what is of the machine."""
        for name in _KEPT:
            target = f"{self.at(step)}/{name}"
            if os.path.exists(target):
                syscalls.mount(target, target, "", syscalls.MS_BIND | syscalls.MS_REC)
                make_read_only(target)
        for name in _HIDDEN:
            target = f"{self.at(step)}/{name}"
            if os.path.isdir(target):
                syscalls.mount("tmpfs", target, "tmpfs", _CALM | syscalls.MS_RDONLY, "size=0")
            elif os.path.exists(target):
                syscalls.mount("/dev/null", target, "", syscalls.MS_BIND)

    def hide(self, step: Mapping[str, Any]) -> None:
        if os.path.isdir(self.at(step)):
            syscalls.mount("tmpfs", self.at(step), "tmpfs", _CALM | syscalls.MS_RDONLY, "size=4k")

    def devices(self, step: Mapping[str, Any]) -> None:
        """/dev as containers have it, without anything of the machine that could be harmed."""
        target = self.at(step)
        self.tmpfs({"at": step["at"], "data": "mode=755,size=64k"})
        for name in _DEVICES:
            self.place(f"/dev/{name}", f"{target}/{name}")
            syscalls.mount(f"/dev/{name}", f"{target}/{name}", "", syscalls.MS_BIND)
        for name, to in _LINKS.items():
            os.symlink(to, f"{target}/{name}")
        os.mkdir(f"{target}/pts")
        syscalls.mount("devpts", f"{target}/pts", "devpts", syscalls.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", f"{target}/ptmx")

    def read_only(self, step: Mapping[str, Any]) -> None:
        make_read_only(self.at(step) or _NEW_ROOT)


_STEPS: dict[str, Callable[[Builder, Mapping[str, Any]], None]] = {
    "root": Builder.root,
    "image": Builder.image,
    "bind": Builder.bind,
    "overlay": Builder.overlay,
    "link": Builder.link,
    "directory": Builder.directory,
    "pivot": Builder.pivot,
    "tmpfs": Builder.tmpfs,
    "proc": Builder.proc,
    "mask": Builder.mask,
    "hide": Builder.hide,
    "devices": Builder.devices,
    "read_only": Builder.read_only,
}


def furnish(root: str, steps: Sequence[Mapping[str, Any]]) -> None:
    """Make links and directories below a directory of one's own. Raises OSError."""
    os.makedirs(root, exist_ok=True)
    builder = Builder({}, root)
    for step in steps:
        _STEPS[step["do"]](builder, step)


def build(steps: Sequence[Mapping[str, Any]]) -> None:
    """Make a root by the steps of a plan and go there. Raises OSError with the path that could not be."""
    builder = Builder({id(step): _source(step) for step in steps if "from" in step or "over" in step})
    for step in steps:
        _STEPS[step["do"]](builder, step)


def _own_layer(step: Mapping[str, Any]) -> str:
    """A fresh layer for what the container writes, as an option of a mount."""
    for part in ("upper", "work"):
        os.mkdir(step[part], _LAYER_MODE)
    return f",upperdir={step['upper']},workdir={step['work']}"


def _source(step: Mapping[str, Any]) -> int:
    if "over" in step:
        return _laid_over(step)
    if step.get("fresh"):
        os.mkdir(step["from"], _LAYER_MODE)
    fd = _open(step)
    if step["do"] != "bind":
        return fd
    try:
        return syscalls.copy_tree(fd)
    finally:
        os.close(fd)


def _laid_over(step: Mapping[str, Any]) -> int:
    """A copy of a mount of layers, made where the root is going to stand."""
    _lay_over(step, step["over"])
    try:
        fd = _open({**step, "from": step["over"]})
        try:
            return syscalls.copy_tree(fd)
        finally:
            os.close(fd)
    finally:
        syscalls.unmount(step["over"])


def _lay_over(step: Mapping[str, Any], target: str, more: str = "") -> None:
    data = f"lowerdir={':'.join(step['lower'])}{more},userxattr"
    if len(data) > _DATA_MAX:
        raise OSError(errno.E2BIG, "an image has too many layers", target)
    os.chdir(step["base"])
    syscalls.mount("overlay", target, "overlay", 0, data)
    os.chdir("/")


def _open(step: Mapping[str, Any]) -> int:
    below = step.get("below")
    if not below:
        return os.open(step["from"], os.O_PATH | os.O_CLOEXEC)
    volume = Beneath(step["from"])
    try:
        return volume.open(below, os.O_PATH, links=True)
    except FileNotFoundError:
        if not step["make"]:  # layers are all containers'
            raise
        volume.make_alike(below, links=True)
        return volume.open(below, os.O_PATH, links=True)


def make_read_only(target: str) -> None:
    """Mount again what is mounted there, read-only; flags that a lesser user may not take away stay."""
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
    kept = os.statvfs(target).f_flag & (syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("", target, "", flags | kept)

"""Directories of real pods on this machine: volumes as files, logs.

Layout below the root: `<uid>/volumes/<name>/...`, `<uid>/containers/<name>/...`. Files of ConfigMaps and
the like change all at once, through a symbolic link `..data` that is replaced atomically, as Kubernetes' volumes do.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from rayplane.node.volumes.projected import VolumeFile, mount_failed
from rayplane.storage.beneath import Beneath, LeavesRoot, is_whole, one_name

log = logging.getLogger(__name__)

_DATA, _NEXT = "..data", "..data_tmp"
_VERSION = "..v"
#: By the type of a hostPath, what must be there.
_HOST_PATHS: dict[str, tuple[Callable[[str], bool], str]] = {
    "Directory": (os.path.isdir, "a directory"),
    "DirectoryOrCreate": (os.path.isdir, "a directory"),
    "File": (os.path.isfile, "a file"),
    "FileOrCreate": (os.path.isfile, "a file"),
    "Socket": (lambda path: _mode(path, stat.S_ISSOCK), "a socket file"),
    "CharDevice": (lambda path: _mode(path, stat.S_ISCHR), "a character device"),
    "BlockDevice": (lambda path: _mode(path, stat.S_ISBLK), "a block device"),
}
_OF_GROUP = 0o440  # what Kubernetes adds to files of a pod that has an fsGroup


def _mode(path: str, is_so: Callable[[int], bool]) -> bool:
    try:
        return is_so(os.stat(path).st_mode)
    except OSError:
        return False


class PodFiles:
    """The directories of a host's pods.

    `root` is this host's own. Pods write below it, so that nothing there is followed out of it. `give`: lets pods that
    run as others have a file or directory, with its mode and group. `kept`: directories of the machine for no pod.
    """

    def __init__(self, root: str, give: Callable[..., None] | None = None, *, kept: Iterable[str] = ()) -> None:
        self._give = give
        self._kept = [os.path.realpath(path) for path in kept]
        self.root = Path(os.path.realpath(root))
        self._versions = 0
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = Beneath(self.root)

    def create(self, uid: str) -> str:
        """The pod's directory. Raises OSError."""
        for part in ("volumes", "containers"):
            self._files.make_dirs(f"{one_name(uid)}/{part}")
        return str(self.root / uid)

    async def remove(self, uid: str) -> None:
        """Remove what a pod has left, in a thread: it may be much."""
        await asyncio.get_running_loop().run_in_executor(None, self._remove, uid)

    def _remove(self, uid: str) -> None:
        try:
            self.unmount(uid)
            self._files.remove(one_name(uid))
        except OSError as e:
            log.warning("files of pod %s stay until the next start: %s", uid, e)

    async def keep_only(self, uids: Iterable[str]) -> None:
        """Remove what pods of an earlier life left behind."""
        known = frozenset(uids)
        for name in self._files.names():
            if name not in known:
                await self.remove(name)

    def volume_dir(self, directory: str, volume: str) -> str:
        """A directory for a volume of the pod; what it holds survives restarts of containers and host, as the pod does.
        Raises OSError."""
        path = f"{os.path.basename(directory)}/volumes/{one_name(volume)}"
        fresh = self._files.lstat(path) is None
        self._files.make_dirs(path)
        if fresh and self._give is not None:
            self._give(f"{self.root}/{path}", 0o777)
        return f"{self.root}/{path}"

    def unmount(self, uid: str) -> None:
        """Give back the memory of a pod's volumes, which has ended. Raises OSError."""
        volumes = self.root / one_name(uid) / "volumes"
        for name in os.listdir(volumes) if volumes.is_dir() else ():
            if os.path.ismount(volumes / name):
                # Imported here so that a simulation never loads what mounts.
                from rayplane.node.volumes.memory import unmount

                unmount(str(volumes / name))

    def unmount_all(self) -> None:
        """The same of all pods: with the host they have ended."""
        from rayplane.node.volumes.memory import unmount_below

        unmount_below(str(self.root))

    def read(self, directory: str, path: str, limit: int) -> bytes | None:
        """The beginning of a file in a volume of a pod, which may plant links there; None when there is none."""
        try:
            return self._files.below(os.path.relpath(directory, self.root)).read(path, limit)
        except OSError:
            return None

    def host_path(self, volume: dict[str, Any]) -> str:
        """A path of the machine. Raises MountError when it is not what the volume's type says."""
        path, kind = volume["hostPath"]["path"], volume["hostPath"].get("type") or ""
        if not is_whole(path):
            raise mount_failed(volume["name"], f"hostPath {path} must be absolute and must not contain '..'")
        path = os.path.realpath(path)
        if any(path == kept or path.startswith(f"{kept}/") for kept in (str(self.root), *self._kept)):
            raise mount_failed(
                volume["name"], f"hostPath {path} holds files of the cluster: use a volume of this pod's own"
            )
        # Without a type container runtimes make a directory too.
        if kind in ("", "DirectoryOrCreate"):
            self.make_host_dir(path)
        elif kind == "FileOrCreate" and not os.path.exists(path):
            Path(path).touch()
            self._let_have(path, 0o644)
        is_so, what = _HOST_PATHS.get(kind, (os.path.exists, "there"))
        if not is_so(path):
            raise mount_failed(volume["name"], f"hostPath type check failed: {path} is not {what}")
        return path

    def make_host_dir(self, path: str) -> None:
        """Make a directory of the machine, for pods to have; what is there already stays as it is. Raises OSError."""
        if not os.path.exists(path):
            os.makedirs(path)
            self._let_have(path, 0o755)

    def _let_have(self, path: str, mode: int) -> None:
        os.chmod(path, mode)  # whatever this host keeps from others
        if self._give is not None:
            self._give(path, mode)

    def project(self, directory: str, files: Mapping[str, VolumeFile], group: int | None = None) -> None:
        """Make a volume of a pod show exactly `files` (relative path to file); `group` can read them. OSError."""
        for path in files:
            if path.startswith(("/", "..")) or ".." in path.split("/"):
                raise LeavesRoot(path, directory, "must be relative, not contain '..' and not start with '..'")
        with self._files.below(os.path.relpath(directory, self.root)).held() as base:
            self._project(base, {*base.names()}, files, group)

    def _project(
        self, base: Beneath, before: AbstractSet[str], files: Mapping[str, VolumeFile], group: int | None
    ) -> None:
        """`before`: names in the volume. Pods only read it: nobody puts anything else in the way meanwhile."""
        fresh = self._write_version(base, before, files, group)
        if _NEXT in before:
            base.remove(_NEXT)
        self._link(base, fresh, _NEXT)
        if _DATA in before and base.readlink(_DATA) is None:
            base.remove(_DATA)
        base.rename(_NEXT, _DATA)
        wanted = {os.path.normpath(path).split("/")[0] for path in files}
        for name in sorted(wanted):
            if name in before and base.readlink(name) == f"{_DATA}/{name}":
                continue
            if name in before:
                base.remove(name)
            self._link(base, f"{_DATA}/{name}", name)
        for name in before:
            if name.startswith(_VERSION) or (name not in wanted and not name.startswith("..")):
                base.remove(name)

    def _link(self, base: Beneath, target: str, name: str) -> None:
        base.symlink(target, name)
        if self._give is not None:
            self._give(f"{base.root}/{name}", 0o777)

    def _write_version(
        self, base: Beneath, before: AbstractSet[str], files: Mapping[str, VolumeFile], group: int | None
    ) -> str:
        """A new directory with the files."""
        while True:
            self._versions += 1
            fresh = f"{_VERSION}{self._versions}"
            if fresh not in before:
                break
        folders = dict.fromkeys((fresh, *(f"{fresh}/{above}" for path in files for above in _folders(path))))
        for folder in folders:
            base.make_dirs(folder)
        for path, file in files.items():
            base.write_new(f"{fresh}/{path}", file.data, file.mode)
        if self._give is not None:
            for folder in folders:
                self._give(f"{base.root}/{folder}", 0o755)
            for path, file in files.items():
                mode = file.mode if group is None else file.mode | _OF_GROUP
                self._give(f"{base.root}/{fresh}/{path}", mode, group or 0)
        return fresh


def _folders(path: str) -> list[str]:
    """The directories that a relative path leads through, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def state_of(machine_file: str) -> str:
    """The directory of the cluster on this machine, with its keys if they are there."""
    data = os.path.dirname(os.path.realpath(machine_file))
    above = os.path.dirname(data)
    return above if os.path.exists(f"{above}/.rayplane") else data

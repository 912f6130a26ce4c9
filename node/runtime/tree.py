"""The files of one container: a root of its own, with its volumes in it as symbolic links.

Layout below the pod's directory: `containers/<name>/root/...`, logs, and `termination-log`. Without mount namespaces
a volume appears at its mount path by a link, so a volume mounted below another cannot appear in it. Volumes are never
written to for that: it is reached by its absolute path and its variable, and where the outer volume is an emptyDir
that has nothing of that name, by a link in it too.

Paths come from the pod's object, links from its processes; neither leads out of the container and its volumes.
"""

import contextlib
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace

from rayplane.node.errors import ContainerConfigError
from rayplane.node.runtime import Mount
from rayplane.storage.beneath import Beneath, LeavesRoot

TERMINATION_LOG = "termination-log"
_LOG = re.compile(r"[^/]*\.log(\.[0-9]+)?")


class ContainerTree:
    """The directories of a pod's containers. `directory` is the pod's; its parent belongs to the node host alone."""

    def __init__(self, directory: str, container: str) -> None:
        self._pods = Beneath(os.path.dirname(directory))
        self._pod = os.path.basename(directory)
        self._own = f"{self._pod}/containers/{container}"
        self.files = self._pods.below(self._own)
        self.root = self.files.below("root")
        self.mounts: tuple[Mount, ...] = ()

    # --- start ------------------------------------------------------------------------------------

    def prepare(self, mounts: Iterable[Mount], *, log: str) -> None:
        """Make the root and its mounts; of logs keep `log` and the one before it.

        Raises ContainerConfigError for mounts that cannot be, OSError.
        """
        self._pods.make_dirs(f"{self._own}/root")
        placed: dict[str, Mount] = {}
        for mount in sorted(mounts, key=lambda m: len(_inner(m))):
            placed[_inner(mount)] = replace(mount, source=self.source(mount), sub_path="")
        self.mounts = tuple(placed.values())
        for path, mount in placed.items():
            if path:
                self._link(path, mount)
        with self.files.held() as files:
            names = files.names()
            _drop_old_logs(files, names, log)
            if TERMINATION_LOG in names:
                files.remove(TERMINATION_LOG)

    def source(self, mount: Mount) -> str:
        """Real path of what a mount shows. Raises ContainerConfigError."""
        if not mount.sub_path.strip("/"):
            return mount.source
        volume = self._volume(mount)
        try:
            try:
                return volume.resolve(mount.sub_path)
            except FileNotFoundError:
                volume.make_alike(mount.sub_path, links=True)
                return volume.resolve(mount.sub_path)
        except OSError as e:
            raise _unprepared(mount, e) from e

    def check_sub_paths(self, mounts: Iterable[Mount]) -> None:
        """Raises ContainerConfigError where one leads out of its volume. Whether it is there sees who mounts it."""
        for mount in mounts:
            if mount.sub_path.strip("/") and not mount.layers:
                try:
                    self._volume(mount).resolve(mount.sub_path)
                except LeavesRoot as e:
                    raise _unprepared(mount, e) from e
                except OSError:
                    continue

    def _volume(self, mount: Mount) -> Beneath:
        own = f"{self._pods.root}/{self._pod}/"
        if mount.source.startswith(own):
            return self._pods.below(mount.source.removeprefix(f"{self._pods.root}/"))
        return Beneath(mount.source)

    def _link(self, path: str, mount: Mount) -> None:
        outer = self._find(posixpath.dirname(path))[0]
        if outer is not None:
            rest = path.removeprefix(_inner(outer)).strip("/")
            if outer.scratch:
                with contextlib.suppress(OSError):  # what is there already is the pod's
                    volume = self._volume(outer)
                    volume.make_dirs(posixpath.dirname(rest))
                    volume.symlink(mount.source, rest)
            return
        above = path.split("/")
        for depth in range(1, len(above)):
            here = "/".join(above[:depth])
            status = self.root.lstat(here)
            if status is not None and not _is_directory(status):
                self.root.remove(here)
        self.root.make_dirs(posixpath.dirname(path))
        if self.root.readlink(path) != mount.source:
            self.root.remove(path)
            self.root.symlink(mount.source, path)

    # --- paths ------------------------------------------------------------------------------------

    def place(self, path: str, *, create: bool = False) -> str:
        """The real path of a path of the container, as its processes would see it under a root of their own.

        `create`: make it a directory if there is nothing. Raises LeavesRoot where a link leads out, OSError.
        """
        mount, rest = self._find(posixpath.normpath(f"/{path}").strip("/"))
        if mount is not None and not rest:
            return mount.source
        below = self._volume(mount) if mount is not None else self.root
        if create:
            below.make_dirs(rest, links=True)
        try:
            return below.resolve(rest)
        except FileNotFoundError:
            return f"{below.root}/{rest}"

    def has(self, path: str) -> bool:
        """Tell whether the container's own root holds something at an absolute path."""
        try:
            return self.root.lstat(posixpath.normpath(path).strip("/")) is not None
        except OSError:
            return False

    def _find(self, path: str) -> tuple[Mount | None, str]:
        """The innermost mount that a path lies in, and the rest of the path."""
        inside = [m for m in self.mounts if (at := _inner(m)) and (path == at or path.startswith(f"{at}/"))]
        mount = max(inside, key=lambda m: len(_inner(m)), default=None)
        return mount, path.removeprefix(_inner(mount)).strip("/") if mount is not None else path


def _drop_old_logs(files: Beneath, names: Iterable[str], current: str) -> None:
    found = {}
    for name in names:
        status = files.lstat(name) if _LOG.fullmatch(name) else None
        if status is not None:
            found[name] = status.st_mtime_ns
    newest = _log_of(max(found, key=lambda name: found[name], default=""))
    for name in found:
        if _log_of(name) not in (newest, current):
            files.remove(name)


def _log_of(name: str) -> str:
    """The name of a log without what tells its older files apart."""
    return name.partition(".log")[0] + ".log"


def _unprepared(mount: Mount, error: OSError) -> ContainerConfigError:
    # Where the volume lies on the machine is nobody's matter in a pod's status.
    why = "it leads out of the volume" if isinstance(error, LeavesRoot) else error.strerror
    return ContainerConfigError(f'failed to prepare subPath for volumeMount "{mount.volume}": {why}')


def _inner(mount: Mount) -> str:
    """A mount path as a path below the container's root; empty for the root itself."""
    if ".." in mount.mount_path.split("/") or "\0" in mount.mount_path:
        raise ContainerConfigError(f"mountPath {mount.mount_path!r} of volume {mount.volume} must not contain '..'")
    return posixpath.normpath(f"/{mount.mount_path}").strip("/")


def _is_directory(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o040000

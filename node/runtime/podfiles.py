"""Directories of real pods on this machine: volumes as files, logs.

Layout below the root: `<uid>/volumes/<name>/...`, `<uid>/containers/<name>/...`. Files of ConfigMaps and
the like change all at once, through a symbolic link `..data` that is replaced atomically, as Kubernetes' volumes do.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from control_plane.api.meta import Object
from node.projections import VolumeFile, mount_failed

_DATA = "..data"


class PodFiles:
    """`root` is this host's own."""

    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(root))
        self._versions = 0
        self.root.mkdir(parents=True, exist_ok=True)

    def create(self, uid: str) -> str:
        path = self.root / uid
        (path / "volumes").mkdir(parents=True, exist_ok=True)
        (path / "containers").mkdir(exist_ok=True)
        return str(path)

    def remove(self, uid: str) -> None:
        shutil.rmtree(self.root / uid, ignore_errors=True)

    def keep_only(self, uids: Iterable[str]) -> None:
        """Remove what pods of an earlier life left behind."""
        known = frozenset(uids)
        for name in sorted(os.listdir(self.root)):
            if name not in known:
                self.remove(name)

    def volume_dir(self, directory: str, volume: str) -> str:
        path = os.path.join(directory, "volumes", volume)
        os.makedirs(path, exist_ok=True)
        return path

    def empty_dir(self, directory: str, volume: str) -> str:
        """Content survives a restart of the containers and of the host, as the pod does."""
        return self.volume_dir(directory, volume)

    def host_path(self, pod: Object, volume: dict[str, Any]) -> str:
        """A path of the machine. Raises MountError when it is not what the volume's type says."""
        path, kind = volume["hostPath"]["path"], volume["hostPath"].get("type") or ""
        if kind == "DirectoryOrCreate":
            os.makedirs(path, exist_ok=True)
        elif kind == "FileOrCreate" and not os.path.exists(path):
            Path(path).touch()
        elif kind == "Directory" and not os.path.isdir(path):
            raise mount_failed(pod, volume["name"], f"hostPath type check failed: {path} is not a directory")
        elif kind == "File" and not os.path.isfile(path):
            raise mount_failed(pod, volume["name"], f"hostPath type check failed: {path} is not a file")
        return str(path)

    def project(self, directory: str, files: Mapping[str, VolumeFile]) -> None:
        """Make the directory show exactly `files` (relative path to file)."""
        base = Path(directory)
        self._versions += 1
        link = base / _DATA
        old = os.readlink(link) if link.is_symlink() else ""
        fresh = f"..v{self._versions}"
        while (base / fresh).exists():
            self._versions += 1
            fresh = f"..v{self._versions}"
        for path, file in files.items():
            target = base / fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.data)
            target.chmod(file.mode)
        (base / fresh).mkdir(exist_ok=True)
        temporary = base / "..data_tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(fresh)
        os.replace(temporary, link)
        wanted = {path.split("/")[0] for path in files}
        for name in sorted(wanted):
            if not (base / name).is_symlink():
                (base / name).symlink_to(f"{_DATA}/{name}")
        for name in sorted(os.listdir(base)):
            if not name.startswith("..") and name not in wanted:
                (base / name).unlink()
        if old and old != fresh:
            shutil.rmtree(base / old, ignore_errors=True)

"""Unpacked layers looked at as one file system, as a mount of them would show it, without a mount."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.node.images.unpacking import OPAQUE, Owners
from rayplane.storage.beneath import Beneath

_LINKS_MAX = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as layers show it: mode, owner as the image has it, where it leads if it is a link, and its layer."""

    mode: int
    uid: int
    gid: int
    link: str
    layer: Beneath
    path: str

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Merged:
    """The layers in `places`, the highest first, unpacked for `owners`. Methods raise OSError."""

    def __init__(self, places: Sequence[str], owners: Owners | None = None) -> None:
        self._first = owners.first if owners is not None else None
        self._layers = [Beneath(place) for place in places]

    def look(self, path: str) -> Seen | None:
        """What is at a path, its links not followed; None where there is nothing, or a link on the way."""
        for layer in self._layers:
            seen, decides = self._in_layer(layer, path)
            if decides:
                return seen
        return None

    def resolve(self, path: str) -> str:
        """The path with links followed as far as there are files, below the root throughout."""
        todo, done = [*reversed(path.split("/"))], list[str]()
        followed = 0
        while todo:
            part = todo.pop()
            if part in ("", ".", ".."):
                done = done[:-1] if part == ".." else done
                continue
            seen = self.look("/".join([*done, part]))
            if seen is None or not seen.link or followed >= _LINKS_MAX:
                done.append(part)
                continue
            followed += 1
            done = [] if seen.link.startswith("/") else done
            todo += reversed(seen.link.split("/"))
        return "/".join(done)

    def text(self, path: str, limit: int) -> str:
        """The beginning of a file, links followed; empty where there is none."""
        seen = self.look(self.resolve(path))
        if seen is None or not stat.S_ISREG(seen.mode):
            return ""
        return seen.layer.read(seen.path, limit).decode(errors="replace")

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted; its links are not followed. Nothing where there is none."""
        found, gone = dict[str, None](), set[str]()
        for layer in self._layers:
            seen, decides = self._in_layer(layer, path) if path else (None, False)
            if path and (seen is None or not seen.is_directory):
                if decides:
                    break
                continue
            with layer.open_dir(path) as fd:
                for name in os.listdir(fd):
                    mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                    if stat.S_ISCHR(mode):
                        gone.add(name)
                    elif name not in gone:
                        found.setdefault(name)
            if self._hides(layer, path):
                break
        return sorted(found)

    @staticmethod
    def _hides(layer: Beneath, path: str) -> bool:
        """Whether a directory of a layer, or one that it is in, hides those of lower layers."""
        parts = path.split("/") if path else []
        for depth in range(1, len(parts) + 1):
            with layer.open_dir("/".join(parts[:depth])) as fd:
                if is_opaque(fd):
                    return True
        return False

    def _in_layer(self, layer: Beneath, path: str) -> tuple[Seen | None, bool]:
        """A layer's word on a path, and whether that is the last: it has or hides what is there."""
        parts, hides = path.split("/"), False
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            status = layer.lstat(here)
            if status is None:
                return None, hides
            if depth == len(parts):
                return self._seen(layer, here, status), True
            if not stat.S_ISDIR(status.st_mode):
                return None, True
            with layer.open_dir(here) as fd:
                hides = hides or is_opaque(fd)
        return None, False

    def _seen(self, layer: Beneath, path: str, status: os.stat_result) -> Seen | None:
        if stat.S_ISCHR(status.st_mode):
            return None
        link = (layer.readlink(path) or "") if stat.S_ISLNK(status.st_mode) else ""
        uid, gid = (0 if self._first is None else n - self._first for n in (status.st_uid, status.st_gid))
        return Seen(status.st_mode, max(0, uid), max(0, gid), link, layer, path)


def is_opaque(fd: int) -> bool:
    """Whether a directory hides those of lower layers."""
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False

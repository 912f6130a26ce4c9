"""Trees that a build copies from: the folder that is built from, and the file systems of stages and images."""

import fnmatch
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.layer_files import Entry, Source
from rayplane.node.images.merged import Merged
from rayplane.node.images.room import read_bounded
from rayplane.storage.beneath import Beneath

FILES_MAX = 200_000
IGNORE = ".dockerignore"
IGNORE_MAX = 256 * 1024
PATTERNS_MAX = 2000
_WILD = frozenset("*?[")


class Tree(Protocol):
    """A tree of files. Paths have no '/' at their ends; the empty one is the whole. Methods raise BadImage, OSError."""

    def named(self, source: str) -> list[tuple[str, str]]:
        """What a source of a COPY names, links followed: last name and path, sorted. Nothing where none is."""

    def is_directory(self, path: str) -> bool: ...

    def below(self, path: str) -> Iterator[str]:
        """Everything in a directory."""

    def entry(self, path: str) -> Entry:
        """With its owner in the tree. A link is itself."""


class Folder:
    """A folder of the machine without what its .dockerignore names. Owners are root."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        self._files = Beneath(str(self.place))
        self._ignored = Ignored(_ignore_file(self.place))

    def named(self, source: str) -> list[tuple[str, str]]:
        if ".." in source.split("/"):
            raise BadImage(f"{source!r} is outside of the folder that is built from")
        name = posixpath.normpath(source.strip("/") or ".")
        found = sorted(self._matching(name)) if set(name) & _WILD else [self.place / name]
        here = [path for path in found if os.path.lexists(path) and not self._ignores(path)]
        return [(path.name, self._real(path)) for path in here]

    def _matching(self, pattern: str) -> Iterator[Path]:
        for count, path in enumerate(self.place.glob(pattern)):
            check_count(count, pattern)
            yield path

    def _real(self, path: Path) -> str:
        """Where a link that is named itself leads, which must be in the folder."""
        real = path.resolve()
        if real != self.place and self.place not in real.parents:
            raise BadImage(f"{path.name!r} leads out of the folder that is built from")
        return "" if real == self.place else real.relative_to(self.place).as_posix()

    def is_directory(self, path: str) -> bool:
        return (self.place / path).is_dir()

    def below(self, path: str) -> Iterator[str]:
        for above, folders, files in os.walk(self.place / path):
            folders.sort()
            for name in sorted((*folders, *files)):
                found = Path(above, name)
                if not self._ignores(found):
                    yield found.relative_to(self.place).as_posix()

    def _ignores(self, path: Path) -> bool:
        return path != self.place and self._ignored(path.relative_to(self.place).as_posix())

    def entry(self, path: str) -> Entry:
        status = (self.place / path).lstat()
        if stat.S_ISLNK(status.st_mode):
            return Entry(stat.S_IFLNK | 0o777, link=os.readlink(self.place / path))
        if stat.S_ISDIR(status.st_mode):
            return Entry(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(f"{self.place / path} is neither file, folder nor link: leave it out by {IGNORE}")
        return Entry(status.st_mode, source=Source(self._files, path))


class LayeredTree:
    """The file system of layers, as a container of them would see it. The layers are a build's own store's."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged

    def named(self, source: str) -> list[tuple[str, str]]:
        found = [""]
        for part in posixpath.normpath(f"/{source.lstrip('/')}").split("/")[1:]:
            if not part:
                continue
            found = [one for above in found for one in self._children(above, part)]
            check_count(len(found), source)
        return [(posixpath.basename(one), self._merged.resolve(one)) for one in sorted(found)]

    def _children(self, above: str, part: str) -> list[str]:
        above = self._merged.resolve(above)
        if set(part) & _WILD:
            names = [name for name in self._merged.names(above) if fnmatch.fnmatchcase(name, part)]
        else:
            names = [part]
        paths = [posixpath.join(above, name) for name in names]
        return [path for path in paths if self._merged.look(path) is not None]

    def is_directory(self, path: str) -> bool:
        seen = self._merged.look(path) if path else None
        return not path or (seen is not None and seen.is_directory)

    def below(self, path: str) -> Iterator[str]:
        pending = [path]
        while pending:
            above = pending.pop()
            for name in self._merged.names(above):
                found = posixpath.join(above, name)
                yield found
                if self.is_directory(found):
                    pending.append(found)

    def entry(self, path: str) -> Entry:
        seen = self._merged.look(path)
        if seen is None:
            raise BadImage(f"{path!r} of another stage is not there any more")
        entry = Entry(seen.mode, seen.uid, seen.gid, link=seen.link)
        if stat.S_ISREG(seen.mode):
            return Entry(seen.mode, seen.uid, seen.gid, source=Source(seen.layer, seen.path, ours=True))
        return entry


def check_count(count: int, what: str) -> None:
    """Raises TooLarge."""
    if count > FILES_MAX:
        raise TooLarge(f"{what[:200]!r} names more than {FILES_MAX} files: use a {IGNORE}, or name less")


class Ignored:
    """The patterns of a .dockerignore; the last that fits decides."""

    def __init__(self, text: str) -> None:
        self._patterns: list[tuple[list[str], bool]] = []
        for line in text.splitlines():
            bare = line.strip()
            if bare and not bare.startswith("#"):
                pattern = posixpath.normpath(bare.removeprefix("!").strip().lstrip("/"))
                self._patterns.append((pattern.split("/"), bare.startswith("!")))
        if len(self._patterns) > PATTERNS_MAX:
            raise TooLarge(f"a {IGNORE} has at most {PATTERNS_MAX} patterns")

    def __call__(self, path: str) -> bool:
        parts = path.split("/")
        ignored = False
        for pattern, again in self._patterns:
            if any(_fits(parts[:depth], pattern) for depth in range(1, len(parts) + 1)):
                ignored = not again
        return ignored


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path is what a pattern says; `**` is any number of folders."""
    reached = {0}
    for one in pattern:
        if one == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatch.fnmatchcase(parts[at], one)}
    return len(parts) in reached


def _ignore_file(folder: Path) -> str:
    try:
        return read_bounded(folder / IGNORE, IGNORE_MAX, f"a {IGNORE}").decode(errors="replace")
    except FileNotFoundError:
        return ""

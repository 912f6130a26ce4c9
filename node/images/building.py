"""Builds of images from a Dockerfile and the files beside it: each COPY is a layer, and the same files give the same.

Times of files are the build's epoch, owners are root unless told, names are sorted: digests say what is in an image and
not when or by whom it was built.
"""

import fnmatch
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.archives import architecture, keep_manifest
from rayplane.node.images.catalog import Stored
from rayplane.node.images.containers import environment
from rayplane.node.images.decompress import CHUNK
from rayplane.node.images.dockerfile import Copy, Made, Order, Plan
from rayplane.node.images.errors import BadImage
from rayplane.node.images.manifests import OCI_CONFIG, OCI_LAYER, Descriptor, document, encoded, read_config
from rayplane.node.images.merged import Merged
from rayplane.node.images.references import Reference
from rayplane.node.images.store import ImageStore
from rayplane.node.images.users import Accounts, user_of

FILES_MAX = 200_000
SCRATCH = "scratch"
IGNORE = ".dockerignore"
_ACCOUNTS_MAX = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a layer. `source`: the file that it has its content from."""

    mode: int
    uid: int = 0
    gid: int = 0
    source: Path | None = None
    link: str = ""


class Build:
    """A build in `store`, which has the base, from the files of the folder `context`. `epoch`: seconds since 1970."""

    def __init__(self, store: ImageStore, context: Path, plan: Plan, base: Stored | None, *, epoch: int = 0) -> None:
        self._store, self._plan, self._epoch = store, plan, epoch
        self._context = context.resolve()
        self._ignored = Ignored(_ignore_file(self._context))
        self._config: dict[str, Any] = {"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers"}}
        self._layers: list[Descriptor] = []
        self._diff_ids: list[str] = []
        self._history: list[dict[str, Any]] = []
        if base is not None:
            self._begin(base)

    def _begin(self, base: Stored) -> None:
        self._store.ready(base)
        data = self._store.blobs.document(base.config)
        config, self._config = read_config(data), document(data, "the base's config")
        self._layers = [*self._store.manifest(base.digest).layers]
        self._diff_ids = [*config.diff_ids]
        history = self._config.get("history")
        self._history = [*history] if isinstance(history, list) else []
        own = self._config.get("config") or {}
        self._plan.made = Made(
            environment(config.env),
            own.get("Labels") or {},
            config.entrypoint,
            config.cmd,
            config.user,
            config.working_dir,
            config.stop_signal,
            tuple(own.get("ExposedPorts") or ()),
            config.volumes,
        )

    def image(self, names: Sequence[Reference]) -> Stored:
        """Carry out the plan. Raises ImageError, OSError."""
        with self._store.working():
            for order in self._plan.steps():
                self._do(order)
            data = encoded(self._config_now())
            config = Descriptor(OCI_CONFIG, *self._store.blobs.add([data]))
            manifest = keep_manifest(store=self._store, config=config, layers=self._layers)
            return self._store.add(manifest, names)

    def _do(self, order: Order) -> None:
        if not isinstance(order, Copy):
            raise BadImage(f"{order.said[:200]!r} is not done here: make its files beforehand, and COPY them")
        digest, size = self._store.blobs.add(_layer(self._entries(order), self._epoch))
        layer = Descriptor(OCI_LAYER, digest, size)
        self._store.layers.unpack(layer, digest)
        self._layers.append(layer)
        self._diff_ids.append(digest)
        self._history.append({"created": self._stamp, "created_by": order.said})

    # --- files ------------------------------------------------------------------------------------

    def _entries(self, order: Copy) -> dict[str, _Entry]:
        """What a copy brings, by path."""
        merged = self._store.layers.merged(self._diff_ids)
        uid, gid = self._owner(order, merged)
        target = merged.resolve(order.target.strip("/"))
        there = merged.look(target) if target else None
        inside = order.target.endswith("/") or not target or (there is not None and there.is_directory)
        found: dict[str, _Entry] = {}
        for source in self._sources(order):
            if source.is_dir():
                files = {posixpath.join(target, name): path for name, path in self._below(source)}
                if not files and target:
                    found[target] = _Entry(stat.S_IFDIR | 0o755, uid, gid)
            else:
                files = {posixpath.join(target, source.name) if inside else target: source}
            for path, file in files.items():
                found[path] = _entry(file, uid, gid, order.mode)
            if len(found) > FILES_MAX:
                raise BadImage(f"{order.said[:200]!r} copies more than {FILES_MAX} files: use a {IGNORE}")
        return _with_parents(found, merged)

    def _owner(self, order: Copy, merged: Merged) -> tuple[int, int]:
        if not order.owner:
            return 0, 0
        texts = (merged.text(path, _ACCOUNTS_MAX) for path in ("etc/passwd", "etc/group"))
        try:
            user = user_of(order.owner, Accounts(*texts))
        except ContainerConfigError as e:
            raise BadImage(f"{order.said[:200]!r}: {e}") from e
        return user.uid, user.gid

    def _sources(self, order: Copy) -> list[Path]:
        """The files and folders of the context that a copy names. Raises BadImage where it names none."""
        found: dict[Path, None] = {}
        for source in order.sources:
            name = posixpath.normpath(source.strip("/") or ".")
            if ".." in source.split("/"):
                raise BadImage(f"{order.said[:200]!r}: {source!r} is outside of the folder that is built from")
            matching = sorted(self._context.glob(name)) if set(name) & set("*?[") else [self._context / name]
            here = [path for path in matching if os.path.lexists(path) and not self._ignores(path)]
            if not here:
                raise BadImage(f"{order.said[:200]!r}: there is no {source!r} in {self._context}, or it is ignored")
            found |= dict.fromkeys(self._real(path, order) for path in here)
        return [*found]

    def _real(self, path: Path, order: Copy) -> Path:
        """Where a link that is named itself leads, which must be in the context."""
        real = path.resolve()
        if real != self._context and self._context not in real.parents:
            raise BadImage(f"{order.said[:200]!r}: {path.name!r} leads out of the folder that is built from")
        return real

    def _below(self, folder: Path) -> Iterator[tuple[str, Path]]:
        for above, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted((*folders, *files)):
                path = Path(above, name)
                if not self._ignores(path):
                    yield str(path.relative_to(folder)), path

    def _ignores(self, path: Path) -> bool:
        return path != self._context and self._ignored(path.relative_to(self._context).as_posix())

    # --- config -----------------------------------------------------------------------------------

    @property
    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _config_now(self) -> dict[str, Any]:
        made = self._plan.made
        own: dict[str, Any] = {
            "Env": [f"{name}={value}" for name, value in made.env.items()],
            "Entrypoint": [*made.entrypoint],
            "Cmd": [*made.cmd],
            "User": made.user,
            "WorkingDir": made.directory,
            "StopSignal": made.stop_signal,
            "Labels": dict(made.labels),
            "ExposedPorts": {port: {} for port in made.ports},
            "Volumes": {place: {} for place in made.volumes},
        }
        return {
            **self._config,
            "created": self._stamp,
            "config": {name: value for name, value in own.items() if value},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
            "history": self._history,
        }


class Ignored:
    """The patterns of a .dockerignore; the last that fits decides."""

    def __init__(self, text: str) -> None:
        self._patterns: list[tuple[list[str], bool]] = []
        for line in text.splitlines():
            bare = line.strip()
            if bare and not bare.startswith("#"):
                pattern = posixpath.normpath(bare.removeprefix("!").strip().lstrip("/"))
                self._patterns.append((pattern.split("/"), bare.startswith("!")))

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


def _ignore_file(context: Path) -> str:
    try:
        return (context / IGNORE).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _entry(path: Path, uid: int, gid: int, mode: int | None) -> _Entry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return _Entry(stat.S_IFLNK | 0o777, uid, gid, link=os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return _Entry(stat.S_IFDIR | (stat.S_IMODE(status.st_mode) if mode is None else mode), uid, gid)
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(f"{path} is neither file, folder nor link: leave it out by {IGNORE}")
    return _Entry(stat.S_IFREG | (stat.S_IMODE(status.st_mode) if mode is None else mode), uid, gid, source=path)


def _with_parents(found: Mapping[str, _Entry], merged: Merged) -> dict[str, _Entry]:
    """Entries with the directories that they are in: as they are below, since a layer's word on one hides that."""
    every = dict(found)
    for path in found:
        above = posixpath.dirname(path)
        while above and above not in every:
            seen = merged.look(above)
            mode = stat.S_IMODE(seen.mode) if seen is not None and seen.is_directory else 0o755
            owner = (seen.uid, seen.gid) if seen is not None else (0, 0)
            every[above] = _Entry(stat.S_IFDIR | mode, *owner)
            above = posixpath.dirname(above)
    return every


def _layer(entries: Mapping[str, _Entry], epoch: int) -> Iterator[bytes]:
    """A layer's archive, the same for the same entries."""
    for path in sorted(entries):
        entry = entries[path]
        info = tarfile.TarInfo(path)
        info.mode, info.uid, info.gid, info.mtime = stat.S_IMODE(entry.mode), entry.uid, entry.gid, epoch
        if stat.S_ISDIR(entry.mode):
            info.type = tarfile.DIRTYPE
        elif entry.link:
            info.type, info.linkname = tarfile.SYMTYPE, entry.link
        if entry.source is None:
            yield info.tobuf(tarfile.PAX_FORMAT)
        else:
            yield from _content(info, entry.source)
    yield bytes(2 * _BLOCK)


def _content(info: tarfile.TarInfo, source: Path) -> Iterator[bytes]:
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        left = info.size = os.fstat(file.fileno()).st_size
        yield info.tobuf(tarfile.PAX_FORMAT)
        while data := file.read(min(CHUNK, left)):
            left -= len(data)
            yield data
    if left:
        raise BadImage(f"{source} became shorter while it was copied: build again")
    yield bytes(-info.size % _BLOCK)

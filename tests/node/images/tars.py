"""Layers and archives for tests, made by hand, and what overlayfs would show of unpacked ones."""

import io
import os
import stat
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from rayplane.node.images.catalog import LOADED
from rayplane.node.images.decompress import Plain
from rayplane.node.images.manifests import Descriptor, digest_of
from rayplane.node.images.references import parse_reference
from rayplane.node.images.store import ImageStore
from rayplane.node.images.unpacking import OPAQUE, Archive, LayerWriter

REGULAR, DIRECTORY, SYMLINK, LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Tree = dict[str, Any]
"""Name to a tree, to bytes of a file, or to the target of a link as text."""


def entry(name: str, kind: bytes = REGULAR, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == DIRECTORY else 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def unpack(data: bytes, directory: Path, *, bytes_max: int = 1 << 30, entries_max: int = 10_000) -> Path:
    directory.mkdir(parents=True)
    writer = LayerWriter(str(directory), None, bytes_max=bytes_max)
    try:
        writer.unpack(Archive(Plain(io.BytesIO(data), bytes_max), entries_max=entries_max))
    finally:
        writer.close()
    return directory


def laid_over(layers: Sequence[Path]) -> Tree:
    """What a mount of directories shows, the highest first."""
    shown: Tree = {}
    hidden: set[str] = set()
    kinds: dict[str, list[Path]] = {}
    for layer in layers:
        for name in os.listdir(layer):
            if name in hidden:
                continue
            path = layer / name
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                kinds.setdefault(name, []).append(path)
                if (os.getxattr(path, OPAQUE) if OPAQUE in os.listxattr(path) else b"") == b"y":
                    hidden.add(name)
                continue
            hidden.add(name)
            if name in kinds or stat.S_ISCHR(mode):
                continue
            shown[name] = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes()
    return shown | {name: laid_over(found) for name, found in kinds.items()}


def config_of(layers: Sequence[bytes], **config: Any) -> bytes:
    from rayplane.node.images.platforms import architecture

    said = {"architecture": architecture(), "os": "linux", "config": config}
    return orjson.dumps(said | {"rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]}})


def docker_archive(name: str, layers: Sequence[bytes], **config: Any) -> bytes:
    """As `docker save` writes it."""
    data = config_of(layers, **config)
    files = {f"{number}/layer.tar": one for number, one in enumerate(layers)}
    own = f"{digest_of(data).removeprefix('sha256:')}.json"
    listed = orjson.dumps([{"Config": own, "RepoTags": [name], "Layers": [*files]}])
    return tar(entry(path, data=one) for path, one in {**files, own: data, "manifest.json": listed}.items())


def kept(store: ImageStore, name: str, layers: Sequence[bytes], *, source: str = LOADED, **config: Any) -> Any:
    """An image in a store."""
    from rayplane.node.images.archives import keep_manifest

    def blob(data: bytes, kind: str) -> Descriptor:
        return Descriptor(kind, *store.blobs.add([data]))

    with store.working():
        own = blob(config_of(layers, **config), "application/vnd.oci.image.config.v1+json")
        parts = [blob(one, "application/vnd.oci.image.layer.v1.tar") for one in layers]
        manifest = keep_manifest(store=store, config=own, layers=parts)
        return store.add(manifest, [parse_reference(name)], source=source)

"""Layers that commands of builds made, kept for the next: by all that such a command is told and the files it sees.

What a command finds elsewhere, on a network, is not part of that, as with Docker: `--no-cache` runs it again. A file of
the directory is the layer of one command, named by that; the longest unused go first.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from rayplane.node.images.blobs import Blobs
from rayplane.node.images.decompress import CHUNK
from rayplane.node.images.errors import ImageError
from rayplane.node.images.manifests import OCI_LAYER, Descriptor, digest_of
from rayplane.storage.env.private import make_private_dir, own_name, write_private

log = logging.getLogger(__name__)

BYTES_MAX, LAYERS_MAX = 4 * 1024**3, 500
_LEFT_S = 3600.0
_LAYER = ".layer"


def key_of(diff_ids: Sequence[str], told: Mapping[str, Any]) -> str:
    """The name of what a command makes: of the layers that it sees and of what it is told."""
    return digest_of(orjson.dumps([*diff_ids, told], option=orjson.OPT_SORT_KEYS)).rpartition(":")[2]


class BuildCache:
    """A cache in a directory that builds share, on the file system of their stores.

    `anew`: what is there is not looked for, but what is made takes its place.
    """

    def __init__(self, directory: Path, *, anew: bool = False) -> None:
        self._directory, self._anew = directory, anew

    def find(self, key: str, blobs: Blobs) -> tuple[Descriptor, ...] | None:
        """The layer that a command made, put among `blobs`; none where it changed nothing. None: it is to be run."""
        told = self._directory / key
        if self._anew:
            return None
        try:
            digest, size = orjson.loads(told.read_bytes())
            if digest:
                with (self._directory / f"{key}{_LAYER}").open("rb") as layer:
                    blobs.add(iter(lambda: layer.read(CHUNK), b""), digest=digest, size=size)
            os.utime(told)
        except (OSError, ValueError, TypeError, ImageError):
            return None  # it is made again, whatever became of it
        return (Descriptor(OCI_LAYER, digest, size),) if digest else ()

    def keep(self, key: str, layers: Sequence[Descriptor], blobs: Blobs) -> None:
        """Keep what a command made, one layer or none. Where that cannot be, it is made again."""
        with contextlib.suppress(OSError):
            make_private_dir(self._directory)
            for layer in layers:
                fresh = own_name(str(self._directory / key))
                os.link(blobs.path(layer.digest), fresh)
                os.rename(fresh, self._directory / f"{key}{_LAYER}")
            (digest, size), *_ = [*((one.digest, one.size) for one in layers), ("", 0)]
            write_private(self._directory / key, orjson.dumps([digest, size]))

    def trim(self, *, bytes_max: int = BYTES_MAX, layers_max: int = LAYERS_MAX) -> None:
        """Let the longest unused go, and what was not written to its end. Where that cannot be, they stay."""
        try:
            self._trim(bytes_max, layers_max)
        except FileNotFoundError:
            pass  # nothing was kept, or another build does the same
        except OSError as e:
            log.warning("the layers that builds kept stay as they are: %s", e)

    def _trim(self, bytes_max: int, layers_max: int) -> None:
        with os.scandir(self._directory) as found:  # another build may delete one meanwhile, which ends the look
            names = {one.name: one.stat() for one in found}
        told = sorted((name for name in names if "." not in name), key=lambda name: -names[name].st_mtime)
        left, kept = bytes_max, set[str]()
        for name in told[:layers_max]:
            size = names[f"{name}{_LAYER}"].st_size if f"{name}{_LAYER}" in names else 0
            left -= size
            kept |= {name, f"{name}{_LAYER}"} if left >= 0 else set()
        for name in names.keys() - kept:
            if "." not in name or name.endswith(_LAYER) or time.time() - names[name].st_mtime > _LEFT_S:
                (self._directory / name).unlink(missing_ok=True)

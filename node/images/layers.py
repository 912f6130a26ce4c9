"""Layers unpacked: each once, into a directory that all containers share and none writes to.

A directory has the first digits of the digest for its name, since the mount of many layers has room for short names
only; which layer it is stands in it whole, so that two of the same beginning are never taken for each other.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rayplane.node.images.blobs import PREFIX, Blobs
from rayplane.node.images.decompress import Plain
from rayplane.node.images.errors import Corrupt, TooLarge
from rayplane.node.images.manifests import Descriptor
from rayplane.node.images.merged import Merged
from rayplane.node.images.room import room_at
from rayplane.node.images.unpacking import ENTRIES_MAX, Archive, LayerWriter, Owners
from rayplane.node.images.users import Accounts
from rayplane.storage.beneath import Beneath
from rayplane.storage.env.private import make_private_dir, own_name, sync_filesystem

LAYER_MAX = 32 * 1024**3
_NAME_DIGITS = 20
_FILES, _DIGEST = "fs", "digest"
_ACCOUNTS_MAX = 1024 * 1024
_ENTERED = 0o711  # by pods, who know what they look for


class Layers:
    """The unpacked layers of a store. All raise ImageError and OSError."""

    def __init__(self, directory: Path, making: Path, blobs: Blobs, owners: Owners | None) -> None:
        self._directory, self._making, self._blobs, self.owners = directory, making, blobs, owners
        self.entries_max = ENTRIES_MAX

    def prepare(self) -> None:
        make_private_dir(self._directory)
        if self.owners is not None:
            os.chmod(self._directory, _ENTERED)

    def path(self, diff_id: str) -> Path:
        return self._place(diff_id) / _FILES

    def has(self, diff_id: str) -> bool:
        try:
            found = (self._place(diff_id) / _DIGEST).read_text()
        except FileNotFoundError:
            return False
        if found != diff_id:
            raise Corrupt(f"layers {found} and {diff_id} begin alike: remove the image with the first of them")
        return True

    def unpack(self, layer: Descriptor, diff_id: str) -> None:
        """Have a layer unpacked; whoever comes meanwhile waits, in whichever process."""
        if self.has(diff_id):
            return
        with _locked(self._making / f"{self._place(diff_id).name}.lock"):
            if not self.has(diff_id):
                self._unpack(layer, diff_id)

    def _unpack(self, layer: Descriptor, diff_id: str) -> None:
        fresh = Path(own_name(str(self._making / "layer")))
        files = fresh / _FILES
        fresh.mkdir(mode=0o700)
        files.mkdir(mode=0o700)
        try:
            self._write(layer, diff_id, files)
            (fresh / _DIGEST).write_text(diff_id)
            if self.owners is not None:
                os.chown(files, self.owners(0), self.owners(0))
                os.chmod(fresh, _ENTERED)
            os.chmod(files, 0o755)
            sync_filesystem(str(fresh))
            os.rename(fresh, self._place(diff_id))
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TooLarge("there is no room for an image: free some, or choose another --state-dir") from e
            raise
        finally:
            Beneath(self._making).remove(fresh.name)

    def _write(self, layer: Descriptor, diff_id: str, files: Path) -> None:
        room = room_at(files)
        most = min(LAYER_MAX, room.bytes)
        with self._blobs.open(layer.digest) as raw:
            plain = Plain(raw, most)
            writer = LayerWriter(str(files), self.owners, bytes_max=most)
            try:
                writer.unpack(Archive(plain, entries_max=min(self.entries_max, room.files)))
            finally:
                writer.close()
        for said, found in ((layer.digest, plain.raw_digest), (diff_id, plain.digest)):
            if said != found:
                raise Corrupt(f"a layer is not what its digest {said} says: load or pull its image again")

    def names(self) -> list[str]:
        return os.listdir(self._directory)

    def remove(self, name: str) -> None:
        # In two steps, so that no half of it is ever taken for a layer.
        gone = own_name(str(self._making / "gone"))
        os.rename(self._directory / name, gone)
        Beneath(self._making).remove(os.path.basename(gone))

    def name(self, diff_id: str) -> str:
        return diff_id.removeprefix(PREFIX)[:_NAME_DIGITS]

    def merged(self, diff_ids: Sequence[str]) -> Merged:
        """The file system of unpacked layers, given from the lowest on."""
        return Merged([str(self.path(one)) for one in reversed(diff_ids)], self.owners)

    def accounts(self, diff_ids: Sequence[str]) -> Accounts:
        """The users and groups that the file system of layers knows, the lowest first."""
        merged = self.merged(diff_ids)
        return Accounts(merged.text("etc/passwd", _ACCOUNTS_MAX), merged.text("etc/group", _ACCOUNTS_MAX))

    def _place(self, diff_id: str) -> Path:
        return self._directory / self.name(diff_id)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

"""Content by its digest, as files: written whole or not at all, and what it says it is."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rayplane.node.images.errors import BadImage, Corrupt, ImageNotFound, TooLarge
from rayplane.node.images.manifests import DOCUMENT_MAX, checked
from rayplane.node.images.room import room_at
from rayplane.storage.env.private import make_private_dir, own_name, sync_folder

BLOB_MAX = 64 * 1024**3
PREFIX = "sha256:"


class Blobs:
    """The blobs of a store: `directory` has them by digest, `making` is where they become so. All raise OSError too."""

    def __init__(self, directory: Path, making: Path) -> None:
        self._directory, self._making = directory, making

    def prepare(self) -> None:
        make_private_dir(self._directory)
        make_private_dir(self._making)

    def path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix(PREFIX)

    def has(self, digest: str, size: int | None = None) -> bool:
        """Tell whether it is there, of that size."""
        try:
            return size in (None, self.path(digest).stat().st_size)
        except FileNotFoundError:
            return False

    def add(self, parts: Iterable[bytes], *, digest: str = "", size: int | None = None) -> tuple[str, int]:
        """Keep what comes; its digest and size. Raises Corrupt, TooLarge if it is not what `digest` and `size` say."""
        writer = self.writer(digest, size)
        try:
            for part in parts:
                writer.write(part)
            return writer.finish()
        finally:
            writer.close()

    def writer(self, digest: str = "", size: int | None = None) -> "BlobWriter":
        return BlobWriter(self, Path(own_name(str(self._making / "blob"))), digest, size)

    def open(self, digest: str) -> BinaryIO:
        """Raises ImageNotFound."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise ImageNotFound(f"content {digest} of an image is not in the store: load or pull it again") from None

    def document(self, digest: str) -> bytes:
        """A small blob, checked. Raises ImageNotFound, Corrupt, BadImage."""
        with self.open(digest) as file:
            data = file.read(DOCUMENT_MAX + 1)
        if len(data) > DOCUMENT_MAX:
            raise BadImage(f"{digest} is no manifest or config: it has more than {DOCUMENT_MAX} bytes")
        return checked(data, digest)

    def digests(self) -> list[str]:
        return [f"{PREFIX}{one.name}" for one in self._directory.iterdir()]

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)


class BlobWriter:
    """A blob on its way into a store, of the digest and size that are known beforehand. Close it in any case."""

    def __init__(self, blobs: Blobs, temporary: Path, digest: str, size: int | None) -> None:
        self._blobs, self._temporary, self._digest, self._size = blobs, temporary, digest, size
        self._seen, self._count = hashlib.sha256(), 0
        room = room_at(temporary.parent).bytes
        self._most = min(BLOB_MAX if size is None else size, room)
        if size is not None and size > min(BLOB_MAX, room):
            raise TooLarge(f"{digest or 'content'} has {size} bytes, and there is room for {min(BLOB_MAX, room)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = open(fd, "wb")  # noqa: SIM115  # closed by `close`

    def write(self, part: bytes) -> None:
        """Raises TooLarge."""
        self._count += len(part)
        if self._count > self._most:
            why = "there is room for" if self._size is None else "it is to have"
            raise TooLarge(f"{self._digest or 'content'} has more than the {self._most} bytes that {why}")
        self._seen.update(part)
        self._file.write(part)

    def finish(self) -> tuple[str, int]:
        """Have the blob in the store; its digest and size. Raises Corrupt."""
        found = f"{PREFIX}{self._seen.hexdigest()}"
        if self._digest not in ("", found) or self._size not in (None, self._count):
            raise Corrupt(f"content is not what its digest {self._digest or found} says: get it again")
        self._file.flush()
        os.fdatasync(self._file.fileno())
        target = self._blobs.path(found)
        os.rename(self._temporary, target)
        sync_folder(target.parent)
        return found, self._count

    def close(self) -> None:
        """May be called again."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

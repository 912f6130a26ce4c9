"""A JSON object in a file of its own, with a checksum: for a few values that are written together.

File: `crc32`, a blank, eight hexadecimal digits, a line feed, then the object. Files of earlier versions are the object
alone.
"""

import json
from typing import Any
from zlib import crc32

from rayplane.storage.env import Disk
from rayplane.storage.keyvalue.errors import CorruptFile

_WORD = b"crc32 "
_HEAD_BYTES = len(_WORD) + 9


class JsonFile:
    """A file that is written whole: after a crash it holds what was there before or what was written, never a part of
    either.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """The object; None when there is no file. Raises CorruptFile."""
        if not self._disk.exists(self.path):
            return None
        data = self._disk.read(self.path)
        if not data.startswith(b"{"):
            head, data = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
            if head != _head(data):
                raise CorruptFile(self.path, "its checksum does not match")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise CorruptFile(self.path, str(e)) from e
        if not isinstance(found, dict):
            raise CorruptFile(self.path, "it holds no object")
        return found

    async def write(self, content: dict[str, Any]) -> None:
        """Return when it survives a lost machine. Raises DiskError; then the file is as it was."""
        data = json.dumps(content, sort_keys=True).encode()
        await self._disk.write_atomic(self.path, _head(data) + data)


def _head(data: bytes) -> bytes:
    return b"%s%08x\n" % (_WORD, crc32(data))

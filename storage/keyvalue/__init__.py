"""Key-value files: ordered buckets of bytes, written in transactions.

Owns the port `Backend`, its two kinds (`LmdbBackend` on real disks, `MemoryBackend` for simulation and tests), the
checksum of each record, the check of a file before it is used, the stream that carries a whole content elsewhere, and
`JsonFile` for a few values that are written together.
Does not own what the buckets are called or what they hold.

    backend = LmdbBackend(path, ("pages", "counts"), durable=True)
    backend.put("pages", b"a", b"1")
    await backend.flush()                            # survives a lost machine

Concurrency: single-threaded; what awaits says so, and works on a view of its own.
"""

from rayplane.storage.keyvalue.backend import Backend, Reader, Record, Replacement
from rayplane.storage.keyvalue.errors import BackendError, CorruptFile, CorruptSnapshot, CorruptStore
from rayplane.storage.keyvalue.json_file import JsonFile
from rayplane.storage.keyvalue.lmdb_backend import LmdbBackend
from rayplane.storage.keyvalue.memory_backend import MemoryBackend

__all__ = [
    "Backend",
    "BackendError",
    "CorruptFile",
    "CorruptSnapshot",
    "CorruptStore",
    "JsonFile",
    "LmdbBackend",
    "MemoryBackend",
    "Reader",
    "Record",
    "Replacement",
]

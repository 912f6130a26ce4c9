"""A checksum for each record of a backend that has none of its own: CRC-32 of key and value, behind the value.

It finds what a disk did to the bytes, not what a person did.
"""

from zlib import crc32

SEAL_BYTES = 4


def seal(key: bytes, value: bytes) -> bytes:
    """Return what is stored under a key."""
    return value + crc32(value, crc32(key)).to_bytes(SEAL_BYTES)


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """The value; None if key, value or checksum are not what they were."""
    value = sealed[:-SEAL_BYTES]
    if crc32(value, crc32(key)).to_bytes(SEAL_BYTES) != sealed[-SEAL_BYTES:]:
        return None
    return value

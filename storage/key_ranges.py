"""Ranges of keys as etcd's requests write them: a key and an end that is not in the range. Pure.

An empty end is the single key, `b"\\0"` all keys from `key` on.
"""

FROM_KEY = b"\0"


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix: the least key after them, FROM_KEY when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else FROM_KEY

"""Capabilities of files, as `setcap` gives them: as a layer has them, and as the machine keeps them for pods.

A layer's archive has them in a record of a file's header, in the kernel's form that names no owner (revision 2). On the
machine they bear the number of the pods' root (revision 3): they are worth something to pods, and to nobody else.

Source: linux/capability.h; capabilities(7), "File capability extended attribute versioning".
"""

ATTRIBUTE = "security.capability"
RECORD = f"SCHILY.xattr.{ATTRIBUTE}"
"""The record of a header, as GNU tar and the runtimes of containers write it."""
_REVISION, _EFFECTIVE = 0xFF000000, 1
_OF_NOBODY, _OF_ROOT = 0x02000000, 0x03000000
_SETS = slice(4, 20)
_FORMS = {(_OF_NOBODY, 20), (_OF_ROOT, 24)}


def for_layer(attribute: bytes) -> bytes:
    """The attribute without an owner; empty for what is none."""
    magic = int.from_bytes(attribute[:4], "little")
    if (magic & _REVISION, len(attribute)) not in _FORMS:
        return b""
    return (_OF_NOBODY | magic & _EFFECTIVE).to_bytes(4, "little") + attribute[_SETS]


def for_pods(attribute: bytes, root: int) -> bytes:
    """The attribute with the number that the pods' root has on the machine; empty for what is none."""
    plain = for_layer(attribute)
    if not plain:
        return b""
    return (_OF_ROOT | plain[0] & _EFFECTIVE).to_bytes(4, "little") + plain[_SETS] + root.to_bytes(4, "little")


def of_record(text: str) -> bytes:
    """The attribute that a header's record says."""
    return text.encode("utf-8", "surrogateescape")


def record(attribute: bytes) -> str:
    """The header's record of an attribute."""
    return attribute.decode("utf-8", "surrogateescape")

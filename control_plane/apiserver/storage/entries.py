"""Objects as the server keeps them: JSON bytes with the revision spliced in, parsed only when someone looks.

Parsed, an object takes four times the room of its bytes: only those that were looked at last are kept parsed.

The bytes in etcd carry no resourceVersion: it is the key's mod revision. They begin with kind, apiVersion and
metadata, in this order, so that the version can be spliced in without parsing. Bytes that another writer laid out
otherwise are parsed once and laid out anew.

What is no object at all, or none of its place, is an entry too (`Broken`): only who asks for that very one hears of it.
It can be left by a fault of the disk or by who writes to etcd past the API, and must not stop anybody.

What is encrypted in etcd becomes an entry in `read`, and only there. What cannot be decrypted is an entry too, so that
a cache holds it and a list that needs it says which one it is, instead of showing less than there is.
"""

from functools import lru_cache
from typing import Any, ClassVar, NoReturn

import orjson

from rayplane.control_plane.api.errors import InternalError
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.storage.encryption import ENCRYPTED, Transformer, Untransformable

_METADATA = b'"metadata":{'
ITEM = b"{" + _METADATA
"""How an object begins in a list, which says its kind once for all: `Entry.tail` follows."""
_VERSION = b'"resourceVersion":"%d",'
PARSED = ((8 * 1024, 2048), (32 * 1024, 192), (256 * 1024, 20), (1536 * 1024, 3))
"""How many objects of up to so many bytes are kept parsed: 32 MiB of bytes in all. What is larger is parsed each time.

Pods are looked at again when they are bound and when they run: as many as some hundred of them have revisions. What is
larger is rare, and takes its room from nobody else.
"""
_SHAPES: tuple[tuple[str, type], ...] = (
    ("labels", dict),
    ("annotations", dict),
    ("ownerReferences", list),
    ("finalizers", list),
    ("uid", str),
    ("deletionTimestamp", str),
    ("creationTimestamp", str),
)


def head_of(kind: str, api_version: str) -> bytes:
    """How the bytes of every stored object of a kind begin."""
    return b'{"kind":"%s","apiVersion":"%s",%s' % (kind.encode(), api_version.encode(), _METADATA)


def encode(o: Object) -> bytes:
    """The bytes to store: without resourceVersion, laid out for splicing."""
    meta = o["metadata"]
    if "resourceVersion" in meta:
        meta = {k: v for k, v in meta.items() if k != "resourceVersion"}
    laid_out: dict[str, Any] = {"kind": o["kind"], "apiVersion": o["apiVersion"], "metadata": meta}
    for name, value in o.items():
        if name not in laid_out:
            laid_out[name] = value
    return orjson.dumps(laid_out)


class Entry:
    """One object at one revision. Immutable, shared by all readers: copy `object` before changing it."""

    __slots__ = ("_head", "_labels", "_node", "key", "name", "namespace", "revision", "tail")

    readable: ClassVar[bool] = True
    stale: ClassVar[bool] = False
    """Whether the same object would be stored as other bytes now: encrypted, or with another key."""

    def __init__(self, info: ResourceInfo, key: str, value: bytes, revision: int) -> None:
        """`info`: the stored form of the resource. `value`: the object's bytes, without resourceVersion."""
        self._place(info, key, revision)
        self._labels: dict[str, str] | None = None
        self._node: str | None = None
        self._head = head_of(info.kind, info.stored_api_version)
        if not value.startswith(self._head):
            value = encode(orjson.loads(value))
            self._head = value[: value.index(_METADATA) + len(_METADATA)]
        self.tail = _VERSION % revision + value[len(self._head) :]
        """The bytes of the object from its metadata's resourceVersion on."""

    def _place(self, info: ResourceInfo, key: str, revision: int) -> None:
        self.key = key
        self.revision = revision
        rest = key[len(info.storage_prefix) :]
        self.namespace, _, self.name = rest.rpartition("/") if info.namespaced else ("", "", rest)

    def at(self, revision: int) -> "Entry":
        """The same content under another revision: how a deleted object is shown to watchers."""
        other = Entry.__new__(Entry)
        other.key, other.namespace, other.name = self.key, self.namespace, self.name
        other.revision, other._head = revision, self._head
        other._labels, other._node = self._labels, self._node
        other.tail = _VERSION % revision + self._rest
        return other

    @property
    def json(self) -> bytes:
        return self._head + self.tail

    @property
    def size(self) -> int:
        """Bytes, without making them."""
        return len(self._head) + len(self.tail)

    @property
    def _rest(self) -> bytes:
        return self.tail[len(_VERSION % self.revision) :]

    @property
    def object(self) -> Object:
        """The parsed object. Never change it."""
        size = len(self.tail)
        if size <= _small[0]:
            return _small[1](self)
        kept = next((parsed for bytes_max, parsed in _larger if size <= bytes_max), Entry.fresh_object)
        return kept(self)

    @property
    def labels(self) -> dict[str, str]:
        """Never change them."""
        if self._labels is None:
            self._labels = self.object["metadata"].get("labels") or {}
        return self._labels

    @property
    def node(self) -> str:
        """The node of a pod, empty where there is none; known without parsing once it was asked for."""
        if self._node is None:
            self._node = str((self.object.get("spec") or {}).get("nodeName") or "")
        return self._node

    def fresh_object(self) -> Object:
        """A parsed copy that the caller owns."""
        found: Object = orjson.loads(self.json)
        return found

    @property
    def value(self) -> bytes:
        """The bytes as stored."""
        return self._head + self._rest

    @property
    def uid(self) -> str:
        return self.object["metadata"].get("uid") or ""


# Of those looked at last.
_small, *_larger = [(bytes_max, lru_cache(count)(Entry.fresh_object)) for bytes_max, count in PARSED]


class _Stale(Entry):
    __slots__ = ()
    stale = True


class Unreadable(Entry):
    """An object that is there but cannot be decrypted: whatever looks at its content raises InternalError."""

    __slots__ = ("_cause",)
    readable = False

    def __init__(self, info: ResourceInfo, key: str, revision: int, cause: str) -> None:
        self._place(info, key, revision)
        self._cause = cause

    @property
    def error(self) -> InternalError:
        """Kubernetes' words, and what to do."""
        return InternalError(f"Internal error occurred: {self._cause} (give its key back to the API servers)")

    def _refuse(self, *_: Any) -> NoReturn:
        raise self.error

    json = tail = object = labels = node = value = uid = size = property(_refuse)  # type: ignore[assignment]
    at = fresh_object = _refuse  # type: ignore[assignment]


class Broken(Unreadable):
    """A stored value in the place of an object that is none. Lists and watches pass over it; it can be deleted."""

    __slots__ = ()

    @property
    def error(self) -> InternalError:
        return InternalError(f"what stands at {self.key!r} in etcd is no object: {self._cause}; delete it to make room")


def read(info: ResourceInfo, key: str, stored: bytes, revision: int, transformer: Transformer | None) -> Entry:
    """The entry of what stands in etcd; Unreadable or Broken where that cannot be used."""
    try:
        entry = _read(info, key, stored, revision, transformer)
        if entry.readable:
            _check(info, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        return Broken(info, key, revision, f"{type(e).__name__}: {e}")
    return entry


def _check(info: ResourceInfo, entry: Entry) -> None:
    """Whether the bytes are an object of this place, with the parts that everybody looks at as they should be."""
    # Parsed also where the beginning is right: the rest may be cut off.
    o = entry.object
    meta = o["metadata"]
    if meta.get("name") != entry.name or (meta.get("namespace") or "") != entry.namespace:
        raise ValueError("its name or namespace is not that of its key")
    for name, kind in _SHAPES:
        value = meta.get(name)
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"metadata.{name} is not as it should be")
    for name in ("labels", "annotations"):
        for value in (meta.get(name) or {}).values():
            if not isinstance(value, str):
                raise TypeError(f"metadata.{name} has a value that is no string")
    if not info.custom:
        for name in ("spec", "status"):
            value = o.get(name)
            if value is not None and not isinstance(value, dict):
                raise TypeError(f"its {name} is not an object")


def _read(info: ResourceInfo, key: str, stored: bytes, revision: int, transformer: Transformer | None) -> Entry:
    if transformer is None:
        try:
            return Entry(info, key, stored, revision)
        except ValueError:
            if not stored.startswith(ENCRYPTED):
                raise
            cause = str(Untransformable(key, "identity transformer tried to read encrypted data"))
            return Unreadable(info, key, revision, cause)
    try:
        value, stale = transformer.from_storage(key, stored)
    except Untransformable as e:
        return Unreadable(info, key, revision, str(e))
    return (_Stale if stale else Entry)(info, key, value, revision)

"""The history of a cluster: what changed, what clients were told, what was seen of members and nodes.

Changes come in the order of etcd's revisions, each once. Times are seconds of the recorder's own clock.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"
DONE, REFUSED, UNKNOWN = "done", "refused", "unknown"
"""What a client knows of a call: an unknown one may be done, now or later, or never."""

RECENT = 5000
"""Changes that are remembered."""
# A class below has a method `list`, which hides the type inside it.
_Names = list[str]
_Objects = list[Object]


class Change(NamedTuple):
    """A change of one object. `revision` is etcd's, and the resourceVersion of `object`."""

    at_s: float
    resource: str
    """plural[.group]"""
    kind: str
    """ADDED, MODIFIED or DELETED"""
    object: Object
    """After the change; of a deletion what was there last."""
    old: Object | None
    revision: int

    @property
    def key(self) -> str:
        return meta.key(self.object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a call of one client. `revision`: the resourceVersion that it told, 0 where it told none."""

    client: str
    server: str = ""
    verb: str
    """create, update, delete, get or list"""
    resource: str
    key: str = ""
    uid: str = ""
    revision: int = 0
    called_s: float
    returned_s: float
    outcome: str = DONE


@dataclass(frozen=True, slots=True)
class Leads:
    """A member says that it leads in a term."""

    member: str
    term: int


@dataclass(frozen=True, slots=True)
class Hashed:
    """A member's hash of all its keys up to a revision, compacted up to another."""

    member: str
    revision: int
    compacted: int
    hash: int


@dataclass(frozen=True, slots=True)
class Runs:
    """Containers that run on all nodes now: pairs of a pod's key and a node. Other pods run nowhere."""

    pods: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list from one server's watch cache: the resourceVersion of each key, as of `revision`."""

    server: str
    resource: str
    revision: int
    versions: Mapping[str, int]


Fact = Leads | Hashed | Runs | Listed


class History:
    """The history up to now: what is there, and the latest changes. Objects are shared: never change them."""

    def __init__(self) -> None:
        self.time_s = 0.0
        """Of the latest news of any kind."""
        self.revision = 0
        """The newest that was told; everything up to it has been told."""
        self.last: Change | None = None
        self._objects: dict[str, dict[str, Object]] = {}
        self._recent: deque[Change] = deque(maxlen=RECENT)
        self._begun = 0

    def list(self, resource: str, namespace: str = "") -> _Objects:
        """What is there now, of one namespace or of all."""
        held = self._objects.get(resource, {}).values()
        return [o for o in held if not namespace or meta.namespace(o) == namespace]

    def get(self, resource: str, key: str) -> Object | None:
        """By `namespace/name`, or by name outside of namespaces."""
        return self._objects.get(resource, {}).get(key)

    def resources(self) -> _Names:
        return list(self._objects)

    def items(self, resource: str) -> Iterable[tuple[str, Object]]:
        return self._objects.get(resource, {}).items()

    def since(self, revision: int) -> Iterator[Change] | None:
        """Changes after a revision, the latest first; None when some are no longer remembered."""
        if revision < self._begun:
            return None
        return (change for change in reversed(self._recent) if change.revision > revision)

    def begin(self, at_s: float, revision: int, objects: Iterable[tuple[str, Object]]) -> None:
        """What is there when recording begins, or begins anew, as (resource, object). Nothing of before is known."""
        self.time_s, self.revision, self.last, self._begun = at_s, revision, None, revision
        self._objects.clear()
        self._recent.clear()
        for resource, obj in objects:
            self._objects.setdefault(resource, {})[meta.key(obj)] = obj

    def take(self, at_s: float, resource: str, obj: Object, revision: int, *, gone: bool = False) -> Change:
        """An object was written at a revision, or deleted: then `obj` need hold no more than its name."""
        held, key = self._objects.setdefault(resource, {}), meta.key(obj)
        old = held.get(key)
        if gone:
            change = Change(at_s, resource, DELETED, old or obj, old, revision)
            held.pop(key, None)
        else:
            change = Change(at_s, resource, ADDED if old is None else MODIFIED, obj, old, revision)
            held[key] = obj
        if len(self._recent) == RECENT:
            self._begun = self._recent[0].revision
        self._recent.append(change)
        self.time_s, self.last = at_s, change
        self.revision = max(self.revision, revision)
        return change

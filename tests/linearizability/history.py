"""What happened: operations of clients, and the changes that members applied."""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rayplane.control_plane.invariants.kv_model import Kv, Put, Response, State
from rayplane.control_plane.invariants.linearizable import Operation
from rayplane.proto.etcd.kv_pb2 import Event, KeyValue


def kv_of(kv: KeyValue) -> Kv:
    return Kv(kv.value, kv.create_revision, kv.mod_revision, kv.version)


class Change(NamedTuple):
    """One key's change of a revision. `kv` is None for a delete; `prev` None where nothing was, or is known."""

    key: bytes
    kv: Kv | None
    prev: Kv | None
    lease: int = 0


def change_of(event: Event) -> Change:
    return Change(
        event.kv.key,
        None if event.type == Event.DELETE else kv_of(event.kv),
        kv_of(event.prev_kv) if event.HasField("prev_kv") else None,
        event.kv.lease,
    )


class Recorder:
    """The clients' notebook. Every call and every return gets the next number: it knows the order of all of them."""

    def __init__(self) -> None:
        self._clock = itertools.count(1)
        self._open: dict[int, tuple[str, float, Any]] = {}
        self._numbers = itertools.count()
        self.operations: list[Operation] = []
        self.refused = 0

    def tick(self) -> int:
        """The next moment."""
        return next(self._clock)

    def begin(self, client: str, input: Any) -> int:
        number = next(self._numbers)
        self._open[number] = (client, self.tick(), input)
        return number

    def end(self, number: int, output: Any) -> Operation:
        client, called, input = self._open.pop(number)
        operation = Operation(client, called, input, self.tick(), output)
        self.operations.append(operation)
        return operation

    def refuse(self, number: int) -> None:
        """It surely had no effect. A read of what it would have written is illegal then."""
        del self._open[number]
        self.refused += 1

    @property
    def all(self) -> list[Operation]:
        """With those open that never returned."""
        still = [Operation(client, called, input) for client, called, input in self._open.values()]
        return sorted(self.operations + still, key=lambda op: op.called)


@dataclass
class Truth:
    """All changes by revision, as the members applied them, and where members disagree."""

    changes: dict[int, tuple[Change, ...]] = field(default_factory=dict)
    applied_at: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When the first member applied a revision: time, and the recorder's moment."""
    conflicts: list[str] = field(default_factory=list)
    _keys: dict[bytes, tuple[list[int], list[Kv | None]]] = field(default_factory=dict)

    def add(self, revision: int, events: Iterable[Event], *, time: float = 0.0, moment: float = 0) -> None:
        self.learn(revision, tuple(map(change_of, events)), time=time, moment=moment)

    def learn(self, revision: int, changes: tuple[Change, ...], *, time: float = 0.0, moment: float = 0) -> None:
        known = self.changes.setdefault(revision, changes)
        if known is changes:
            self.applied_at[revision] = (time, moment)
        # History that a member has compacted is missing from prev_kv after its restart.
        if known is not changes and [c._replace(prev=None) for c in known] != [c._replace(prev=None) for c in changes]:
            self.conflicts.append(f"two members hold different revisions {revision}: {known} and {changes}")

    @property
    def revision(self) -> int:
        return max(self.changes, default=1)

    def seal(self) -> None:
        """All changes are here: revisions follow each other, versions count, and states can be asked for."""
        assert not self.conflicts, self.conflicts[0]
        revisions = sorted(self.changes)
        assert revisions == list(range(2, len(revisions) + 2)), "revisions are missing"
        self._keys = {}
        for revision in revisions:
            names = [c.key for c in self.changes[revision]]
            assert len(set(names)) == len(names), f"revision {revision} changes a key twice"
            for change in self.changes[revision]:
                self._check(revision, change, self.at(change.key, revision))
                numbers, values = self._keys.setdefault(change.key, ([], []))
                numbers.append(revision)
                values.append(change.kv)

    @staticmethod
    def _check(revision: int, change: Change, before: Kv | None) -> None:
        kv = change.kv
        if kv is None:
            assert before is not None, f"revision {revision} deletes {change.key!r}, which is not there"
            return
        version, create = (before.version, before.create) if before is not None else (0, revision)
        assert (kv.mod, kv.version, kv.create) == (revision, version + 1, create), f"{change} follows {before}"

    def at(self, key: bytes, revision: int) -> Kv | None:
        """What a key held at a revision."""
        numbers, values = self._keys.get(key, ([], []))
        position = bisect_right(numbers, revision)
        return values[position - 1] if position else None

    def state(self, keys: Sequence[bytes], revision: int) -> State:
        """The model's state of some keys at a revision."""
        held: Mapping[bytes, Kv | None] = {key: self.at(key, revision) for key in sorted(keys)}
        return State(revision, tuple((key, kv) for key, kv in held.items() if kv is not None))


def resolved(history: Iterable[Operation], truth: Truth) -> list[Operation]:
    """What became of operations of unknown outcome that put values: each value is put once, so its revision tells.

    Those that were never applied are left out, the others get their revision, and stay open. It is a matter of cost
    only: a search must otherwise try each of them at every place. Deletes leave no trace of who did them.
    """
    revisions = {
        (change.key, change.kv.value): revision
        for revision, changes in truth.changes.items()
        for change in changes
        if change.kv is not None
    }
    result = []
    for op in history:
        puts = [part for part in op.input.ops if isinstance(part, Put)]
        if op.known or not puts:
            result.append(op)
        elif revision := revisions.get((puts[0].key, puts[0].value)):
            result.append(replace(op, output=Response(revision, None)))
    return result

"""Answers of the MVCC store."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.storage.mvcc.records import Change


class Applied(NamedTuple):
    """The last log entry whose effect is in the store."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    term: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """The answer to a range.

    `count` is the number of keys in the range whatever the limit; `more` says that the limit cut some off.
    """

    kvs: list[KeyValue]
    count: int
    more: bool


class Found(NamedTuple):
    """The same as revisions, whose records are not read yet."""

    revisions: list[int]
    count: int  # type: ignore[assignment]  # hides tuple.count
    more: bool


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Changes by main revision, ascending; go on from `next_revision`, which is `Store.revision + 1` at the end."""

    groups: list[tuple[int, list[Change]]] = field(default_factory=list)
    next_revision: int = 0

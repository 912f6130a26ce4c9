"""Counts of pods on nodes by what selectors and terms say of them; kept current as pods come and go.

Both ways round: how many pods of each row a term speaks of (`PodCounters`), and the terms of pods that run which
speak of a given pod (`HeldTerms`). A pod is only compared with what asks for one of its labels, or for none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm
from rayplane.control_plane.scheduler.topology import Ints

COUNTERS_MAX = 512

Scoped = tuple[LabelSelector, tuple[str, ...] | None]
"""A selector of pods in some namespaces; None means all."""
_Key = tuple[tuple[Scoped, ...], bool]
_Label = tuple[str, str]


def _index_label(selector: LabelSelector) -> _Label | None:
    """A label that whatever the selector matches has, if it fixes one."""
    return next(iter(selector.exact.items()), None)


class PodCounter:
    """Counts per row of the pods that match all of some selectors."""

    __slots__ = ("_live_only", "_wanted", "label", "rows")

    def __init__(self, wanted: tuple[Scoped, ...], rows: int, *, live_only: bool) -> None:
        self._wanted = tuple((s, None if names is None else frozenset(names)) for s, names in wanted)
        self._live_only = live_only
        self.label = _index_label(wanted[0][0])
        self.rows: Ints = np.zeros(rows, dtype=np.int64)

    def matches(self, pod: PodInfo) -> bool:
        if self._live_only and pod.terminating:
            return False
        for selector, namespaces in self._wanted:
            if namespaces is not None and pod.namespace not in namespaces:
                return False
            if not selector.matches(pod.labels):
                return False
        return True


class PodCounters:
    """Counters that were asked for lately."""

    def __init__(self) -> None:
        self._all: OrderedDict[_Key, PodCounter] = OrderedDict()
        self._by_label: dict[_Label | None, dict[_Key, PodCounter]] = {}

    def grow(self, more: int) -> None:
        for counter in self._all.values():
            counter.rows = np.pad(counter.rows, (0, more))

    def count(self, pod: PodInfo, row: int, sign: int) -> None:
        if not self._all:
            return
        for label in (None, *pod.labels.items()):
            for counter in self._by_label.get(label, {}).values():
                if counter.matches(pod):
                    counter.rows[row] += sign

    def get(self, wanted: tuple[Scoped, ...], rows: int, pods: Callable[[], Iterable[tuple[PodInfo, int]]], *,
            live_only: bool) -> Ints:  # fmt: skip
        """Counts of each row; a new counter looks at all `pods` once."""
        key = (wanted, live_only)
        counter = self._all.get(key)
        if counter is not None:
            self._all.move_to_end(key)
            return counter.rows
        counter = PodCounter(wanted, rows, live_only=live_only)
        for pod, row in pods():
            if counter.matches(pod):
                counter.rows[row] += 1
        self._all[key] = counter
        self._by_label.setdefault(counter.label, {})[key] = counter
        if len(self._all) > COUNTERS_MAX:
            self._drop(*self._all.popitem(last=False))
        return counter.rows

    def _drop(self, key: _Key, counter: PodCounter) -> None:
        alike = self._by_label[counter.label]
        del alike[key]
        if not alike:
            del self._by_label[counter.label]


class HeldTerms:
    """Terms of pods on nodes, and how many pods of each row hold them."""

    def __init__(self, speaks_of: Callable[[PodTerm, PodInfo], bool]) -> None:
        self._speaks_of = speaks_of
        self._rows: dict[PodTerm, Ints] = {}
        self._held: dict[PodTerm, int] = {}
        self._by_label: dict[_Label | None, dict[PodTerm, None]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def grow(self, more: int) -> None:
        for term, rows in self._rows.items():
            self._rows[term] = np.pad(rows, (0, more))

    def count(self, terms: Iterable[PodTerm], row: int, sign: int, rows: int) -> None:
        for term in terms:
            held = self._held.get(term, 0) + sign
            if not held:
                self._drop(term)
                continue
            if term not in self._rows:
                self._rows[term] = np.zeros(rows, dtype=np.int64)
                self._by_label.setdefault(_index_label(term.selector), {})[term] = None
            self._held[term] = held
            self._rows[term][row] += sign

    def _drop(self, term: PodTerm) -> None:
        del self._rows[term], self._held[term]
        label = _index_label(term.selector)
        alike = self._by_label[label]
        del alike[term]
        if not alike:
            del self._by_label[label]

    def speaking_of(self, pod: PodInfo) -> Iterator[tuple[PodTerm, Ints]]:
        """(term, its holders per row) for each term that speaks of a pod."""
        if not self._rows:
            return
        for label in (None, *pod.labels.items()):
            for term in self._by_label.get(label, ()):
                if self._speaks_of(term, pod):
                    yield term, self._rows[term]

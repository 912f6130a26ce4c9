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
from rayplane.control_plane.scheduler.term_kinds import MANY, Label, TermKinds, fixed_label
from rayplane.control_plane.scheduler.topology import Ints
from rayplane.control_plane.scheduler.work import Allowance

COUNTERS_MAX = 512

Scoped = tuple[LabelSelector, tuple[str, ...] | None]
"""A selector of pods in some namespaces; None means all."""
_Key = tuple[tuple[Scoped, ...], bool]


class PodCounter:
    """Counts per row of the pods that match all of some selectors."""

    __slots__ = ("_live_only", "_wanted", "label", "rows")

    def __init__(self, wanted: tuple[Scoped, ...], rows: int, *, live_only: bool) -> None:
        self._wanted = tuple((s, None if names is None else frozenset(names)) for s, names in wanted)
        self._live_only = live_only
        self.label = fixed_label(wanted[0][0])
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
        self._by_label: dict[Label | None, dict[_Key, PodCounter]] = {}

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


_Group = tuple[PodTerm, ...]


class _Holders:
    """Pods on nodes that hold the same terms."""

    __slots__ = ("pods", "rows")

    def __init__(self, rows: int) -> None:
        self.pods = 0
        self.rows: Ints = np.zeros(rows, dtype=np.int64)


def _namespaces(term: PodTerm) -> Iterable[str | None]:
    """Where what a term speaks of is; None for anywhere."""
    return (None,) if term.namespace_selector is not None else dict.fromkeys(term.namespaces)


class HeldTerms:
    """Terms of pods on nodes, and how many pods of each row hold them.

    Pods of one template hold the same terms, however many, and are counted together.
    """

    def __init__(self, speaks_of: Callable[[PodTerm, PodInfo], bool]) -> None:
        self._speaks_of = speaks_of
        self._holders: dict[_Group, _Holders] = {}
        #: By namespace, and a label that whatever a term speaks of has; None where it fixes none.
        self._places: dict[str | None, dict[Label | None, dict[PodTerm, _Holders]]] = {}
        self._many: dict[_Group, TermKinds] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def grow(self, more: int) -> None:
        for holders in self._holders.values():
            holders.rows = np.pad(holders.rows, (0, more))

    def count(self, terms: _Group, row: int, sign: int, rows: int) -> None:
        """A pod with these terms came to a row, or left it."""
        if not terms:
            return
        holders = self._holders.get(terms)
        if holders is None:
            holders = self._add(terms, rows)
        holders.pods += sign
        if not holders.pods:
            self._drop(terms)
            return
        holders.rows[row] += sign

    def _add(self, terms: _Group, rows: int) -> _Holders:
        holders = self._holders[terms] = _Holders(rows)
        if len(terms) >= MANY:
            self._many[terms] = TermKinds(terms)
            return holders
        for term in terms:
            label = fixed_label(term.selector)
            for namespace in _namespaces(term):
                self._places.setdefault(namespace, {}).setdefault(label, {})[term] = holders
        return holders

    def _drop(self, terms: _Group) -> None:
        del self._holders[terms]
        if self._many.pop(terms, None) is not None:
            return
        for term in terms:
            label = fixed_label(term.selector)
            for namespace in _namespaces(term):
                labels = self._places.get(namespace, {})
                alike = labels.get(label, {})
                alike.pop(term, None)
                if not alike:
                    labels.pop(label, None)
                if not labels:
                    self._places.pop(namespace, None)

    def speaking_of(self, pod: PodInfo, allowance: Allowance) -> Iterator[tuple[str, int, Ints]]:
        """(topology key, weight or 1, holders per row) of the terms that speak of a pod. Raises Unfinished."""
        for namespace in (None, pod.namespace):
            by_label = self._places.get(namespace)
            if by_label is None:
                continue
            for label in (None, *pod.labels.items()):
                for term, holders in by_label.get(label, {}).items():
                    if self._speaks_of(term, pod):
                        yield term.topology_key, term.weight or 1, holders.rows
        for group, terms in self._many.items():
            for key, weight in terms.said(pod, self._speaks_of, allowance).items():
                yield key, weight, self._holders[group].rows

    def namespaces_changed(self) -> None:
        """Namespaces have other labels, or there are others."""
        for terms in self._many.values():
            terms.forget()

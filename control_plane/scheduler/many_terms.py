"""Pods with many terms about other pods: what all of them say together, with one look at the pods that run.

A term that is asked about alone has a counter of its own, which is kept current: for a few terms that is best. Many
would take the counters of everybody else, and as many looks at all pods. Here each kind of pod, that is a namespace
with labels, is compared with the terms once, and remembered; what terms of one topology say is added up.

Source: Kubernetes concepts "Assigning Pods to Nodes" (inter-pod affinity).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayplane.control_plane.scheduler.pods import PodInfo, PodRules
from rayplane.control_plane.scheduler.snapshot import Ints, Snapshot
from rayplane.control_plane.scheduler.term_kinds import Kind, TermKinds, kind_of
from rayplane.control_plane.scheduler.work import Allowance

_RULES_MAX = 16
_KINDS_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class TermSums:
    """Pods of each row that the terms speak of, by topology key: how many the affinity means as a whole, and the sums
    over terms that keep away, and over those that are preferred with their weights.
    """

    near: Ints
    apart: Mapping[str, Ints]
    preferred: Mapping[str, Ints]


class _Known:
    """The memory of the terms of one pod's rules: what they say of the kinds of pods that were seen."""

    def __init__(self, rules: PodRules, snapshot: Snapshot) -> None:
        self.as_of = _changes(snapshot)
        self._near = rules.affinity
        self.apart, self.preferred = (
            TermKinds(term for term in terms if snapshot.knows_label(term.topology_key))
            for terms in (rules.anti_affinity, rules.preferred)
        )
        self._is_near: dict[Kind, bool] = {}

    def is_near(self, snapshot: Snapshot, pod: PodInfo, allowance: Allowance) -> bool:
        """Whether the affinity as a whole means a pod. Raises Unfinished."""
        if not self._near:
            return False
        kind = kind_of(pod)
        found = self._is_near.get(kind)
        if found is None:
            allowance.need()
            if len(self._is_near) >= _KINDS_MAX:
                self._is_near.clear()
            found = True
            for term in self._near:
                allowance.spend(1)
                if not snapshot.term_matches(term, pod):
                    found = False
                    break
            self._is_near[kind] = found
        return found


def _changes(snapshot: Snapshot) -> tuple[int, int]:
    """What was said is so as long as these are the same; labels that no node has make no topology."""
    return snapshot.namespace_changes, snapshot.label_changes


class ManyTerms:
    """A memory of the terms of pods that have many."""

    def __init__(self) -> None:
        self._known: OrderedDict[PodRules, _Known] = OrderedDict()

    def sums(self, snapshot: Snapshot, rules: PodRules, allowance: Allowance) -> TermSums:
        """What the terms say of the pods that run now. Raises Unfinished: the next call goes on."""
        known = self._known.get(rules)
        if known is None or known.as_of != _changes(snapshot):
            known = self._known[rules] = _Known(rules, snapshot)
        self._known.move_to_end(rules)
        if len(self._known) > _RULES_MAX:
            self._known.popitem(last=False)
        near = np.zeros(snapshot.rows, dtype=np.int64)
        apart: dict[str, Ints] = {}
        preferred: dict[str, Ints] = {}
        for pod, row in snapshot.placed():
            allowance.spend(1)
            near[row] += known.is_near(snapshot, pod, allowance)
            for sums, terms in ((apart, known.apart), (preferred, known.preferred)):
                for key, count in terms.said(pod, snapshot.term_matches, allowance).items():
                    if key not in sums:
                        sums[key] = np.zeros(snapshot.rows, dtype=np.int64)
                    sums[key][row] += count
        return TermSums(near, apart, preferred)

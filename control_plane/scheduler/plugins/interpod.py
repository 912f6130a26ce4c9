"""InterPodAffinity: pods near and away from other pods.

All of it is arithmetic on counts of pods per topology domain: counts per row, kept current by the snapshot, summed by
the row's domain. Source: Kubernetes concepts "Assigning Pods to Nodes" (inter-pod affinity).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rayplane.control_plane.scheduler.framework import PluginError
from rayplane.control_plane.scheduler.many_terms import ManyTerms, TermSums
from rayplane.control_plane.scheduler.plugins.args import InterPodAffinityArgs
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot
from rayplane.control_plane.scheduler.term_kinds import has_many
from rayplane.control_plane.scheduler.work import DECISION_MAX, Allowance, Unfinished

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
_SUMS = "InterPodAffinity/sums"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"


def _count(snapshot: Snapshot, *terms: PodTerm) -> Ints:
    """How many pods of each row all the terms speak of."""
    return snapshot.matching(*((term.selector, snapshot.resolve(term)) for term in terms))


@dataclass(frozen=True, slots=True)
class _Refused:
    """Rows that each rule forbids; None where the rule does not apply."""

    affinity: Bools | None = None
    anti_affinity: Bools | None = None
    existing: Bools | None = None


def _any(one: Bools | None, other: Bools) -> Bools:
    return other if one is None else one | other


def _refused(pod: PodInfo, snapshot: Snapshot, sums: TermSums | None, allowance: Allowance) -> _Refused:
    """Required rules, the pod's own and those of pods that run. `sums`: of a pod with many terms."""
    existing: Bools | None = None
    for key, _, holders in snapshot.anti.speaking_of(pod, allowance):
        existing = _any(existing, snapshot.domain_sums(key, holders) > 0)
    apart: Bools | None = None
    if sums is not None:
        for key, rows in sums.apart.items():
            apart = _any(apart, snapshot.domain_sums(key, rows) > 0)
    else:
        for term in pod.anti_affinity:
            apart = _any(apart, snapshot.domain_sums(term.topology_key, _count(snapshot, term)) > 0)
    if not pod.affinity:
        return _Refused(None, apart, existing)
    return _Refused(
        _lacking(pod, snapshot, _count(snapshot, *pod.affinity) if sums is None else sums.near), apart, existing
    )


def _lacking(pod: PodInfo, snapshot: Snapshot, rows: Ints) -> Bools:
    """A node must have, in its domain of every term, a pod that all terms speak of; `rows` has these by row.

    The first pod of a group that wants to be near itself would find none: it may go anywhere that has the labels.
    """
    lacking = np.zeros(snapshot.rows, dtype=np.bool_)
    unlabelled = np.zeros(snapshot.rows, dtype=np.bool_)
    is_found = False
    for key in dict.fromkeys(term.topology_key for term in pod.affinity):
        sums = snapshot.domain_sums(key, rows)
        is_found = is_found or bool(sums.any())
        lacking |= sums == 0
        unlabelled |= ~snapshot.has_label(key)
    if not is_found and all(snapshot.term_matches(term, pod) for term in pod.affinity):
        return unlabelled
    return lacking | unlabelled


class InterPodAffinity(Plugin):
    """InterPodAffinity: required rules refuse nodes, preferred ones and those of pods that run score them."""

    name: ClassVar[str] = "InterPodAffinity"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: InterPodAffinityArgs | None = None) -> None:
        super().__init__(args)
        self._args = args or InterPodAffinityArgs()
        self._many = ManyTerms()
        self._allowance = Allowance()

    # -- filter --------------------------------------------------------------------------------------------

    def problem(self, view: PodView) -> str:
        self._allowance.left = DECISION_MAX  # a decision begins
        return ""

    def _too_long(self) -> PluginError:
        text = "thousands of terms are not yet compared with all pods, with which the next try goes on"
        return PluginError(f'running Filter plugin "{self.name}": {text}')

    def _sums(self, view: PodView) -> TermSums | None:
        """Sums of the terms of a pod that has many. Raises Unfinished."""
        pod = view.pod
        if not has_many(pod):
            return None
        found: TermSums | None = view.memo.get(_SUMS)
        if found is None:
            found = view.memo[_SUMS] = self._many.sums(view.snapshot, pod.rules, self._allowance)
        return found

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.affinity or view.pod.anti_affinity or view.snapshot.anti)

    def _refused(self, view: PodView) -> _Refused:
        found: _Refused | None = view.memo.get(self.name)
        if found is None:
            try:
                sums = self._sums(view)
                found = view.memo[self.name] = _refused(view.pod, view.snapshot, sums, self._allowance)
            except Unfinished as e:
                raise self._too_long() from e
        return found

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not self.concerns(view):
            return None
        found = self._refused(view)
        bad: Bools | None = None
        for rule in (found.affinity, found.anti_affinity, found.existing):
            if rule is not None:
                bad = _any(bad, rule)
        return None if bad is None else ~bad[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not self.concerns(view):
            return None
        found = self._refused(view)
        if found.affinity is not None and found.affinity[row]:
            return Refusal(self.name, (AFFINITY,), False)
        if found.anti_affinity is not None and found.anti_affinity[row]:
            return Refusal(self.name, (ANTI_AFFINITY,), True)
        if found.existing is not None and found.existing[row]:
            return Refusal(self.name, (EXISTING_ANTI_AFFINITY,), True)
        return None

    # -- score ---------------------------------------------------------------------------------------------

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """Weights of the pod's preferred terms times the pods they speak of in the node's domain, and likewise those
        of the terms of pods there that speak of this pod. A required affinity of theirs counts as preferred.
        """
        pod, snapshot = view.pod, view.snapshot
        if not (pod.has_terms or snapshot.preferred or snapshot.near):
            return None
        try:
            total = self._total(view, pod, snapshot)
        except Unfinished as e:
            raise self._too_long() from e
        return None if total is None else total[rows]

    def _total(self, view: PodView, pod: PodInfo, snapshot: Snapshot) -> Ints | None:
        """The scores of all rows; None where they are the same. Raises Unfinished."""
        total: Ints | None = None
        sums = self._sums(view)
        for key, weighted in _weighted(pod, snapshot) if sums is None else sums.preferred.items():
            total = _plus(total, snapshot.domain_sums(key, weighted))
        if sums is not None and pod.preferred and total is None:
            total = np.zeros(snapshot.rows, dtype=np.int64)
        if pod.preferred or not self._args.ignore_preferred_terms_of_existing_pods:
            for key, weight, holders in snapshot.preferred.speaking_of(pod, self._allowance):
                total = _plus(total, _times(weight, snapshot.domain_sums(key, holders)))
        hard = self._args.hard_pod_affinity_weight
        if hard:
            for key, count, holders in snapshot.near.speaking_of(pod, self._allowance):
                total = _plus(total, _times(hard * count, snapshot.domain_sums(key, holders)))
        return total

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        """The allowed rows span 0 to 100; all have 0 when they are equal."""
        seen = raw[among]
        if not len(seen):
            return np.zeros(len(raw), dtype=np.int64)
        low, high = int(seen.min()), int(seen.max())
        if high == low:
            return np.zeros(len(raw), dtype=np.int64)
        found: Ints = (SCORE_MAX * ((raw - low) / (high - low))).astype(np.int64)
        return found


def _weighted(pod: PodInfo, snapshot: Snapshot) -> Iterator[tuple[str, Ints]]:
    for term in pod.preferred:
        yield term.topology_key, _times(term.weight, _count(snapshot, term))


def _plus(total: Ints | None, more: Ints) -> Ints:
    return more if total is None else total + more


def _times(weight: int, rows: Ints) -> Ints:
    return rows if weight == 1 else weight * rows

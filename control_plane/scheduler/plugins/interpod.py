"""InterPodAffinity: pods near and away from other pods.

All of it is arithmetic on counts of pods per topology domain: counts per row, kept current by the snapshot, summed by
the row's domain. Source: Kubernetes concepts "Assigning Pods to Nodes" (inter-pod affinity).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rayplane.control_plane.scheduler.plugins.args import InterPodAffinityArgs
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
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


def _refused(pod: PodInfo, snapshot: Snapshot) -> _Refused:
    """Required rules, the pod's own and those of pods that run."""
    existing: Bools | None = None
    for term, holders in snapshot.anti.speaking_of(pod):
        existing = _any(existing, snapshot.domain_sums(term.topology_key, holders) > 0)
    apart: Bools | None = None
    for term in pod.anti_affinity:
        apart = _any(apart, snapshot.domain_sums(term.topology_key, _count(snapshot, term)) > 0)
    near = _lacking(pod, snapshot) if pod.affinity else None
    return _Refused(near, apart, existing)


def _lacking(pod: PodInfo, snapshot: Snapshot) -> Bools:
    """A node must have, in its domain of every term, a pod that all terms speak of.

    The first pod of a group that wants to be near itself would find none: it may go anywhere that has the labels.
    """
    rows = _count(snapshot, *pod.affinity)
    lacking = np.zeros(snapshot.rows, dtype=np.bool_)
    unlabelled = np.zeros(snapshot.rows, dtype=np.bool_)
    is_found = False
    for term in pod.affinity:
        sums = snapshot.domain_sums(term.topology_key, rows)
        is_found = is_found or bool(sums.any())
        lacking |= sums == 0
        unlabelled |= ~snapshot.has_label(term.topology_key)
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

    # -- filter --------------------------------------------------------------------------------------------

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.affinity or view.pod.anti_affinity or view.snapshot.anti)

    def _refused(self, view: PodView) -> _Refused:
        found: _Refused | None = view.memo.get(self.name)
        if found is None:
            found = view.memo[self.name] = _refused(view.pod, view.snapshot)
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
        total: Ints | None = None
        for term in pod.preferred:
            total = _plus(total, term.weight * snapshot.domain_sums(term.topology_key, _count(snapshot, term)))
        if pod.preferred or not self._args.ignore_preferred_terms_of_existing_pods:
            for term, holders in snapshot.preferred.speaking_of(pod):
                total = _plus(total, term.weight * snapshot.domain_sums(term.topology_key, holders))
        hard = self._args.hard_pod_affinity_weight
        if hard:
            for term, holders in snapshot.near.speaking_of(pod):
                total = _plus(total, hard * snapshot.domain_sums(term.topology_key, holders))
        return None if total is None else total[rows]

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


def _plus(total: Ints | None, more: Ints) -> Ints:
    return more if total is None else total + more

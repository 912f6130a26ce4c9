"""Pods near and away from other pods: inter-pod affinity and anti-affinity, topology spread.

All of it is arithmetic on counts of matching pods per topology domain: counts per row (kept current by the snapshot)
summed by the row's domain.

Source: Kubernetes concepts "Assigning Pods to Nodes" (inter-pod affinity), "Pod Topology Spread Constraints".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayplane.control_plane.api.taints import HARD_EFFECTS
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm, SpreadRule
from rayplane.control_plane.scheduler.snapshot import Bools, Floats, Ints, Snapshot

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_NO_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"


def domain_counts(snapshot: Snapshot, key: str, rows: Ints) -> Ints:
    """For each row the sum of `rows` over its domain of `key`; 0 for rows without the label."""
    codes, domains = snapshot.topology(key)
    known = (codes >= 0) & snapshot.valid
    sums = np.bincount(codes[known], weights=rows[known], minlength=max(domains, 1)).astype(np.int64)
    return np.where(codes >= 0, sums[np.maximum(codes, 0)], 0)


def _has_label(snapshot: Snapshot, key: str) -> Bools:
    codes, _ = snapshot.topology(key)
    return codes >= 0


def _count(snapshot: Snapshot, term: PodTerm) -> Ints:
    return snapshot.matching(term.selector, snapshot.resolve(term))


@dataclass(frozen=True, slots=True)
class Refusals:
    """Rows that each rule forbids; None where the rule does not apply."""

    affinity: Bools | None = None
    anti_affinity: Bools | None = None
    existing: Bools | None = None

    def mask(self, rows: int) -> Bools | None:
        """Rows that no rule forbids; None when no rule applies."""
        applied = [bad for bad in (self.affinity, self.anti_affinity, self.existing) if bad is not None]
        if not applied:
            return None
        found = np.ones(rows, dtype=np.bool_)
        for bad in applied:
            found &= ~bad
        return found


def refusals(pod: PodInfo, snapshot: Snapshot) -> Refusals:
    """Required inter-pod rules, the pod's own and those of pods that run."""
    existing: Bools | None = None
    for term, holders in snapshot.anti_terms().items():
        if snapshot.term_matches(term, pod):
            bad = domain_counts(snapshot, term.topology_key, holders) > 0
            existing = bad if existing is None else existing | bad
    apart: Bools | None = None
    for term in pod.anti_affinity:
        bad = domain_counts(snapshot, term.topology_key, _count(snapshot, term)) > 0
        apart = bad if apart is None else apart | bad
    near = _affinity_refusals(pod, snapshot) if pod.affinity else None
    return Refusals(near, apart, existing)


def _affinity_refusals(pod: PodInfo, snapshot: Snapshot) -> Bools:
    """A node must have a matching pod in its domain for every term.

    The first pod of a group that wants to be near itself would find none: it may go anywhere that has the labels.
    """
    counts = [domain_counts(snapshot, term.topology_key, _count(snapshot, term)) for term in pod.affinity]
    lacking = np.zeros(snapshot.rows, dtype=np.bool_)
    for term, count in zip(pod.affinity, counts, strict=True):
        lacking |= (count == 0) | ~_has_label(snapshot, term.topology_key)
    if any(count[snapshot.valid].any() for count in counts):
        return lacking
    if not all(snapshot.term_matches(term, pod) for term in pod.affinity):
        return lacking
    unlabelled = np.zeros(snapshot.rows, dtype=np.bool_)
    for term in pod.affinity:
        unlabelled |= ~_has_label(snapshot, term.topology_key)
    return unlabelled


def affinity_score(pod: PodInfo, snapshot: Snapshot) -> Floats | None:
    """Weighted matching pods of each row's domains, for the pod's preferred terms; None without any."""
    if not pod.preferred:
        return None
    total = np.zeros(snapshot.rows, dtype=np.float64)
    for term in pod.preferred:
        total += term.weight * domain_counts(snapshot, term.topology_key, _count(snapshot, term))
    return total


# -- topology spread -------------------------------------------------------------------------------------------


def _eligible(pod: PodInfo, snapshot: Snapshot, rules: list[SpreadRule], rule: SpreadRule, admitted: Bools) -> Bools:
    """Rows whose domains and pods count for a rule."""
    found = snapshot.valid.copy()
    for other in rules:
        found &= _has_label(snapshot, other.topology_key)
    if rule.honor_affinity:
        found &= admitted
    if rule.honor_taints:
        for _, row in snapshot.nodes():
            if found[row]:
                taints = snapshot.info(row).taints
                found[row] = all(t.effect not in HARD_EFFECTS or pod.shape.tolerates(t) for t in taints)
    return found


def _spread_counts(pod: PodInfo, snapshot: Snapshot, rule: SpreadRule, eligible: Bools) -> Ints:
    rows = snapshot.matching(rule.selector, (pod.namespace,), live_only=True)
    return domain_counts(snapshot, rule.topology_key, np.where(eligible, rows, 0))


@dataclass(frozen=True, slots=True)
class SpreadRefusals:
    """Rows over the allowed skew, and rows without a label a rule needs."""

    skewed: Bools
    unlabelled: Bools


def spread_refusals(pod: PodInfo, snapshot: Snapshot, admitted: Bools) -> SpreadRefusals | None:
    """DoNotSchedule rules: count in the domain + this pod - smallest count <= maxSkew. None without such rules.

    `admitted` are the rows that the pod's node selector and node affinity allow.
    """
    rules = [rule for rule in pod.spread if rule.hard]
    if not rules:
        return None
    skewed = np.zeros(snapshot.rows, dtype=np.bool_)
    unlabelled = np.zeros(snapshot.rows, dtype=np.bool_)
    for rule in rules:
        unlabelled |= ~_has_label(snapshot, rule.topology_key)
        eligible = _eligible(pod, snapshot, rules, rule, admitted)
        counts = _spread_counts(pod, snapshot, rule, eligible)
        codes, _ = snapshot.topology(rule.topology_key)
        domains = np.unique(codes[eligible])
        smallest = int(counts[eligible].min()) if len(domains) >= rule.min_domains and len(domains) else 0
        own = 1 if rule.selector.matches(pod.labels) else 0
        skewed |= counts + own - smallest > rule.max_skew
    return SpreadRefusals(skewed & ~unlabelled, unlabelled)


def spread_score(pod: PodInfo, snapshot: Snapshot, admitted: Bools) -> Floats | None:
    """Matching pods in each row's domains, for ScheduleAnyway rules: fewer is better. None without such rules."""
    rules = [rule for rule in pod.spread if not rule.hard]
    if not rules:
        return None
    total = np.zeros(snapshot.rows, dtype=np.float64)
    for rule in rules:
        eligible = _eligible(pod, snapshot, [rule], rule, admitted)
        total += _spread_counts(pod, snapshot, rule, eligible) / rule.max_skew
    return total

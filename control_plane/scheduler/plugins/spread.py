"""PodTopologySpread: pods of a kind spread evenly over the domains of a topology.

Source: Kubernetes concepts "Pod Topology Spread Constraints".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from rayplane.control_plane.scheduler.nodes import HOSTNAME, ZONE
from rayplane.control_plane.scheduler.plugins.args import SpreadArgs
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.plugins.node import tolerated_rows
from rayplane.control_plane.scheduler.pods import SpreadRule, spread_rule
from rayplane.control_plane.scheduler.rows import admitted
from rayplane.control_plane.scheduler.snapshot import Bools, Floats, Ints, Rows, Snapshot

SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_NO_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"
_SOFT = "ScheduleAnyway"
#: What holds for pods without constraints of their own, unless the profile says otherwise.
SYSTEM_CONSTRAINTS: Final[tuple[dict[str, Any], ...]] = (
    {"topologyKey": HOSTNAME, "whenUnsatisfiable": _SOFT, "maxSkew": 3},
    {"topologyKey": ZONE, "whenUnsatisfiable": _SOFT, "maxSkew": 5},
)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Rows over the allowed skew, and rows without a label that a rule needs."""

    skewed: Bools
    unlabelled: Bools


class PodTopologySpread(Plugin):
    """PodTopologySpread: DoNotSchedule rules refuse nodes, ScheduleAnyway rules score them."""

    name: ClassVar[str] = "PodTopologySpread"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: SpreadArgs | None = None) -> None:
        super().__init__(args)
        given = args.default_constraints if args else None
        self._is_system = given is None
        self.needs_owners = given is None or bool(given)
        self._defaults = SYSTEM_CONSTRAINTS if given is None else given

    def _rules(self, view: PodView, *, hard: bool) -> Sequence[SpreadRule]:
        """The pod's own rules, else the default ones, over the pods that its Services and owner select."""
        if view.pod.spread:
            return [rule for rule in view.pod.spread if rule.hard is hard]
        wanted = [rule for rule in self._defaults if (rule.get("whenUnsatisfiable") != _SOFT) is hard]
        if not wanted:
            return ()
        selector = view.cluster.owners.selector(view.pod)
        if selector is None or selector.everything:
            return ()
        return [spread_rule(rule, selector) for rule in wanted]

    # -- filter --------------------------------------------------------------------------------------------

    def concerns(self, view: PodView) -> bool:
        return bool(self._rules(view, hard=True))

    def _refused(self, view: PodView) -> _Refused | None:
        """Matching pods in the domain + this pod - the smallest count of a domain <= maxSkew."""
        if self.name in view.memo:
            known: _Refused | None = view.memo[self.name]
            return known
        rules = self._rules(view, hard=True)
        found: _Refused | None = None
        if rules:
            snapshot = view.snapshot
            skewed = np.zeros(snapshot.rows, dtype=np.bool_)
            labelled = _labelled(snapshot, rules)
            for rule in rules if labelled.any() else ():
                skewed |= self._skewed(view, rule, labelled)
            found = _Refused(skewed & labelled, ~labelled)
        view.memo[self.name] = found
        return found

    def _skewed(self, view: PodView, rule: SpreadRule, labelled: Bools) -> Bools:
        snapshot = view.snapshot
        eligible = _included(view, rule, labelled)
        counts = snapshot.domain_sums(rule.topology_key, _matching(view, rule), eligible)
        domains = snapshot.domains(rule.topology_key, eligible)
        smallest = int(counts[eligible].min()) if domains >= rule.min_domains and domains else 0
        own = 1 if rule.selector.matches(view.pod.labels) else 0
        found: Bools = counts + (own - smallest) > rule.max_skew
        return found

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        found = self._refused(view)
        return None if found is None else ~(found.skewed | found.unlabelled)[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        found = self._refused(view)
        if found is not None and found.unlabelled[row]:
            return Refusal(self.name, (SPREAD_NO_LABEL,), False)
        if found is not None and found.skewed[row]:
            return Refusal(self.name, (SPREAD,), True)
        return None

    # -- score ---------------------------------------------------------------------------------------------

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """Matching pods in the node's domains, weighted by how many domains there are: fewer is better.

        -1 for rows without a label that a rule needs; the system's default rules need none.
        """
        rules = self._rules(view, hard=False)
        if not rules:
            return None
        snapshot = view.snapshot
        among = snapshot.valid if among is None else among
        needs_all = bool(view.pod.spread) or not self._is_system
        labelled = _labelled(snapshot, rules) if needs_all else snapshot.valid
        scored = among & labelled
        total: Floats = np.zeros(snapshot.rows, dtype=np.float64)
        for rule in rules if scored.any() else ():
            total += self._share(view, rule, labelled, scored)
        found = np.where(scored, np.floor(total + 0.5), -1.0).astype(np.int64)
        return found[rows]

    def _share(self, view: PodView, rule: SpreadRule, labelled: Bools, scored: Bools) -> Floats:
        """What one rule adds to each row's score."""
        snapshot, key = view.snapshot, rule.topology_key
        matching = _matching(view, rule)
        has = snapshot.has_label(key)
        if key == HOSTNAME:
            size = int(scored.sum())
            counts = matching
        else:
            size = snapshot.domains(key, scored) + int((scored & ~has).any())
            counts = snapshot.domain_sums(key, matching, _included(view, rule, labelled))
        weight = np.log(size + 2)
        return np.where(has, counts * weight + (rule.max_skew - 1), 0.0)

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        """The least has 100; rows that are not scored have 0."""
        seen = raw[among & (raw >= 0)]
        if not len(seen):
            return np.zeros(len(raw), dtype=np.int64)
        low, high = int(seen.min()), int(seen.max())
        if high == 0:
            return np.where(raw < 0, 0, SCORE_MAX)
        return np.where(raw < 0, 0, SCORE_MAX * (high + low - raw) // high)


def _matching(view: PodView, rule: SpreadRule) -> Ints:
    return view.snapshot.matching((rule.selector, (view.pod.namespace,)), live_only=True)


def _labelled(snapshot: Snapshot, rules: Sequence[SpreadRule]) -> Bools:
    """Rows with the labels of all rules."""
    found = snapshot.valid.copy()
    for rule in rules:
        found &= snapshot.has_label(rule.topology_key)
    return found


def _included(view: PodView, rule: SpreadRule, labelled: Bools) -> Bools:
    """Rows whose domains and pods count for a rule."""
    snapshot, shape = view.snapshot, view.pod.shape
    found = labelled
    if rule.honor_affinity and (shape.required is not None or not shape.node_selector.everything):
        found = found & admitted(snapshot, shape)
    if rule.honor_taints and snapshot.has_taints:
        found = found & tolerated_rows(snapshot, shape)
    return found

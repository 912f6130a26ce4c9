"""Scores of the allowed nodes: each is 0 to 100 before its weight."""

from __future__ import annotations

import numpy as np

from rayplane.control_plane.api.taints import PREFER_NO_SCHEDULE
from rayplane.control_plane.scheduler.config import Strategy
from rayplane.control_plane.scheduler.pods import Shape
from rayplane.control_plane.scheduler.snapshot import Bools, Floats, Ints, Snapshot

SCORE_MAX = 100.0


def resources(snapshot: Snapshot, shape: Shape, strategy: Strategy, rows: Ints) -> Floats:
    """NodeResourcesFit for some rows: mean of the used shares of cpu and memory with the pod on the node.

    Resources that a node does not have at all are left out of its mean.
    """
    capacity = snapshot.allocatable[rows, :2]
    used = snapshot.scored[rows] + np.array([shape.scored_cpu, shape.scored_memory], dtype=np.int64)
    has = capacity > 0
    share = np.where(has, np.minimum(used, capacity) / np.maximum(capacity, 1), 0.0)
    mean = share.sum(axis=1) / np.maximum(has.sum(axis=1), 1)
    found: Floats = SCORE_MAX * (mean if strategy is Strategy.MOST_ALLOCATED else 1.0 - mean)
    return found


def node_preference(snapshot: Snapshot, shape: Shape) -> Floats | None:
    """NodeAffinity: summed weights of the preferred terms a node matches; None without any."""
    if not shape.preferred:
        return None
    found = np.zeros(snapshot.rows, dtype=np.float64)
    for _, row in snapshot.nodes():
        info = snapshot.info(row)
        found[row] = sum(weight for weight, term in shape.preferred if term.matches(info.labels, info.name))
    return found


def soft_taints(snapshot: Snapshot, shape: Shape) -> Floats | None:
    """TaintToleration: PreferNoSchedule taints that the pod does not tolerate; None when no node has any."""
    found = np.zeros(snapshot.rows, dtype=np.float64)
    for _, row in snapshot.nodes():
        for taint in snapshot.info(row).taints:
            if taint.effect == PREFER_NO_SCHEDULE and not shape.tolerates(taint):
                found[row] += 1
    return found if found.any() else None


def normalized(raw: Floats, among: Bools, *, reverse: bool = False) -> Floats:
    """Scaled so that the best of the rows `among` has 100 (or the worst 0, `reverse`)."""
    top = raw[among].max() if among.any() else 0.0
    if top <= 0:
        return np.full(len(raw), SCORE_MAX if reverse else 0.0)
    scaled = raw * (SCORE_MAX / top)
    return SCORE_MAX - scaled if reverse else scaled


def spanned(raw: Floats, among: Bools, *, reverse: bool = False) -> Floats:
    """Scaled so that the rows `among` span 0 to 100; all 100 (reverse) or 0 when they are equal."""
    if not among.any():
        return np.zeros(len(raw))
    low, high = raw[among].min(), raw[among].max()
    if high == low:
        return np.full(len(raw), SCORE_MAX if reverse else 0.0)
    scaled = (raw - low) * (SCORE_MAX / (high - low))
    return SCORE_MAX - scaled if reverse else scaled

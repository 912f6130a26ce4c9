"""Rows whose node a selector admits, over all rows at once."""

from __future__ import annotations

import numpy as np

from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.api.node_affinity import NodeTerm
from rayplane.control_plane.scheduler.pods import Shape
from rayplane.control_plane.scheduler.snapshot import Bools, Snapshot


def rows_of_selector(snapshot: Snapshot, selector: LabelSelector) -> Bools:
    """Rows whose labels a selector matches."""
    if selector.nothing:
        return np.zeros(snapshot.rows, dtype=np.bool_)
    found = snapshot.valid.copy()
    for requirement in selector.requirements:
        found &= snapshot.label_mask(requirement)
    return found


def rows_of_term(snapshot: Snapshot, term: NodeTerm) -> Bools:
    """Rows whose node a term of a node selector matches."""
    if term.empty:
        return np.zeros(snapshot.rows, dtype=np.bool_)
    found = rows_of_selector(snapshot, term.labels)
    for rule in term.name_rules:
        found &= snapshot.name_mask(rule)
    return found


def rows_of_terms(snapshot: Snapshot, terms: tuple[NodeTerm, ...]) -> Bools:
    """Rows that any of the terms matches."""
    found = np.zeros(snapshot.rows, dtype=np.bool_)
    for term in terms:
        found |= rows_of_term(snapshot, term)
    return found


def admitted(snapshot: Snapshot, shape: Shape) -> Bools:
    """Rows that nodeSelector and required node affinity allow."""
    found = rows_of_selector(snapshot, shape.node_selector)
    if shape.required is not None:
        found &= rows_of_terms(snapshot, shape.required)
    return found

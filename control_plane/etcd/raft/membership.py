"""Single-server membership changes (thesis §4.1): any two successive configurations share a majority."""

from __future__ import annotations

from rayplane.control_plane.etcd.raft.errors import ConfChangeRefused
from rayplane.control_plane.etcd.raft.types import NONE, ConfChange, ConfChangeType, ConfState


def changed(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after one change; ConfChangeRefused when no voter would be left."""
    node = change.node_id
    if node == NONE:
        return conf
    voters, learners = set(conf.voters) - {node}, set(conf.learners) - {node}
    if change.type is ConfChangeType.ADD_NODE:
        voters.add(node)
    elif change.type is ConfChangeType.ADD_LEARNER:
        learners.add(node)
    if conf.voters and not voters:
        raise ConfChangeRefused(f"member {node} is the last voter: add another one first", retryable=False)
    return ConfState(tuple(sorted(voters)), tuple(sorted(learners)))

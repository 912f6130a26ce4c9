"""Plug-ins of the scheduler, by Kubernetes' names, over all nodes at once.

Owns: what each filter and score says of a pod and the nodes. Does not own: which of them are asked (profiles), when
(`cycle`), nor what they look at (`snapshot` and the other indexes of a `Cluster`).

`base` says what a plug-in is (`Plugin`: filter, score or both; `Scope`: how long its answers hold), `args` has their
arguments, `registry` the table of those that are here (`IN_TREE`: name to class) and makes a profile's `PluginSet` of
the names, weights and arguments it lists. Another plug-in is a subclass of `Plugin` under a name of its own in the
registry that a `Cycle` is given; `refusal` and `score_node` are all it must override, node by node, `allowed` and
`score` answer for many nodes at once.
"""

from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PluginSet, PodView, Refusal, Registry, Scope
from rayplane.control_plane.scheduler.plugins.registry import IN_TREE, make

__all__ = ["IN_TREE", "Cluster", "Plugin", "PluginSet", "PodView", "Refusal", "Registry", "Scope", "make"]

"""Node selectors: which nodes a pod's required node affinity, or a volume's, admits.

Terms are alternatives; within a term all label expressions and fields must match, and an empty term matches nothing.

Source: Kubernetes API reference core/v1 NodeSelector, NodeSelectorTerm; concepts "Assigning Pods to Nodes".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.machinery.selectors import LabelSelector, Requirement, from_node_expressions

_FIELD_OPERATORS = {"In": "in", "NotIn": "notin"}


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One term of a node selector: labels and the node's name must match; an empty one matches nothing."""

    labels: LabelSelector
    name_rules: tuple[Requirement, ...]
    empty: bool

    @staticmethod
    def of(term: Mapping[str, Any]) -> NodeTerm:
        expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
        rules = tuple(
            Requirement(
                f.get("key") or "", _FIELD_OPERATORS.get(f.get("operator") or "", "!"), tuple(f.get("values") or ())
            )
            for f in fields
        )
        return NodeTerm(from_node_expressions(expressions), rules, not expressions and not fields)

    def names(self) -> frozenset[str] | None:
        """The only names that its fields allow; None where they do not list any."""
        listed = [frozenset(rule.values) for rule in self.name_rules if rule.operator == "in"]
        return frozenset.intersection(*listed) if listed else None

    def matches(self, labels: Mapping[str, str], name: str) -> bool:
        if self.empty or not self.labels.matches(labels):
            return False
        return all(rule.matches({"metadata.name": name}) for rule in self.name_rules)


def node_terms(selector: Mapping[str, Any] | None) -> tuple[NodeTerm, ...] | None:
    """The terms of a node selector; None when there is none, which admits every node."""
    if not selector:
        return None
    return tuple(NodeTerm.of(term) for term in selector.get("nodeSelectorTerms") or ())


def required_terms(pod_spec: Mapping[str, Any]) -> tuple[NodeTerm, ...] | None:
    """What a pod's node affinity requires; None when nothing."""
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    return node_terms(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))


def only_names(terms: tuple[NodeTerm, ...] | None) -> frozenset[str] | None:
    """The names of the only nodes that terms can admit; None where some term lists none, or there are no terms."""
    found = [term.names() for term in terms or ()]
    listed = [names for names in found if names is not None]
    return frozenset().union(*listed) if found and len(listed) == len(found) else None


def admits(terms: tuple[NodeTerm, ...] | None, labels: Mapping[str, str], name: str) -> bool:
    return terms is None or any(term.matches(labels, name) for term in terms)

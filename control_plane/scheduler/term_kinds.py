"""Many terms about pods, and what they say of each kind of pods, remembered.

A kind is a namespace with labels: pods of one template are of one kind. To compare it with thousands of terms is worth
doing once. Terms of one topology key are added up, each by its weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.scheduler.pods import PodInfo, PodTerm
from rayplane.control_plane.scheduler.work import Allowance

#: Terms of a pod from which on they are many.
MANY = 64
_KINDS_MAX = 4096
Label = tuple[str, str]
Kind = tuple[str, frozenset[Label]]
SpeaksOf = Callable[[PodTerm, PodInfo], bool]


def has_many(pod: PodInfo) -> bool:
    """Whether a pod has so many terms about other pods that they are not looked at one by one."""
    rules = pod.rules
    return len(rules.affinity) + len(rules.anti_affinity) + len(rules.preferred) >= MANY


def kind_of(pod: PodInfo) -> Kind:
    return pod.namespace, frozenset(pod.labels.items())


def fixed_label(selector: LabelSelector) -> Label | None:
    """A label that whatever the selector matches has, if it fixes one."""
    return next(iter(selector.exact.items()), None)


class TermKinds:
    """Terms of a pod, and what they say of the kinds of pods that were asked about."""

    def __init__(self, terms: Iterable[PodTerm]) -> None:
        self._by_label: dict[Label | None, list[PodTerm]] = {}
        namespaces: set[str] | None = set()
        for term in terms:
            self._by_label.setdefault(fixed_label(term.selector), []).append(term)
            if term.namespace_selector is not None:
                namespaces = None
            elif namespaces is not None:
                namespaces.update(term.namespaces)
        self._namespaces = namespaces
        self._said: dict[Kind, Mapping[str, int]] = {}

    def said(self, pod: PodInfo, speaks_of: SpeaksOf, allowance: Allowance) -> Mapping[str, int]:
        """The weights of the terms that speak of a pod, by topology key; 1 of those without. Raises Unfinished."""
        if self._namespaces is not None and pod.namespace not in self._namespaces:
            return {}
        kind = kind_of(pod)
        found = self._said.get(kind)
        if found is None:
            allowance.need()
            if len(self._said) >= _KINDS_MAX:
                self._said.clear()
            weights = Counter[str]()
            for term in self._concerning(pod):
                allowance.spend(1)
                if speaks_of(term, pod):
                    weights[term.topology_key] += term.weight or 1
            found = self._said[kind] = weights
        return found

    def _concerning(self, pod: PodInfo) -> Iterator[PodTerm]:
        for label in (None, *pod.labels.items()):
            yield from self._by_label.get(label, ())

    def forget(self) -> None:
        """Namespaces have other labels: what was said may be wrong now."""
        self._said.clear()

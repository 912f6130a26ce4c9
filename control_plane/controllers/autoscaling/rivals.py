"""Rivals among autoscalers: whose targets select some of the same pods.

The selectors of a namespace are filed by a label that each of them fixes, so that it takes no more than a look at the
labels of an autoscaler's own pods to find the others that select them.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.api.meta import Object

_Place = tuple[str, tuple[str, str] | None]
"""A namespace, and a label; None for selectors that fix none."""


class Rivals:
    """The selectors of autoscalers' targets, by the autoscaler's key."""

    def __init__(self) -> None:
        self._selectors: dict[str, LabelSelector] = {}
        self._filed: dict[_Place, dict[str, None]] = {}

    def put(self, key: str, selector: LabelSelector | None) -> None:
        """The selector of an autoscaler's target as it is now; None where there is none."""
        before = self._selectors.pop(key, None)
        if before == selector and selector is not None:
            self._selectors[key] = selector
            return
        if before is not None:
            place = _place(key, before)
            del self._filed[place][key]
            if not self._filed[place]:
                del self._filed[place]
        # Who selects everything is nobody's rival: it has no pods of its own.
        if selector is not None and not selector.everything and not selector.nothing:
            self._selectors[key] = selector
            self._filed.setdefault(_place(key, selector), {})[key] = None

    def of(self, key: str, pods: Iterable[Object]) -> list[str]:
        """The keys of others whose selectors match some of these pods, in order."""
        namespace = meta.split_key(key)[0]
        found: set[str] = set()
        for labels in {tuple(sorted(meta.labels(pod).items())) for pod in pods}:
            for label in (*labels, None):
                for other in self._filed.get((namespace, label), ()):
                    if other != key and other not in found and self._selectors[other].matches(dict(labels)):
                        found.add(other)
        return sorted(found)


def _place(key: str, selector: LabelSelector) -> _Place:
    return meta.split_key(key)[0], min(selector.exact.items(), default=None)

"""PodTolerationRestriction: what pods tolerate by their namespace's word, and at most.

Source: kubernetes/plugin/pkg/admission/podtolerationrestriction and pkg/util/tolerations.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import BEST_EFFORT, computed_qos_class
from rayplane.control_plane.api.taints import (
    MEMORY_PRESSURE,
    NO_EXECUTE,
    NO_SCHEDULE,
    TOLERATIONS_MAX,
    Toleration,
    are_tolerations,
)
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

DEFAULTS = "scheduler.alpha.kubernetes.io/defaultTolerations"
ALLOWED = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
_PRESSED = {"key": MEMORY_PRESSURE, "operator": "Exists", "effect": NO_SCHEDULE}


class TolerationRestriction:
    """The plug-in."""

    def __init__(self, lookup: Lookup, usual: Sequence[Any] = (), allowed: Sequence[Any] = ()) -> None:
        """`usual`, `allowed`: of namespaces that say nothing."""
        self._lookup = lookup
        self._of_cluster = {DEFAULTS: usual, ALLOWED: allowed}

    async def admit(self, request: AdmissionRequest) -> None:
        """Raises Forbidden."""
        creates = request.creates("pods")
        if not creates and not request.updates("pods"):
            return
        namespace = await self._lookup.get("namespaces", request.namespace) or {}
        spec = request.object["spec"]
        added = self._listed(namespace, DEFAULTS, request) if creates else []
        if computed_qos_class(spec) != BEST_EFFORT:
            added = [*added, _PRESSED]
        wanted = [*(spec.get("tolerations") or ()), *added]
        if len(wanted) > TOLERATIONS_MAX:
            raise _refused(request, f"pods may have at most {TOLERATIONS_MAX} tolerations")
        if added:
            spec["tolerations"] = merged(wanted)
        allowed = [_Read.of(one) for one in self._listed(namespace, ALLOWED, request)]
        mine = [_Read.of(one) for one in spec.get("tolerations") or ()]
        if allowed and not all(any(limit.covers(one) for limit in allowed) for one in mine):
            text = (
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace "
                "whitelist"
            )
            raise _refused(request, text)

    def _listed(self, namespace: Object, annotation: str, request: AdmissionRequest) -> list[dict[str, Any]]:
        """The tolerations that an annotation lists in JSON. Raises Forbidden for what is none."""
        text = meta.annotations(namespace).get(annotation)
        if text is None:
            return [*self._of_cluster[annotation]]
        try:
            found = orjson.loads(text or "[]")
        except ValueError:
            found = None
        if not are_tolerations(found):
            text = f"the annotation {annotation} of its namespace is no list of at most {TOLERATIONS_MAX} tolerations"
            raise _refused(request, text)
        return list(found)


class _Read(NamedTuple):
    what: Toleration
    seconds: int | None

    @staticmethod
    def of(toleration: Mapping[str, Any]) -> "_Read":
        return _Read(Toleration.of(toleration), toleration.get("tolerationSeconds"))

    def covers(self, other: "_Read") -> bool:
        """Whether it tolerates all that the other does."""
        mine, its = self.what, other.what
        if self == other:
            return True
        if mine.key != its.key and not (mine.key == "" and mine.operator == "Exists"):
            return False
        if mine.effect not in ("", its.effect):
            return False
        for_ever = mine.effect != NO_EXECUTE or self.seconds is None
        if not for_ever and (other.seconds is None or other.seconds > (self.seconds or 0)):
            return False
        return mine.operator == "Exists" or (mine.operator == its.operator == "Equal" and mine.value == its.value)


def merged(tolerations: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that no other covers; of equal ones the first."""
    given = [(one, _Read.of(one)) for one in tolerations]
    kept: list[tuple[Mapping[str, Any], _Read]] = []
    for at, (one, read) in enumerate(given):
        later = (other for _, other in given[at + 1 :] if other != read)
        if not any(other.covers(read) for _, other in kept) and not any(other.covers(read) for other in later):
            kept.append((one, read))
    return [one for one, _ in kept]


def _refused(request: AdmissionRequest, text: str) -> Forbidden:
    return Forbidden.of("pods", request.shown_name, text)

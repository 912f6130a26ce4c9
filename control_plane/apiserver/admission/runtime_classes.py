"""RuntimeClass: what a pod's class says of where it runs and what it costs beside its containers.

Source: kubernetes/plugin/pkg/admission/runtimeclass.
"""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import Forbidden, quote
from rayplane.control_plane.api.machinery.quantity import parse
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.admission.tolerations import merged
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_CLASSES = "runtimeclasses.node.k8s.io"
_OTHER_OVERHEAD = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
_NO_OVERHEAD = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"


class RuntimeClasses:
    """The plug-in."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(creation_of("pods"))
    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        spec = request.object["spec"]
        name, overhead = spec.get("runtimeClassName"), spec.get("overhead")
        if not name and overhead is None:
            return
        found: Mapping[str, Any] | None = await self._lookup.get(_CLASSES, name) if name else {}
        if found is None:
            raise Forbidden.of("pods", request.shown_name, f"pod rejected: RuntimeClass {quote(name)} not found")
        wanted = (found.get("overhead") or {}).get("podFixed")
        if wanted is None and overhead is not None:
            raise Forbidden.of("pods", request.shown_name, _NO_OVERHEAD)
        if wanted is not None:
            if overhead is not None and not _equal(overhead, wanted):
                raise Forbidden.of("pods", request.shown_name, _OTHER_OVERHEAD)
            spec["overhead"] = dict(wanted)
        self._schedule(request, found.get("scheduling") or {})

    @staticmethod
    def _schedule(request: AdmissionRequest, scheduling: Mapping[str, Any]) -> None:
        spec = request.object["spec"]
        own = spec.get("nodeSelector") or {}
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if own.get(key, value) != value:
                text = (
                    f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                    f"pod.spec.nodeSelector[{key}] = {own[key]}"
                )
                raise Forbidden.of("pods", request.shown_name, text)
        if scheduling.get("nodeSelector"):
            spec["nodeSelector"] = {**own, **scheduling["nodeSelector"]}
        if scheduling.get("tolerations"):
            spec["tolerations"] = merged([*(spec.get("tolerations") or ()), *scheduling["tolerations"]])


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(parse(one[name]) == parse(other[name]) for name in one)

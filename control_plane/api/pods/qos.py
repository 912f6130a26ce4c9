"""Quality of service class of a pod.

Guaranteed: cpu and memory are limited and requested alike, above zero, in every container (sidecars and init
containers too), or for the pod as a whole where it has resources of its own. BestEffort: nothing is. Burstable: all
else. An amount of zero counts as none.

Source: Kubernetes concepts "Pod Quality of Service Classes"; KEP-2837 for pod-level resources.
"""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"
_RESOURCES = ("cpu", "memory")


def qos_class(pod: Object) -> str:
    """The class the pod has been given, else the one it is to have."""
    return meta.status(pod).get("qosClass") or computed_qos_class(pod.get("spec") or {})


def computed_qos_class(spec: Mapping[str, Any]) -> str:
    """The class that follows from a spec after defaults. What is no quantity counts as zero."""
    of_pod = spec.get("resources")
    parts = [c.get("resources") or {} for c in lifecycled(spec)] if of_pod is None else [of_pod]
    found = ""
    for part in parts:
        requests, limits = part.get("requests") or {}, part.get("limits") or {}
        for resource in _RESOURCES:
            limit = _nano(limits.get(resource))
            if _nano(requests.get(resource)) != limit:
                return BURSTABLE
            kind = GUARANTEED if limit else BEST_EFFORT
            if found and kind != found:
                return BURSTABLE
            found = kind
    return found or BEST_EFFORT


def _nano(amount: Any) -> int:
    if amount is None:
        return 0
    try:
        return parse(amount).nano
    except QuantityError:
        return 0

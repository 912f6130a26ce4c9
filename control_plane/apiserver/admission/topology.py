"""PodTopologyLabels: a pod has the zone and region of its node as labels, where its containers can read them.

Source: kubernetes/plugin/pkg/admission/podtopologylabels.
"""

from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import CREATE, AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_COPIED: Final = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


def _places(request: AdmissionRequest) -> bool:
    """A pod that is bound, or made with its node."""
    return request.operation == CREATE and request.info.name == "pods" and request.subresource in ("", "binding")


class TopologyLabels:
    """The plug-in."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(_places)
    async def admit(self, request: AdmissionRequest) -> None:
        """What a binding has of these labels itself stays; a pod's own are overwritten when it is bound."""
        named = _node_of_binding(request.object) if request.subresource else meta.node_name(request.object)
        node = await self._lookup.get("nodes", named) if named else None
        found = {name: value for name in _COPIED if (value := meta.labels(node or {}).get(name)) is not None}
        if found:
            metadata = request.object.get("metadata") or {}
            request.object["metadata"] = {**metadata, "labels": {**found, **(metadata.get("labels") or {})}}


def _node_of_binding(binding: dict[str, Any]) -> str:
    target = binding.get("target") or {}
    return str(target.get("name") or "") if target.get("kind") == "Node" else ""

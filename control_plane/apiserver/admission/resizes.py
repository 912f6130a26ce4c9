"""Changes of pods that are on a node: it must have what they take.

Kubernetes' plug-ins PodResizeValidator (more than the whole node has is refused at once, where a kubelet would call it
infeasible later) and NodeDeclaredFeatureValidator.
Source: kubernetes/plugin/pkg/admission/podresize and nodedeclaredfeatures; KEP-1287, KEP-5328.
"""

from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden, quote
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.declared_features import features_of_change
from rayplane.control_plane.api.pods.resources import pod_requests, whole
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_OS: Final = "kubernetes.io/os"


def _resizes(request: AdmissionRequest) -> bool:
    return request.operation == UPDATE and request.info.name == "pods" and request.subresource == "resize"


def _changes(request: AdmissionRequest) -> bool:
    return _resizes(request) or request.updates("pods")


class PodResizes:
    """A plugin that refuses resizes beyond what the pod's node has."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(_resizes)
    async def admit(self, request: AdmissionRequest) -> None:
        """Raises Forbidden, with a cause that programs can tell."""
        if not _is_another(request):
            return
        node = await _node_of(request, self._lookup)
        allocatable = meta.status(node).get("allocatable") or {}
        asked = pod_requests(request.object, reported=False)
        short = [
            f"{resource}, requested: {wanted}, allocatable: {there}"
            for resource in ("cpu", "memory")
            if (wanted := whole(resource, asked.get(resource, 0)))
            > (there := whole(resource, allocatable.get(resource, 0)))
        ]
        if short:
            text = f"Node didn't have enough allocatable resources: {'; '.join(short)}"
            raise _refusal(request, text, "NodeCapacity")
        if (system := meta.labels(node).get(_OS)) != "linux":
            text = (
                f"pod resize is only supported on linux nodes, node {quote(meta.name(node))} is {quote(system or '')}"
            )
            raise _refusal(request, text, "UnsupportedPlatform")


class DeclaredFeatures:
    """A plugin that refuses changes for which the pod's node has not declared a feature."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(_changes)
    async def admit(self, request: AdmissionRequest) -> None:
        """Raises Forbidden."""
        if not _is_another(request):
            return
        wanted = features_of_change(request.object, request.old or {})
        if not wanted:
            return
        node = await _node_of(request, self._lookup)
        declared = meta.status(node).get("declaredFeatures") or ()
        if missing := [one for one in wanted if one not in declared]:
            text = f"pod update requires features {', '.join(missing)}"
            raise _refusal(request, f"{text} which are not available on node {quote(meta.name(node))}")


def _is_another(request: AdmissionRequest) -> bool:
    """Whether a pod that is on a node is to be something else there."""
    new, old = (meta.metadata(one or {}).get("generation") for one in (request.object, request.old))
    return bool(meta.node_name(request.object)) and new != old


async def _node_of(request: AdmissionRequest, lookup: Lookup) -> Object:
    name = meta.node_name(request.object)
    node = await lookup.get("nodes", name)
    if node is None:
        raise _refusal(request, f"node {quote(name)} not found")
    return node


def _refusal(request: AdmissionRequest, text: str, cause: str = "") -> Forbidden:
    found = Forbidden.of(request.info.plural, request.shown_name, text)
    if cause:
        found.details = {**(found.details or {}), "causes": [{"reason": cause}]}
    return found

"""Default classes: of storage for claims, of ingresses."""

from rayplane.control_plane.api.claims import CLASS_ANNOTATION
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.meta import annotations, name
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_STORAGE = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_INGRESS = "ingressclass.kubernetes.io/is-default-class"


class DefaultClasses:
    """Kubernetes' DefaultStorageClass and DefaultIngressClass plugins."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def claim(self, request: AdmissionRequest) -> None:
        """DefaultStorageClass."""
        if not request.creates("persistentvolumeclaims"):
            return
        claim = request.object
        spec = claim["spec"]
        if spec.get("storageClassName") is not None or CLASS_ANNOTATION in annotations(claim):
            return
        classes = await self._lookup.list("storageclasses.storage.k8s.io")
        marked = [c for c in classes if any(annotations(c).get(a) == "true" for a in _STORAGE)]
        if marked:
            # The newest wins; among those made in one second, the first by name.
            newest = max(c["metadata"].get("creationTimestamp") or "" for c in marked)
            chosen = next(c for c in marked if (c["metadata"].get("creationTimestamp") or "") == newest)
            spec["storageClassName"] = name(chosen)

    async def ingress(self, request: AdmissionRequest) -> None:
        """DefaultIngressClass. Forbidden."""
        if not request.creates("ingresses.networking.k8s.io"):
            return
        ingress = request.object
        spec = ingress.setdefault("spec", {})
        if spec.get("ingressClassName") or "kubernetes.io/ingress.class" in annotations(ingress):
            return
        classes = await self._lookup.list("ingressclasses.networking.k8s.io")
        marked = [c for c in classes if annotations(c).get(_INGRESS) == "true"]
        if len(marked) > 1:
            text = "the default IngressClass could not be determined: several are marked as default"
            raise Forbidden.of("ingresses", request.name, text, group="networking.k8s.io")
        if marked:
            spec["ingressClassName"] = name(marked[0])

"""Classes: the default ones of storage for claims and of ingresses, and whether a class lets claims grow."""

from rayplane.control_plane.api.claims import CLASS_ANNOTATION, class_of, requested_bytes
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.meta import annotations, name
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_STORAGE = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_INGRESS = "ingressclass.kubernetes.io/is-default-class"


class DefaultClasses:
    """Kubernetes' DefaultStorageClass, DefaultIngressClass and PersistentVolumeClaimResize plugins."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(creation_of("persistentvolumeclaims"))
    async def claim(self, request: AdmissionRequest) -> None:
        """DefaultStorageClass."""
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

    @only(lambda request: request.updates("persistentvolumeclaims"))
    async def growth(self, request: AdmissionRequest) -> None:
        """PersistentVolumeClaimResize: a claim grows only if its class lets its volumes grow. Forbidden."""
        if request.old is None:
            return
        claim, old = request.object, request.old
        if old.get("status", {}).get("phase") != "Bound" or requested_bytes(claim) <= requested_bytes(old):
            return
        known = await self._lookup.get("storageclasses.storage.k8s.io", own) if (own := class_of(old)) else None
        if known is None or not known.get("allowVolumeExpansion"):
            text = (
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
                "support resize"
            )
            raise Forbidden.of("persistentvolumeclaims", request.shown_name, text)

    @only(creation_of("ingresses.networking.k8s.io"))
    async def ingress(self, request: AdmissionRequest) -> None:
        """DefaultIngressClass. Forbidden."""
        ingress = request.object
        spec = ingress.setdefault("spec", {})
        if spec.get("ingressClassName") or "kubernetes.io/ingress.class" in annotations(ingress):
            return
        classes = await self._lookup.list("ingressclasses.networking.k8s.io")
        marked = [c for c in classes if annotations(c).get(_INGRESS) == "true"]
        if len(marked) > 1:
            text = "the default IngressClass could not be determined: several are marked as default"
            raise Forbidden.of("ingresses", request.shown_name, text, group="networking.k8s.io")
        if marked:
            spec["ingressClassName"] = name(marked[0])

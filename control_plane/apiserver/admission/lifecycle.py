"""Objects live in namespaces that exist and are not being deleted."""

from rayplane.control_plane.api.errors import Forbidden, NotFound
from rayplane.control_plane.api.meta import is_deleting
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
# Reviews are answered, not stored: they need no namespace to live in.
_REVIEWS = frozenset({"localsubjectaccessreviews.authorization.k8s.io"})


def _begins_or_ends(request: AdmissionRequest) -> bool:
    info = request.info
    if request.operation == DELETE:
        return info.name == "namespaces"
    return info.namespaced and request.operation == CREATE and not request.subresource and info.name not in _REVIEWS


class NamespaceLifecycle:
    """Kubernetes' NamespaceLifecycle plugin."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(_begins_or_ends)
    async def admit(self, request: AdmissionRequest) -> None:
        info = request.info
        if request.operation == DELETE:
            if request.name in _IMMORTAL:
                text = "this namespace may not be deleted"
                raise Forbidden.of("namespaces", request.shown_name, text)
            return
        found = await self._lookup.get("namespaces", request.namespace)
        if found is None:
            raise NotFound.of("namespaces", request.namespace)
        if is_deleting(found) or (found.get("status") or {}).get("phase") == "Terminating":
            text = f"unable to create new content in namespace {request.namespace} because it is being terminated"
            error = Forbidden.of(info.plural, request.shown_name, text, group=info.group)
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {request.namespace} is being terminated",
                "field": "metadata.namespace",
            }
            error.details = {**(error.details or {}), "causes": [cause]}
            raise error

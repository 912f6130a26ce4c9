"""Administrators' access to devices that others use: in namespaces alone that are marked for it."""

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import Invalid, forbidden
from rayplane.control_plane.api.meta import labels
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_LABEL: Final = "resource.kubernetes.io/admin-access"
_CLAIMS: Final = "resourceclaims.resource.k8s.io"
_TEMPLATES: Final = "resourceclaimtemplates.resource.k8s.io"


class DeviceAdministration:
    """The check of kube-apiserver's strategies for claims and their templates."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(creation_of(_CLAIMS, _TEMPLATES))
    async def admit(self, request: AdmissionRequest) -> None:
        """Invalid for a claim that asks for such access, where the namespace does not allow it."""
        spec = request.object.get("spec") or {}
        if request.creates(_TEMPLATES):
            spec = spec.get("spec") or {}
        if not _asks(spec):
            return
        namespace = await self._lookup.get("namespaces", request.namespace)
        if namespace is None or labels(namespace).get(_LABEL) != "true":
            text = f"admin access to devices requires the `{_LABEL}: true` label on the containing namespace"
            info = request.info
            raise Invalid.of(info.kind, request.name, [forbidden("", text)], group=info.group)


def _asks(spec: Mapping[str, Any]) -> bool:
    requests = (spec.get("devices") or {}).get("requests") or ()
    return any((one.get("exactly") or {}).get("adminAccess") for one in requests)

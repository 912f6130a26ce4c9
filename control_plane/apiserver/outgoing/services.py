"""The endpoints behind a port of a service."""

from dataclasses import dataclass

from rayplane.control_plane.api.errors import NotFound, ServiceUnavailable
from rayplane.control_plane.api.machinery.names import is_number_of_port
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_SLICES = "endpointslices.discovery.k8s.io"
_SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that answers for a service; `pod` is empty where it is none."""

    address: str
    port: int
    pod: str = ""


async def endpoints_of(lookup: Lookup, namespace: str, name: str, port: str) -> list[Endpoint]:
    """All ready ones of a service's port, given by name or number. NotFound, or ServiceUnavailable for no such port."""
    service = await lookup.get("services", name, namespace)
    if service is None:
        raise NotFound.of("services", name)
    spec, wanted = service["spec"], port
    ports = spec.get("ports") or ()
    if is_number_of_port(port):
        if spec.get("type") == "ExternalName":
            return [Endpoint(spec["externalName"], int(port))]
        found = [p for p in ports if p["port"] == int(port)]
        if not found:
            raise ServiceUnavailable(f'no service port {port} found for service "{name}"')
        wanted = found[0].get("name") or ""
    return [
        Endpoint(endpoint["addresses"][0], number["port"], (endpoint.get("targetRef") or {}).get("name") or "")
        for one in await lookup.list(_SLICES, namespace)
        if (one["metadata"].get("labels") or {}).get(_SERVICE_NAME) == name
        for number in one.get("ports") or ()
        if (number.get("name") or "") == wanted and number.get("port")
        for endpoint in one.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
    ]

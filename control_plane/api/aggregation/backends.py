"""Servers of aggregated APIs: where an APIService leads, and what can be told of its service without asking it.

Source: kube-aggregator, pkg/controllers/status/remote.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

APISERVICES = "apiservices.apiregistration.k8s.io"
AVAILABLE = "Available"
LOCAL = (True, "Local", "Local APIServices are always available")
PASSED = (True, "Passed", "all checks passed")
Finding = tuple[bool, str, str]
"""Whether an API is available, the reason and the message of its condition."""
# What answers for these cannot be put into other hands: who is asked about it would be gone with them.
OURS = frozenset({"", "apiregistration.k8s.io"})


@dataclass(frozen=True, slots=True)
class Backend:
    """The server of one group and version."""

    group: str
    version: str
    namespace: str
    service: str
    port: int
    bundle: str
    unchecked: bool
    available: bool
    """As its condition says."""

    @staticmethod
    def of(o: Object) -> Backend | None:
        """The server that an APIService names; None for one that is ours."""
        spec = meta.spec(o)
        target, group = spec.get("service"), spec.get("group") or ""
        if target is None or group in OURS:
            return None
        return Backend(
            group=group,
            version=spec["version"],
            namespace=target["namespace"],
            service=target["name"],
            port=target.get("port") or 443,
            bundle=spec.get("caBundle") or "",
            unchecked=bool(spec.get("insecureSkipTLSVerify")),
            available=meta.condition_is(o, AVAILABLE),
        )

    @property
    def name(self) -> str:
        """As its APIService is called."""
        return f"{self.version}.{self.group}"

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}"

    @property
    def root(self) -> str:
        """The beginning of its URLs."""
        return f"https://{self.service}.{self.namespace}.svc:{self.port}"


def trouble(backend: Backend, service: Object | None, slices: Iterable[Object]) -> Finding | None:
    """What its service says against asking it; None: nothing. `slices` are the service's EndpointSlices."""
    what = f'service/{backend.service} in "{backend.namespace}"'
    if service is None:
        return False, "ServiceNotFound", f"{what} is not present"
    spec = meta.spec(service)
    if (spec.get("type") or "ClusterIP") != "ClusterIP":
        return None
    ports = [port for port in spec.get("ports") or () if port["port"] == backend.port]
    if not ports:
        return False, "ServicePortError", f"{what} is not listening on port {backend.port}"
    slices, name = list(slices), ports[0].get("name") or ""
    if not slices:
        return False, "EndpointsNotFound", f"cannot find endpointslices for {what}"
    if not any(_has_ready(one, name) for one in slices):
        text = f'endpointslices for {what} have no addresses with port name "{name}"'
        return False, "MissingEndpoints", text
    return None


def _has_ready(piece: Object, port: str) -> bool:
    ready = any((one.get("conditions") or {}).get("ready") is not False for one in piece.get("endpoints") or ())
    return ready and any((one.get("name") or "") == port for one in piece.get("ports") or ())


def unreached(url: str, why: str) -> Finding:
    """The finding of a server that does not answer at the URL as it should."""
    return False, "FailedDiscoveryCheck", f"failing or missing response from {url}: {why}"

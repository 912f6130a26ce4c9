"""Services of type LoadBalancer get an address from the cluster's external range.

All services are one key, so that no two get the same address. The address is the Service's for as long as it is of
that type, and a finalizer holds the Service until the address was given back; `spec.loadBalancerIP` asks for a certain
one.

Source: Kubernetes' service controller (k8s.io/cloud-provider), KEP-980 (the finalizer).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Action, Event, UpdateStatus
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

KEY = "all"
CLEANUP = "service.kubernetes.io/load-balancer-cleanup"
ENSURED = ("EnsuredLoadBalancer", "Ensured load balancer")


def _concerns(service: Object, _view: View) -> Iterable[str]:
    return (KEY,) if _is_balanced(service) or _is_held(service) else ()


def _is_balanced(service: Object) -> bool:
    spec = meta.spec(service)
    # A Service of a named class is served by somebody else.
    return spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass") and not meta.is_deleting(service)


def _is_held(service: Object) -> bool:
    """Whether it has something to give back before it goes, or once it is of another type."""
    return CLEANUP in meta.finalizers(service) or bool(addresses(service))


def addresses(service: Object) -> list[str]:
    """The external addresses a Service has now."""
    return [entry["ip"] for entry in _ingress(service) if entry.get("ip")]


def _ingress(service: Object) -> list[Any]:
    return (meta.status(service).get("loadBalancer") or {}).get("ingress") or []


class LoadBalancerController(BaseController):
    name = "loadbalancer"
    component = "service-controller"

    def __init__(self, *, external_cidr: str, reserved: Iterable[str] = ()) -> None:
        self._network = ipaddress.ip_network(external_cidr)
        self._reserved = tuple(reserved)
        self.watches = (Watch("services", _concerns),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        services = sorted(view.list("services"), key=_age)
        taken = {*self._reserved, *(ip for service in services for ip in addresses(service))}
        free = (str(ip) for ip in self._network.hosts() if str(ip) not in taken)
        steps: list[Action] = []
        for service in services:
            if not _is_balanced(service):
                steps += _given_back(service)
            elif not addresses(service):
                steps += self._assign(service, free, taken)
            elif CLEANUP not in meta.finalizers(service):
                steps.append(_written(service, _ingress(service)))
        return result(steps)

    def _has(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address) in self._network
        except ValueError:
            return False

    def _assign(self, service: Object, free: Iterable[str], taken: set[str]) -> list[Action]:
        wanted = meta.spec(service).get("loadBalancerIP")
        if wanted and (wanted in taken or not self._has(wanted)):
            text = f"Error syncing load balancer: address {wanted} is taken or not in {self._network}"
            return [Event(service, "Warning", "SyncLoadBalancerFailed", text)]
        address = wanted or next((ip for ip in free if ip not in taken), None)
        if address is None:
            text = f"Error syncing load balancer: no address is free in {self._network}"
            return [Event(service, "Warning", "SyncLoadBalancerFailed", text)]
        taken.add(address)
        return [
            Event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer"),
            _written(service, [{"ip": address, "ipMode": "VIP"}], ENSURED),
        ]


def _given_back(service: Object) -> list[Action]:
    """What has a Service that needs no address be without: it may go then."""
    goes = meta.is_deleting(service) and CLEANUP in meta.finalizers(service)
    if not goes and (meta.spec(service).get("type") == "LoadBalancer" or not _is_held(service)):
        return []
    return [
        Event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer"),
        _written(service, [], ("DeletedLoadBalancer", "Deleted load balancer")),
    ]


def _written(service: Object, ingress: list[Any], done: tuple[str, str] | None = None) -> UpdateStatus:
    """The write of a Service's addresses, and with them of the finalizer: as with Kubernetes' controller in one."""
    others = [one for one in meta.finalizers(service) if one != CLEANUP]
    metadata = {**meta.metadata(service), "finalizers": [*others, CLEANUP] if ingress else others}
    status = {**meta.status(service), "loadBalancer": {"ingress": ingress} if ingress else {}}
    event = Event(service, "Normal", *done) if done is not None else None
    return UpdateStatus("services", {**service, "metadata": metadata, "status": status}, done=event)


def _age(service: Object) -> tuple[str, str]:
    return (meta.metadata(service).get("creationTimestamp") or "", meta.key(service))

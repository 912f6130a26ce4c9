"""Services of type LoadBalancer get an address from the cluster's external range.

All services are one key, so that no two get the same address. The address is the Service's for as long as it is of
that type; `spec.loadBalancerIP` asks for a certain one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    Action,
    BaseController,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    result,
)

KEY = "all"


def _concerns(service: Object, _view: View) -> Iterable[str]:
    return (KEY,) if _is_balanced(service) or addresses(service) else ()


def _is_balanced(service: Object) -> bool:
    spec = meta.spec(service)
    # A Service of a named class is served by somebody else.
    return spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass") and not meta.is_deleting(service)


def addresses(service: Object) -> list[str]:
    """The external addresses a Service has now."""
    ingress = (meta.status(service).get("loadBalancer") or {}).get("ingress") or ()
    return [entry["ip"] for entry in ingress if entry.get("ip")]


class LoadBalancerController(BaseController):
    name = "loadbalancer"
    component = "service-controller"

    def __init__(self, *, external_cidr: str, reserved: Iterable[str] = ()) -> None:
        self._network = ipaddress.ip_network(external_cidr)
        self._reserved = tuple(reserved)
        self.watches = (Watch("services", _concerns),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        services = sorted(view.list("services"), key=_age)
        taken = {*self._reserved, *(ip for s in services if _is_balanced(s) for ip in addresses(s))}
        free = (str(ip) for ip in self._network.hosts() if str(ip) not in taken)
        steps: list[Action] = []
        for service in services:
            if _is_balanced(service) and not addresses(service):
                steps += self._assign(service, free, taken)
            elif meta.spec(service).get("type") != "LoadBalancer" and addresses(service):
                steps.append(Event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer"))
                steps.append(Event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer"))
                steps.append(_with_ingress(service, []))
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
            _with_ingress(service, [{"ip": address, "ipMode": "VIP"}]),
        ]


def _with_ingress(service: Object, ingress: list[dict[str, Any]]) -> UpdateStatus:
    status = {**meta.status(service), "loadBalancer": {"ingress": ingress} if ingress else {}}
    done = None
    if ingress:
        done = Event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")
    return UpdateStatus("services", {**service, "status": status}, done=done)


def _age(service: Object) -> tuple[str, str]:
    return (meta.metadata(service).get("creationTimestamp") or "", meta.key(service))

"""Blocks of service addresses, which stay while they are needed, and an object for each address in use.

Keys are `block/<name>`, `service/<namespace>/<name>` (its addresses exist) and `address/<ip>` (its owner exists).
Source: Kubernetes concepts "Service ClusterIP allocation", KEP-1880; kubernetes/pkg/controller/servicecidrs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.addresses import Block, block_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.finalizers import with_finalizers, without_finalizer

BLOCKS, ADDRESSES = "servicecidrs.networking.k8s.io", "ipaddresses.networking.k8s.io"
FINALIZER = "networking.k8s.io/service-cidr-finalizer"
MANAGED_BY, ALLOCATOR = "ipaddress.kubernetes.io/managed-by", "ipallocator"
FAMILY = "ipaddress.kubernetes.io/ip-family"
DELETION_GRACE_S = 10.0
"""For this long API servers may still give out addresses of a block that is being deleted."""
RETRY_S = 1.0
_READY = ("True", "", "Kubernetes Service CIDR is ready")
_NEEDED = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
)


def addresses_of(service: Object) -> list[str]:
    """The cluster addresses that a Service holds."""
    spec = meta.spec(service)
    if spec.get("type") == "ExternalName":
        return []
    given = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    return [one for one in given if one not in ("", "None")]


def _service_keys(service: Object, _: View) -> Iterable[str]:
    held = addresses_of(service)
    return [f"service/{meta.key(service)}", *(f"address/{one}" for one in held)] if held else ()


def _address_keys(address: Object, view: View) -> Iterable[str]:
    owner = _owner_of(address)
    keys = [f"address/{meta.name(address)}", *_block_keys(address, view)]
    return [*keys, f"service/{owner[0]}/{owner[1]}"] if owner else keys


def _block_keys(_: Object, view: View) -> list[str]:
    """Blocks that wait to go: every change of addresses and blocks may let them."""
    return [f"block/{meta.name(one)}" for one in view.list(BLOCKS) if meta.is_deleting(one)]


def _own_and_waiting(block: Object, view: View) -> Iterable[str]:
    return [f"block/{meta.name(block)}", *_block_keys(block, view)]


def _owner_of(address: Object) -> tuple[str, str] | None:
    """The Service that an address names as its owner."""
    ref = meta.spec(address).get("parentRef") or {}
    if ref.get("resource") != "services" or ref.get("group"):
        return None
    return ref.get("namespace") or "", ref.get("name") or ""


class ServiceCidrController(BaseController):
    name = "service-cidr-controller"
    component = "service-cidr-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch(BLOCKS, _own_and_waiting),
            Watch(
                "services",
                _service_keys,
                delay_s=coalesce_s,
                changed=lambda old, new: addresses_of(old) != addresses_of(new),
            ),
            Watch(ADDRESSES, _address_keys, delay_s=coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, rest = key.partition("/")
        if what == "block":
            block = view.get(BLOCKS, "", rest)
            return NOTHING if block is None else _of_block(block, view, now)
        if what == "service":
            service = view.get("services", *meta.split_key(rest))
            return NOTHING if service is None else _of_service(service, view)
        address = view.get(ADDRESSES, "", rest)
        return NOTHING if address is None else result(_of_address(address, view))


# --- blocks -------------------------------------------------------------------------------------


def _of_block(block: Object, view: View, now: Moment) -> Result:
    held = FINALIZER in meta.finalizers(block)
    if not meta.is_deleting(block):
        if not held:
            return result([with_finalizers(BLOCKS, block, [*meta.finalizers(block), FINALIZER])])
        return result(_condition(block, _READY, now))
    if not held:
        return NOTHING
    if _is_needed(block, view):
        return result(_condition(block, _NEEDED, now))
    left = DELETION_GRACE_S - now.seconds_since(meta.metadata(block)["deletionTimestamp"])
    if left > 0:
        return result(requeue_after=left)
    return result([without_finalizer(BLOCKS, block, FINALIZER)])


def _condition(block: Object, wanted: tuple[str, str, str], now: Moment) -> list[Action]:
    value, reason, text = wanted
    conditions = list(meta.status(block).get("conditions") or ())
    condition = {"type": "Ready", "status": value, "reason": reason, "message": text}
    if not meta.set_condition(conditions, condition, now.stamp):
        return []
    return [UpdateStatus(BLOCKS, {**block, "status": {**meta.status(block), "conditions": conditions}})]


def _is_needed(block: Object, view: View) -> bool:
    """True while an address in use is in no other block that stays."""
    own = _ranges(block)
    others = [
        one
        for other in view.list(BLOCKS)
        if meta.name(other) != meta.name(block) and not meta.is_deleting(other)
        for one in _ranges(other)
    ]
    for address in view.list(ADDRESSES):
        if meta.labels(address).get(MANAGED_BY) != ALLOCATOR:
            continue
        try:
            ip = ipaddress.ip_address(meta.name(address))
        except ValueError:
            continue
        if any(ip in one for one in own) and not any(ip in one for one in others):
            return True
    return False


def _ranges(block: Object) -> list[Block]:
    return [found for text in meta.spec(block).get("cidrs") or () if (found := block_of(text)) is not None]


# --- addresses ----------------------------------------------------------------------------------


def _of_service(service: Object, view: View) -> Result:
    """Have an IPAddress for each address of a Service; one that is somebody else's goes first, once nobody has it."""
    steps: list[Action] = []
    waits = False
    for ip in addresses_of(service):
        known = view.get(ADDRESSES, "", ip)
        if known is None:
            steps.append(Create(ADDRESSES, _address(ip, service), exists_ok=True))
        elif _owner_of(known) != (meta.namespace(service), meta.name(service)):
            steps += _of_address(known, view)
            waits = True
    return result(steps, requeue_after=RETRY_S if waits and steps else None)


def _address(ip: str, service: Object) -> dict[str, Any]:
    labels = {FAMILY: f"IPv{ipaddress.ip_address(ip).version}", MANAGED_BY: ALLOCATOR}
    parent = {"group": "", "resource": "services", "namespace": meta.namespace(service), "name": meta.name(service)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip, "labels": labels},
        "spec": {"parentRef": parent},
    }


def _of_address(address: Object, view: View) -> list[Action]:
    """Remove an address that was made for a Service which has it no longer. What users made is theirs."""
    owner = _owner_of(address)
    if meta.labels(address).get(MANAGED_BY) != ALLOCATOR or owner is None or meta.is_deleting(address):
        return []
    service = view.get("services", *owner)
    if service is not None and meta.name(address) in addresses_of(service):
        return []
    return [Delete(ADDRESSES, address)]

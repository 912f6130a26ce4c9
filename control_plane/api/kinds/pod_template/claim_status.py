"""Validation of what is reported of a pod's claims to devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.resources import STANDARD
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse

_NODE_NAME: Final = "must be a node allocatable resource name"
_Status = Mapping[str, Any]


def validate_claim_statuses(status: _Status, spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The claims that were made for the pod, and what they take of the node."""
    if status.get("resourceClaimStatuses"):
        _made(status["resourceClaimStatuses"], spec, f"{path}.resourceClaimStatuses", errs)
    if status.get("extendedResourceClaimStatus") is not None:
        _extended(status["extendedResourceClaimStatus"], spec, f"{path}.extendedResourceClaimStatus", errs)
    for index, one in enumerate(status.get("nodeAllocatableResourceClaimStatuses") or ()):
        if one.get("resourceClaimName"):
            _of_node(one, status, spec, f"{path}.nodeAllocatableResourceClaimStatuses[{index}]", errs)


def _made(statuses: Sequence[_Status], spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    known = [claim.get("name") or "" for claim in spec.get("resourceClaims") or ()]
    seen: set[str] = set()
    for index, status in enumerate(statuses):
        own, at = status.get("name") or "", f"{path}[{index}]"
        if own not in known:
            text = "must match the name of an entry in `spec.resourceClaims`"
            errs.append(invalid(f"{at}.name", own, text))
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        claim = status.get("resourceClaimName")
        if claim is not None:
            checked(names.subdomain_errors(claim), claim, f"{at}.resourceClaimName", errs)


def _extended(status: _Status, spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The one claim that stands for devices asked for as if they were plain resources."""
    containers = {one.get("name"): one for kind in ("initContainers", "containers") for one in spec.get(kind) or ()}
    if not status.get("requestMappings"):
        errs.append(required(f"{path}.requestMappings", "at least one request mapping is required"))
    seen: set[tuple[str, ...]] = set()
    for index, mapping in enumerate(status.get("requestMappings") or ()):
        at = f"{path}.requestMappings[{index}]"
        fields = ("containerName", "resourceName", "requestName")
        container, resource, request = key = tuple(mapping.get(field) or "" for field in fields)
        where = "spec.initContainers.{0} or spec.containers.{0}"
        if container not in containers:
            text = f"must match the name of an entry in {where.format('name')}"
            errs.append(invalid(f"{at}.containerName", container, text))
        elif resource not in ((containers[container].get("resources") or {}).get("requests") or {}):
            text = f"must match the extended resource name of an entry in {where.format('resources.requests')}"
            errs.append(invalid(f"{at}.resourceName", resource, text))
        checked(names.label_errors(request), request, f"{path}.requestName", errs)
        if key in seen:
            errs += [duplicate(f"{at}.{field}", value) for field, value in zip(fields, key, strict=True)]
        seen.add(key)
    claim = status.get("resourceClaimName") or ""
    if not claim:
        errs.append(required(f"{path}.resourceClaimName"))
    else:
        checked(names.subdomain_errors(claim), claim, f"{path}.resourceClaimName", errs)


def _of_node(one: _Status, status: _Status, spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What a claim takes of the node's own resources, and that it is one of the pod's."""
    claim = one["resourceClaimName"]
    known = [ref.get("resourceClaimName") for ref in spec.get("resourceClaims") or ()]
    known += [made.get("resourceClaimName") for made in status.get("resourceClaimStatuses") or ()]
    known.append((status.get("extendedResourceClaimStatus") or {}).get("resourceClaimName"))
    if claim not in known:
        errs.append(invalid(f"{path}.resourceClaimName", claim, "no mapping found in pod reference"))
    for index, item in enumerate(one.get("mapping") or ()):
        at = f"{path}.mapping[{index}]"
        _node_resource(item.get("name") or "", f"{at}.name", errs)
        _amount(item.get("quantity"), f"{at}.quantity", errs)
    for index, item in enumerate(one.get("overhead") or ()):
        at = f"{path}.overhead[{index}]"
        _node_resource(item.get("name") or "", f"{at}.name", errs)
        if item.get("perPod") is None and item.get("perContainer") is None:
            errs.append(invalid(at, "", "at least one of perPod or perContainer must be set"))
        for field in ("perPod", "perContainer"):
            _amount(item.get(field), f"{at}.{field}", errs)


def _node_resource(name: str, path: str, errs: Errors) -> None:
    if name not in STANDARD and not name.startswith("hugepages-"):
        errs.append(invalid(path, name, _NODE_NAME))


def _amount(value: Any, path: str, errs: Errors) -> None:
    try:
        bad = value is not None and parse(value).nano < 0
    except QuantityError:
        bad = True
    if bad:
        errs.append(invalid(path, value, "must be non-negative"))

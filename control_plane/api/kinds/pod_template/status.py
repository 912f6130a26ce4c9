"""Validation of what nodes, schedulers and controllers report of a pod."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_supported
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, in_range
from rayplane.control_plane.api.kinds.pod_template.annotations import (
    validate_annotations_update,
    validate_pod_annotations,
)
from rayplane.control_plane.api.kinds.pod_template.claim_status import validate_claim_statuses
from rayplane.control_plane.api.kinds.pod_template.security import validate_user
from rayplane.control_plane.api.kinds.pod_template.validation import every_container
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import is_sidecar

_SYSTEM_CONDITIONS: Final = frozenset({"PodScheduled", "Ready", "Initialized"})
_UID_MAX: Final = 2**32 - 1
_HEALTH: Final = ("Healthy", "Unhealthy", "Unknown")
_ONE_OF_EACH: Final = "may specify no more than one IP for each IP family"
_STAYS_ENDED: Final = "may not be transitioned to non-terminated state"
_STATUSES: Final = {
    "containerStatuses": "containers",
    "initContainerStatuses": "initContainers",
    "ephemeralContainerStatuses": "ephemeralContainers",
}


def validate_pod_status_update(new: Object, old: Object) -> Errors:
    """A write of the status."""
    errs: Errors = []
    status, before, spec = new.get("status") or {}, old.get("status") or {}, old.get("spec") or {}
    if meta.annotations(new) != meta.annotations(old):
        validate_annotations_update(meta.annotations(new), meta.annotations(old), "metadata.annotations", errs)
        validate_pod_annotations(
            meta.annotations(new), spec, every_container(spec, "spec"), "metadata.annotations", errs
        )
    if status.get("conditions"):
        _conditions(status["conditions"], "status.conditions", errs)
    _nominated(status, before, spec, errs)
    if (status.get("observedGeneration") or 0) < 0:
        text = "must be a non-negative integer"
        errs.append(invalid("status.observedGeneration", status["observedGeneration"], text))
    immutable(status.get("qosClass") or "", before.get("qosClass") or "", "status.qosClass", errs)
    for field, kind in _STATUSES.items():
        if status.get(field):
            _endings(status[field], before.get(field) or (), spec, kind, f"status.{field}", errs)
    validate_claim_statuses(status, spec, "status", errs)
    _addresses(status, before, errs)
    for field, kind in _STATUSES.items():
        for index, container in enumerate(status.get(field) or ()):
            if container.get("user") is not None:
                _user(container["user"], spec, f"status.{field}[{index}].user", errs)
            if container.get("allocatedResourcesStatus"):
                _devices(container, spec, kind, f"status.{field}[{index}].allocatedResourcesStatus", errs)
    return errs


def _conditions(conditions: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, condition in enumerate(conditions):
        if (condition.get("observedGeneration") or 0) < 0:
            text = "must be a non-negative integer"
            errs.append(invalid(f"{path}[{index}].observedGeneration", condition["observedGeneration"], text))
        kind = condition.get("type") or ""
        if kind not in _SYSTEM_CONDITIONS:
            checked(names.qualified_name_errors(kind), kind, f"{path}[{index}].Type", errs)


def _nominated(status: Mapping[str, Any], before: Mapping[str, Any], spec: Mapping[str, Any], errs: Errors) -> None:
    node = status.get("nominatedNodeName")
    if not node or node == before.get("nominatedNodeName"):
        return
    checked(names.subdomain_errors(node), node, "status.nominatedNodeName", errs)
    if spec.get("nodeName"):
        text = "may not be set on pods that are already bound to a node"
        errs.append(forbidden("status.nominatedNodeName", text))


def _endings(
    statuses: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    kind: str,
    path: str,
    errs: Errors,
) -> None:
    """A container that has ended stays so, unless it is one that is started again."""
    if kind != "ephemeralContainers" and _all_may_restart(spec):
        return
    for index, known in enumerate(before):
        end = (known.get("state") or {}).get("terminated")
        if end is None:
            continue
        now = next((one for one in statuses if one.get("name") == known.get("name")), None)
        if now is None or (now.get("state") or {}).get("terminated") is not None:
            continue
        container = next((one for one in spec.get(kind) or () if one.get("name") == known.get("name")), None)
        if kind == "ephemeralContainers" or container is None or not _restarts(container, spec, kind, end):
            errs.append(forbidden(f"{path}[{index}].state", _STAYS_ENDED))


def _all_may_restart(spec: Mapping[str, Any]) -> bool:
    return any(
        rule.get("action") == "RestartAllContainers"
        for _, container in every_container(spec, "")
        for rule in container.get("restartPolicyRules") or ()
    )


def _restarts(container: Mapping[str, Any], spec: Mapping[str, Any], kind: str, end: Mapping[str, Any]) -> bool:
    """Whether a container that ended so is started again: as its rules, it, or its pod say."""
    code = end.get("exitCode") or 0
    for rule in container.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        among = code in (codes.get("values") or ())
        if among == (codes.get("operator") == "In"):
            return True
    if kind == "initContainers" and is_sidecar(container):
        return True
    policy = container.get("restartPolicy") or spec.get("restartPolicy")
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _addresses(status: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> None:
    """A pod has an address, or one of each family, of which the first is told twice."""
    own, all_ = status.get("podIP") or "", [one.get("ip") or "" for one in status.get("podIPs") or ()]
    _family_of_each(all_, before.get("podIPs") or (), status.get("podIPs"), "status.podIPs", errs)
    if bool(own) != bool(all_):
        text = "podIP and podIPs must either both be set or both be unset"
        errs.append(invalid("status.podIPs", status.get("podIPs"), text))
    elif all_ and own != all_[0]:
        errs.append(invalid("status.podIPs[0].ip", all_[0], "must be equal to `podIP`"))
    hosts = [one.get("ip") or "" for one in status.get("hostIPs") or ()]
    if hosts and hosts[0] != (status.get("hostIP") or ""):
        errs.append(invalid("status.hostIPs[0].ip", hosts[0], "must be equal to `hostIP`"))
    _family_of_each(hosts, before.get("hostIPs") or (), status.get("hostIPs"), "status.hostIPs", errs)


def _family_of_each(
    addresses: Sequence[str], before: Sequence[Mapping[str, Any]], said: Any, path: str, errs: Errors
) -> None:
    if not addresses:
        return
    known = [one.get("ip") for one in before]
    for index, address in enumerate(addresses):
        if address not in known:
            checked(names.ip_errors(address), address, f"{path}[{index}]", errs)
    if len(addresses) > 1:
        good = [one for one in addresses if names.is_ip(one)]
        families = {ipaddress.ip_address(one).version for one in good}
        if len(good) == len(addresses) and (len(families) < 2 or len(addresses) > 2):
            errs.append(invalid(path, said, _ONE_OF_EACH))


def _user(user: Mapping[str, Any], spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    linux = user.get("linux")
    if linux is None:
        return
    if (spec.get("os") or {}).get("name") == "windows":
        errs.append(forbidden(f"{path}.linux", "cannot be set for a windows pod"))
        return
    in_range(linux.get("uid") or 0, 0, _UID_MAX, f"{path}.linux.uid", errs)
    validate_user(linux.get("gid") or 0, f"{path}.linux.gid", errs)
    for index, group in enumerate(linux.get("supplementalGroups") or ()):
        validate_user(group, f"{path}.linux.supplementalGroups[{index}]", errs)


def _devices(status: Mapping[str, Any], spec: Mapping[str, Any], kind: str, path: str, errs: Errors) -> None:
    """The health of devices that a container has."""
    if kind == "ephemeralContainers":
        errs.append(forbidden(path, "must not be specified in container status"))
        return
    container = next((one for one in spec.get(kind) or () if one.get("name") == status.get("name")), None)
    for index, resource in enumerate(status["allocatedResourcesStatus"]):
        if container is not None:
            _device_name(resource.get("name") or "", container, f"{path}[{index}].name", errs)
        seen: set[str] = set()
        for number, one in enumerate(resource.get("resources") or ()):
            at, own = f"{path}[{index}].resources[{number}]", one.get("resourceID") or ""
            if (one.get("health") or "") not in _HEALTH:
                errs.append(not_supported(f"{at}.health", one.get("health") or "", _HEALTH))
            if own in seen:
                errs.append(duplicate(f"{at}.resourceID", own))
            seen.add(own)


def _device_name(own: str, container: Mapping[str, Any], path: str, errs: Errors) -> None:
    resources = container.get("resources") or {}
    if own.startswith("claim:"):
        claims = resources.get("claims") or ()
        known = ["/".join(p for p in (f"claim:{c.get('name')}", c.get("request")) if p) for c in claims]
        text = (
            "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when "
            "container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"
        )
    else:
        known, text = list(resources.get("requests") or ()), "must match one of the container's resource requests"
    if own not in known:
        errs.append(invalid(path, own, text))

"""Validation of pod specs (of pods and of templates) and of what may change in a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    not_supported,
    quote,
    required,
)
from rayplane.control_plane.api.kinds.metadata import checked, one_of, validate_labels
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_affinity, validate_spread
from rayplane.control_plane.api.kinds.pod_template.claims import validate_claims
from rayplane.control_plane.api.kinds.pod_template.containers import (
    validate_container,
    validate_ephemeral_container,
    validate_init_container,
)
from rayplane.control_plane.api.kinds.pod_template.resources import validate_requirements
from rayplane.control_plane.api.kinds.pod_template.volumes import validate_volumes
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE

Errors = list[FieldError]
_RESTART = ("Always", "OnFailure", "Never")
_DNS = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_EFFECTS = (NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE)
_NO_VOLUMES: dict[str, Mapping[str, Any]] = {}
_SUBDOMAIN_FIELDS = ("serviceAccountName", "nodeName", "priorityClassName", "schedulerName")
_LABEL_FIELDS = ("hostname", "subdomain")
_MAX_INT32 = 2**31 - 1
UPDATE_TEXT = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)


def validate_pod_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Everything about a pod's spec that needs no other object."""
    volumes = spec.get("volumes")
    by_name = validate_volumes(volumes, f"{path}.volumes", errs) if volumes else _NO_VOLUMES
    _containers(spec, by_name, path, errs)
    restart = spec.get("restartPolicy")
    if restart not in _RESTART:
        if not restart:
            errs.append(required(f"{path}.restartPolicy"))
        else:
            errs.append(not_supported(f"{path}.restartPolicy", restart, _RESTART))
    _dns(spec, path, errs)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _MAX_INT32:
        text = f"must be between 1 and {_MAX_INT32}, inclusive"
        errs.append(invalid(f"{path}.activeDeadlineSeconds", deadline, text))
    for field in _SUBDOMAIN_FIELDS:
        if spec.get(field):
            checked(names.subdomain_errors(spec[field]), spec[field], f"{path}.{field}", errs)
    for field in _LABEL_FIELDS:
        if spec.get(field):
            checked(names.label_errors(spec[field]), spec[field], f"{path}.{field}", errs)
    validate_labels(spec.get("nodeSelector"), f"{path}.nodeSelector", errs)
    if spec.get("tolerations"):
        validate_tolerations(spec["tolerations"], f"{path}.tolerations", errs)
    if spec.get("affinity"):
        validate_affinity(spec["affinity"], f"{path}.affinity", errs)
    if spec.get("topologySpreadConstraints"):
        validate_spread(spec["topologySpreadConstraints"], f"{path}.topologySpreadConstraints", errs)
    if spec.get("resources"):
        validate_requirements(spec["resources"], f"{path}.resources", errs)
    validate_claims(spec, path, errs)
    _small_lists(spec, path, errs)


def _dns(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    if spec.get("dnsPolicy") not in _DNS:
        one_of(spec.get("dnsPolicy"), _DNS, f"{path}.dnsPolicy", errs)
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        errs.append(required(f"{path}.dnsConfig.nameservers", text))
    for index, search in enumerate((spec.get("dnsConfig") or {}).get("searches") or ()):
        if search != ".":
            domain = search.removesuffix(".")
            checked(names.search_domain_errors(domain), domain, f"{path}.dnsConfig.searches[{index}]", errs)


def _small_lists(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        own, at = alias.get("ip") or "", f"{path}.hostAliases[{index}].ip"
        checked(names.ip_errors(own), own, at, errs)
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType") or ""
        at = f"{path}.readinessGates[{index}].conditionType"
        checked(names.qualified_name_errors(kind), kind, at, errs)
    seen: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        own, at = gate.get("name") or "", f"{path}.schedulingGates[{index}]"
        checked(names.qualified_name_errors(own), own, at, errs)
        if own in seen:
            errs.append(duplicate(at, own))
        seen.add(own)


def _containers(spec: Mapping[str, Any], volumes: Mapping[str, Any], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    host_ports: set[str] = set()
    containers = spec.get("containers")
    if not containers:
        errs.append(required(f"{path}.containers"))
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            validate_container(container, volumes, at, errs)
            own = container.get("name")
            if own:
                if own in seen:
                    errs.append(duplicate(f"{at}.name", own))
                seen.add(own)
            if field == "initContainers":
                validate_init_container(container, at, errs)
            elif field == "ephemeralContainers":
                validate_ephemeral_container(container, at, errs)
            if container.get("ports") and field == "containers":
                _host_ports(container["ports"], spec, host_ports, path=f"{at}.ports", errs=errs)


def _host_ports(
    ports: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    taken: set[str],
    *,
    path: str,
    errs: Errors,
) -> None:
    for index, port in enumerate(ports):
        number = port.get("hostPort")
        if spec.get("hostNetwork") and number and number != port.get("containerPort"):
            text = "must match `hostPort` when `hostNetwork` is true"
            errs.append(invalid(f"{path}[{index}].containerPort", port.get("containerPort"), text))
        if not number:
            continue
        text = f"{port.get('protocol') or ''}/{port.get('hostIP') or ''}/{number}"
        if text in taken:
            errs.append(duplicate(f"{path}[{index}].hostPort", text))
        taken.add(text)


def validate_tolerations(tolerations: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, toleration in enumerate(tolerations):
        at = f"{path}[{index}]"
        key, operator = toleration.get("key"), toleration.get("operator") or "Equal"
        if key:
            checked(names.qualified_name_errors(key), key, f"{at}.key", errs)
        elif operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            errs.append(invalid(f"{at}.operator", toleration.get("operator") or "", text))
        if operator == "Exists":
            if toleration.get("value"):
                text = "value must be empty when `operator` is 'Exists'"
                errs.append(invalid(f"{at}.operator", dict(toleration), text))
        elif operator == "Equal":
            checked(
                names.label_value_errors(toleration.get("value") or ""),
                toleration.get("value") or "",
                f"{at}.operator",
                errs,
            )
        else:
            errs.append(not_supported(f"{at}.operator", operator, ("Equal", "Exists")))
        effect = toleration.get("effect")
        if effect and effect not in _EFFECTS:
            errs.append(not_supported(f"{at}.effect", effect, _EFFECTS))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errs.append(invalid(f"{at}.effect", effect or "", text))


def validate_template(template: Mapping[str, Any] | None, path: str, errs: Errors, *, restart: Sequence[str]) -> None:
    """A pod template; `restart` lists the restart policies its owner allows."""
    if template is None:
        errs.append(required(path))
        return
    meta = template.get("metadata") or {}
    validate_labels(meta.get("labels"), f"{path}.metadata.labels", errs)
    spec = template.get("spec") or {}
    validate_pod_spec(spec, f"{path}.spec", errs)
    policy = spec.get("restartPolicy")
    if policy in _RESTART and policy not in restart:
        at = f"{path}.spec.restartPolicy"
        if policy == "Always":
            # The default, so most likely nothing was given: say what to give.
            valid = ", ".join(quote(one) for one in restart)
            errs.append(required(at, f"valid values: {valid}"))
        else:
            errs.append(not_supported(at, policy, restart))
    if spec.get("ephemeralContainers"):
        text = "ephemeral containers not allowed in pod template"
        errs.append(forbidden(f"{path}.spec.ephemeralContainers", text))


def validate_pod(pod: Object) -> Errors:
    errs: Errors = []
    validate_pod_spec(pod.get("spec") or {}, "spec", errs)
    if (pod.get("spec") or {}).get("ephemeralContainers"):
        text = "cannot be set on create"
        errs.append(forbidden("spec.ephemeralContainers", text))
    return errs


# --- updates ------------------------------------------------------------------------------------


def validate_pod_update(new: Object, old: Object) -> Errors:
    """What of a pod may change after it was created."""
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if spec == before:
        return errs
    validate_pod_spec(spec, "spec", errs)
    for field in ("containers", "initContainers"):
        if len(spec.get(field) or ()) != len(before.get(field) or ()):
            errs.append(forbidden(f"spec.{field}", "pod updates may not add or remove containers"))
    if errs:
        return errs
    _deadline(spec, before, errs)
    _tolerations_added(spec, before, errs)
    gated = bool(before.get("schedulingGates"))
    if gated and not _is_subset(spec.get("schedulingGates"), before.get("schedulingGates")):
        text = "only deletion is allowed, but found new scheduling gates"
        errs.append(forbidden("spec.schedulingGates", text))
    changed = _changed_fields(spec, before, gated=gated)
    if changed:
        listed = "".join(f"\n  spec.{field}" for field in changed)
        errs.append(forbidden("spec", f"{UPDATE_TEXT}; changed:{listed}"))
    return errs


def validate_pod_parts(new: Object) -> Errors:
    """A pod that a subresource has changed: ephemeral containers added, resources of others."""
    errs: Errors = []
    validate_pod_spec(new.get("spec") or {}, "spec", errs)
    return errs


def _is_subset(part: Sequence[Any] | None, whole: Sequence[Any] | None) -> bool:
    return all(one in (whole or ()) for one in part or ())


def _deadline(spec: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> None:
    deadline, earlier = spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds")
    if earlier is None or deadline == earlier:
        return
    path = "spec.activeDeadlineSeconds"
    if deadline is None:
        errs.append(invalid(path, None, "must not update from a positive integer to nil value"))
    elif deadline > earlier:
        text = f"must be less than or equal to previous value {earlier}"
        errs.append(invalid(path, deadline, text))


def _tolerations_added(spec: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> None:
    kept = spec.get("tolerations") or ()
    for toleration in before.get("tolerations") or ():
        same = {k: v for k, v in toleration.items() if k != "tolerationSeconds"}
        if not any({k: v for k, v in t.items() if k != "tolerationSeconds"} == same for t in kept):
            text = "existing toleration can not be modified except its tolerationSeconds"
            errs.append(forbidden("spec.tolerations", text))
            return


def _changed_fields(spec: Mapping[str, Any], before: Mapping[str, Any], *, gated: bool) -> list[str]:
    free = {"activeDeadlineSeconds", "tolerations", "schedulingGates"}
    if gated:
        free |= {"nodeSelector", "affinity"}
    if (before.get("terminationGracePeriodSeconds") or 0) < 0:
        free.add("terminationGracePeriodSeconds")
    changed = []
    for field in sorted(spec.keys() | before.keys()):
        if field in free or spec.get(field) == before.get(field):
            continue
        if field in ("containers", "initContainers"):
            changed += _changed_containers(spec.get(field) or (), before.get(field) or (), field)
        else:
            changed.append(field)
    return changed


def _changed_containers(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return [
        f"{field}[{index}].{part}"
        for index, (one, other) in enumerate(zip(new, old, strict=True))
        for part in sorted(one.keys() | other.keys())
        if part != "image" and one.get(part) != other.get(part)
    ]

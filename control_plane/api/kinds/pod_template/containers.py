"""Validation of containers: those of the pod's life, init containers and sidecars, ephemeral ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from rayplane.control_plane.api.errors import (
    duplicate,
    forbidden,
    invalid,
    not_found,
    not_supported,
    required,
    too_many,
)
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.environment import validate_env, validate_env_from
from rayplane.control_plane.api.kinds.pod_template.handlers import PROBES, validate_lifecycle, validate_probes
from rayplane.control_plane.api.kinds.pod_template.mounts import Volumes, validate_devices, validate_mounts
from rayplane.control_plane.api.kinds.pod_template.ports import validate_host_ports, validate_ports
from rayplane.control_plane.api.kinds.pod_template.resources import validate_requirements
from rayplane.control_plane.api.kinds.pod_template.security import validate_container_security
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.pods.containers import is_sidecar

_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES: Final = ("File", "FallbackToLogsOnError")
_RESTART: Final = ("Always", "Never", "OnFailure")
_RULE_ACTIONS: Final = ("Restart", "RestartAllContainers")
_RULE_OPERATORS: Final = ("In", "NotIn")
_RULES_ALONE: Final = "must specify restartPolicy when restart rules are used"
_RULES_MAX: Final = 20
_EXIT_CODES_MAX: Final = 255
_RESIZED: Final = ("cpu", "memory")
_RESIZING: Final = ("NotRequired", "RestartContainer")
_NOT_OF_EPHEMERAL: Final = (
    "ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "livenessProbe", "readinessProbe",
    "startupProbe", "lifecycle",
)  # fmt: skip
_EPHEMERAL_FORBIDDEN: Final = "cannot be set for an Ephemeral Container"
_INIT_FORBIDDEN: Final = "may not be set for init containers without restartPolicy=Always"
_OWN: Final = frozenset({"lifecycle", *PROBES, "restartPolicy", "restartPolicyRules"})
"""What not all containers may have."""
_COMMON: Final = frozenset({"env", "envFrom", "volumeMounts", "volumeDevices", "resizePolicy", "securityContext"})


class Surroundings(NamedTuple):
    """Facts of a pod that matter to its containers."""

    volumes: Volumes
    """The good ones by name."""
    claims: AbstractSet[str]
    grace_s: int | None
    """Seconds the pod has to end."""
    os: Mapping[str, Any] | None
    restart: str | None
    host_users: bool


def _common(container: Mapping[str, Any], around: Surroundings, path: str, errs: Errors) -> None:
    """What holds for every container."""
    own = container.get("name")
    if not own:
        errs.append(required(f"{path}.name"))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
    if not container.get("image"):
        errs.append(required(f"{path}.image"))
    policy = container.get("terminationMessagePolicy")
    if policy not in _MESSAGE_POLICIES:
        at = f"{path}.terminationMessagePolicy"
        errs.append(not_supported(at, policy, _MESSAGE_POLICIES) if policy else required(at))
    if container.get("ports"):
        validate_ports(container["ports"], f"{path}.ports", errs)
    rare = container.keys() & _COMMON
    if rare:
        _surroundings(container, around, path, errs)
    if container.get("imagePullPolicy") not in _PULL_POLICIES:
        validate_pull_policy(container.get("imagePullPolicy"), f"{path}.imagePullPolicy", errs)
    if container.get("resources"):
        validate_requirements(container["resources"], f"{path}.resources", errs, around.claims)
    if not rare:
        return
    if container.get("resizePolicy"):
        _resize_policy(container["resizePolicy"], around.restart, f"{path}.resizePolicy", errs)
    if container.get("securityContext"):
        at = f"{path}.securityContext"
        validate_container_security(container["securityContext"], at, errs, host_users=around.host_users)


def _surroundings(container: Mapping[str, Any], around: Surroundings, path: str, errs: Errors) -> None:
    """What a container takes of what is around it."""
    if container.get("env"):
        validate_env(container["env"], f"{path}.env", errs)
    if container.get("envFrom"):
        validate_env_from(container["envFrom"], f"{path}.envFrom", errs)
    if container.get("volumeMounts"):
        validate_mounts(container, around.volumes, f"{path}.volumeMounts", errs)
    if container.get("volumeDevices"):
        validate_devices(container, around.volumes, f"{path}.volumeDevices", errs)


def validate_pull_policy(policy: str | None, path: str, errs: Errors) -> None:
    if not policy:
        errs.append(required(path))
    elif policy not in _PULL_POLICIES:
        errs.append(not_supported(path, policy, _PULL_POLICIES))


def _resize_policy(policies: Sequence[Mapping[str, Any]], restart: str | None, path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for index, policy in enumerate(policies):
        resource, how = policy.get("resourceName") or "", policy.get("restartPolicy") or ""
        if resource in seen:
            errs.append(duplicate(f"{path}[{index}]", resource))
        seen.add(resource)
        for value, supported in ((resource, _RESIZED), (how, _RESIZING)):
            if not value:
                errs.append(required(path))
            elif value not in supported:
                errs.append(not_supported(path, value, supported))
        if restart == "Never" and how != "NotRequired":
            text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            errs.append(invalid(path, how, text))


def validate_containers(containers: Sequence[Mapping[str, Any]], around: Surroundings, path: str, errs: Errors) -> None:
    """The containers that run together for the pod's life."""
    if not containers:
        errs.append(required(path))
        return
    seen: set[str] = set()
    for index, container in enumerate(containers):
        at = f"{path}[{index}]"
        _common(container, around, at, errs)
        own = container.get("name") or ""
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        if not container.keys().isdisjoint(_OWN):
            _life(container, around, at, errs)
            _restart(container, at, errs)
    validate_host_ports(containers, path, errs)


def _life(container: Mapping[str, Any], around: Surroundings, path: str, errs: Errors) -> None:
    if container.get("lifecycle") is not None:
        validate_lifecycle(container["lifecycle"], around.grace_s, around.os, f"{path}.lifecycle", errs)
    validate_probes(container, path, errs)


def _restart(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    """When a container is restarted, if that is not when its pod's are."""
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or ()
    at = f"{path}.restartPolicy"
    if policy is None and rules:
        errs.append(required(at, _RULES_ALONE))
    elif policy is not None and policy not in _RESTART:
        errs.append(not_supported(at, policy, _RESTART))
    if len(rules) > _RULES_MAX:
        errs.append(too_many(f"{path}.restartPolicyRules", len(rules), _RULES_MAX))
    for index, rule in enumerate(rules):
        _restart_rule(rule, f"{path}.restartPolicyRules[{index}]", errs)


def _restart_rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    action, codes = rule.get("action") or "", rule.get("exitCodes")
    if action not in _RULE_ACTIONS:
        errs.append(not_supported(f"{path}.action", action, _RULE_ACTIONS))
    if codes is None:
        errs.append(required(f"{path}.exitCodes", "must be specified"))
        return
    operator, values = codes.get("operator") or "", codes.get("values") or ()
    if operator not in _RULE_OPERATORS:
        errs.append(not_supported(f"{path}.exitCodes.operator", operator, _RULE_OPERATORS))
    if len(values) > _EXIT_CODES_MAX:
        errs.append(too_many(f"{path}.exitCodes.values", len(values), _EXIT_CODES_MAX))


def validate_init_containers(spec: Mapping[str, Any], around: Surroundings, path: str, errs: Errors) -> None:
    """The containers that run in their turn before the others, and the sidecars that stay with those."""
    seen = {container.get("name") or "" for container in spec.get("containers") or ()}
    for index, container in enumerate(spec["initContainers"]):
        at = f"{path}[{index}]"
        _common(container, around, at, errs)
        if container.get("restartPolicy") is not None:
            _restart(container, at, errs)
        elif container.get("restartPolicyRules"):
            errs.append(required(f"{at}.restartPolicy", _RULES_ALONE))
        own = container.get("name") or ""
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        elif own:
            seen.add(own)
        validate_host_ports([container], path, errs)
        if is_sidecar(container):
            _life(container, around, at, errs)
        else:
            _short_life(container, at, errs)


def _short_life(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("lifecycle", *PROBES):
        if container.get(field) is not None:
            errs.append(forbidden(f"{path}.{field}", _INIT_FORBIDDEN))
    for index, policy in enumerate(container.get("resizePolicy") or ()):
        if policy.get("restartPolicy") == "RestartContainer":
            at = f"{path}.resizePolicy[{index}].restartPolicy"
            text = "must not be set to 'RestartContainer' for non-sidecar initContainers"
            errs.append(invalid(at, policy["restartPolicy"], text))


def validate_ephemeral_containers(spec: Mapping[str, Any], around: Surroundings, path: str, errs: Errors) -> None:
    """The containers that were added to look at the others."""
    others = {one.get("name") or "" for f in ("containers", "initContainers") for one in spec.get(f) or ()}
    seen = set(others)
    for index, container in enumerate(spec["ephemeralContainers"]):
        at = f"{path}[{index}]"
        _common(container, around, at, errs)
        validate_image_of_pod(container, at, errs)
        own, target = container.get("name") or "", container.get("targetContainerName")
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        if target and target not in others:
            errs.append(not_found(f"{at}.targetContainerName", target))
        for field in _NOT_OF_EPHEMERAL:
            if container.get(field) not in (None, {}, []):
                errs.append(forbidden(f"{at}.{field}", _EPHEMERAL_FORBIDDEN))
        for number, mount in enumerate(container.get("volumeMounts") or ()):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    errs.append(forbidden(f"{at}.volumeMounts[{number}].{field}", _EPHEMERAL_FORBIDDEN))


def validate_image_of_pod(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Spaces around an image mean something to those who make pods of templates, in a pod they do not."""
    image = container.get("image") or ""
    if image != image.strip():
        errs.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))

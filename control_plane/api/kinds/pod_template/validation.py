"""Validation of pod specs, of pods and of templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_supported, quote, required
from rayplane.control_plane.api.kinds.metadata import (
    Errors,
    checked,
    in_range,
    not_negative,
    validate_annotations,
    validate_labels,
)
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_affinity, validate_spread
from rayplane.control_plane.api.kinds.pod_template.annotations import validate_pod_annotations, validate_profiles_match
from rayplane.control_plane.api.kinds.pod_template.claims import validate_pod_claims
from rayplane.control_plane.api.kinds.pod_template.containers import (
    Surroundings,
    validate_containers,
    validate_ephemeral_containers,
    validate_image_of_pod,
    validate_init_containers,
)
from rayplane.control_plane.api.kinds.pod_template.environment import validate_files
from rayplane.control_plane.api.kinds.pod_template.network import (
    validate_dns_config,
    validate_dns_policy,
    validate_host_aliases,
    validate_host_users,
    validate_hostname_override,
)
from rayplane.control_plane.api.kinds.pod_template.ports import validate_host_network_ports
from rayplane.control_plane.api.kinds.pod_template.resources import validate_pod_resources, validate_requirements
from rayplane.control_plane.api.kinds.pod_template.security import validate_pod_security
from rayplane.control_plane.api.kinds.pod_template.tolerations import validate_tolerations
from rayplane.control_plane.api.kinds.pod_template.volumes import validate_volumes
from rayplane.control_plane.api.kinds.pod_template.windows import validate_host_process, validate_system
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

_RESTART: Final = ("Always", "OnFailure", "Never")
_PREEMPTION: Final = ("PreemptLowerPriority", "Never")
_KINDS: Final = ("initContainers", "containers", "ephemeralContainers")
_NO_VOLUMES: Final[dict[str, Mapping[str, Any]]] = {}
_NO_CLAIMS: Final[frozenset[str]] = frozenset()
_MAX_INT32: Final = 2**31 - 1
_Spec = Mapping[str, Any]
_Containers = list[tuple[str, Mapping[str, Any]]]


def every_container(spec: _Spec, path: str) -> _Containers:
    """The containers of all kinds with their paths."""
    return [(f"{path}.{kind}[{i}]", one) for kind in _KINDS for i, one in enumerate(spec.get(kind) or ())]


def validate_pod_spec(spec: _Spec, path: str, errs: Errors, metadata: Mapping[str, Any] | None = None) -> None:
    """Everything about a pod's spec that needs no other object; `metadata` is that of the pod, None in a template."""
    grace_s = spec.get("terminationGracePeriodSeconds")
    if grace_s is None:
        errs.append(required(f"{path}.terminationGracePeriodSeconds"))
    volumes, claims = _NO_VOLUMES, _NO_CLAIMS
    if spec.get("volumes"):
        pod = "" if metadata is None else metadata.get("name") or ""
        volumes = validate_volumes(spec["volumes"], pod, f"{path}.volumes", errs)
    if spec.get("resourceClaims"):
        annotations = (metadata or {}).get("annotations") or {}
        validate_pod_claims(spec["resourceClaims"], annotations, f"{path}.resourceClaims", errs)
        claims = frozenset(one["name"] for one in spec["resourceClaims"] if one.get("name"))
    restart, policy = spec.get("restartPolicy"), spec.get("dnsPolicy")
    around = Surroundings(volumes, claims, grace_s, spec.get("os"), restart, spec.get("hostUsers") is not False)
    validate_containers(spec.get("containers") or (), around, f"{path}.containers", errs)
    if spec.get("initContainers"):
        validate_init_containers(spec, around, f"{path}.initContainers", errs)
    if spec.get("ephemeralContainers"):
        validate_ephemeral_containers(spec, around, f"{path}.ephemeralContainers", errs)
    if spec.get("resources") is not None:
        validate_pod_resources(spec, path, errs, claims)
    if spec.get("hostNetwork"):
        validate_host_network_ports(spec, path, errs, of_pod=metadata is not None)
    if restart not in _RESTART:
        at = f"{path}.restartPolicy"
        errs.append(not_supported(at, restart, _RESTART) if restart else required(at))
    validate_dns_policy(policy, f"{path}.dnsPolicy", errs)
    if not _is_plain(spec):
        _rest(spec, path, errs)


def _is_plain(spec: _Spec) -> bool:
    """Whether what most pods say is all that this one does, its containers alone and together."""
    if not spec.keys() <= _PLAIN or spec.get("securityContext") or spec.get("dnsPolicy") == "None":
        return False
    return all(one.keys().isdisjoint(_SHARED) for kind in _KINDS for one in spec.get(kind) or ())


def _rest(spec: _Spec, path: str, errs: Errors) -> None:
    """What most pods do not say."""
    validate_labels(spec.get("nodeSelector"), f"{path}.nodeSelector", errs)
    if spec.get("securityContext"):
        validate_pod_security(spec["securityContext"], spec, f"{path}.securityContext", errs)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        errs.append(invalid(f"{path}.shareProcessNamespace", True, text))
    if spec.get("affinity") is not None:
        validate_affinity(spec["affinity"], f"{path}.affinity", errs)
    validate_dns_config(spec.get("dnsConfig"), spec.get("dnsPolicy"), f"{path}.dnsConfig", errs)
    if "readinessGates" in spec or "schedulingGates" in spec:
        _gates(spec, path, errs)
    if spec.get("topologySpreadConstraints"):
        validate_spread(spec["topologySpreadConstraints"], f"{path}.topologySpreadConstraints", errs)
    containers = every_container(spec, path)
    validate_host_process(spec, containers, path, errs)
    if spec.get("hostUsers") is False:
        validate_host_users(spec, containers, path, errs)
    if spec.get("hostnameOverride") is not None:
        validate_hostname_override(spec, path, errs)
    for field, check in _FIELDS.items():
        if field in spec and spec[field] not in (None, "", [], {}):
            check(spec[field], f"{path}.{field}", errs)
    if spec.get("os") is not None:
        validate_system(spec, containers, path, errs)
    if spec.get("schedulingGroup") is not None:
        _scheduling_group(spec, f"{path}.schedulingGroup", errs)
    validate_files(containers, spec.get("volumes"), errs)


def _gates(spec: _Spec, path: str, errs: Errors) -> None:
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType") or ""
        checked(names.qualified_name_errors(kind), kind, f"{path}.readinessGates[{index}].conditionType", errs)
    seen: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        own, at = gate.get("name") or "", f"{path}.schedulingGates[{index}]"
        checked(names.qualified_name_errors(own), own, at, errs)
        if own in seen:
            errs.append(duplicate(at, own))
        seen.add(own)


def _name(check: Callable[[str], Sequence[str]]) -> Callable[[Any, str, Errors], None]:
    def validate(value: Any, path: str, errs: Errors) -> None:
        checked(check(value), value, path, errs)

    return validate


def _preemption(policy: str, path: str, errs: Errors) -> None:
    if policy not in _PREEMPTION:
        errs.append(not_supported(path, policy, _PREEMPTION))


def _scheduling_group(spec: _Spec, path: str, errs: Errors) -> None:
    own, at = spec["schedulingGroup"].get("podGroupName"), f"{path}.podGroupName"
    if own is None:
        errs.append(invalid(at, None, "must specify one of: `podGroupName`"))
    else:
        checked(names.subdomain_errors(own), own, at, errs)
    if spec.get("evictionResponders"):
        errs.append(forbidden(path, "may not be set when evictionResponders is set"))


_FIELDS: Final[Mapping[str, Callable[[Any, str, Errors], None]]] = {
    "serviceAccountName": _name(names.subdomain_errors),
    "nodeName": _name(names.subdomain_errors),
    "activeDeadlineSeconds": lambda value, path, errs: in_range(value, 1, _MAX_INT32, path, errs),
    "hostname": _name(names.label_errors),
    "subdomain": _name(names.label_errors),
    "tolerations": validate_tolerations,
    "hostAliases": validate_host_aliases,
    "priorityClassName": _name(names.subdomain_errors),
    "runtimeClassName": _name(names.subdomain_errors),
    "preemptionPolicy": _preemption,
    "overhead": lambda value, path, errs: validate_requirements({"limits": value}, path, errs),
}
#: Fields of containers that are judged with those of others, or of the pod.
_SHARED: Final = frozenset({"env", "securityContext"})
#: Fields that need no more than has been looked at when they are reached.
_PLAIN: Final = frozenset(
    {
        *_KINDS, "automountServiceAccountToken", "dnsPolicy", "enableServiceLinks", "imagePullSecrets", "priority",
        "resources", "restartPolicy", "schedulerName", "securityContext", "terminationGracePeriodSeconds", "volumes",
    }
)  # fmt: skip


def validate_template(
    template: Mapping[str, Any] | None, path: str, errs: Errors, *, restart: Sequence[str] = _RESTART
) -> None:
    """A pod template; `restart` lists the restart policies its owner allows."""
    if template is None:
        errs.append(required(path))
        return
    meta, spec = template.get("metadata") or {}, template.get("spec") or {}
    annotations, at = meta.get("annotations") or {}, f"{path}.spec"
    validate_labels(meta.get("labels"), f"{path}.labels", errs)
    containers = every_container(spec, at) if annotations else []
    if annotations:
        validate_annotations(annotations, f"{path}.annotations", errs)
        validate_pod_annotations(annotations, spec, containers, f"{path}.annotations", errs)
    validate_pod_spec(spec, at, errs)
    if annotations:
        validate_profiles_match(annotations, spec, containers, at, errs)
    if spec.get("ephemeralContainers"):
        text = "ephemeral containers not allowed in pod template"
        errs.append(forbidden(f"{at}.ephemeralContainers", text))
    policy = spec.get("restartPolicy") or ""
    if policy in restart or restart is _RESTART:
        return
    if policy == "Always":
        # The default, so most likely nothing was given: say what to give.
        valid = ", ".join(quote(one) for one in restart)
        errs.append(required(f"{at}.restartPolicy", f"valid values: {valid}"))
    else:
        errs.append(not_supported(f"{at}.restartPolicy", policy, restart))


def validate_pod(pod: Object) -> Errors:
    """A new pod."""
    errs = validate_made_pod(pod)
    spec, annotations = pod.get("spec") or {}, (pod.get("metadata") or {}).get("annotations")
    if spec.get("ephemeralContainers"):
        errs.append(forbidden("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("nodeName") and spec.get("schedulingGates"):
        errs.append(forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
    if annotations:
        validate_profiles_match(annotations, spec, every_container(spec, "spec"), "spec", errs)
    return errs


def validate_made_pod(pod: Object) -> Errors:
    """A pod, new or changed."""
    errs: Errors = []
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if metadata.get("annotations"):
        containers = every_container(spec, "spec")
        validate_pod_annotations(metadata["annotations"], spec, containers, "metadata.annotations", errs)
    validate_pod_spec(spec, "spec", errs, metadata)
    if not spec.get("serviceAccountName") and spec.get("volumes"):
        for index, volume in enumerate(spec["volumes"]):
            for number, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
                if source.get("serviceAccountToken") is not None:
                    at = f"spec.volumes[{index}].projected.sources[{number}].serviceAccountToken"
                    errs.append(forbidden(at, "must not be specified when serviceAccountName is not set"))
    not_negative(spec.get("terminationGracePeriodSeconds"), "spec.terminationGracePeriodSeconds", errs)
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            validate_image_of_pod(container, f"spec.{kind}[{index}]", errs)
    return errs

"""Validation of containers: images, ports, environment, mounts, probes, hooks, security."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    not_found,
    not_supported,
    required,
)
from rayplane.control_plane.api.kinds.metadata import checked, in_range, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.resources import validate_requirements
from rayplane.control_plane.api.machinery import names

Errors = list[FieldError]
PROTOCOLS = ("SCTP", "TCP", "UDP")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
_PROPAGATION = ("Bidirectional", "HostToContainer", "None")
_ENV_SOURCES = ("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef")
_ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_RESOURCE_FIELDS = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu",
    "requests.ephemeral-storage", "requests.memory",
)  # fmt: skip
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_EPHEMERAL_FORBIDDEN = "cannot be set for an Ephemeral Container"
_INIT_FORBIDDEN = "may not be set for init containers without restartPolicy=Always"


def validate_container(container: Mapping[str, Any], volumes: Mapping[str, Any], path: str, errs: Errors) -> None:
    """One container; `volumes` are the pod's volumes by name."""
    own = container.get("name")
    if not own:
        errs.append(required(f"{path}.name"))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
    _image(container, path, errs)
    if container.get("ports"):
        _ports(container["ports"], f"{path}.ports", errs)
    if container.get("env"):
        _env(container["env"], f"{path}.env", errs)
    if container.get("envFrom"):
        _env_from(container["envFrom"], f"{path}.envFrom", errs)
    if container.get("volumeMounts"):
        _mounts(container, volumes, f"{path}.volumeMounts", errs)
    if container.get("volumeDevices"):
        _devices(container["volumeDevices"], volumes, f"{path}.volumeDevices", errs)
    _probes_and_hooks(container, path, errs)
    if container.get("resources"):
        validate_requirements(container["resources"], f"{path}.resources", errs)
    if container.get("securityContext"):
        _security(container["securityContext"], f"{path}.securityContext", errs)


def _probes_and_hooks(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in _PROBES:
        if container.get(field):
            _probe(container[field], field, f"{path}.{field}", errs)
    for hook in ("postStart", "preStop"):
        handler = (container.get("lifecycle") or {}).get(hook)
        if handler is not None:
            _handler(handler, f"{path}.lifecycle.{hook}", errs)


def validate_init_container(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What init containers may not have, beyond what holds for every container."""
    policy = container.get("restartPolicy")
    if policy == "Always":
        return
    if policy not in (None, "", "Never", "OnFailure"):
        supported = ("Always", "Never", "OnFailure")
        errs.append(not_supported(f"{path}.restartPolicy", policy, supported))
    for field in ("lifecycle", *_PROBES):
        if container.get(field):
            errs.append(forbidden(f"{path}.{field}", _INIT_FORBIDDEN))


def validate_ephemeral_container(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What ephemeral containers may not have, beyond what holds for every container."""
    for field in ("ports", *_PROBES, "lifecycle", "resources", "restartPolicy"):
        if container.get(field):
            errs.append(forbidden(f"{path}.{field}", _EPHEMERAL_FORBIDDEN))
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                errs.append(forbidden(f"{path}.volumeMounts[{index}].{field}", _EPHEMERAL_FORBIDDEN))


def _image(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    image = container.get("image")
    if not image:
        errs.append(required(f"{path}.image"))
    elif image != image.strip():
        errs.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policy = container.get("terminationMessagePolicy")
    if policy not in _MESSAGE_POLICIES:
        if not policy:
            errs.append(required(f"{path}.terminationMessagePolicy"))
        else:
            one_of(policy, _MESSAGE_POLICIES, f"{path}.terminationMessagePolicy", errs)
    policy = container.get("imagePullPolicy")
    if policy not in _PULL_POLICIES:
        if not policy:
            errs.append(required(f"{path}.imagePullPolicy"))
        else:
            one_of(policy, _PULL_POLICIES, f"{path}.imagePullPolicy", errs)


def _ports(ports: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{path}[{index}]"
        own = port.get("name")
        if own:
            problems = names.port_name_errors(own)
            checked(problems, own, f"{at}.name", errs)
            if not problems:
                if own in seen:
                    errs.append(duplicate(f"{at}.name", own))
                seen.add(own)
        number = port.get("containerPort")
        if not number:
            errs.append(required(f"{at}.containerPort"))
        else:
            in_range(number, 1, 65535, f"{at}.containerPort", errs)
        if port.get("hostPort"):
            in_range(port["hostPort"], 1, 65535, f"{at}.hostPort", errs)
        if not port.get("protocol"):
            errs.append(required(f"{at}.protocol"))
        else:
            one_of(port["protocol"], PROTOCOLS, f"{at}.protocol", errs)


def _env(variables: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, variable in enumerate(variables):
        at = f"{path}[{index}]"
        own = variable.get("name")
        if not own:
            errs.append(required(f"{at}.name"))
        else:
            checked(names.env_name_errors(own), own, f"{at}.name", errs)
        source = variable.get("valueFrom")
        if source is not None:
            _env_source(source, variable.get("value"), f"{at}.valueFrom", errs)


def _env_source(source: Mapping[str, Any], value: str | None, path: str, errs: Errors) -> None:
    given = [kind for kind in _ENV_SOURCES if source.get(kind) is not None]
    if not given:
        text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        errs.append(invalid(path, "", text))
    if value and given:
        errs.append(invalid(path, "", "may not be specified when `value` is not empty"))
    if len(given) > 1:
        errs.append(invalid(path, "", "may not have more than one field specified at a time"))
    for kind in given:
        _env_reference(kind, source[kind], f"{path}.{kind}", errs)


def _env_reference(kind: str, reference: Mapping[str, Any], path: str, errs: Errors) -> None:
    if kind == "fieldRef":
        validate_field_path(reference.get("fieldPath"), _ENV_FIELDS, path, errs)
    elif kind == "resourceFieldRef":
        resource = reference.get("resource") or ""
        if not resource:
            errs.append(required(f"{path}.resource"))
        elif resource not in _RESOURCE_FIELDS and "hugepages-" not in resource:
            errs.append(not_supported(f"{path}.resource", resource, _RESOURCE_FIELDS))
    elif kind in ("configMapKeyRef", "secretKeyRef"):
        if not reference.get("name"):
            errs.append(required(f"{path}.name"))
        if not reference.get("key"):
            errs.append(required(f"{path}.key"))
        else:
            checked(names.config_key_errors(reference["key"]), reference["key"], path, errs)


def validate_field_path(field: str | None, supported: Sequence[str], path: str, errs: Errors) -> None:
    """A downward-API path: one of `supported`, or one label or annotation by its key."""
    if not field:
        errs.append(required(f"{path}.fieldPath"))
        return
    for part in ("metadata.annotations", "metadata.labels"):
        if field.startswith(f"{part}['") and field.endswith("']"):
            checked(names.qualified_name_errors(field[len(part) + 2 : -2].lower()), field, path, errs)
            return
    if field not in supported:
        errs.append(not_supported(f"{path}.fieldPath", field, supported))


def _env_from(sources: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, source in enumerate(sources):
        at = f"{path}[{index}]"
        if source.get("prefix"):
            checked(names.env_name_errors(source["prefix"]), source["prefix"], f"{at}.prefix", errs)
        given = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        if not given:
            errs.append(invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(given) > 1:
            errs.append(invalid(at, "", "may not have more than one field specified at a time"))
        for kind in given:
            if not source[kind].get("name"):
                errs.append(required(f"{at}.{kind}.name"))


def _mounts(container: Mapping[str, Any], volumes: Mapping[str, Any], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    devices = container.get("volumeDevices") or ()
    names_of_devices = {d.get("name") for d in devices}
    paths_of_devices = {d.get("devicePath") for d in devices}
    for index, mount in enumerate(container["volumeMounts"]):
        at = f"{path}[{index}]"
        volume = mount.get("name")
        if not volume:
            errs.append(required(f"{at}.name"))
        elif volume not in volumes:
            errs.append(not_found(f"{at}.name", volume))
        where = mount.get("mountPath")
        if not where:
            errs.append(required(f"{at}.mountPath"))
        elif where in seen:
            errs.append(invalid(f"{at}.mountPath", where, "must be unique"))
        else:
            seen.add(where)
            # Kubernetes leaves this to container runtimes, which keep it below the root; here it is refused early.
            validate_no_backsteps(where, f"{at}.mountPath", errs)
        if volume and volume in names_of_devices:
            errs.append(invalid(f"{at}.name", volume, "must not already exist in volumeDevices"))
        if where and where in paths_of_devices:
            errs.append(invalid(f"{at}.mountPath", where, "must not already exist as a path in volumeDevices"))
        if mount.get("subPath"):
            validate_local_path(mount["subPath"], f"{at}.subPath", errs)
        if mount.get("subPathExpr"):
            if mount.get("subPath"):
                text = "subPathExpr and subPath are mutually exclusive"
                errs.append(invalid(f"{at}.subPathExpr", mount["subPathExpr"], text))
            validate_local_path(mount["subPathExpr"], f"{at}.subPathExpr", errs)
        propagation = mount.get("mountPropagation")
        if propagation:
            one_of(propagation, _PROPAGATION, f"{at}.mountPropagation", errs)


def validate_local_path(where: str, path: str, errs: Errors) -> None:
    """A relative path that does not climb."""
    if where.startswith("/"):
        errs.append(invalid(path, where, "must be a relative path"))
    validate_no_backsteps(where, path, errs)


def validate_own_path(where: str, path: str, errs: Errors) -> None:
    """A relative path of a file in a volume: names that begin with two dots are the volume's own."""
    validate_local_path(where, path, errs)
    if where.startswith("..") and ".." not in where.split("/"):
        errs.append(invalid(path, where, "must not start with '..'"))


def validate_no_backsteps(where: str, path: str, errs: Errors) -> None:
    if ".." in where.split("/"):
        errs.append(invalid(path, where, "must not contain '..'"))


def _devices(devices: Sequence[Mapping[str, Any]], volumes: Mapping[str, Any], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for index, device in enumerate(devices):
        at = f"{path}[{index}]"
        own = device.get("name")
        if not own:
            errs.append(required(f"{at}.name"))
        elif own not in volumes:
            errs.append(not_found(f"{at}.name", own))
        elif not {"persistentVolumeClaim", "ephemeral"} & volumes[own].keys():
            text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            errs.append(invalid(f"{at}.name", own, text))
        where = device.get("devicePath")
        if not where:
            errs.append(required(f"{at}.devicePath"))
            continue
        if where in seen:
            errs.append(invalid(f"{at}.devicePath", where, "must be unique"))
        seen.add(where)
        validate_no_backsteps(where, f"{at}.devicePath", errs)


def _handler(handler: Mapping[str, Any], path: str, errs: Errors) -> None:
    given = [kind for kind in _HANDLERS if handler.get(kind) is not None]
    if not given:
        errs.append(required(path, "must specify a handler type"))
    for kind in given[1:]:
        errs.append(forbidden(f"{path}.{kind}", "may not specify more than 1 handler type"))
    for kind in given[:1]:
        action, at = handler[kind], f"{path}.{kind}"
        if kind == "exec" and not action.get("command"):
            errs.append(required(f"{at}.command"))
        elif kind in ("httpGet", "tcpSocket", "grpc"):
            if kind == "httpGet":
                if not action.get("path"):
                    errs.append(required(f"{at}.path"))
                one_of(action.get("scheme"), ("HTTP", "HTTPS"), f"{at}.scheme", errs)
                for header in action.get("httpHeaders") or ():
                    own = header.get("name") or ""
                    checked(names.header_name_errors(own), own, f"{at}.httpHeaders", errs)
            validate_port_reference(action.get("port"), f"{at}.port", errs)


def validate_port_reference(port: Any, path: str, errs: Errors) -> None:
    """A port number 1-65535 or the name of a port."""
    if isinstance(port, str) and not names.is_number_of_port(port):
        checked(names.port_name_errors(port), port, path, errs)
        return
    number = int(port or 0)
    if not 1 <= number <= 65535:
        errs.append(invalid(path, number, "must be between 1 and 65535, inclusive"))


def _probe(probe: Mapping[str, Any], kind: str, path: str, errs: Errors) -> None:
    _handler(probe, path, errs)
    for field in (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ):
        not_negative(probe.get(field), f"{path}.{field}", errs)
    if kind != "readinessProbe" and probe.get("successThreshold") not in (None, 1):
        errs.append(invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1"))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None:
        if kind == "readinessProbe":
            text = "must not be set for readinessProbes"
            errs.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, text))
        elif grace <= 0:
            text = "must be greater than 0"
            errs.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, text))


def _security(context: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("runAsUser", "runAsGroup"):
        value = context.get(field)
        if value is not None and not 0 <= value <= 2**31 - 1:
            text = "must be between 0 and 2147483647, inclusive"
            errs.append(invalid(f"{path}.{field}", value, text))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            errs.append(invalid(path, dict(context), text))
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            errs.append(invalid(path, dict(context), text))

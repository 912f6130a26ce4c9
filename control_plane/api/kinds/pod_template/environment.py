"""Validation of environment variables, and of the fields and resources of a pod that its containers are told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, not_found, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.paths import validate_no_backsteps
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse

ENV_FIELDS: Final = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
VOLUME_FIELDS: Final = (
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
)  # fmt: skip
_KNOWN_FIELDS: Final = frozenset(
    {*ENV_FIELDS, *VOLUME_FIELDS, "spec.restartPolicy", "spec.schedulerName", "status.phase"}
)
_RENAMED_FIELDS: Final = {"spec.host": "spec.nodeName"}
_RESOURCE_FIELDS: Final = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory",
    "requests.cpu", "requests.ephemeral-storage", "requests.memory",
)  # fmt: skip
_HUGE_PAGES: Final = ("limits.hugepages-", "requests.hugepages-")
_CPU_DIVISORS: Final = ("1m", "1")
_BYTE_DIVISORS: Final = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
_NO_SOURCE: Final = (
    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
)


def validate_env(variables: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, variable in enumerate(variables):
        own = variable.get("name")
        if not own:
            errs.append(required(f"{path}[{index}].name"))
        else:
            checked(names.env_name_errors(own), own, f"{path}[{index}].name", errs)
        if variable.get("valueFrom") is not None:
            _source(variable["valueFrom"], variable.get("value"), f"{path}[{index}].valueFrom", errs)


def _source(source: Mapping[str, Any], value: str | None, path: str, errs: Errors) -> None:
    given = [kind for kind in _SOURCES if source.get(kind) is not None]
    for kind in given:
        _SOURCES[kind](source[kind], f"{path}.{kind}", errs)
    if not given:
        errs.append(invalid(path, "", _NO_SOURCE))
    elif value:
        errs.append(invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(given) > 1:
        errs.append(invalid(path, "", "may not have more than one field specified at a time"))


def validate_field(reference: Mapping[str, Any], supported: Sequence[str], path: str, errs: Errors) -> None:
    """A field of the pod: one of `supported`, or one label or annotation by its key."""
    version, field = reference.get("apiVersion"), reference.get("fieldPath")
    if not version:
        errs.append(required(f"{path}.apiVersion"))
        return
    if not field:
        errs.append(required(f"{path}.fieldPath"))
        return
    part, key = _subscript(field)
    problem = _unreadable(version, field, part)
    if problem:
        errs.append(invalid(f"{path}.fieldPath", field, f"error converting fieldPath: {problem}"))
    elif key is not None:
        key = key.lower() if part == "metadata.annotations" else key
        checked(names.qualified_name_errors(key), key, path, errs)
    elif (field := _RENAMED_FIELDS.get(field, field)) not in supported:
        errs.append(not_supported(f"{path}.fieldPath", field, supported))


def _subscript(field: str) -> tuple[str, str | None]:
    """`metadata.labels` and `x` of `metadata.labels['x']`; the field and None of one without a key."""
    part, bracket, key = field.removesuffix("']").partition("['")
    return (part, key) if field.endswith("']") and bracket and part else (field, None)


def _unreadable(version: str, field: str, part: str) -> str:
    if version != "v1":
        return f"unsupported pod version: {version}"
    if part != field:
        known = part in ("metadata.annotations", "metadata.labels")
        return "" if known else f"field label does not support subscript: {field}"
    known = field in _KNOWN_FIELDS or field in _RENAMED_FIELDS
    return "" if known else f"field label not supported: {field}"


def validate_resource_field(reference: Mapping[str, Any], path: str, errs: Errors, *, of_volume: bool = False) -> None:
    """What a container asks for, or is limited to; a volume says of which container."""
    resource = reference.get("resource") or ""
    if of_volume and not reference.get("containerName"):
        errs.append(required(f"{path}.containerName"))
    elif not resource:
        errs.append(required(f"{path}.resource"))
    elif resource not in _RESOURCE_FIELDS and not resource.startswith(_HUGE_PAGES):
        errs.append(not_supported(f"{path}.resource", resource, _RESOURCE_FIELDS))
    _divisor(reference.get("divisor"), resource, path, errs)


def _divisor(divisor: Any, resource: str, path: str, errs: Errors) -> None:
    try:
        amount = parse(divisor or 0)
    except QuantityError as error:
        errs.append(invalid(f"{path}.divisor", divisor, str(error)))
        return
    if not amount.nano:
        return
    of = resource.partition(".")[2] if resource in _RESOURCE_FIELDS else ""
    if of == "cpu":
        if str(amount) not in _CPU_DIVISORS:
            text = "only divisor's values 1m and 1 are supported with the cpu resource"
            errs.append(invalid(f"{path}.divisor", resource, text))
        return
    what = {"memory": "memory", "ephemeral-storage": "local ephemeral storage"}.get(of)
    what = "hugepages" if resource.startswith(_HUGE_PAGES) else what
    if what and str(amount) not in _BYTE_DIVISORS:
        listed = ", ".join(_BYTE_DIVISORS)
        text = f"only divisor's values {listed} are supported with the {what} resource"
        errs.append(invalid(f"{path}.divisor", resource, text))


def _key(reference: Mapping[str, Any], path: str, errs: Errors) -> None:
    own, key = reference.get("name") or "", reference.get("key")
    checked(names.subdomain_errors(own), own, f"{path}.name", errs)
    if not key:
        errs.append(required(f"{path}.key"))
    else:
        checked(names.config_key_errors(key), key, f"{path}.key", errs)


def _file(reference: Mapping[str, Any], path: str, errs: Errors) -> None:
    key, volume, where = (reference.get(field) or "" for field in ("key", "volumeName", "path"))
    if not key:
        errs.append(required(f"{path}.key"))
    else:
        checked(names.env_name_errors(key), key, f"{path}.key", errs)
    if not volume:
        errs.append(required(f"{path}.volumeName"))
    else:
        checked(names.label_errors(volume), volume, f"{path}.volumeName", errs)
    if not where:
        errs.append(required(f"{path}.path"))
    else:
        validate_no_backsteps(where, f"{path}.path", errs)


_SOURCES: Final = {
    "fieldRef": lambda reference, path, errs: validate_field(reference, ENV_FIELDS, path, errs),
    "resourceFieldRef": validate_resource_field,
    "configMapKeyRef": _key,
    "secretKeyRef": _key,
    "fileKeyRef": _file,
}


def validate_env_from(sources: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, source in enumerate(sources):
        at = f"{path}[{index}]"
        if source.get("prefix"):
            checked(names.env_name_errors(source["prefix"]), source["prefix"], f"{at}.prefix", errs)
        given = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        for kind in given:
            own = source[kind].get("name")
            if not own:
                errs.append(required(f"{at}.{kind}.name"))
            else:
                # The prefix of a name is taken too.
                ended = own[:-2] + "a" if len(own) > 1 and own.endswith("-") else own
                checked(names.subdomain_errors(ended), own, f"{at}.{kind}.name", errs)
        if not given:
            errs.append(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(given) > 1:
            errs.append(invalid(path, "", "may not have more than one field specified at a time"))


def validate_files(containers: Sequence[tuple[str, Mapping[str, Any]]], volumes: Any, errs: Errors) -> None:
    """Variables from files take them from volumes that are an emptyDir; `containers` come with their paths."""
    for path, container in containers:
        for index, variable in enumerate(container.get("env") or ()):
            file = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if file is None:
                continue
            own, at = file.get("volumeName") or "", f"{path}.env[{index}].valueFrom.fileKeyRef.volumeName"
            found = [volume for volume in volumes or () if (volume.get("name") or "") == own]
            if not found:
                errs.append(not_found(at, own))
            elif found[-1].get("emptyDir") is None:
                errs.append(invalid(at, own, "referenced volume must be of type emptyDir"))

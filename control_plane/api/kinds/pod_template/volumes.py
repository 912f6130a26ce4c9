"""Validation of the volumes of a pod and of the sources they share with persistent volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked, one_of
from rayplane.control_plane.api.kinds.pod_template.containers import (
    validate_field_path,
    validate_local_path,
    validate_no_backsteps,
    validate_own_path,
)
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.machinery import names

Errors = list[FieldError]
SOURCES = frozenset(
    {
        "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi",
        "downwardAPI", "emptyDir", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk",
        "gitRepo", "glusterfs", "hostPath", "image", "iscsi", "local", "nfs",
        "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected", "quobyte",
        "rbd", "scaleIO", "secret", "storageos", "vsphereVolume",
    }
)  # fmt: skip
_HOST_PATH_TYPES = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate",
    "Socket",
)  # fmt: skip
_DOWNWARD_FIELDS = (
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace",
    "metadata.uid",
)  # fmt: skip
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "secret": ("secretName",),
    "configMap": ("name",),
    "persistentVolumeClaim": ("claimName",),
    "hostPath": ("path",),
    "local": ("path",),
    "nfs": ("server", "path"),
    "csi": ("driver",),
    "iscsi": ("targetPortal", "iqn"),
    "flexVolume": ("driver",),
    "image": (),
}


def validate_volumes(volumes: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> dict[str, Mapping[str, Any]]:
    """All volumes of a pod; returns them by name for the mounts to be checked against."""
    found: dict[str, Mapping[str, Any]] = {}
    for index, volume in enumerate(volumes):
        at = f"{path}[{index}]"
        own = volume.get("name")
        if not own:
            errs.append(required(f"{at}.name"))
        else:
            checked(names.label_errors(own), own, f"{at}.name", errs)
            if own in found:
                errs.append(duplicate(f"{at}.name", own))
            found[own] = volume
        validate_source(volume, at, errs)
    return found


def validate_source(volume: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Exactly one source, and that one well-formed."""
    given = sorted(k for k in volume if k in SOURCES and volume[k] is not None)
    if not given:
        errs.append(required(path, "must specify a volume type"))
        return
    for kind in given[1:]:
        text = "may not specify more than 1 volume type"
        errs.append(forbidden(f"{path}.{kind}", text))
    kind = given[0]
    source, at = volume[kind], f"{path}.{kind}"
    for field in _REQUIRED.get(kind, ()):
        if not source.get(field):
            errs.append(required(f"{at}.{field}"))
    _fields(kind, source, at, errs)


def _fields(kind: str, source: Mapping[str, Any], at: str, errs: Errors) -> None:
    """What a source of this kind says, beyond the fields that it must have."""
    if kind in ("secret", "configMap"):
        _items(source, at, errs)
        _mode(source.get("defaultMode"), f"{at}.defaultMode", errs)
    elif kind == "hostPath":
        one_of(source.get("type") or "", _HOST_PATH_TYPES, f"{at}.type", errs)
        validate_no_backsteps(source.get("path") or "", f"{at}.path", errs)
    elif kind == "local":
        validate_no_backsteps(source.get("path") or "", f"{at}.path", errs)
    elif kind == "gitRepo":
        validate_local_path(source.get("directory") or "", f"{at}.directory", errs)
    elif kind == "emptyDir" and source.get("sizeLimit") is not None:
        validate_quantity(source["sizeLimit"], f"{at}.sizeLimit", errs)
    elif kind == "downwardAPI":
        _downward(source, at, errs)
        _mode(source.get("defaultMode"), f"{at}.defaultMode", errs)
    elif kind == "projected":
        _projected(source, at, errs)
    elif kind == "ephemeral" and source.get("volumeClaimTemplate") is None:
        errs.append(required(f"{at}.volumeClaimTemplate"))


def _mode(mode: int | None, path: str, errs: Errors) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        text = "must be a number between 0 and 0777 (octal), both inclusive"
        errs.append(invalid(path, mode, text))


def _items(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    for index, item in enumerate(source.get("items") or ()):
        at = f"{path}.items[{index}]"
        if not item.get("key"):
            errs.append(required(f"{at}.key"))
        _own_path(item, at, errs)
        _mode(item.get("mode"), f"{at}.mode", errs)


def _downward(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    for index, item in enumerate(source.get("items") or ()):
        at = f"{path}.items[{index}]"
        _own_path(item, at, errs)
        if item.get("fieldRef") is not None:
            field = item["fieldRef"].get("fieldPath")
            validate_field_path(field, _DOWNWARD_FIELDS, f"{at}.fieldRef", errs)
        elif item.get("resourceFieldRef") is None:
            text = "one of fieldRef and resourceFieldRef is required"
            errs.append(required(at, text))
        _mode(item.get("mode"), f"{at}.mode", errs)


def _projected(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    _mode(source.get("defaultMode"), f"{path}.defaultMode", errs)
    for index, part in enumerate(source.get("sources") or ()):
        at = f"{path}.sources[{index}]"
        given = [k for k, v in part.items() if v is not None]
        if len(given) > 1:
            errs.append(forbidden(at, "may not specify more than 1 volume type"))
        for kind in ("secret", "configMap"):
            if part.get(kind) is not None:
                if not part[kind].get("name"):
                    errs.append(required(f"{at}.{kind}.name"))
                _items(part[kind], f"{at}.{kind}", errs)
        if part.get("downwardAPI") is not None:
            _downward(part["downwardAPI"], f"{at}.downwardAPI", errs)
        token = part.get("serviceAccountToken")
        if token is not None:
            _own_path(token, f"{at}.serviceAccountToken", errs)
            seconds = token.get("expirationSeconds") or 3600
            if seconds < 600:
                text = "may not specify a duration less than 10 minutes"
                where = f"{at}.serviceAccountToken.expirationSeconds"
                errs.append(invalid(where, seconds, text))
        if part.get("clusterTrustBundle") is not None:
            _own_path(part["clusterTrustBundle"], f"{at}.clusterTrustBundle", errs)


def _own_path(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not source.get("path"):
        errs.append(required(f"{path}.path"))
    else:
        validate_own_path(source["path"], f"{path}.path", errs)

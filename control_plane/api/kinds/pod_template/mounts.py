"""Validation of what containers mount: volumes as file systems and as devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_found, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, one_of
from rayplane.control_plane.api.kinds.pod_template.paths import validate_local_path, validate_no_backsteps

Volumes = Mapping[str, Mapping[str, Any]]
_PROPAGATION: Final = ("Bidirectional", "HostToContainer", "None")
_RECURSIVE: Final = ("Disabled", "Enabled", "IfPossible")
_OPTIONS: Final = ("nodev", "noexec", "nosuid")
#: What most mounts say, which needs no more than the checks of every mount.
_PLAIN: Final = frozenset({"name", "mountPath", "readOnly"})


def validate_mounts(container: Mapping[str, Any], volumes: Volumes, path: str, errs: Errors) -> None:
    """The volumes that a container mounts; `volumes` are the good ones of the pod by name."""
    seen: set[str] = set()
    devices = {
        device.get("name") or "": device.get("devicePath") or "" for device in container.get("volumeDevices") or ()
    }
    for index, mount in enumerate(container["volumeMounts"]):
        at = f"{path}[{index}]"
        own, where = mount.get("name") or "", mount.get("mountPath") or ""
        if not own:
            errs.append(required(f"{at}.name"))
        if own not in volumes:
            errs.append(not_found(f"{at}.name", own))
        if not where:
            errs.append(required(f"{at}.mountPath"))
        if where in seen:
            errs.append(invalid(f"{at}.mountPath", where, "must be unique"))
        seen.add(where)
        # Kubernetes leaves this to container runtimes, which keep it below the root; here it is refused early.
        validate_no_backsteps(where, f"{at}.mountPath", errs)
        if devices:
            if own in devices:
                errs.append(invalid(f"{at}.name", own, "must not already exist in volumeDevices"))
            if where in devices.values():
                errs.append(invalid(f"{at}.mountPath", where, "must not already exist as a path in volumeDevices"))
        if not mount.keys() <= _PLAIN:
            _how(mount, container, path, at, errs)
            if mount.get("bindMountOptions"):
                _options(mount["bindMountOptions"], volumes.get(own) or {}, f"{at}.bindMountOptions", errs)


def _how(mount: Mapping[str, Any], container: Mapping[str, Any], path: str, at: str, errs: Errors) -> None:
    """Which part of the volume and how it is shared; Kubernetes tells of some of it without the mount's number."""
    part, expression = mount.get("subPath"), mount.get("subPathExpr")
    if part:
        validate_local_path(part, f"{path}.subPath", errs)
    if expression:
        if part:
            text = "subPathExpr and subPath are mutually exclusive"
            errs.append(invalid(f"{at}.subPathExpr", expression, text))
        validate_local_path(expression, f"{path}.subPathExpr", errs)
    propagation = mount.get("mountPropagation")
    if propagation is not None:
        one_of(propagation, _PROPAGATION, f"{path}.mountPropagation", errs)
        privileged = (container.get("securityContext") or {}).get("privileged")
        if propagation == "Bidirectional" and not privileged:
            text = "Bidirectional mount propagation is available only to privileged containers"
            errs.append(forbidden(f"{path}.mountPropagation", text))
    recursive = mount.get("recursiveReadOnly")
    if recursive in ("Enabled", "IfPossible"):
        if not mount.get("readOnly"):
            errs.append(forbidden(f"{path}.recursiveReadOnly", "may only be specified when readOnly is true"))
        if propagation not in (None, "None"):
            text = "may only be specified when mountPropagation is None or not specified"
            errs.append(forbidden(f"{path}.recursiveReadOnly", text))
    elif recursive is not None:
        one_of(recursive, _RECURSIVE, f"{path}.recursiveReadOnly", errs)


def _options(options: Sequence[str], volume: Mapping[str, Any], path: str, errs: Errors) -> None:
    for index, option in enumerate(options):
        if option not in _OPTIONS:
            errs.append(not_supported(f"{path}[{index}]", option, _OPTIONS))
        if option in options[:index]:
            errs.append(duplicate(f"{path}[{index}]", option))
    if volume.get("image") is not None:
        errs.append(invalid(path, list(options), "bindMountOptions may not be used with image volumes"))


def validate_devices(container: Mapping[str, Any], volumes: Volumes, path: str, errs: Errors) -> None:
    """The volumes that a container has as devices: claims, and each only so or as a file system."""
    seen: set[str] = set()
    paths: set[str] = set()
    mounts = {mount.get("name") or "": mount.get("mountPath") or "" for mount in container.get("volumeMounts") or ()}
    for index, device in enumerate(container["volumeDevices"]):
        at = f"{path}[{index}]"
        own, where = device.get("name") or "", device.get("devicePath") or ""
        if not own:
            errs.append(required(f"{at}.name"))
        if own in seen:
            errs.append(invalid(f"{at}.name", own, "must be unique"))
        if own not in volumes:
            errs.append(not_found(f"{at}.name", own))
        elif volumes[own].get("persistentVolumeClaim") is None and volumes[own].get("ephemeral") is None:
            text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            errs.append(invalid(f"{at}.name", own, text))
        _device_path(where, paths, f"{at}.devicePath", errs)
        if own in mounts:
            errs.append(invalid(f"{at}.name", own, "must not already exist in volumeMounts"))
        if where in mounts.values():
            errs.append(invalid(f"{at}.devicePath", where, "must not already exist as a path in volumeMounts"))
        if own:
            seen.add(own)


def _device_path(where: str, seen: set[str], path: str, errs: Errors) -> None:
    if not where:
        errs.append(required(path))
    if where in seen:
        errs.append(invalid(path, where, "must be unique"))
    if ".." in where.split("/"):
        errs.append(invalid(path, where, "can not contain backsteps ('..')"))
    else:
        seen.add(where)

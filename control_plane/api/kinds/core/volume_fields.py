"""Fields that claims and volumes share: access modes, volume modes, protection."""

from __future__ import annotations

from collections.abc import Sequence

from rayplane.control_plane.api.errors import forbidden, not_supported
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.meta import Object

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")
_MODES = {
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOnce": "RWO",
    "ReadWriteOncePod": "RWOP",
}
_MODE_ORDER = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


STORAGE_CLASS = "volume.beta.kubernetes.io/storage-class"
DEPRECATED_ANNOTATIONS = {
    STORAGE_CLASS: 'deprecated since v1.8; use "storageClassName" attribute instead',
    "volume.beta.kubernetes.io/mount-options": 'deprecated since v1.31; use "mountOptions" attribute instead',
}


def protect(obj: Object, finalizer: str) -> None:
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if finalizer not in finalizers:
        finalizers.append(finalizer)


def validate_access_modes(modes: Sequence[str], path: str, errs: Errors) -> None:
    for mode in modes:
        if mode not in ACCESS_MODES:
            errs.append(not_supported(f"{path}.accessModes", mode, ACCESS_MODES))
    if "ReadWriteOncePod" in modes and any(mode in ACCESS_MODES and mode != "ReadWriteOncePod" for mode in modes):
        text = "may not use ReadWriteOncePod with other access modes"
        errs.append(forbidden(f"{path}.accessModes", text))


def access_modes(modes: Sequence[str] | None) -> str:
    """`RWO,ROX`: the short names, each once, in a fixed order."""
    return ",".join(_MODES[mode] for mode in _MODE_ORDER if mode in (modes or ()))

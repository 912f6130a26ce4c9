"""Checks of volumes: not the node's own files, and when restricted only from what the cluster keeps."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.podsecurity.check import Check, Spec, Violation, names, plural, quoted, some
from rayplane.control_plane.api.podsecurity.levels import Level

_ALLOWED = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
_RESTRICTED = (
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
)


def _host_path(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = names(v for v in spec.get("volumes") or () if v.get("hostPath") is not None)
    return Violation("hostPath volumes", some("volume", bad)) if bad else None


def _kind(volume: Mapping[str, Any]) -> str:
    return next((kind for kind in _RESTRICTED if volume.get(kind) is not None), "unknown")


def _restricted(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    found = [v for v in spec.get("volumes") or () if all(v.get(kind) is None for kind in _ALLOWED)]
    if not found:
        return None
    kinds = sorted({_kind(v) for v in found})
    verb, word = plural("uses", len(found), "use"), plural("restricted volume type", len(kinds))
    return Violation("restricted volume types", f"{some('volume', names(found))} {verb} {word} {quoted(kinds)}")


CHECKS = (
    Check("hostPathVolumes", Level.BASELINE, ((0, _host_path),)),
    Check("restrictedVolumes", Level.RESTRICTED, ((0, _restricted),), overrides="hostPathVolumes"),
)

"""Claims that a pod mounts.

Source: Kubernetes concepts "Persistent Volumes", "Ephemeral Volumes" (the claim of a generic ephemeral volume).
"""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object


def claim_name(volume: Mapping[str, Any], pod_name: str) -> str:
    """The claim behind a pod's volume, empty if none: a generic ephemeral one has one named after pod and volume."""
    if source := volume.get("persistentVolumeClaim"):
        return source.get("claimName") or ""
    return f"{pod_name}-{volume.get('name')}" if volume.get("ephemeral") is not None else ""


def claims_of(pod: Object) -> list[str]:
    """`namespace/name` of every PersistentVolumeClaim a pod mounts."""
    space, own = meta.namespace(pod), meta.name(pod)
    volumes = meta.spec(pod).get("volumes") or ()
    return [f"{space}/{claim}" for volume in volumes if (claim := claim_name(volume, own))]


def attachable_name(driver: str, handle: str) -> str:
    """A volume of a CSI driver as nodes' statuses name it, in `volumesInUse` and `volumesAttached`."""
    return f"kubernetes.io/csi/{driver}^{handle}"

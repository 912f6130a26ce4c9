"""Manifests of static pods: pods that a node runs by itself, and what the API is shown of them. Pure.

Source: Kubernetes documentation, "Create static Pods"; names and annotations as kubelet's pkg/kubelet/config.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod
from rayplane.control_plane.api.kinds.pod_template.validation import validate_pod
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import CONFIG_SOURCE, MIRROR

CONFIG_HASH, CONFIG_SEEN = "kubernetes.io/config.hash", "kubernetes.io/config.seen"
BYTES_MAX = 1 << 20
"""A larger file is no manifest."""


class NoManifest(ValueError):
    """A file that no static pod can be made of; the message says why."""


def static_pod(data: bytes, node: str, stamp: str) -> Object:
    """The pod that a file asks for, of this node. Raises NoManifest."""
    if len(data) > BYTES_MAX:
        raise NoManifest(f"it is larger than {BYTES_MAX} bytes")
    try:
        read = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise NoManifest(str(e).splitlines()[0]) from e
    if not isinstance(read, dict) or (read.get("apiVersion"), read.get("kind")) != ("v1", "Pod"):
        raise NoManifest("it is not a Pod of v1")
    given, spec = read.get("metadata"), read.get("spec")
    if not isinstance(given, dict) or not isinstance(spec, dict) or not isinstance(given.get("name"), str):
        raise NoManifest("it needs metadata.name and a spec")
    # The same file gives the same pod, also after a restart.
    uid = hashlib.md5(node.encode() + b"\0" + data, usedforsecurity=False).hexdigest()
    annotations = {**(given.get("annotations") or {}), CONFIG_HASH: uid, CONFIG_SEEN: stamp, CONFIG_SOURCE: "file"}
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{given['name']}-{node}",
            "namespace": given.get("namespace") or "default",
            "uid": uid,
            "labels": given.get("labels") or {},
            "annotations": annotations,
        },
        "spec": {**spec, "nodeName": node, "tolerations": [*(spec.get("tolerations") or ()), _STAYS]},
        "status": {"phase": "Pending"},
    }
    try:
        default_pod(pod)
        errors = validate_pod(pod)
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise NoManifest(f"it is malformed: {e}") from e
    if errors:
        raise NoManifest("; ".join(str(error) for error in errors[:3]))
    return pod


_STAYS = {"operator": "Exists", "effect": "NoExecute"}


def mirror_of(pod: Object, node: Object) -> Object:
    """The pod that the API is shown for a static one."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": meta.name(node), "uid": meta.uid(node), "controller": True}
    kept: Mapping[str, Any] = {k: v for k, v in meta.metadata(pod).items() if k != "uid"}
    annotations = {**meta.annotations(pod), MIRROR: meta.uid(pod)}
    return {**pod, "metadata": {**kept, "annotations": annotations, "ownerReferences": [owner]}}


def shows(mirror: Object, pod: Object) -> bool:
    """Whether a mirror is that of a static pod, as it is now."""
    return meta.annotations(mirror).get(MIRROR) == meta.uid(pod) and not meta.is_deleting(mirror)

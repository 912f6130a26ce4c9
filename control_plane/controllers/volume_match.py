"""Pure questions about volumes and claims: what fits what, where bytes lie, what is free.

Source: Kubernetes concepts "Persistent Volumes" (binding), API reference core/v1 PersistentVolume.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import capacity_bytes, fits, is_free, refers_to
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import admits, node_terms
from rayplane.control_plane.api.node_annotations import volume_capacity
from rayplane.control_plane.controllers.core import View

HOSTNAME = "kubernetes.io/hostname"
REPLICAS = "replicas"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
DEFAULT_CLASS = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


def is_bound_to(volume: Object, claim: Object) -> bool:
    ref = meta.spec(volume).get("claimRef") or {}
    return bool(meta.uid(claim)) and ref.get("uid") == meta.uid(claim)


def admits_node(volume: Object, node: Object) -> bool:
    """The volume's node affinity allows use on a node."""
    terms = node_terms((meta.spec(volume).get("nodeAffinity") or {}).get("required"))
    return admits(terms, {HOSTNAME: meta.name(node), **meta.labels(node)}, meta.name(node))


def best_match(volumes: Iterable[Object], claim: Object, *, node: Object | None) -> Object | None:
    """The smallest free volume that fits; one that was made for the claim goes first."""
    found = []
    for volume in volumes:
        if not fits(volume, claim):
            continue
        if refers_to(volume, claim):
            return volume
        if is_free(volume) and (node is None or admits_node(volume, node)):
            found.append(volume)
    return min(found, key=lambda v: (capacity_bytes(v), meta.name(v)), default=None)


def nodes_of(volume: Object) -> list[str]:
    """Names of the nodes that hold a volume's bytes, as far as the object tells."""
    attributes = (meta.spec(volume).get("csi") or {}).get("volumeAttributes") or {}
    if attributes.get(REPLICAS):
        return [name for name in attributes[REPLICAS].split(",") if name]
    required = (meta.spec(volume).get("nodeAffinity") or {}).get("required") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == HOSTNAME and expression.get("operator") == "In":
                return list(expression.get("values") or ())
    return []


def free_bytes(view: View) -> dict[str, float]:
    """Bytes free for volumes on each node; infinite on nodes that report no capacity."""
    room = ((meta.name(node), volume_capacity(node)) for node in view.list("nodes"))
    free = {name: float("inf") if size is None else float(size) for name, size in room}
    for volume in view.list("persistentvolumes"):
        for name in nodes_of(volume):
            if name in free:
                free[name] -= capacity_bytes(volume)
    return free


def storage_class(view: View, name: str) -> Object | None:
    return view.get("storageclasses.storage.k8s.io", "", name) if name else None


def default_class(view: View) -> Object | None:
    """The newest StorageClass marked as default."""
    classes = view.list("storageclasses.storage.k8s.io")
    marked = [c for c in classes if any(meta.annotations(c).get(mark) == "true" for mark in DEFAULT_CLASS)]
    marked.sort(key=meta.name)
    return max(marked, key=lambda c: meta.metadata(c).get("creationTimestamp") or "", default=None)


def waits_for_consumer(storage: Object | None) -> bool:
    return bool(storage) and (storage or {}).get("volumeBindingMode") == "WaitForFirstConsumer"

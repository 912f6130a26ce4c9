"""Whether a restored cluster is the one that was backed up."""

from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.backup import move_addresses
from rayplane.control_plane.cluster.config import AddressPlan

RESOURCES = (
    "namespaces",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "services",
    "persistentvolumeclaims",
    "persistentvolumes",
    "storageclasses.storage.k8s.io",
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "controllerrevisions.apps",
    "ingresses.networking.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "priorityclasses.scheduling.k8s.io",
)
# They say who vouches for the cluster, and each cluster has an authority of its own.
OF_ITS_CLUSTER = frozenset(
    {"kube-root-ca.crt", "extension-apiserver-authentication", "cluster-info", "rayplane-node-hosts"}
)
_KEPT = ("name", "namespace", "uid", "creationTimestamp", "labels", "annotations", "ownerReferences")

Objects = dict[str, Any]
"""`resource namespace/name` to what must survive a backup."""


async def objects(api: ApiClient) -> Objects:
    """Identity and content of every object that belongs to users, without what controllers go on changing."""
    found: Objects = {}
    for resource in RESOURCES:
        for obj in (await api.list(resource)).items:
            if meta.name(obj) not in OF_ITS_CLUSTER:
                found[f"{resource} {meta.key(obj)}"] = _content(obj)
    return found


def _content(obj: Object) -> Any:
    content = {k: v for k, v in obj.items() if k not in ("metadata", "status")}
    return content | {"metadata": {k: v for k, v in meta.metadata(obj).items() if k in _KEPT}}


def moved(found: Objects, old: AddressPlan, new: AddressPlan) -> Objects:
    """The same objects where another part of 127/8 is theirs."""
    result: Objects = orjson.loads(move_addresses(orjson.dumps(found), old, new))
    return result


def differences(before: Objects, after: Objects) -> list[str]:
    """One line each; empty when nothing is missing, new or changed."""
    lines = [f"{key} is missing" for key in sorted(before.keys() - after.keys())]
    lines += [f"{key} was not there before" for key in sorted(after.keys() - before.keys())]
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key]:
            parts = [p for p in before[key].keys() | after[key].keys() if before[key].get(p) != after[key].get(p)]
            lines.append(f"{key} differs in {', '.join(sorted(parts))}")
    return lines

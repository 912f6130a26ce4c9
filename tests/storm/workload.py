"""What runs on the cluster, and how it must be in the end."""

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.cluster.access import Access
from tests.storm.load import NAMESPACE

#: Name and first size by resource.
WORKLOADS = {"deployments.apps": ("web", 4), "statefulsets.apps": ("db", 2)}
CLAIM = "data"


def _object(kind: str, name: str, replicas: int, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "app:1"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template} | spec,
    }


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """A Deployment, and a StatefulSet whose claims go when it shrinks."""
    (web, web_size), (db, db_size) = WORKLOADS.values()
    claim = {
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    own = {
        "serviceName": db,
        "volumeClaimTemplates": [claim],
        "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
    }
    return [
        ("deployments.apps", _object("Deployment", web, web_size, {})),
        ("statefulsets.apps", _object("StatefulSet", db, db_size, own)),
    ]


async def apply(admin: Access) -> None:
    for resource, obj in manifests():
        try:
            await admin.api.create(resource, obj)
        except AlreadyExists:
            continue


async def missing(admin: Access, wanted: dict[str, int]) -> str:
    """What is not as wanted; empty when all is."""
    for resource, (name, _) in WORKLOADS.items():
        obj = await admin.api.get(resource, name, NAMESPACE)
        size, said = wanted[resource], meta.status(obj)
        if obj["spec"]["replicas"] != size:
            await admin.api.patch(resource, name, NAMESPACE, {"spec": {"replicas": size}})
            return f"{name} is not yet asked for {size} replicas"
        if (ready := int(said.get("readyReplicas") or 0)) != size:
            return f"{ready} of {size} replicas of {name} are ready"
        pods = (await admin.api.list("pods", NAMESPACE, label_selector=f"app={name}")).items
        if len(pods) != size or not all(pod_is_ready(p) and meta.node_name(p) for p in pods):
            return f"{name} has {len(pods)} pods, {sum(map(pod_is_ready, pods))} of them ready, not {size}"
    return await _claims_missing(admin, wanted["statefulsets.apps"])


async def _claims_missing(admin: Access, size: int) -> str:
    claims = (await admin.api.list("persistentvolumeclaims", NAMESPACE)).items
    bound = sorted(meta.name(c) for c in claims if meta.status(c).get("phase") == "Bound")
    name = WORKLOADS["statefulsets.apps"][0]
    if bound != [f"{CLAIM}-{name}-{n}" for n in range(size)] or len(bound) != len(claims):
        return f"claims {bound} of {len(claims)} are bound, not those of {size} replicas"
    volumes = (await admin.api.list("persistentvolumes")).items
    if len(volumes) != size:
        return f"there are {len(volumes)} volumes for {size} claims"
    return ""

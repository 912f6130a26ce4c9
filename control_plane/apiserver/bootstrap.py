"""Objects that every new cluster has: made by whichever server finds them missing, kept by none."""

import logging
from pathlib import Path

import orjson

from rayplane.control_plane.api.bootstrap import bootstrap_objects, extension_authentication
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.meta import Object, annotations
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.endpoints import SERVICE, first_address
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import SYSTEM, Target, WriteOptions
from rayplane.control_plane.rpc.tls import Credentials

log = logging.getLogger(__name__)

_JSON = "application/json"
_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_GRANTS = ("rules", "subjects")
# Before there was a node authorizer the first ones let every node read all secrets; the last was cluster-admin.
_TIGHTENED = frozenset(
    {
        ("ClusterRoleBinding", "system:node"),
        ("ClusterRoleBinding", "system:node-proxier"),
        ("ClusterRole", "system:node-proxier"),
        ("ClusterRole", "system:kube-controller-manager"),
    }
)


async def ensure(registry: ObjectRegistry, config: ApiServerConfig) -> None:
    """Create what is missing. Safe on all servers at once. ApiError when etcd refuses."""
    for o in (*bootstrap_objects(), *_of_this_cluster(config)):
        info = registry.kinds.registry.by_kind(o["apiVersion"], o["kind"])
        assert info is not None, f"{o['kind']} is no served kind"
        meta = o["metadata"]
        namespace = meta.get("namespace") or ""
        cache = await registry.hub.cache(registry.kinds.stored(info))
        known = cache.get(namespace, meta["name"])
        try:
            if known is None:
                await registry.writer.create(SYSTEM, Target(info, namespace), orjson.dumps(o), _JSON, WriteOptions())
            elif known.readable and (o["kind"], meta["name"]) in _TIGHTENED:
                await _tighten(registry, Target(info, namespace, meta["name"]), known.object, o)
        except AlreadyExists:
            continue  # another server was faster
        except Exception as e:
            if isinstance(e, ApiError) and e.retryable:
                raise
            # A quota, a taken address, an odd object beside it: a server without this one is better than none.
            log.warning("%s %s cannot be made: %s", o["kind"], meta["name"], e)


async def _tighten(registry: ObjectRegistry, target: Target, known: Object, wanted: Object) -> None:
    """Take back what an earlier version granted, as long as the object is kept up automatically."""
    if annotations(known).get(_AUTOUPDATE) != "true":
        return

    async def make(current: Object) -> Object:
        kept = {part: value for part, value in current.items() if part not in _GRANTS}
        return {**kept, **{part: wanted[part] for part in _GRANTS if wanted.get(part)}}

    if any((known.get(part) or []) != (wanted.get(part) or []) for part in _GRANTS):
        await registry.writer.change(SYSTEM, target, make, WriteOptions())


def _of_this_cluster(config: ApiServerConfig) -> list[Object]:
    found = [_kubernetes_service(config)]
    if config.tls_dir is not None:
        found.append(extension_authentication(Credentials.read(Path(config.tls_dir)).ca.decode()))
    return found


def _kubernetes_service(config: ApiServerConfig) -> Object:
    address = (config.https_address or config.grpc_address).rpartition(":")[2]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE,
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first_address(config),
            "clusterIPs": [first_address(config)],
            "ports": [
                {
                    "name": "https",
                    "port": 443,
                    "protocol": "TCP",
                    "targetPort": int(address) or 6443,
                }
            ],
        },
    }

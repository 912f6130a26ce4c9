"""A distributed, actor-based emulator of the Kubernetes control plane.

    with rayplane.Cluster(nodes=2) as cluster:
        cluster.kubectl("create", "deployment", "web", "--image=nginx")
        cluster.kubectl("rollout", "status", "deployment/web")
        with cluster.client() as client:
            client.get("deployments.apps", "web", "default")["status"]

Public are the names in `__all__`, imported when they are first used: `import rayplane` by itself costs nothing.

The parts are `rayplane.control_plane` (etcd members, API servers, scheduler, controllers, the cluster they form),
`rayplane.node` (kubelets, pods, proxies, volumes), `rayplane.storage` (bytes on disk) and `rayplane.proto` (messages).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayplane import testing
    from rayplane.control_plane.api import errors
    from rayplane.control_plane.client import ops as operations
    from rayplane.control_plane.client.blocking import Client
    from rayplane.control_plane.client.operators import reconcile
    from rayplane.control_plane.cluster.errors import ClusterError
    from rayplane.control_plane.testing.async_cluster import AsyncCluster
    from rayplane.control_plane.testing.cluster import Cluster
    from rayplane.control_plane.testing.commands import CommandFailed

__version__ = "0.1.0"
__all__ = [
    "AsyncCluster",
    "Client",
    "Cluster",
    "ClusterError",
    "CommandFailed",
    "__version__",
    "errors",
    "operations",
    "reconcile",
    "testing",
]
_MODULES = {"errors": "control_plane.api.errors", "operations": "control_plane.client.ops", "testing": "testing"}
_PLACES = {
    "AsyncCluster": "control_plane.testing.async_cluster",
    "CommandFailed": "control_plane.testing.commands",
    "reconcile": "control_plane.client.operators",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'rayplane' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"rayplane.{_MODULES[name]}")
    return getattr(import_module(f"rayplane.{_PLACES.get(name, 'control_plane.testing.cluster')}"), name)

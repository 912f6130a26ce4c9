"""A distributed, actor-based emulator of the Kubernetes control plane.

    with rayplane.Cluster(nodes=2) as cluster:
        cluster.kubectl("create", "deployment", "web", "--image=nginx")
        cluster.kubectl("rollout", "status", "deployment/web")

Public are the names in `__all__`, imported when they are first used: `import rayplane` by itself costs nothing.

The parts are `rayplane.control_plane` (etcd members, API servers, scheduler, controllers, the cluster they form),
`rayplane.node` (kubelets, pods, proxies, volumes), `rayplane.storage` (bytes on disk) and `rayplane.proto` (messages).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.errors import ClusterError
    from rayplane.control_plane.testing.cluster import Cluster, CommandFailed

__version__ = "0.1.0"
__all__ = ["Cluster", "ClusterError", "CommandFailed", "__version__"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'rayplane' has no attribute {name!r}")
    from rayplane.control_plane.testing import cluster

    return getattr(cluster, name)

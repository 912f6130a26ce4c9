"""A distributed, actor-based emulator of the Kubernetes control plane.

The parts are `rayplane.control_plane` (etcd members, API servers, scheduler, controllers, the cluster they form),
`rayplane.node` (kubelets, pods, proxies, volumes), `rayplane.storage` (bytes on disk) and `rayplane.proto` (messages).
"""

__version__ = "0.1.0"

"""Objects by which a cluster tells a machine that joins what it must know: their names and fields."""

from __future__ import annotations

from typing import Final

PUBLIC_NAMESPACE: Final = "kube-public"
CLUSTER_INFO: Final = "cluster-info"
"""The ConfigMap for strangers, as in Kubernetes: where the API is, and whom to trust there,"""
KUBECONFIG: Final = "kubeconfig"
"""as a kubeconfig,"""
SIGNATURE: Final = "jws-kubeconfig-"
"""and its signature by each token; the token's id follows."""

NAMESPACE: Final = "kube-system"
NODE_HOSTS: Final = "rayplane-node-hosts"
"""The ConfigMap for nodes: how the cluster's are configured,"""
CONFIG: Final = "config"
"""as JSON."""

GRPC_ADDRESSES: Final = "rayplane.io/grpc-addresses"
"""The annotation of the Endpoints `default/kubernetes` with host:port of each API server's gRPC, commas between."""

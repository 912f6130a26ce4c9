"""Callers of a node host's services: who may call which method.

API servers stand between users and pods. Other nodes reach the ports of pods, as in every pod network: those that
joined only where pods are not isolated, as elsewhere their way is the pods' network, whose policies see who comes. The
cluster's own hosts reach the replicas of volumes. Nothing else of this host is theirs. The controllers make and delete
volumes over CSI. CRI is served on a socket of the machine, to the user that the host runs as: the socket judges who
that is.
"""

from rayplane.control_plane.identities import API_SERVERS, CONTROLLER_MANAGER, MASTERS, NODE_HOSTS, NODES
from rayplane.control_plane.rpc import ADMINISTRATORS, EVERYONE, Callers, each

_API_SERVERS = Callers.of(groups=(API_SERVERS, MASTERS))
_PROVISIONERS = Callers.of(users=(CONTROLLER_MANAGER,), groups=(MASTERS,))


def node(isolates: bool) -> dict[str, Callers]:
    """Callers of `rayplane.v1.Node`. `isolates`: whether the pods of the host are isolated."""
    peers = Callers.of(groups=(API_SERVERS, MASTERS, NODE_HOSTS if isolates else NODES))
    return {**each(_API_SERVERS, "Logs", "Exec", "Stats", "Page"), **each(peers, "PortForward")}


#: Of a kubelet's pages over HTTP, without being reviewed.
PAGES = _API_SERVERS
#: Of `rayplane.v1.Images`: whoever chooses what runs on all nodes.
IMAGES = each(ADMINISTRATORS, "Load", "Save", "List", "Remove", "Prune", "Map", "Tag")
#: Of `rayplane.v1.Overlay`: what a host may send is judged by whose packets they are.
OVERLAY = each(Callers.of(groups=(NODES,)), "Carry")
#: Of `rayplane.v1.VolumeReplica`. Administrators look at replicas, and put volumes to the test by deleting one.
VOLUME_REPLICA = {
    **each(Callers.of(groups=(NODE_HOSTS,)), "Capacity", "Create", "Resize", "Prepare", "Apply", "Commit", "Fetch"),
    **each(Callers.of(groups=(NODE_HOSTS, MASTERS)), "Delete", "Inventory"),
}
#: Of the services of `csi.v1`, by name. Kubelets mount volumes without a call: they are in the same process.
CSI = {
    "Identity": each(_PROVISIONERS, "GetPluginInfo", "GetPluginCapabilities", "Probe"),
    "Controller": each(
        _PROVISIONERS,
        *("ControllerGetCapabilities", "CreateVolume", "DeleteVolume", "ControllerPublishVolume"),
        *("ControllerUnpublishVolume", "ValidateVolumeCapabilities", "GetCapacity", "ControllerExpandVolume"),
        *("CreateSnapshot", "DeleteSnapshot", "ListSnapshots"),
    ),
    "Node": each(
        ADMINISTRATORS,
        *("NodeGetCapabilities", "NodeGetInfo", "NodeStageVolume", "NodeUnstageVolume"),
        *("NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats"),
    ),
}
#: Of the services of `runtime.v1`, by name: whom the socket lets in.
CRI = {
    "RuntimeService": each(
        EVERYONE,
        *("Version", "Status", "RuntimeConfig", "UpdateRuntimeConfig"),
        *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox"),
        *("StreamPodSandboxes", "UpdatePodSandboxResources"),
        *("CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ListContainers"),
        *("StreamContainers", "ContainerStatus", "UpdateContainerResources", "ReopenContainerLog"),
        *("ExecSync", "Exec", "Attach", "PortForward", "GetContainerEvents"),
        *("ContainerStats", "ListContainerStats", "StreamContainerStats"),
        *("PodSandboxStats", "ListPodSandboxStats", "StreamPodSandboxStats"),
        *("ListMetricDescriptors", "ListPodSandboxMetrics", "StreamPodSandboxMetrics"),
    ),
    "ImageService": each(
        EVERYONE, "ListImages", "StreamImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"
    ),
}

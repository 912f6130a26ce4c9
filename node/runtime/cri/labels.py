"""Labels by which kubelets and `crictl` know pods and containers of a runtime. Pure.

Source: k8s.io/kubelet/pkg/types.
"""

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"


def pod_labels(pod: Object) -> dict[str, str]:
    """Its own, and who it is."""
    return {**meta.labels(pod), **_who(pod)}


def container_labels(pod: Object, container: str) -> dict[str, str]:
    return {**_who(pod), CONTAINER_NAME: container}


def _who(pod: Object) -> dict[str, str]:
    return {POD_NAME: meta.name(pod), POD_NAMESPACE: meta.namespace(pod), POD_UID: meta.uid(pod)}

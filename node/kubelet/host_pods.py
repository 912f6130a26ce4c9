"""Pods of all nodes of a host, as streams and volumes look them up."""

from collections.abc import Collection, Iterator, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import NotHere
from rayplane.node.events import Events
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.node.kubelet.stage_player import Worker
from rayplane.node.lifecycle import Suspended


class HostPods:
    """Look-ups over `kubelets`, by name."""

    def __init__(self, kubelets: Mapping[str, Kubelet], events: Events) -> None:
        self._kubelets = kubelets
        self._events = events

    def kubelet(self, node: str) -> Kubelet:
        """Return the kubelet of a node. Raises NotHere."""
        kubelet = self._kubelets.get(node)
        if kubelet is None:
            raise NotHere(f"node {node} is not on this host")
        return kubelet

    def worker(self, node: str, namespace: str, name: str) -> Worker:
        """Return the worker of a pod. Raises NotHere."""
        return self.kubelet(node).worker(namespace, name)

    def workers(self, node: str) -> list[Worker]:
        """Return the workers of a node. Raises NotHere."""
        return self.kubelet(node).workers

    def all_workers(self) -> Iterator[Worker]:
        return (worker for kubelet in self._kubelets.values() for worker in kubelet.workers)

    def foreign_ips(self) -> set[str]:
        """Addresses of the pods whose runtime is another project's."""
        kubelets = (kubelet for kubelet in self._kubelets.values() if kubelet.config.cri_path)
        return {worker.machine.ip for kubelet in kubelets for worker in kubelet.workers if worker.machine.ip}

    def live(self, node: str) -> list[Object]:
        """The pods that run on a node or are going to."""
        return [worker.pod for worker in self.workers(node) if worker.takes_room]

    def stop(self, node: str, uids: Collection[str], reason: str, message: str) -> None:
        """Stop the containers of these pods until the node is resumed, and say why in an Event."""
        for worker in self.workers(node):
            if meta.uid(worker.pod) in uids:
                self._events.record(worker.pod, "Warning", reason, message)
                worker.post(Suspended())

"""Runtimes whose pods are in this machine's own network."""

from rayplane.control_plane.api.meta import Object
from rayplane.node.runtime import Features, PodPlace
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.runtime.survivors import Survivors


class NothingShared:
    """The part of a runtime whose pods are in this machine's own network: there is nothing to be made for them."""

    trouble = ""
    version = ""
    network_id = ""
    isolation = ""
    no_services = ""
    features = Features({"": False})
    network: PodNetwork = DIRECT
    survivors = Survivors()  # none: their containers end with the host

    def add_node(self, address: str, cidr: str) -> None:
        return

    async def add_pod(self, place: PodPlace) -> str:
        return place.ip

    def resize_pod(self, pod: Object) -> None:
        return

    def remove_pod(self, uid: str) -> None:
        return

    def handler_of(self, uid: str) -> str:
        return ""

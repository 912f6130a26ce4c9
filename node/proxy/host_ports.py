"""Ports of a node that lead to a pod (`hostPort`), or to its kubelet, as sockets of the service proxy. Pure.

A pod's are on the node's address from when it has an address of its own until it has ended, whether it is ready or not.
The kubelet's is where the node's status says: its process listens elsewhere, at an address of the machine.
Source: core/v1 ContainerPort, NodeDaemonEndpoints.
"""

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.ports import port_mappings
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.node.proxy.rules import Endpoint, HostView, Socket, Target, by_rules_alone, outside_ip

KUBELET = "kubelet "
"""What the kubelet of a node is called among services, with the node's name behind."""
_EVERY = "0.0.0.0"


def key_of(pod: Object) -> str:
    """What a pod is called among services, of which none has such a name."""
    return f"pod {meta.key(pod)}"


def plan_kubelet(key: str, node_ip: str, place: tuple[str, int]) -> dict[Socket, Target]:
    """The socket that leads to the kubelet with that key. `place`: where its process listens."""
    here = Socket(node_ip, place[1])
    return {here: Target(key, (Endpoint(*place),))} if node_ip and outside_ip(node_ip) != place[0] else {}


def has_ports(pod: Object) -> bool:
    """Whether a pod takes ports of its node."""
    return next(port_mappings(meta.spec(pod)), None) is not None


def plan_pod(pod: Object, view: HostView) -> dict[Socket, Target]:
    """Sockets that lead to a pod."""
    node, ip = meta.node_name(pod), meta.status(pod).get("podIP")
    own = view.node_ips.get(node)
    if not (own and ip) or node in view.simulated or pod_is_terminated(pod):
        return {}
    return {
        Socket(own, number, protocol): Target(key_of(pod), (Endpoint(ip, inner, node, meta.key(pod)),))
        for (protocol, address, number), inner in port_mappings(meta.spec(pod))
        if address in _addresses(own)
    }


def left_out(pod: Object, view: HostView, without_rules: Iterable[Socket] = ()) -> str:
    """Ports of a pod that are not served, in words; empty when all are. `without_rules`: see `rules.left_out`."""
    own = view.node_ips.get(meta.node_name(pod)) or ""
    ports = {(address, number) for (_, address, number), _ in port_mappings(meta.spec(pod))} if own else set()
    named = ", ".join(f"{address}:{number}" for address, number in sorted(ports) if address not in _addresses(own))
    words = [f"{named}, as its node has the address {own} alone"] if named else []
    return "; ".join([*words, *by_rules_alone(without_rules)])


def _addresses(own: str) -> tuple[str, ...]:
    return _EVERY, own, outside_ip(own)

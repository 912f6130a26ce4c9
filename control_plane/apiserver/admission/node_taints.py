"""Taints of nodes that are not ready yet."""

from rayplane.control_plane.api.meta import condition_is
from rayplane.control_plane.api.taints import NO_SCHEDULE, NOT_READY
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest


@only(creation_of("nodes"))
async def taint_node_by_condition(request: AdmissionRequest) -> None:
    """TaintNodesByCondition: no pod goes to a new node before it is ready; the node life cycle takes the taint away.

    One that comes ready has none, unlike in Kubernetes: with thousands of nodes that spares thousands of writes.
    """
    node = request.object
    if condition_is(node, "Ready"):
        return
    spec = node.setdefault("spec", {})
    taints = spec.get("taints") or []
    if not any((taint.get("key"), taint.get("effect")) == (NOT_READY, NO_SCHEDULE) for taint in taints):
        spec["taints"] = [*taints, {"key": NOT_READY, "effect": NO_SCHEDULE}]

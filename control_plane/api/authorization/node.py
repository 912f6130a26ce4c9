"""Kubernetes' Node authorizer: a node may see and change what it and the pods bound to it need. Pure.

The name of a new object is not known here, nor what an object says: `NodeRestriction` looks at those at admission.
Source: Kubernetes reference "Using Node Authorization", `plugin/pkg/auth/authorizer/node`.
"""

from collections.abc import Callable

from rayplane.control_plane.api.authorization.bootstrap_policy import NODE_RULES
from rayplane.control_plane.api.authorization.node_graph import (
    ATTACHMENTS,
    CLAIMS,
    RESOURCE_CLAIMS,
    SLICES,
    VOLUMES,
    NodeGraph,
    Ref,
)
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES, nodes_text
from rayplane.control_plane.api.authorization.rbac import Attributes, Decision, Rule
from rayplane.control_plane.identities import NODE_HOSTS

_READ = frozenset({"get", "list", "watch"})
_OWN = frozenset({"get", "create", "update", "patch", "delete"})
_CHANGE = frozenset({"update", "patch"})
_SEVERAL = frozenset({"list", "watch", "deletecollection"})
_POD_SUBRESOURCES = {"status": _CHANGE, "eviction": frozenset({"create"})}
_ALLOWED, _DENIED = Decision(True), Decision(False)
_ALL_ALLOWED, _ALL_DENIED = Decision(True, of_kind=True), Decision(False, of_kind=True)
_RULES = tuple(Rule(raw) for raw in NODE_RULES)


def decide(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    """What the authorizer says of a request by `nodes`; a denial leaves the word to the other authorizers."""
    if not nodes:
        return Decision(False, f'unknown node for user "{request.user}"')
    resource = f"{request.resource}.{request.group}" if request.group else request.resource
    special = None if request.path else _SPECIAL.get(resource)
    if special is not None:
        return special(request, nodes, graph)
    return _ALL_ALLOWED if any(rule.allows(request) for rule in _RULES) else _ALL_DENIED


def _related(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if not request.name:
        return Decision(False, "No Object name found")
    resource = f"{request.resource}.{request.group}" if request.group else request.resource
    if graph.reaches(Ref(resource, request.namespace, request.name), nodes):
        return _ALLOWED
    return Decision(False, f"no relationship found between node '{nodes_text(nodes)}' and this object")


def _read(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.verb not in _READ:
        return Decision(False, "can only read resources of this type")
    if request.subresource:
        return Decision(False, "cannot read subresource")
    if not request.namespace:
        return Decision(False, "can only read namespaced object of this type")
    return _related(request, nodes, graph)


def _secrets(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    """What the node's pods need, and for hosts, which serve the ingress, the certificates that it shows."""
    decision = _read(request, nodes, graph)
    if decision.allowed or NODE_HOSTS not in request.groups or request.verb not in _READ or request.subresource:
        return decision
    shown = bool(request.name) and graph.is_shown(Ref("secrets", request.namespace, request.name))
    return _ALLOWED if shown else decision


def _get(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.verb != "get":
        return Decision(False, "can only get individual resources of this type")
    if request.subresource:
        return Decision(False, "cannot get subresource")
    return _related(request, nodes, graph)


def _claims(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.subresource != "status":
        return _get(request, nodes, graph)
    if request.verb not in _CHANGE:
        return Decision(False, "can only get/update/patch this type")
    return _related(request, nodes, graph)


def _accounts(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.verb == "get" and not request.subresource:
        return _related(request, nodes, graph)
    if request.verb != "create" or not request.name:
        return Decision(False, "can only create tokens for individual service accounts")
    if request.subresource != "token":
        return Decision(False, "can only create token subresource of serviceaccount")
    return _related(request, nodes, graph)


def _certificates(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    """Requests for certificates of pods: what is in a new one is looked at by admission."""
    if request.subresource:
        return Decision(False, "cannot access subresources of PodCertificateRequests")
    if request.verb == "create":
        return _ALLOWED
    selected = request.fields.allowed("spec.nodeName")
    if request.verb in ("list", "watch") and selected is not None and selected <= nodes:
        return _ALLOWED
    only = "can only create podcertificaterequests, and list/watch them with spec.nodeName field selector"
    return Decision(False, only)


def _leases(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.verb not in _OWN:
        return Decision(False, "can only get, create, update, patch, or delete a node lease")
    if request.namespace != NODE_LEASES:
        return Decision(False, f'can only access leases in the "{NODE_LEASES}" system namespace')
    if request.verb != "create" and request.name not in nodes:
        return Decision(False, "can only access node lease with the same name as the requesting node")
    return _ALLOWED


def _csi_nodes(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.verb not in _OWN:
        return Decision(False, "can only get, create, update, patch, or delete a CSINode")
    if request.subresource:
        return Decision(False, "cannot authorize CSINode subresources")
    if request.verb != "create" and request.name not in nodes:
        return Decision(False, "can only access CSINode with the same name as the requesting node")
    return _ALLOWED


def _slices(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.subresource:
        return Decision(False, "cannot authorize ResourceSlice subresources")
    if request.verb == "create":
        return _ALLOWED
    if request.verb in _OWN:
        return _related(request, nodes, graph)
    if request.verb not in _SEVERAL:
        only = "get, watch, list, create, update, patch, delete, deletecollection"
        return Decision(False, f"only the following verbs are allowed for a ResourceSlice: {only}")
    selected = request.fields.allowed("spec.nodeName")
    if selected is not None and selected <= nodes:
        return _ALLOWED
    return Decision(False, "can only list/watch/deletecollection resourceslices with nodeName field selector")


def _nodes(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.subresource == "status":
        return _ALLOWED if request.verb in _CHANGE else _DENIED
    if request.subresource:
        return _DENIED
    if request.verb in ("create", "update", "patch"):
        return _ALLOWED
    if request.verb not in _READ:
        return _DENIED
    if request.name in nodes:
        return _ALLOWED
    what = f"'{request.name}'" if request.name else "all nodes"
    return Decision(False, f"node '{nodes_text(nodes)}' cannot read {what}, only its own Node object")


def _pods(request: Attributes, nodes: frozenset[str], graph: NodeGraph) -> Decision:
    if request.subresource:
        return _ALL_ALLOWED if request.verb in _POD_SUBRESOURCES.get(request.subresource, ()) else _ALL_DENIED
    if request.verb in ("create", "delete"):
        return _ALLOWED
    if request.verb == "get":
        return _get(request, nodes, graph)
    if request.verb not in _READ:
        return _DENIED
    selected = request.fields.allowed("spec.nodeName")
    if selected is not None and selected <= nodes:
        return _ALLOWED
    if request.name:
        return _related(request, nodes, graph)
    return Decision(False, "can only list/watch pods with spec.nodeName field selector")


_SPECIAL: dict[str, Callable[[Attributes, frozenset[str], NodeGraph], Decision]] = {
    "secrets": _secrets,
    "configmaps": _read,
    CLAIMS: _claims,
    VOLUMES: _get,
    ATTACHMENTS: _get,
    RESOURCE_CLAIMS: _get,
    SLICES: _slices,
    "serviceaccounts": _accounts,
    "podcertificaterequests.certificates.k8s.io": _certificates,
    "leases.coordination.k8s.io": _leases,
    "csinodes.storage.k8s.io": _csi_nodes,
    "nodes": _nodes,
    "pods": _pods,
}

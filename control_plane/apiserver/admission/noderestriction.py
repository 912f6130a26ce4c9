"""Kubernetes' NodeRestriction plugin: nodes change themselves and the pods bound to them, and nothing else.

The node authorizer says which kinds of requests a node may make; this looks at what they say. The host of several nodes
may do what each of them may.
Source: `plugin/pkg/admission/noderestriction`.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NoReturn

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_graph import CLAIMS, pod_references
from rayplane.control_plane.api.authorization.node_identity import (
    NODE_LEASES,
    VOLUME_RECORDS_NAMESPACE,
    VOLUME_RECORDS_PREFIX,
    nodes_text,
    server_name,
)
from rayplane.control_plane.api.errors import Forbidden, NotFound, quote
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HEARTBEAT, HOST_ADDRESS, VOLUME_CAPACITY
from rayplane.control_plane.api.pods.state import MIRROR, is_mirror
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.identities import NODE_HOSTS

_KUBELET_LABELS = frozenset(
    {
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_KUBELET_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
# Callers whose texts are remembered.
_CALLED_MAX = 1024
_ADDRESSES = ("podCIDR", "podCIDRs")
#: Annotations that say where a node's host is, what it holds, and by whose Lease the node lives.
_BELIEVED = (HOST_ADDRESS, HEARTBEAT, VOLUME_CAPACITY)
_CLAIM_STATUS = ("capacity", "conditions", "allocatedResourceStatuses", "allocatedResources")


class NodeRestriction:
    """A plugin that refuses what a node may not change."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def admit(self, request: AdmissionRequest) -> None:
        nodes = request.user.nodes
        if nodes is None:
            return
        if not nodes:
            _refuse(request, f"could not determine node from user {quote(request.user.name)}")
        check = _Check(self._lookup, request, nodes)
        match request.info.name:
            case "pods":
                await check.pod()
            case "nodes":
                check.node()
            case "persistentvolumeclaims":
                check.claim()
            case "serviceaccounts":
                await check.account()
            case "leases.coordination.k8s.io":
                check.lease()
            case "csinodes.storage.k8s.io":
                check.must_be_own("can only access CSINode with the same name as the requesting node")
            case "resourceslices.resource.k8s.io":
                check.slice()
            case "podcertificaterequests.certificates.k8s.io":
                await check.certificate()


@lru_cache(_CALLED_MAX)
def _called(nodes: frozenset[str]) -> str:
    return quote(nodes_text(nodes))


class _Check:
    """One request of `nodes`."""

    def __init__(self, lookup: Lookup, request: AdmissionRequest, nodes: frozenset[str]) -> None:
        self._lookup = lookup
        self._request = request
        self._nodes = nodes
        self._who = _called(nodes)

    def must_be_own(self, text: str) -> None:
        request = self._request
        name = meta.name(request.object) if request.operation == CREATE else request.name
        if name not in self._nodes:
            _refuse(request, text)

    def slice(self) -> None:
        request = self._request
        if request.operation in (CREATE, DELETE):
            slice_ = request.object if request.operation == CREATE else request.old or request.object
            if meta.spec(slice_).get("nodeName") not in self._nodes:
                verb = request.operation.lower()
                _refuse(request, f"can only {verb} ResourceSlice with the same NodeName as the requesting node")

    # --- pods ---------------------------------------------------------------------------------

    async def pod(self) -> None:
        request, who = self._request, self._who
        match request.subresource, request.operation:
            case "", "CREATE":
                await self._mirror_pod(request.object)
            case "", "DELETE":
                text = f"node {who} can only delete pods with spec.nodeName set to itself"
                self._must_run_here(request.old or request.object, text)
            case "", operation:
                only = f"node {who} can only create and delete mirror pods"
                _refuse(request, f"unexpected operation {quote(operation)}, {only}")
            case "status", "UPDATE":
                self._pod_status(request.object, request.old or {})
            case "eviction", "CREATE":
                pod = await self._lookup.get("pods", request.name, request.namespace)
                if pod is None:
                    raise NotFound.of("pods", request.name)
                text = f"node {nodes_text(self._nodes)} can only evict pods with spec.nodeName set to itself"
                self._must_run_here(pod, text)
            case subresource, _:
                text = f"unexpected pod subresource {quote(subresource)}, only 'status' and 'eviction' are allowed"
                _refuse(request, text)

    def _must_run_here(self, pod: Object, text: str) -> None:
        if meta.node_name(pod) not in self._nodes:
            _refuse(self._request, text)

    def _pod_status(self, new: Object, old: Object) -> None:
        who = self._who
        self._must_run_here(old, f"node {who} can only update pod status for pods with spec.nodeName set to itself")
        if meta.labels(old) != meta.labels(new):
            _refuse(self._request, f"node {who} cannot update labels through pod status")
        before, after = (meta.status(pod).get("resourceClaimStatuses") or [] for pod in (old, new))
        if before != after:
            _refuse(self._request, f"node {who} cannot update resource claim statues")

    async def _mirror_pod(self, pod: Object) -> None:
        request, who = self._request, self._who
        if not is_mirror(pod):
            only = f"node {who} can only create mirror pods"
            _refuse(request, f"pod does not have {quote(MIRROR)} annotation, {only}")
        self._must_run_here(pod, f"node {who} can only create pods with spec.nodeName set to itself")
        await self._owner(pod)
        # The account that admission gives to other pods is not given to mirror pods.
        for resource, text in (
            ("serviceaccounts", "a service account"),
            ("secrets", "secrets"),
            ("configmaps", "configmaps"),
            (CLAIMS, "persistentvolumeclaims"),
        ):
            if any(ref.resource == resource for ref in pod_references(pod)):
                _refuse(request, f"node {who} can not create pods that reference {text}")
        if meta.spec(pod).get("resourceClaims"):
            _refuse(request, f"node {who} can not create pods that reference resourceclaims")
        sources = (
            s for v in meta.spec(pod).get("volumes") or () for s in (v.get("projected") or {}).get("sources") or ()
        )
        if any(source.get("clusterTrustBundle") for source in sources):
            _refuse(request, f"node {who} can not create pods that reference clustertrustbundles")

    async def _owner(self, pod: Object) -> None:
        request, who = self._request, self._who
        owners = meta.metadata(pod).get("ownerReferences") or []
        if len(owners) > 1:
            _refuse(request, f"node {who} can only create pods with a single owner reference set to itself")
        owner = owners[0] if owners else {}
        name = owner.get("name") or ""
        if owner.get("apiVersion") != "v1" or owner.get("kind") != "Node" or name != meta.node_name(pod):
            _refuse(request, f"node {who} can only create pods with an owner reference set to itself")
        if not owner.get("controller"):
            _refuse(request, f"node {who} can only create pods with a controller owner reference set to itself")
        if owner.get("blockOwnerDeletion"):
            _refuse(request, f"node {who} must not set blockOwnerDeletion on an owner reference")
        node = await self._lookup.get("nodes", name)
        if node is None:
            raise NotFound.of("nodes", name)
        if owner.get("uid") != meta.uid(node):
            text = f"node {name} UID mismatch: expected {owner.get('uid') or ''} got {meta.uid(node)}"
            _refuse(request, text)

    # --- itself -------------------------------------------------------------------------------

    def node(self) -> None:
        request, who = self._request, self._who
        name = meta.name(request.object) if request.operation == CREATE else request.name
        self.must_be_own(f"node {who} is not allowed to modify node {quote(name)}")
        if request.operation == DELETE:
            return
        new, old = request.object, request.old or {}
        if any((meta.spec(new).get(field) or None) != (meta.spec(old).get(field) or None) for field in _ADDRESSES):
            # With the block of another it would be given the packets of that one's pods.
            _refuse(request, f"node {who} is not allowed to set the addresses of its pods")
        self._notes(meta.annotations(new), meta.annotations(old), name)
        source = meta.spec(new).get("configSource")
        if request.operation == CREATE:
            if source is not None:
                _refuse(request, f"node {who} is not allowed to create pods with a non-nil configSource")
            if forbidden := _forbidden_labels(meta.labels(new), {}):
                _refuse(request, f"node {who} is not allowed to set the following labels: {', '.join(forbidden)}")
            return
        if source is not None and source != meta.spec(old).get("configSource"):
            _refuse(request, f"node {who} is not allowed to update configSource to a new non-nil configSource")
        if (meta.metadata(new).get("ownerReferences") or []) != (meta.metadata(old).get("ownerReferences") or []):
            # The garbage collector would delete it, and a new one may have other labels and taints.
            _refuse(request, f"node {who} is not allowed to modify ownerReferences")
        if (meta.spec(new).get("taints") or []) != (meta.spec(old).get("taints") or []):
            _refuse(request, f"node {who} is not allowed to modify taints")
        if forbidden := _forbidden_labels(meta.labels(new), meta.labels(old)):
            _refuse(request, f"is not allowed to modify labels: {', '.join(forbidden)}")

    def _notes(self, new: Mapping[str, str], old: Mapping[str, str], name: str) -> None:
        """What a host says of its nodes is believed of the cluster's own hosts; a kubelet speaks of itself alone."""
        request, who = self._request, self._who
        changed = {key: new.get(key, "") for key in _BELIEVED if new.get(key) != old.get(key)}
        if (lead := changed.get(HEARTBEAT)) and lead not in self._nodes:
            _refuse(request, f"node {who} is not allowed to live by the Lease of node {quote(lead)}")
        if NODE_HOSTS in request.user.groups:
            return
        if (told := changed.get(HOST_ADDRESS)) and told.partition("@")[0] != server_name(name):
            # API servers would show others' hosts to whoever asks for its pods, or bring it volumes.
            _refuse(request, f"node {who} is not allowed to be reached as another than {quote(server_name(name))}")
        if changed.get(VOLUME_CAPACITY, "0") not in ("", "0"):
            _refuse(request, f"node {who} is not allowed to have volumes: its host is none of the cluster's")

    def lease(self) -> None:
        request = self._request
        name = meta.name(request.object) if request.operation == CREATE else request.name
        hosts = NODE_HOSTS in request.user.groups
        if hosts and request.namespace == VOLUME_RECORDS_NAMESPACE and name.startswith(VOLUME_RECORDS_PREFIX):
            self._volume_record()
            return
        if request.namespace != NODE_LEASES:
            _refuse(request, f"can only access leases in the {quote(NODE_LEASES)} system namespace")
        self.must_be_own("can only access node lease with the same name as the requesting node")

    def _volume_record(self) -> None:
        """The record's holder writes the volume: a host makes none but its own nodes writers, and may take any back."""
        request = self._request
        if request.operation == DELETE:
            return
        writer = meta.spec(request.object).get("holderIdentity")
        if writer and writer not in self._nodes and writer != meta.spec(request.old or {}).get("holderIdentity"):
            _refuse(request, f"node {self._who} can only make itself the writer of a volume")

    # --- what pods use ------------------------------------------------------------------------

    def claim(self) -> None:
        request = self._request
        if request.subresource != "status":
            _refuse(request, "may only update PVC status")
        if request.operation != UPDATE:
            _refuse(request, f"unexpected operation {quote(request.operation)}")
        if _without_own_status(request.object) != _without_own_status(request.old or {}):
            only = "is not allowed to update fields other than status.capacity and status.conditions"
            _refuse(request, f"node {self._who} {only}")

    async def account(self) -> None:
        request = self._request
        if request.operation != CREATE or request.subresource != "token":
            return
        ref = meta.spec(request.object).get("boundObjectRef") or {}
        if ref.get("apiVersion") != "v1" or ref.get("kind") != "Pod" or not ref.get("name"):
            _refuse(request, "node requested token not bound to a pod")
        if not ref.get("uid"):
            _refuse(request, "node requested token with a pod binding without a uid")
        pod = await self._lookup.get("pods", ref["name"], request.namespace)
        if pod is None:
            raise NotFound.of("pods", ref["name"])
        if ref["uid"] != meta.uid(pod):
            text = (
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            _refuse(request, text)
        self._must_run_here(pod, "node requested token bound to a pod scheduled on a different node")

    async def certificate(self) -> None:
        """A request is for a pod that runs here, under its own account."""
        request, lookup = self._request, self._lookup
        if request.operation != CREATE or request.subresource:
            _refuse(request, f"unexpected operation {quote(request.operation)}")
        spec, namespace = meta.spec(request.object), request.namespace
        node, pod = spec.get("nodeName") or "", spec.get("podName") or ""
        at, account = f"{namespace}/{pod}", spec.get("serviceAccountName") or ""
        if node not in self._nodes:
            text = f"PodCertificateRequest.Spec.NodeName={quote(node)}, which is not the requesting node {self._who}"
            _refuse(request, text)
        found = {
            "node": await lookup.get("nodes", node),
            "pod": await lookup.get("pods", pod, namespace),
            "serviceAccount": await lookup.get("serviceaccounts", account, namespace),
        }
        for what, one in found.items():
            uid = spec.get(f"{what}UID") or ""
            if one is None or meta.uid(one) != uid:
                text = f"PodCertificateRequest for pod {quote(at)} names {what}UID {quote(uid)}, which is not that of "
                _refuse(request, text + f"{quote(spec.get(f'{what}Name') or '')}")
        running = found["pod"] or {}
        if meta.node_name(running) != node:
            _refuse(request, f"pod {quote(at)} is not running on node {quote(node)} named in the PodCertificateRequest")
        if is_mirror(running):
            _refuse(request, f"pod {quote(at)} is a mirror pod")
        if (meta.spec(running).get("serviceAccountName") or "") != account:
            text = f"PodCertificateRequest for pod {quote(at)} contains serviceAccountName ({quote(account)}) that "
            _refuse(request, text + "differs from running pod")


def _refuse(request: AdmissionRequest, text: str) -> NoReturn:
    info = request.info
    raise Forbidden.of(info.plural, request.shown_name, text, group=info.group)


def _without_own_status(claim: Object) -> Object:
    metadata = {k: v for k, v in meta.metadata(claim).items() if k not in ("resourceVersion", "managedFields")}
    status = {k: v for k, v in meta.status(claim).items() if k not in _CLAIM_STATUS}
    return {**claim, "metadata": metadata, "status": status}


def _forbidden_labels(new: Mapping[str, str], old: Mapping[str, str]) -> list[str]:
    """The labels that differ and that no node may set: they would steer pods to it."""
    return sorted(key for key in {*new, *old} if new.get(key) != old.get(key) and _is_forbidden(key))


def _is_forbidden(label: str) -> bool:
    domain, slash, _ = label.partition("/")
    if not slash:
        return False
    # Those of node-restriction.kubernetes.io are among them.
    of_kubernetes = _is_below(domain, "kubernetes.io") or _is_below(domain, "k8s.io")
    return of_kubernetes and label not in _KUBELET_LABELS and not any(_is_below(domain, d) for d in _KUBELET_DOMAINS)


def _is_below(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith(f".{parent}")

"""What creating and updating do to an object before it is validated and stored, per kind.

All functions change their first argument in place. Parts taken over from the old object are shared
with it, so both must be treated as read-only once stored. Order for a create: name, uid and
creationTimestamp set by the caller, `default`, `prepare_for_create`, validation; for an update:
`default`, `prepare_for_update`, validation.
Source: Kubernetes API conventions ("Metadata", "Spec and Status"), API reference of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import computed_qos_class

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
_MAX_GENERATED = 63

PVC_PROTECTION = "kubernetes.io/pvc-protection"
PV_PROTECTION = "kubernetes.io/pv-protection"
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


class Resource(Protocol):
    """What is needed to know of a resource here (see `resources.ResourceInfo`)."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def custom(self) -> bool: ...
    @property
    def subresources(self) -> Mapping[str, Any]: ...


# The status a new object starts with. Kinds that are missing here have no status of their own.
_INITIAL_STATUS: dict[tuple[str, str], Any] = {
    ("", "Service"): {"loadBalancer": {}},
    ("", "ReplicationController"): {"replicas": 0},
    ("", "PersistentVolume"): {"phase": "Pending"},
    ("", "PersistentVolumeClaim"): {"phase": "Pending"},
    ("", "Namespace"): {"phase": "Active"},
    ("", "ResourceQuota"): {},
    ("apps", "Deployment"): {},
    ("apps", "ReplicaSet"): {"replicas": 0},
    ("apps", "StatefulSet"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "DaemonSet"): {
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    },
    ("batch", "Job"): {},
    ("batch", "CronJob"): {},
    ("networking.k8s.io", "Ingress"): {"loadBalancer": {}},
    ("policy", "PodDisruptionBudget"): {
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "disruptionsAllowed": 0,
        "expectedPods": 0,
    },
    ("autoscaling", "HorizontalPodAutoscaler"): {"currentMetrics": None, "desiredReplicas": 0},
    ("certificates.k8s.io", "CertificateSigningRequest"): {},
    ("storage.k8s.io", "VolumeAttachment"): {"attached": False},
    ("apiregistration.k8s.io", "APIService"): {},
    ("apiextensions.k8s.io", "CustomResourceDefinition"): {},
}
_WITH_STATUS = frozenset(_INITIAL_STATUS) | {("", "Pod"), ("", "Node")}
# Kubelets register a node with spec and status in one request.
_STATUS_ON_CREATE = frozenset({("", "Node")})
_ADMISSION = "admissionregistration.k8s.io"
_WITH_GENERATION = frozenset(
    {
        ("", "Pod"),
        ("", "ReplicationController"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("batch", "Job"),
        ("batch", "CronJob"),
        ("networking.k8s.io", "Ingress"),
        ("networking.k8s.io", "IngressClass"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("policy", "PodDisruptionBudget"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        (_ADMISSION, "MutatingWebhookConfiguration"),
        (_ADMISSION, "ValidatingWebhookConfiguration"),
        (_ADMISSION, "ValidatingAdmissionPolicy"),
        (_ADMISSION, "ValidatingAdmissionPolicyBinding"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    }
)
_OUTSIDE_SPEC = frozenset({"apiVersion", "kind", "metadata", "status"})
_KEPT_METADATA = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
)


def _kind(obj: Object, info: Resource | None) -> tuple[str, str]:
    if info is not None:
        return info.group, info.kind
    return (obj.get("apiVersion") or "").rpartition("/")[0], obj.get("kind") or ""


def has_status(obj: Object, info: Resource | None = None) -> bool:
    """True when ordinary writes cannot change `status` of this kind."""
    if info is not None and info.custom:
        return "status" in info.subresources
    return _kind(obj, info) in _WITH_STATUS


def has_generation(obj: Object, info: Resource | None = None) -> bool:
    """True when metadata.generation counts the changes of this kind."""
    if info is not None and info.custom:
        return True
    return _kind(obj, info) in _WITH_GENERATION


def generated_name(prefix: str, suffix: str) -> str:
    """`metadata.name` from generateName and SUFFIX_LENGTH characters of SUFFIX_ALPHABET."""
    return prefix[: _MAX_GENERATED - len(suffix)] + suffix


# --- create -------------------------------------------------------------------------------------


def prepare_for_create(obj: Object, info: Resource | None = None) -> None:
    """Make `obj` what a new object of its kind looks like.

    Drops what clients may not set (status, deletion marks), sets generation 1, phases, protection
    finalizers, and the generated selector of a Job (from metadata.uid, which must be set).
    """
    metadata = obj.setdefault("metadata", {})
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(field, None)
    if has_generation(obj, info):
        metadata["generation"] = 1
    kind = _kind(obj, info)
    if has_status(obj, info) and kind not in _STATUS_ON_CREATE:
        obj.pop("status", None)
        if kind in _INITIAL_STATUS:
            obj["status"] = _fresh(_INITIAL_STATUS[kind])
    special = _CREATE.get(kind)
    if special is not None and not (info is not None and info.custom):
        special(obj)


def _fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _fresh(one) for name, one in value.items()}
    return value


def _create_pod(pod: Object) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": computed_qos_class(pod.get("spec") or {})}
    gates = pod["spec"].get("schedulingGates")
    if gates:
        pod["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": None,
                "lastTransitionTime": None,
            }
        ]


def _create_namespace(obj: Object) -> None:
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def _protect(obj: Object, finalizer: str) -> None:
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if finalizer not in finalizers:
        finalizers.append(finalizer)


def _create_job(job: Object) -> None:
    spec = job["spec"]
    if spec.get("manualSelector"):
        return
    uid, own = job["metadata"].get("uid") or "", job["metadata"].get("name") or ""
    template_labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for label in (JOB_UID_LABEL, "controller-uid"):
        template_labels[label] = uid
    for label in (JOB_NAME_LABEL, "job-name"):
        template_labels[label] = own
    selector = spec.setdefault("selector", {}) or {}
    spec["selector"] = selector
    selector.setdefault("matchLabels", {})[JOB_UID_LABEL] = uid
    if not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(template_labels)


_CREATE = {
    ("", "Pod"): _create_pod,
    ("", "Namespace"): _create_namespace,
    ("", "PersistentVolume"): lambda obj: _protect(obj, PV_PROTECTION),
    ("", "PersistentVolumeClaim"): lambda obj: _protect(obj, PVC_PROTECTION),
    ("batch", "Job"): _create_job,
}


# --- update -------------------------------------------------------------------------------------


def prepare_for_update(new: Object, old: Object, info: Resource | None = None) -> None:
    """Keep what an ordinary update cannot change, and count the change.

    Status and system metadata come from `old`; generation goes up by one when anything but
    metadata and status differs.
    """
    _keep_metadata(new, old)
    if has_status(new, info):
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    special = _UPDATE.get(_kind(new, info))
    if special is not None and not (info is not None and info.custom):
        special(new, old)
    if has_generation(new, info) and _differs(new, old):
        new["metadata"]["generation"] = (old["metadata"].get("generation") or 0) + 1


def _keep_metadata(new: Object, old: Object) -> None:
    metadata, before = new.setdefault("metadata", {}), old["metadata"]
    metadata.pop("selfLink", None)
    for field in _KEPT_METADATA:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)


def _differs(new: Object, old: Object) -> bool:
    return any(new.get(field) != old.get(field) for field in (new.keys() | old.keys()) - _OUTSIDE_SPEC)


def _update_service(new: Object, old: Object) -> None:
    """Carry allocated addresses and ports over, and drop those a new type has no use for."""
    spec, before = new["spec"], old.get("spec") or {}
    _drop_service_leftovers(spec, before)
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return
    address, addresses = spec.get("clusterIP"), spec.get("clusterIPs")
    if address and addresses and address != addresses[0]:
        # Old clients change only clusterIP, new ones may change only clusterIPs.
        if addresses == before.get("clusterIPs"):
            spec["clusterIPs"] = [address, *addresses[1:]]
        elif address == before.get("clusterIP"):
            spec["clusterIP"] = addresses[0]
    for field in ("clusterIP", "clusterIPs"):
        if not spec.get(field) and before.get(field):
            spec[field] = before[field]
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        ports = {
            (port.get("protocol"), port.get("port")): port["nodePort"]
            for port in before.get("ports") or ()
            if port.get("nodePort")
        }
        taken = {port.get("nodePort") for port in spec.get("ports") or ()}
        for port in spec.get("ports") or ():
            known = ports.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and known and known not in taken:
                port["nodePort"] = known
        if before.get("healthCheckNodePort") and spec.get("externalTrafficPolicy") == "Local":
            spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])


_ONLY_EXTERNAL = ("externalTrafficPolicy", "healthCheckNodePort")
_ONLY_BALANCED = ("allocateLoadBalancerNodePorts", "loadBalancerClass")
_ONLY_CLUSTER = (
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
)


def _drop_service_leftovers(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    """When the type changes, fields the client merely kept go with the old type."""
    kind, earlier = spec.get("type"), before.get("type")
    if kind == earlier:
        return
    dropped: tuple[str, ...] = ()
    if kind == "ExternalName":
        dropped += _ONLY_CLUSTER
    if kind != "LoadBalancer":
        dropped += _ONLY_BALANCED
    if kind not in ("NodePort", "LoadBalancer") and not spec.get("externalIPs"):
        dropped += _ONLY_EXTERNAL
    for field in dropped:
        if field in spec and spec[field] == before.get(field):
            del spec[field]
    if kind not in ("NodePort", "LoadBalancer"):
        known = {port.get("nodePort") for port in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in known:
                port.pop("nodePort", None)


def _update_job(new: Object, old: Object) -> None:
    """Clients re-apply a job without its generated selector and labels."""
    spec, before = new["spec"], old.get("spec") or {}
    if spec.get("manualSelector") or before.get("manualSelector"):
        return
    if not spec.get("selector") and before.get("selector"):
        spec["selector"] = before["selector"]
    known = ((before.get("template") or {}).get("metadata") or {}).get("labels") or {}
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for label in (JOB_UID_LABEL, "controller-uid", JOB_NAME_LABEL, "job-name"):
        if label in known:
            labels.setdefault(label, known[label])


def _update_namespace(new: Object, old: Object) -> None:
    """Only the finalize subresource changes spec.finalizers."""
    new["spec"] = old.get("spec") or {}


_UPDATE = {
    ("", "Service"): _update_service,
    ("", "Namespace"): _update_namespace,
    ("batch", "Job"): _update_job,
}


def prepare_for_status_update(new: Object, old: Object, info: Resource | None = None) -> None:
    """Take only `status` from `new`: the rest comes from `old`.

    Pods and nodes may also change labels and annotations this way (kubelets do), as in Kubernetes;
    managedFields are always the new ones.
    """
    kind = _kind(new, info)
    given = new.get("metadata") or {}
    metadata = dict(old["metadata"])
    taken = ["managedFields", "resourceVersion"]
    if kind in (("", "Pod"), ("", "Node")):
        taken += ["labels", "annotations"]
    for field in taken:
        if field in given:
            metadata[field] = given[field]
        else:
            metadata.pop(field, None)
    for field in list(new):
        if field not in _OUTSIDE_SPEC:
            del new[field]
    for field, value in old.items():
        if field not in _OUTSIDE_SPEC:
            new[field] = value
    new["metadata"] = metadata
    if kind == ("", "Pod"):
        qos = (old.get("status") or {}).get("qosClass")
        if qos:
            new.setdefault("status", {})["qosClass"] = qos

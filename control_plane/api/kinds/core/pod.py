"""Pods: their strategy, and the rules that stand in `pod_template` and `pod_printer`."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.core.pod_printer import COLUMNS, pod_row, row_conditions
from rayplane.control_plane.api.kinds.pod_template.affinity import with_label_keys
from rayplane.control_plane.api.kinds.pod_template.alike import judged_once
from rayplane.control_plane.api.kinds.pod_template.annotations import fill_profiles
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod
from rayplane.control_plane.api.kinds.pod_template.status import validate_pod_status_update
from rayplane.control_plane.api.kinds.pod_template.updates import validate_pod_update
from rayplane.control_plane.api.kinds.pod_template.validation import validate_pod
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_pod
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, CLIENTS_METADATA, Status
from rayplane.control_plane.api.machinery.columns import Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.qos import computed_qos_class

_KEPT = (
    "qosClass",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "observedGeneration",
)


def _prepare_create(pod: Object) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": computed_qos_class(pod.get("spec") or {})}
    with_label_keys(pod["spec"], meta.labels(pod))
    fill_profiles(pod)
    gates = pod["spec"].get("schedulingGates")
    if gates:
        pod["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": None,
                "lastTransitionTime": meta.metadata(pod).get("creationTimestamp"),
            }
        ]


def _prepare_status_update(new: Object, old: Object) -> None:
    """The class of service is decided once; what is known of devices and was observed is not forgotten."""
    status, before = new.setdefault("status", {}), meta.status(old)
    for field in _KEPT:
        if not status.get(field) and before.get(field):
            status[field] = before[field]
    _same_address(status)
    known: dict[str, list[Object]] = {}
    for condition in before.get("conditions") or ():
        known.setdefault(condition.get("type") or "", []).append(condition)
    for condition in status.get("conditions") or ():
        earlier = known.get(condition.get("type") or "")
        if earlier:
            _keep_observed(condition, earlier.pop(0))


def _keep_observed(after: Object, before: Object) -> None:
    if not after.get("observedGeneration") and before.get("observedGeneration"):
        after["observedGeneration"] = before["observedGeneration"]


def _same_address(status: Object) -> None:
    """One address is the first of all: who knows of one only says no more, and is believed."""
    own, all_ = status.get("podIP"), status.get("podIPs")
    if own and (not all_ or all_[0].get("ip") != own):
        status["podIPs"] = [{"ip": own}]
    elif all_ and not own:
        status["podIP"] = all_[0].get("ip") or ""


def _prepare_update(new: Object, old: Object) -> None:
    """Who does not know resources of a pod as a whole does not take them away."""
    if meta.spec(new).get("resources") is None and meta.spec(old).get("resources") is not None:
        new["spec"]["resources"] = old["spec"]["resources"]


RULES = {
    "Pod": replace(
        AS_WRITTEN,
        warnings=warn_of_pod,
        defaults=default_pod,
        prepare_create=_prepare_create,
        prepare_update=_prepare_update,
        prepare_status_update=_prepare_status_update,
        validate=judged_once(validate_pod),
        validate_update=validate_pod_update,
        validate_status_update=validate_pod_status_update,
        revalidates=False,
        status=Status(metadata=CLIENTS_METADATA - {"ownerReferences"}),
        generation=True,
        printer=Printer(COLUMNS, pod_row, row_conditions),
        fields=(
            *METADATA_FIELDS,
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.hostNetwork",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ),
    ),
}

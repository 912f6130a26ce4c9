"""Rows of nodes, namespaces, configuration, events, RBAC and extension kinds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.machinery.columns import (
    AGE,
    CREATED_AT,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Cell,
    Column,
    Printer,
    age,
    since,
)
from rayplane.control_plane.api.meta import Object, get_condition, labels, name

_RBAC = "rbac.authorization.k8s.io"
_ROLE_PREFIX = "node-role.kubernetes.io/"


def _node(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = get_condition(obj, "Ready")
    state = "Unknown"
    if ready is not None:
        state = "Ready" if ready.get("status") == "True" else "NotReady"
    if spec.get("unschedulable"):
        state += ",SchedulingDisabled"
    info = status.get("nodeInfo") or {}
    addresses = {one.get("type"): one.get("address") for one in status.get("addresses") or ()}
    return [
        name(obj),
        state,
        ",".join(_roles(obj)) or NONE,
        age(obj, now),
        info.get("kubeletVersion") or "",
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _roles(obj: Object) -> list[str]:
    found = set()
    for key, value in labels(obj).items():
        if key.startswith(_ROLE_PREFIX) and key != _ROLE_PREFIX:
            found.add(key[len(_ROLE_PREFIX) :])
        elif key == "kubernetes.io/role" and value:
            found.add(value)
    return sorted(found)


def _namespace(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("status") or {}).get("phase") or "", age(obj, now)]


def _config_map(obj: Object, now: datetime) -> list[Cell]:
    count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [name(obj), count, age(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), obj.get("type") or "", len(obj.get("data") or ()), age(obj, now)]


def _account(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len(obj.get("secrets") or ()), age(obj, now)]


def _quota(obj: Object, now: datetime) -> list[Cell]:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for resource in sorted(hard):
        text = f"{resource}: {used.get(resource, 0)}/{hard[resource]}"
        (limits if resource.startswith("limits.") else requests).append(text)
    return [name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _event(obj: Object, now: datetime) -> list[Cell]:
    target = obj.get("involvedObject") or obj.get("regarding") or {}
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp")
    last = series.get("lastObservedTime") or last or first
    count = series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1
    kind = (target.get("kind") or "").lower()
    shown = f"{kind}/{target['name']}" if target.get("name") else kind
    message = (obj.get("message") or obj.get("note") or "").strip()
    return [
        since(last, now),
        obj.get("type") or "",
        obj.get("reason") or "",
        shown,
        target.get("fieldPath") or "",
        _source(obj),
        message,
        since(first, now),
        count,
        name(obj),
    ]


def _source(obj: Object) -> str:
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController")
    host = source.get("host") or obj.get("reportingInstance")
    return ", ".join(str(one) for one in (component, host) if one)


def _created(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("metadata") or {}).get("creationTimestamp")]


def _binding(obj: Object, now: datetime) -> list[Cell]:
    ref = obj.get("roleRef") or {}
    users, groups, accounts = [], [], []
    for subject in obj.get("subjects") or ():
        kind, own = subject.get("kind"), subject.get("name") or ""
        if kind == "User":
            users.append(own)
        elif kind == "Group":
            groups.append(own)
        elif kind == "ServiceAccount":
            accounts.append(f"{subject.get('namespace')}/{own}")
    return [
        name(obj),
        f"{ref.get('kind')}/{ref.get('name')}",
        age(obj, now),
        ", ".join(users),
        ", ".join(groups),
        ", ".join(accounts),
    ]


def _lease(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("spec") or {}).get("holderIdentity") or "", age(obj, now)]


def _priority_class(obj: Object, now: datetime) -> list[Cell]:
    return [
        name(obj),
        obj.get("value") or 0,
        bool(obj.get("globalDefault")),
        age(obj, now),
        obj.get("preemptionPolicy") or "",
    ]


def _runtime_class(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), obj.get("handler") or "", age(obj, now)]


def _certificate_request(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    given = [one.get("type") for one in status.get("conditions") or ()]
    words = [one for one in ("Denied", "Approved", "Failed") if one in given][:1] or ["Pending"]
    if "Approved" in words and "Failed" in given:
        words.append("Failed")
    if status.get("certificate"):
        words.append("Issued")
    seconds = spec.get("expirationSeconds")
    return [
        name(obj),
        age(obj, now),
        spec.get("signerName") or NONE,
        spec.get("username") or "",
        f"{seconds}s" if seconds else NONE,
        ",".join(words),
    ]


def _webhooks(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len(obj.get("webhooks") or ()), age(obj, now)]


def _admission_policy(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    kind = spec.get("paramKind")
    shown = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET
    return [name(obj), len(spec.get("validations") or ()), shown, age(obj, now)]


def _policy_binding(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    ref = spec.get("paramRef") or {}
    shown = "/".join(one for one in (ref.get("namespace"), ref.get("name")) if one) or UNSET
    return [name(obj), spec.get("policyName") or "", shown, age(obj, now)]


def _api_service(obj: Object, now: datetime) -> list[Cell]:
    target = (obj.get("spec") or {}).get("service")
    where = f"{target.get('namespace')}/{target.get('name')}" if target else "Local"
    available = get_condition(obj, "Available") or {}
    state: str = available.get("status") or "Unknown"
    if state != "True" and available.get("reason"):
        state = f"{state} ({available['reason']})"
    return [name(obj), where, state, age(obj, now)]


def _component(obj: Object, now: datetime) -> list[Cell]:
    healthy = get_condition(obj.get("conditions"), "Healthy") or {}
    words = {"True": "Healthy", "False": "Unhealthy"}
    return [
        name(obj),
        words.get(healthy.get("status") or "", "Unknown"),
        healthy.get("message") or "",
        healthy.get("error") or "",
    ]


def _flow_schema(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    dangling = get_condition(obj, "Dangling") or {}
    return [
        name(obj),
        (spec.get("priorityLevelConfiguration") or {}).get("name") or NONE,
        spec.get("matchingPrecedence") or 0,
        (spec.get("distinguisherMethod") or {}).get("type") or NONE,
        age(obj, now),
        dangling.get("status") or "?",
    ]


def _priority_level(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    limited: Mapping[str, Any] = spec.get("limited") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing") or {}
    shares = limited.get("nominalConcurrencyShares")
    return [
        name(obj),
        spec.get("type") or "",
        NONE if shares is None else shares,
        queuing.get("queues") or NONE,
        queuing.get("handSize") or NONE,
        queuing.get("queueLengthLimit") or NONE,
        age(obj, now),
    ]


_EVENT_COLUMNS = (
    Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"),
    Column("Subobject", priority=1), Column("Source", priority=1), Column("Message"),
    Column("First Seen", priority=1), Column("Count", priority=1), NAME._replace(priority=1),
)  # fmt: skip
_BINDING_COLUMNS = (
    NAME, Column("Role"), AGE, Column("Users", priority=1), Column("Groups", priority=1),
    Column("ServiceAccounts", priority=1),
)  # fmt: skip
_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
PRINTERS = {
    ("", "Node"): Printer(
        (
            NAME, Column("Status"), Column("Roles"), AGE, Column("Version"),
            Column("Internal-IP", priority=1), Column("External-IP", priority=1),
            Column("OS-Image", priority=1), Column("Kernel-Version", priority=1),
            Column("Container-Runtime", priority=1),
        ),
        _node,
    ),
    ("", "Namespace"): Printer((NAME, Column("Status"), AGE), _namespace),
    ("", "ConfigMap"): Printer((NAME, Column("Data"), AGE), _config_map),
    ("", "Secret"): Printer((NAME, Column("Type"), Column("Data"), AGE), _secret),
    ("", "ServiceAccount"): Printer((NAME, Column("Secrets"), AGE), _account),
    ("", "ResourceQuota"): Printer((NAME, Column("Request"), Column("Limit"), AGE), _quota),
    ("", "LimitRange"): Printer((NAME, CREATED_AT), _created),
    ("", "Event"): Printer(_EVENT_COLUMNS, _event),
    ("events.k8s.io", "Event"): Printer(_EVENT_COLUMNS, _event),
    ("", "ComponentStatus"): Printer(
        (NAME, Column("Status"), Column("Message"), Column("Error")), _component
    ),
    (_RBAC, "Role"): Printer((NAME, CREATED_AT), _created),
    (_RBAC, "ClusterRole"): Printer((NAME, CREATED_AT), _created),
    (_RBAC, "RoleBinding"): Printer(_BINDING_COLUMNS, _binding),
    (_RBAC, "ClusterRoleBinding"): Printer(_BINDING_COLUMNS, _binding),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): Printer((NAME, CREATED_AT), _created),
    ("coordination.k8s.io", "Lease"): Printer((NAME, Column("Holder"), AGE), _lease),
    ("scheduling.k8s.io", "PriorityClass"): Printer(
        (
            NAME, Column("Value", "integer"), Column("Global-Default", "boolean"), AGE,
            Column("PreemptionPolicy"),
        ),
        _priority_class,
    ),
    ("node.k8s.io", "RuntimeClass"): Printer((NAME, Column("Handler"), AGE), _runtime_class),
    ("certificates.k8s.io", "CertificateSigningRequest"): Printer(
        (
            NAME, AGE, Column("SignerName"), Column("Requestor"), Column("RequestedDuration"),
            Column("Condition"),
        ),
        _certificate_request,
    ),
    (_ADMISSION, "MutatingWebhookConfiguration"): Printer(
        (NAME, Column("Webhooks", "integer"), AGE), _webhooks
    ),
    (_ADMISSION, "ValidatingWebhookConfiguration"): Printer(
        (NAME, Column("Webhooks", "integer"), AGE), _webhooks
    ),
    (_ADMISSION, "ValidatingAdmissionPolicy"): Printer(
        (NAME, Column("Validations", "integer"), Column("ParamKind"), AGE), _admission_policy
    ),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): Printer(
        (NAME, Column("PolicyName"), Column("ParamRef"), AGE), _policy_binding
    ),
    ("apiregistration.k8s.io", "APIService"): Printer(
        (NAME, Column("Service"), Column("Available"), AGE), _api_service
    ),
    (_FLOW, "FlowSchema"): Printer(
        (
            NAME, Column("PriorityLevel"), Column("MatchingPrecedence"),
            Column("DistinguisherMethod"), AGE, Column("MissingPL"),
        ),
        _flow_schema,
    ),
    (_FLOW, "PriorityLevelConfiguration"): Printer(
        (
            NAME, Column("Type"), Column("NominalConcurrencyShares"), Column("Queues"),
            Column("HandSize"), Column("QueueLengthLimit"), AGE,
        ),
        _priority_level,
    ),
}  # fmt: skip

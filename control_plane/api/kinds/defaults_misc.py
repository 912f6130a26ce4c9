"""Defaults of configuration, policy, RBAC and extension kinds."""

from __future__ import annotations

import base64
from typing import Any

from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.meta import Object

RBAC_GROUP = "rbac.authorization.k8s.io"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def secret(obj: Object) -> None:
    """Type Opaque; `stringData`, which is only ever written, goes into `data`."""
    if not obj.get("type"):
        obj["type"] = "Opaque"
    plain = obj.pop("stringData", None)
    if plain:
        data = obj.setdefault("data", {}) or {}
        obj["data"] = data
        for name, text in plain.items():
            data[name] = base64.b64encode((text or "").encode()).decode()


def namespace(obj: Object) -> None:
    metadata = obj.setdefault("metadata", {})
    own = metadata.get("name")
    if own:
        labels = metadata.get("labels")
        if not labels:
            metadata["labels"] = {NAMESPACE_LABEL: own}
        elif NAMESPACE_LABEL not in labels:
            labels[NAMESPACE_LABEL] = own
    spec = obj.setdefault("spec", {})
    if spec.get("finalizers") is None:
        spec["finalizers"] = ["kubernetes"]


def node(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    # The same said twice: old clients know only the first block, and it is what counts.
    block, blocks = spec.get("podCIDR"), spec.get("podCIDRs")
    if block and (not blocks or blocks[0] != block):
        spec["podCIDRs"] = [block]
    elif blocks:
        spec["podCIDR"] = blocks[0]
    status = obj.get("status")
    if status:
        canonical_resources(status.get("capacity"))
        if status.get("allocatable") is None and status.get("capacity"):
            status["allocatable"] = dict(status["capacity"])
        canonical_resources(status.get("allocatable"))


def resource_quota(obj: Object) -> None:
    canonical_resources((obj.get("spec") or {}).get("hard"))
    status = obj.get("status") or {}
    canonical_resources(status.get("hard"))
    canonical_resources(status.get("used"))


def limit_range(obj: Object) -> None:
    """For containers: default limits from max, default requests from default limits, else min."""
    for item in (obj.get("spec") or {}).get("limits") or ():
        for part in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
            canonical_resources(item.get(part))
        if item.get("type") != "Container":
            continue
        limits = item.setdefault("default", {})
        for name, amount in (item.get("max") or {}).items():
            limits.setdefault(name, amount)
        requests = item.setdefault("defaultRequest", {})
        for source in (limits, item.get("min") or {}):
            for name, amount in source.items():
                requests.setdefault(name, amount)
        for part in ("default", "defaultRequest"):
            if not item[part]:
                del item[part]


def priority_class(obj: Object) -> None:
    if not obj.get("preemptionPolicy"):
        obj["preemptionPolicy"] = "PreemptLowerPriority"


def role_binding(obj: Object) -> None:
    ref = obj.get("roleRef")
    if ref is not None and not ref.get("apiGroup"):
        ref["apiGroup"] = RBAC_GROUP
    for subject in obj.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = RBAC_GROUP


def horizontal_pod_autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("minReplicas") is None:
        spec["minReplicas"] = 1
    if obj.get("apiVersion") != "autoscaling/v2":
        return
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is None:
        return
    up = {"type": "Percent", "value": 100, "periodSeconds": 15}
    _scaling(behavior, "scaleUp", [{"type": "Pods", "value": 4, "periodSeconds": 15}, up], window=0)
    _scaling(behavior, "scaleDown", [dict(up)], window=None)


def _scaling(behavior: dict[str, Any], name: str, policies: list[dict[str, Any]], *, window: int | None) -> None:
    rules = behavior.get(name)
    if rules is None:
        rules = behavior[name] = {}
    if window is not None and rules.get("stabilizationWindowSeconds") is None:
        rules["stabilizationWindowSeconds"] = window
    if not rules.get("selectPolicy"):
        rules["selectPolicy"] = "Max"
    if not rules.get("policies"):
        rules["policies"] = policies


def webhooks(obj: Object) -> None:
    for hook in obj.get("webhooks") or ():
        for field, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent")):
            if not hook.get(field):
                hook[field] = value
        for field in ("namespaceSelector", "objectSelector"):
            if hook.get(field) is None:
                hook[field] = {}
        if hook.get("timeoutSeconds") is None:
            hook["timeoutSeconds"] = 10
        for rule in hook.get("rules") or ():
            if not rule.get("scope"):
                rule["scope"] = "*"
        target = (hook.get("clientConfig") or {}).get("service")
        if target is not None and not target.get("port"):
            target["port"] = 443


def mutating_webhooks(obj: Object) -> None:
    webhooks(obj)
    for hook in obj.get("webhooks") or ():
        if not hook.get("reinvocationPolicy"):
            hook["reinvocationPolicy"] = "Never"


def api_service(obj: Object) -> None:
    target = (obj.get("spec") or {}).get("service")
    if target is not None and not target.get("port"):
        target["port"] = 443

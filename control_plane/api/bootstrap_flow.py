"""Flow schemas and priority levels that every cluster has.

The mandatory ones are kept as they are; those that are suggested, for as long as an annotation says so (`autoupdate`).
Source: Kubernetes reference "API Priority and Fairness", mandatory and suggested configuration objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

_API_VERSION = "flowcontrol.apiserver.k8s.io/v1"
AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"
MANDATORY = ("exempt", "catch-all")
_MANAGER, _SCHEDULER = "system:kube-controller-manager", "system:kube-scheduler"
_EVERYBODY = ("system:unauthenticated", "system:authenticated")
_LEVELS = (
    # name, shares, percent that may be lent, (queues, hand size, length of a queue) or nothing for a refusal
    ("catch-all", 5, 0, None),
    ("system", 30, 33, (64, 6, 50)),
    ("node-high", 40, 25, (64, 6, 50)),
    ("leader-election", 10, 0, (16, 4, 50)),
    ("workload-high", 40, 50, (128, 6, 50)),
    ("workload-low", 100, 90, (128, 6, 50)),
    ("global-default", 20, 50, (128, 6, 50)),
)


def _object(kind: str, name: str, spec: dict[str, Any]) -> Object:
    metadata = {"name": name, "annotations": {AUTOUPDATE: "true"}}
    return {"apiVersion": _API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def priority_levels() -> list[Object]:
    exempt = {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}
    found = [_object("PriorityLevelConfiguration", "exempt", exempt)]
    for name, shares, lent, queuing in _LEVELS:
        response: dict[str, Any] = {"type": "Reject"}
        if queuing is not None:
            fields = zip(("queues", "handSize", "queueLengthLimit"), queuing, strict=True)
            response = {"type": "Queue", "queuing": dict(fields)}
        limited = {"nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response}
        found.append(_object("PriorityLevelConfiguration", name, {"type": "Limited", "limited": limited}))
    return found


def _users(*names: str) -> list[Object]:
    return [{"kind": "User", "user": {"name": name}} for name in names]


def _groups(*names: str) -> list[Object]:
    return [{"kind": "Group", "group": {"name": name}} for name in names]


def _accounts(*names: str) -> list[Object]:
    return [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}} for name in names]


def _resources(
    resources: Iterable[str],
    *,
    verbs: Iterable[str] = ("*",),
    group: str = "*",
    namespaces: Iterable[str] = ("*",),
    cluster: bool = False,
) -> Object:
    rule: Object = {"verbs": [*verbs], "apiGroups": [group], "resources": [*resources]}
    if cluster:
        rule["clusterScope"] = True
    if namespaces:
        rule["namespaces"] = [*namespaces]
    return rule


_ALL: Object = {
    "resourceRules": [_resources(("*",), cluster=True)],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
}
_GET_AND_WRITE = ("get", "create", "update")
_LEASES = _resources(("leases",), verbs=_GET_AND_WRITE, group="coordination.k8s.io")


def _schema(
    name: str, level: str, precedence: int, subjects: list[Object], *, by: str = "", rule: Object | None = None
) -> Object:
    spec: dict[str, Any] = {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [{"subjects": subjects, **(rule or _ALL)}],
    }
    if by:
        spec["distinguisherMethod"] = {"type": by}
    return _object("FlowSchema", name, spec)


def _elections() -> list[Object]:
    locks = _resources(("endpoints", "configmaps"), verbs=_GET_AND_WRITE, group="", namespaces=("kube-system",))
    ours = _users(_MANAGER, _SCHEDULER) + _accounts("*")
    return [
        _schema("system-leader-election", "leader-election", 100, ours, by="ByUser", rule={"resourceRules": [_LEASES]}),
        _schema(
            "workload-leader-election",
            "leader-election",
            200,
            _accounts("*"),
            by="ByUser",
            rule={"resourceRules": [locks, _LEASES]},
        ),
    ]


def flow_schemas() -> list[Object]:
    probes = {"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}
    endpoints = {"resourceRules": [_resources(("endpoints",), verbs=_GET_AND_WRITE, group="")]}
    controllers = _users(_MANAGER) + _accounts("endpoint-controller", "endpointslicemirroring-controller")
    rules = [
        _resources(("nodes", "nodes/status"), group="", namespaces=(), cluster=True),
        _resources(("leases",), group="coordination.k8s.io"),
    ]
    nodes = _groups("system:nodes")
    return [
        _schema("exempt", "exempt", 1, _groups("system:masters")),
        _schema("probes", "exempt", 2, _groups(*_EVERYBODY), rule=probes),
        *_elections(),
        _schema("endpoint-controller", "workload-high", 150, controllers, by="ByUser", rule=endpoints),
        _schema("system-node-high", "node-high", 400, nodes, by="ByUser", rule={"resourceRules": rules}),
        _schema("system-nodes", "system", 500, nodes, by="ByUser"),
        _schema("kube-controller-manager", "workload-high", 800, _users(_MANAGER), by="ByNamespace"),
        _schema("kube-scheduler", "workload-high", 800, _users(_SCHEDULER), by="ByNamespace"),
        _schema("kube-system-service-accounts", "workload-high", 900, _accounts("*"), by="ByNamespace"),
        _schema("service-accounts", "workload-low", 9000, _groups("system:serviceaccounts"), by="ByUser"),
        _schema("global-default", "global-default", 9900, _groups(*_EVERYBODY), by="ByUser"),
        _schema("catch-all", "catch-all", 10000, _groups(*_EVERYBODY), by="ByUser"),
    ]


def mandatory_levels() -> list[Object]:
    return [o for o in priority_levels() if o["metadata"]["name"] in MANDATORY]


def mandatory_schemas() -> list[Object]:
    return [o for o in flow_schemas() if o["metadata"]["name"] in MANDATORY]


def is_kept(o: Object) -> bool:
    """Whether the spec of a stored object is to be brought to what it is here: a mandatory one's; else as its
    annotation says, and without one for as long as nobody has changed it.
    """
    if meta.name(o) in MANDATORY:
        return True
    said = meta.annotations(o).get(AUTOUPDATE)
    return said == "true" or (said != "false" and meta.generation(o) == 1)


def kept(o: Object, wanted: Object) -> Object:
    """A stored object as it is to be. How many seats others may borrow of what is exempt is up to administrators."""
    spec = dict(wanted["spec"])
    if spec.get("type") == "Exempt" and (o.get("spec") or {}).get("exempt") is not None:
        spec["exempt"] = o["spec"]["exempt"]
    metadata = {**o["metadata"], "annotations": {**meta.annotations(o), AUTOUPDATE: "true"}}
    return {**o, "metadata": metadata, "spec": spec}

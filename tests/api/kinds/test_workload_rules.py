"""Rules of the kinds that keep pods running: what is refused when they are made and changed, in Kubernetes' words."""

from typing import Any

import pytest

from tests.api.kinds.changes import GONE, Case, Changes, created, status_refused, updated

SELECTOR = {"matchLabels": {"a": "x"}}
TEMPLATE = {"metadata": {"labels": {"a": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
SPEC = {"selector": SELECTOR, "template": TEMPLATE}
GOOD: dict[str, dict[str, Any]] = {
    "Deployment": {"apiVersion": "apps/v1", "kind": "Deployment", "spec": SPEC},
    "ReplicaSet": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": SPEC},
    "DaemonSet": {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": SPEC},
    "StatefulSet": {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "spec": {**SPEC, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": CLAIM}]},
    },
    "ReplicationController": {"apiVersion": "v1", "kind": "ReplicationController", "spec": {"template": TEMPLATE}},
    "ControllerRevision": {"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": {"a": 1}, "revision": 1},
}
NEGATIVE = "must be greater than or equal to 0"
PERCENT = (
    "a valid percent string must be a numeric string followed by an ending '%' "
    "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
)
MISMATCH = 'spec.template.metadata.labels: Invalid value: {"a":"x"}: `selector` does not match template `labels`'
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
ODD_SELECTOR = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
ODD_OPERATOR = [
    'spec.selector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator',
    'spec.selector: Invalid value: {"matchExpressions":[{"key":"a","operator":"Near"}]}: invalid label selector',
]
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def negative(*fields: str) -> list[Case]:
    return [({f"spec.{field}": -1}, [f"spec.{field}: Invalid value: -1: {NEGATIVE}"]) for field in fields]


def of_templates(owner: str) -> list[Case]:
    return [
        ({"spec.template.spec.restartPolicy": "Never"},
         ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"']),
        ({"spec.template.spec.activeDeadlineSeconds": 5},
         [f"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in {owner} is not Supported"]),
        ({"spec.template.spec.containers": []}, ["spec.template.spec.containers: Required value"]),
    ]  # fmt: skip


def of_selectors(kind: str) -> list[Case]:
    """Of deployments, replica sets and, but for the last words, stateful sets."""
    return [
        ({"spec.selector": GONE}, ["spec.selector: Required value", MISMATCH]),
        ({"spec.selector": {}}, [f"spec.selector: Invalid value: {{}}: empty selector is invalid for {kind}"]),
        ({"spec.selector": {"matchLabels": {"a": "y"}}}, [MISMATCH]),
        ({"spec.selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]}}, []),
        ({"spec.selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, []),
        ({"spec.selector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}, [MISMATCH]),
    ]


def rolling(**fields: Any) -> Changes:
    return {"spec.strategy": {"type": "RollingUpdate", "rollingUpdate": fields}}


def daemon(**fields: Any) -> Changes:
    return {"spec.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": fields}}


ROLLING, DAEMON = "spec.strategy.rollingUpdate", "spec.updateStrategy.rollingUpdate"
CASES: dict[str, list[Case]] = {
    "Deployment": [
        *negative("replicas", "minReadySeconds", "revisionHistoryLimit"),
        *of_selectors("deployment"),
        *of_templates("ReplicaSet"),
        ({"spec.selector": ODD_SELECTOR}, ODD_OPERATOR),
        ({"spec.selector": {"matchLabels": {"a b": "x"}}},
         [f'spec.selector.matchLabels: Invalid value: "a b": {NAME_PART}',
          'spec.selector: Invalid value: {"matchLabels":{"a b":"x"}}: invalid label selector']),
        ({"spec.selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
         ["spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or "
          "'NotIn'",
          'spec.selector: Invalid value: {"matchExpressions":[{"key":"a","operator":"In"}]}: invalid label selector']),
        ({"spec.strategy": {"type": "Recreate"}}, []),
        ({"spec.strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
         [f"{ROLLING}: Forbidden: may not be specified when strategy `type` is 'Recreate'"]),
        ({"spec.strategy": {"type": "Blue"}},
         ['spec.strategy: Unsupported value: {"type":"Blue"}: supported values: "Recreate", "RollingUpdate"']),
        (rolling(maxSurge=0, maxUnavailable="0%"),
         [f'{ROLLING}.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0']),
        (rolling(maxSurge="300%", maxUnavailable=0), []),
        (rolling(maxUnavailable="101%"),
         [f'{ROLLING}.maxUnavailable: Invalid value: "101%": must not be greater than 100%']),
        (rolling(maxUnavailable="ten"), [f'{ROLLING}.maxUnavailable: Invalid value: "ten": {PERCENT}']),
        (rolling(maxSurge=-1), [f"{ROLLING}.maxSurge: Invalid value: -1: {NEGATIVE}"]),
        ({"spec.progressDeadlineSeconds": 5, "spec.minReadySeconds": 5},
         ["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]),
        ({"spec.progressDeadlineSeconds": -1},
         [f"spec.progressDeadlineSeconds: Invalid value: -1: {NEGATIVE}",
          "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than minReadySeconds"]),
        ({"spec.paused": True, "spec.replicas": 0}, []),
    ],
    "ReplicaSet": [
        *negative("replicas", "minReadySeconds"),
        *of_selectors("deployment"),
        *of_templates("ReplicaSet"),
        ({"spec.selector": ODD_SELECTOR}, ODD_OPERATOR),
        ({"spec.replicas": -1, "spec.template.spec.restartPolicy": "OnFailure"},
         [f"spec.replicas: Invalid value: -1: {NEGATIVE}",
          'spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always"']),
    ],
    "DaemonSet": [
        *negative("minReadySeconds", "revisionHistoryLimit"),
        *of_templates("DaemonSet"),
        ({"spec.selector": GONE}, [MISMATCH]),
        ({"spec.selector": {}}, ["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"]),
        ({"spec.selector": ODD_SELECTOR}, ODD_OPERATOR[:1]),
        ({"spec.updateStrategy": {"type": "OnDelete"}}, []),
        ({"spec.updateStrategy": {"type": "Never"}},
         ['spec.updateStrategy: Unsupported value: {"type":"Never"}: supported values: "RollingUpdate", "OnDelete"']),
        (daemon(maxUnavailable=0), [f"{DAEMON}.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]),
        (daemon(maxUnavailable=1, maxSurge="10%"),
         [f'{DAEMON}.maxSurge: Invalid value: "10%": may not be set when maxUnavailable is non-zero']),
        (daemon(maxUnavailable=0, maxSurge="101%"),
         [f'{DAEMON}.maxSurge: Invalid value: "101%": must not be greater than 100%']),
        (daemon(maxUnavailable=0, maxSurge=1), []),
        (daemon(maxUnavailable=-1), [f"{DAEMON}.maxUnavailable: Invalid value: -1: {NEGATIVE}"]),
    ],
    "StatefulSet": [
        *negative("replicas", "minReadySeconds"),
        *of_selectors("statefulset"),
        *of_templates("StatefulSet"),
        ({"spec.selector": ODD_SELECTOR},
         [ODD_OPERATOR[0], ODD_OPERATOR[1].removesuffix(": invalid label selector")]),
        ({"metadata.name": "a.b"}, ['metadata.name: Invalid value: "a.b": must not contain dots']),
        ({"spec.serviceName": "A_b"}, [f'spec.serviceName: Invalid value: "A_b": {LABEL}']),
        ({"spec.serviceName": ""}, []),
        ({"spec.podManagementPolicy": "Parallel"}, []),
        ({"spec.podManagementPolicy": "Wild"},
         ['spec.podManagementPolicy: Invalid value: "Wild": must be \'OrderedReady\' or \'Parallel\'']),
        ({"spec.updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}},
         [f"{DAEMON}: Invalid value: {{\"partition\":1}}: only allowed for updateStrategy 'RollingUpdate'"]),
        ({"spec.updateStrategy": {"type": "Some"}},
         ["spec.updateStrategy: Invalid value: {\"type\":\"Some\"}: must be 'RollingUpdate' or 'OnDelete'"]),
        (daemon(partition=-1), [f"{DAEMON}.partition: Invalid value: -1: {NEGATIVE}"]),
        (daemon(maxUnavailable=0), [f"{DAEMON}.maxUnavailable: Invalid value: 0: cannot be 0"]),
        (daemon(maxUnavailable="150%"),
         [f'{DAEMON}.maxUnavailable: Invalid value: "150%": must not be greater than 100%']),
        ({"spec.ordinals": {"start": -1}}, [f"spec.ordinals.start: Invalid value: -1: {NEGATIVE}"]),
        ({"spec.persistentVolumeClaimRetentionPolicy": {"whenScaled": "Sell"}},
         ['spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Sell": supported values: '
          '"Delete", "Retain"']),
        ({"spec.volumeClaimTemplates.0.spec.accessModes": []},
         ["spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required"]),
        ({"spec.revisionHistoryLimit": -1}, []),
    ],
    "ReplicationController": [
        *negative("minReadySeconds", "replicas"),
        *of_templates("ReplicationController"),
        ({"spec.selector": {"a": "y"}}, [MISMATCH]),
        ({"spec.template.metadata.labels": GONE}, ["spec.selector: Required value"]),
    ],
    "ControllerRevision": [
        ({"data": GONE}, ["data: Required value: data is mandatory"]),
        ({"revision": -1}, [f"revision: Invalid value: -1: {NEGATIVE}"]),
        ({"data": "text"}, []),
    ],
}  # fmt: skip
FIXED = 'spec.selector: Invalid value: {"matchLabels":{"b":"x"}}: field is immutable'
OTHER = {"spec.selector": {"matchLabels": {"b": "x"}}, "spec.template.metadata.labels": {"b": "x"}}
STATEFUL = (
    "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are "
    "forbidden"
)
UPDATES: list[tuple[str, Changes, list[str]]] = [
    *((kind, OTHER, [FIXED]) for kind in ("Deployment", "ReplicaSet", "DaemonSet")),
    ("Deployment", {"spec.replicas": -1}, [f"spec.replicas: Invalid value: -1: {NEGATIVE}"]),
    ("StatefulSet", OTHER, [STATEFUL]),
    ("StatefulSet", {"spec.serviceName": "other"}, [STATEFUL]),
    ("StatefulSet", {"spec.podManagementPolicy": "Parallel"}, [STATEFUL]),
    ("StatefulSet", {"spec.volumeClaimTemplates.0.spec.resources.requests.storage": "2Gi"}, [STATEFUL]),
    ("StatefulSet", {"spec.replicas": 3, "spec.minReadySeconds": 1, "spec.ordinals": {"start": 2}}, []),
    ("StatefulSet", {"spec.template.spec.containers.0.image": "j", "spec.revisionHistoryLimit": 3}, []),
    ("StatefulSet", {"spec.replicas": -1, "spec.serviceName": "other"},
     [f"spec.replicas: Invalid value: -1: {NEGATIVE}", STATEFUL]),
    ("ReplicationController", {"spec.selector": {"b": "x"}, "spec.template.metadata.labels": {"b": "x"}}, []),
    ("ControllerRevision", {"data": {"a": 2}}, ['data: Invalid value: {"a":2}: field is immutable']),
    ("ControllerRevision", {"revision": 7}, []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "found"), UPDATES)
def test_what_is_wrong_with_changes(kind: str, changes: Changes, found: list[str]) -> None:
    assert updated(GOOD[kind], {}, changes)[1] == found


def test_a_sets_old_name_of_a_service_is_kept() -> None:
    new, problems = updated(GOOD["StatefulSet"], {"spec.serviceName": "s"}, {"spec.replicas": 2})
    assert problems == [] and new["metadata"]["generation"] == 2


MORE = "cannot be greater than status.replicas"
STATUSES: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("Deployment", {}, {"replicas": 2, "readyReplicas": 2, "availableReplicas": 1, "updatedReplicas": 2}, []),
    ("Deployment", {}, {"replicas": 1, "readyReplicas": 2, "updatedReplicas": 3},
     [f"status.updatedReplicas: Invalid value: 3: {MORE}", f"status.readyReplicas: Invalid value: 2: {MORE}"]),
    ("Deployment", {}, {"replicas": 1, "availableReplicas": 1},
     ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]),
    ("Deployment", {"collisionCount": 2}, {"collisionCount": 1},
     ["status.collisionCount: Invalid value: 1: cannot be decremented"]),
    ("Deployment", {"collisionCount": 2}, {}, ["status.collisionCount: Invalid value: 0: cannot be decremented"]),
    ("Deployment", {}, {"unavailableReplicas": -1, "terminatingReplicas": -2},
     [f"status.unavailableReplicas: Invalid value: -1: {NEGATIVE}",
      f"status.terminatingReplicas: Invalid value: -2: {NEGATIVE}"]),
    ("ReplicaSet", {}, {"replicas": 1, "fullyLabeledReplicas": 2},
     [f"status.fullyLabeledReplicas: Invalid value: 2: {MORE}"]),
    ("ReplicationController", {}, {"readyReplicas": -1},
     [f"status.readyReplicas: Invalid value: -1: {NEGATIVE}",
      "status.availableReplicas: Invalid value: 0: cannot be greater than readyReplicas"]),
    ("DaemonSet", {}, {"numberReady": -1}, [f"status.numberReady: Invalid value: -1: {NEGATIVE}"]),
    ("DaemonSet", {}, {"numberReady": 5, "desiredNumberScheduled": 1}, []),
    ("StatefulSet", {}, {"replicas": 1, "currentReplicas": 2},
     [f"status.currentReplicas: Invalid value: 2: {MORE}"]),
    ("StatefulSet", {}, {"replicas": 1, "availableReplicas": 1},
     ["status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after", "found"), STATUSES)
def test_what_is_wrong_with_statuses(
    kind: str, before: dict[str, Any], after: dict[str, Any], found: list[str]
) -> None:
    assert status_refused(GOOD[kind], before, after) == found


def test_what_is_filled_in() -> None:
    spec = created(GOOD["DaemonSet"], {})[0]["spec"]
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    spec = created(GOOD["StatefulSet"], {"spec.updateStrategy": {"type": "OnDelete"}})[0]["spec"]
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    made = created(GOOD["ReplicationController"], {})[0]
    assert made["spec"]["selector"] == made["metadata"]["labels"] == {"a": "x"}

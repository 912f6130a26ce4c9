"""Warnings about objects that are accepted: deprecated, ignored, hardly meant."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery.resources import builtin_registry

REGISTRY = builtin_registry()
ZONE, ARCH = "failure-domain.beta.kubernetes.io/zone", "beta.kubernetes.io/arch"
REQUIRED, PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
NULL = "a null labelSelector results in matching no pod"


def warned(kind: str, spec: dict[str, Any], *, version: str = "v1", name: str = "x", **metadata: Any) -> list[str]:
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": copy.deepcopy(spec)}
    info = REGISTRY.by_kind(version, kind)
    assert info is not None
    default(made)
    return list(rules_for(info).warnings(made, None))


def pod(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "i", **(container or {})}], **spec}


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        (pod(), []),
        (
            pod({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
            ['spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply'],
        ),
        (pod({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]}), []),
        (
            pod({"resources": {"requests": {"memory": "100m", "ephemeral-storage": "1500m"}}}),
            [
                'spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, '
                "must be an integer",
                'spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value "1500m" is invalid, '
                "must be an integer",
            ],
        ),
        (
            pod({"ports": [{"containerPort": 80}, {"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}),
            ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
        ),
        (
            pod({"ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 80}]}),
            ["spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"],
        ),
        (
            pod(nodeSelector={ARCH: "arm64"}),
            [f'spec.nodeSelector[{ARCH}]: deprecated since v1.14; use "kubernetes.io/arch" instead'],
        ),
        (
            pod(topologySpreadConstraints=[{"topologyKey": ZONE}]),
            [
                f"spec.topologySpreadConstraints[0].topologyKey: {ZONE} is deprecated since v1.17; "
                'use "topology.kubernetes.io/zone" instead',
                f"spec.topologySpreadConstraints[0].labelSelector: {NULL}",
            ],
        ),
        (
            pod(affinity={"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": {"topologyKey": "a"}}]}}),
            [f"spec.affinity.podAntiAffinity.{PREFERRED}[0].podAffinityTerm.labelSelector: {NULL}"],
        ),
        (
            pod(
                affinity={
                    "nodeAffinity": {
                        REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": ARCH, "operator": "Exists"}]}]}
                    }
                }
            ),
            [
                f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key: {ARCH} is "
                'deprecated since v1.14; use "kubernetes.io/arch" instead'
            ],
        ),
        (
            pod(volumes=[{"name": "v", "gitRepo": {"repository": "r"}}, {"name": "w", "emptyDir": {}}]),
            ["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
        ),
        (
            pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {}]),
            [
                'spec.imagePullSecrets[1].name: duplicate name "a"',
                'spec.imagePullSecrets[2].name: invalid empty name ""',
            ],
        ),
        (
            pod(terminationGracePeriodSeconds=-1),
            ["spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"],
        ),
    ],
)
def test_pods(spec: dict[str, Any], texts: list[str]) -> None:
    assert warned("Pod", spec) == texts
    info = REGISTRY.by_kind("v1", "Pod")
    assert info is not None
    made = {"metadata": {"name": "x"}, "spec": spec}
    assert list(rules_for(info).warnings(made, made)) == []  # programs change pods


def test_annotations_that_do_nothing() -> None:
    old = {"scheduler.alpha.kubernetes.io/critical-pod": "", "container.seccomp.security.alpha.kubernetes.io/c": "x"}
    assert [text.partition(": ")[0] for text in warned("Pod", pod(), annotations=old)] == [
        f"metadata.annotations[{key}]" for key in old
    ]


WORKLOADS = [
    ("Deployment", "apps/v1", ("spec", "template")),
    ("ReplicaSet", "apps/v1", ("spec", "template")),
    ("DaemonSet", "apps/v1", ("spec", "template")),
    ("StatefulSet", "apps/v1", ("spec", "template")),
    ("ReplicationController", "v1", ("spec", "template")),
    ("Job", "batch/v1", ("spec", "template")),
    ("CronJob", "batch/v1", ("spec", "jobTemplate", "spec", "template")),
]


@pytest.mark.parametrize(("kind", "version", "path"), WORKLOADS, ids=lambda v: v if isinstance(v, str) else "")
def test_templates_are_warned_of_where_they_are(kind: str, version: str, path: tuple[str, ...]) -> None:
    spec: dict[str, Any] = {"spec": pod(imagePullSecrets=[{}])}
    for part in reversed(path[1:]):
        spec = {part: spec}
    where = ".".join(path)
    expected = [f'{where}.spec.imagePullSecrets[0].name: invalid empty name ""']
    assert warned(kind, spec, version=version) == expected
    dotted = warned(kind, spec, version=version, name="a.b")
    assert [text.partition(": ")[0] for text in dotted] == ["metadata.name", f"{where}.spec.imagePullSecrets[0].name"]
    info = REGISTRY.by_kind(version, kind)
    assert info is not None
    old = {"metadata": {"name": "a.b"}, "spec": spec}
    warnings = rules_for(info).warnings
    assert list(warnings(old, old)) == []
    assert list(warnings(old, {"metadata": {"name": "a.b"}, "spec": {}})) == expected


def test_claims_and_volumes() -> None:
    old_class = {"volume.beta.kubernetes.io/storage-class": "fast"}
    text = 'deprecated since v1.8; use "storageClassName" attribute instead'
    class_text = f"metadata.annotations[volume.beta.kubernetes.io/storage-class]: {text}"
    claim = {"resources": {"requests": {"storage": "1500m"}}}
    fraction = 'resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer'
    assert warned("PersistentVolumeClaim", claim, annotations=old_class) == [class_text, f"spec.{fraction}"]
    volume = {"persistentVolumeReclaimPolicy": "Recycle", "rbd": {"image": "i"}}
    assert warned("PersistentVolume", volume, annotations=old_class) == [
        class_text,
        "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. "
        "Instead, the recommended approach is to use dynamic provisioning.",
        "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
    ]
    made = {"template": {"spec": pod()}, "volumeClaimTemplates": [{"spec": claim}], "revisionHistoryLimit": -1}
    assert warned("StatefulSet", made, version="apps/v1") == [
        f"spec.volumeClaimTemplates[0].spec.{fraction}",
        "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
    ]


def test_services_and_ingresses() -> None:
    assert warned("Service", {"clusterIP": "None", "sessionAffinity": "ClientIP"}) == [
        "spec.SessionAffinity is ignored for headless services"
    ]
    old = {"kubernetes.io/ingress.class": "nginx"}
    assert warned("Ingress", {}, version="networking.k8s.io/v1", annotations=old) == [
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
    ]

"""Odd objects of all that controllers watch, as the API server stores them: none fails a controller or busies it."""

from __future__ import annotations

import copy
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_status_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.autoscaling.horizontal import HorizontalController
from rayplane.control_plane.controllers.autoscaling.metrics import Answer
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig
from tests.api.kinds.changes import REGISTRY, info_of
from tests.api.kinds.test_any_input import GOOD, odd_fields
from tests.api.odd_values import TEXTS, placed
from tests.api.pems import AUTHORITY
from tests.controllers.cluster import Cluster
from tests.tiers import examples

CONFIG = ControllersConfig(identity="i", api_endpoints=("x:1",), ca_certificate="PEM", server="https://x:1")
STAMP = "2026-01-01T00:00:00Z"
LABELS = {"a": "x"}
STEPS_MAX, OF_ONE_KEY_MAX, TRIES = 400, 60, 8
ANYTHING: tuple[Any, ...] = (None, True, 0, -1, 2**63 - 1, 1.5, "", "x", [], {}, [None], {"k": None}, [{}])
OWNERS = {"ReplicaSet": "Deployment", "Job": "CronJob"}
OWNERS_OF_PODS = ("ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController", "")
DRIVER = "gpu.example.com"
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
SHARE = {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}}
REQUESTS = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "x"}}]}}
RESULT = {"request": "gpu", "driver": DRIVER, "pool": "x", "device": "gpu-0"}
TAINT = {"key": "k", "effect": "NoExecute"}

#: What makes the good objects one cluster; kinds that have no good object elsewhere are whole here.
FIELDS: dict[str, dict[str, Any]] = {
    "ClusterTrustBundle": {"spec": {"trustBundle": AUTHORITY}},
    "Service": {"spec": {"ports": [{"port": 80}], "selector": LABELS}},
    "PodDisruptionBudget": {"spec": {"selector": {"matchLabels": LABELS}, "maxUnavailable": "50%"}},
    "PersistentVolumeClaim": {
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "x",
        }
    },
    "PersistentVolume": {
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "csi": {"driver": "rayplane.io/local", "volumeHandle": "x"},
            "claimRef": {"namespace": "ns", "name": "x", "uid": "u-PersistentVolumeClaim"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "x",
        }
    },
    "Job": {
        "spec": {
            "selector": {"matchLabels": LABELS},
            "manualSelector": True,
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            },
        }
    },
    "HorizontalPodAutoscaler": {
        "spec": {
            "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
            "metrics": [CPU, SHARE],
        }
    },
    "ResourceClaim": {
        "spec": REQUESTS,
        "status": {
            "allocation": {"devices": {"results": [RESULT]}},
            "reservedFor": [{"resource": "pods", "name": "x-0", "uid": "u-Pod-0"}],
        },
    },
    "ResourceClaimTemplate": {"spec": {"spec": REQUESTS}},
    "ResourceSlice": {
        "spec": {
            "driver": DRIVER,
            "pool": {"name": "x", "generation": 1, "resourceSliceCount": 1},
            "nodeName": "x",
            "devices": [{"name": "gpu-0", "taints": [TAINT]}],
        }
    },
    "PodGroup": {"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}},
    "DeviceTaintRule": {"spec": {"deviceSelector": {"driver": DRIVER}, "taint": TAINT}},
    "StorageVersionMigration": {"spec": {"resource": {"group": "", "resource": "pods"}}},
    "APIService": {
        "spec": {
            "group": "m.io",
            "version": "v1",
            "groupPriorityMinimum": 1,
            "versionPriority": 1,
            "service": {"namespace": "ns", "name": "x"},
            "insecureSkipTLSVerify": True,
        }
    },
}
NAMES = {"Namespace": "ns", "IPAddress": "10.0.0.1", "APIService": "v1.m.io"}
#: Annotations and labels that controllers read.
NOTES = (
    "batch.kubernetes.io/job-completion-index", "batch.kubernetes.io/job-index-failure-count",
    "controller.kubernetes.io/pod-deletion-cost", "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas", "deployment.kubernetes.io/revision",
    "endpoints.kubernetes.io/last-change-trigger-time", "kubernetes.io/service-account.name",
    "node.alpha.kubernetes.io/ttl", "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/provisioned-by",
    "rayplane.io/host-address", "rayplane.io/volume-capacity", "volume.kubernetes.io/selected-node",
)  # fmt: skip
MARKS = (
    "endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name", "topology.kubernetes.io/zone",
    "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "ipaddress.kubernetes.io/managed-by",
)  # fmt: skip
SCHEDULES = ("@every 2562047h", "30 2 * * *", "0 0 29 2 *", "0 0 31 2 *")
ZONES = ("America/New_York", "Asia/Tokyo", "Pacific/Apia", "Etc/GMT+12")
ENDS = (STAMP, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")


def known_kinds() -> list[Object]:
    """A good object of each kind that controllers watch, but for those of which all kinds are watched alike."""
    of_all = ("garbagecollector", "resourcequota")
    resources = {w.resource for c in build_controllers(CONFIG) if c.name not in of_all for w in c.watches}
    goods = {kind: good for (_, kind), good in GOOD.items()}
    found = []
    for resource in sorted(resources - {"customresourcedefinitions.apiextensions.k8s.io"}):
        info = REGISTRY.by_name(resource)
        own: dict[str, Any] = {"name": NAMES.get(info.kind, "x"), "labels": LABELS, "uid": f"u-{info.kind}"}
        own |= {"creationTimestamp": STAMP, "generation": 1} | ({"namespace": "ns"} if info.namespaced else {})
        good = {**goods.get(info.kind, {}), **FIELDS.get(info.kind, {})}
        found.append({**good, "apiVersion": info.api_version, "kind": info.kind, "metadata": own})
    return found


def owned(o: Object, by: Object) -> Object:
    return {**o, "metadata": {**o["metadata"], "ownerReferences": [meta.owner_reference(by)]}}


def world() -> list[Object]:
    """One cluster of all of them: pods of each workload, volumes that are bound, services that select."""
    kinds = {o["kind"]: o for o in known_kinds()}
    for kind, owner in OWNERS.items():
        kinds[kind] = owned(kinds[kind], kinds[owner])
    pod = kinds.pop("Pod")
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "x"}}
    claims = [{"name": "d", "resourceClaimTemplateName": "x"}, {"name": "e", "resourceClaimName": "x"}]
    spec = {**pod["spec"], "nodeName": "x", "volumes": [volume], "resourceClaims": claims,
            "schedulingGroup": {"podGroupName": "x"}}  # fmt: skip
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": STAMP}
    status = {"phase": "Running", "podIP": "127.64.0.5", "podIPs": [{"ip": "127.64.0.5"}], "conditions": [ready]}
    pods = []
    for n, owner in enumerate(OWNERS_OF_PODS):
        own = {**pod["metadata"], "name": f"x-{n}", "uid": f"u-Pod-{n}"}
        one = {**pod, "metadata": own, "spec": spec, "status": status}
        pods.append(owned(one, kinds[owner]) if owner else one)
    return [*kinds.values(), *pods]


def stored(o: Object) -> Object | None:
    """The object as the API server stores it; None for one that it refuses. Its status is written after it."""
    info, made = info_of(o), copy.deepcopy(o)
    try:
        default(made)
        prepare_for_create(made, info)
        if validate_create(made, info):
            return None
        told = {**copy.deepcopy(made), "status": copy.deepcopy(o.get("status") or {})}
        default(told)
        prepare_for_status_update(told, made, info)
        return told if o.get("status") and not validate_status_update(told, made, info) else made
    except ApiError:
        return None


WORLD = [stored(o) or {} for o in world()]


def with_notes(o: Object, rng: Random) -> Object:
    """The object with what only its kind's controller reads made odd too."""
    own = dict(o["metadata"])
    own["annotations"] = {rng.choice(NOTES): rng.choice((*TEXTS, "x")) for _ in range(rng.randint(0, 3))}
    own["labels"] = {**LABELS, **{rng.choice(MARKS): rng.choice(("", "x", "1")) for _ in range(rng.randint(0, 2))}}
    own["finalizers"] = rng.choice(([], own.get("finalizers") or [], ["foregroundDeletion"], ["orphan"], ["x.io/y"]))
    made = {**o, "metadata": own}
    if o["kind"] == "CronJob":
        made["spec"] = {**o["spec"], "schedule": rng.choice(SCHEDULES), "timeZone": rng.choice(ZONES)}
        made["status"] = {"lastScheduleTime": rng.choice(ENDS)}
    return made


def with_odd_values(o: Object, rng: Random) -> Object | None:
    """The object with one to four values that are odd for their field, or of no type that fits; None for no object."""
    places = odd_fields(o["apiVersion"], o["kind"])
    own = [place for place in places if place[0][0] != "metadata"]
    made = copy.deepcopy(o)
    for _ in range(rng.randint(1, 4)):
        path, value = rng.choice(own if rng.random() < 0.9 else places)
        if rng.random() < 0.25:
            value = rng.choice(ANYTHING)
        try:
            made = placed(made, path, copy.deepcopy(value))
        except (TypeError, AttributeError, KeyError, IndexError):
            continue  # What was placed before is in the way.
    definition = definition_of(o["apiVersion"], o["kind"])
    assert definition is not None
    try:
        conform(made, definition)
    except (DecodeError, ApiError):
        return None
    return made if isinstance(made.get("metadata"), dict) else None


def made_odd(good: Object, rng: Random) -> Object:
    """An odd object in the place of a good one, of those that the API server would store."""
    given = ("name", "namespace", "uid", "creationTimestamp")
    kept = {name: value for name, value in good["metadata"].items() if name in given}
    for _ in range(TRIES):
        found = with_odd_values(with_notes(good, rng), rng)
        made = stored({**found, "metadata": {**found["metadata"], **kept}}) if found is not None else None
        if made is not None:
            if meta.finalizers(made) and rng.random() < 0.5:
                made["metadata"] |= {"deletionTimestamp": STAMP, "deletionGracePeriodSeconds": 0}
            return made
    return good


def measured(rng: Random) -> Any:
    """An item of an answer of a metrics API."""
    name, quantity = rng.choice(("x-0", "x-5")), rng.choice(("5", "9" * 400, "-5", "1n", 1e300))
    item: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "ns"},
        "describedObject": {"name": name},
        "containers": [{"name": "c", "usage": {"cpu": quantity}}],
        "timestamp": rng.choice(ENDS),
        "window": rng.choice(("30s", "2562047h", "-5s")),
        "windowSeconds": rng.choice((60, 2**62, 86400 * 999_999_998)),
        "value": quantity,
    }
    if rng.random() < 0.5:
        item[rng.choice([*item])] = rng.choice(ANYTHING)
    return item if rng.random() < 0.9 else rng.choice(ANYTHING)


def step(cluster: Cluster, rng: Random) -> tuple[int, str]:
    """One reconcile, of an autoscaler with odd answers of metrics APIs; of whom."""
    number, key = next(iter(cluster.queue))
    controller = cluster.controllers[number]
    if isinstance(controller, HorizontalController):
        asked = controller.questions(key, cluster, cluster.seconds)
        controller.answered(key, {query: Answer([measured(rng)]) for query in asked})
    cluster.step()
    return number, key


def test_all_good_objects_are_stored() -> None:
    assert [o["kind"] for o in world() if stored(o) is None] == []


@pytest.mark.turn(1, of=2)
@settings(max_examples=examples(100))
@given(st.integers(0, 2**64))
def test_no_object_that_is_stored_fails_a_controller_or_gives_it_no_rest(seed: int) -> None:
    rng = Random(seed)
    objects = [o for o in WORLD if rng.random() < 0.85]
    for n in rng.sample(range(len(objects)), k=rng.randint(1, 10)):
        objects[n] = made_odd(objects[n], rng)
    rng.shuffle(objects)
    cluster = Cluster(*build_controllers(CONFIG))
    cluster.seconds = rng.choice((0.0, 300.0, 1e6))
    for o in objects:
        cluster.put(info_of(o).name, o)
    written: Counter[tuple[int, str]] = Counter()
    for _ in range(STEPS_MAX):
        if not cluster.queue:
            break
        before = cluster.version
        who = step(cluster, rng)
        written[who] += cluster.version != before
    busiest = [(cluster.controllers[n].name, key) for (n, key), times in written.items() if times > OF_ONE_KEY_MAX]
    assert busiest == []

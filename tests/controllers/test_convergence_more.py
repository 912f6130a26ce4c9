"""The controllers that have no part in an application's life, under the same disturbances as those that have."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.scheduling.pod_group import PROTECTION
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Result
from tests.controllers import test_convergence
from tests.controllers.disturbed import CLAIMS, FAULTS, VOLUMES, Disturbed, Outcome, Slot
from tests.controllers.test_convergence import begin, template, workload
from tests.controllers.test_resourceclaims import TEMPLATES
from tests.tiers import examples

CRON = "cronjobs.batch"
LONG_AGO = "2025-01-01T00:00:00Z"


def old(c: Disturbed, resource: str, name: str, namespace: str = "", **status: Any) -> None:
    """Something has been there for a year."""
    made = c.require(resource, namespace, name)
    c.put(resource, {**made, "metadata": {**made["metadata"], "creationTimestamp": LONG_AGO}, **status})


def workloads(c: Disturbed) -> None:
    c.add("replicationcontrollers", "rc", spec=workload("rc", replicas=2, selector={"app": "rc"}))
    job = {"template": {"metadata": {"labels": {"app": "cron"}}, **template("cron", restartPolicy="Never")}}
    fields = {"completions": 1, "parallelism": 1, "backoffLimit": 1, "suspend": True}
    c.add(
        CRON,
        "hourly",
        spec={"schedule": "30 * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {**fields, **job}}},
    )
    old(c, CRON, "hourly", "default")
    marked = {"finalizers": ["batch.kubernetes.io/job-tracking"], "labels": {"a": "b"}}
    c.add("pods", "orphan", metadata=marked, spec={"containers": []}, status={"phase": "Failed"})
    c.add("deployments.apps", "small", spec=workload("small", replicas=1))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "small"}
    c.add(
        "horizontalpodautoscalers.autoscaling",
        "hpa",
        spec={"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3},
    )


def services(c: Disturbed) -> None:
    c.add("services", "outside", spec={"ports": [{"port": 80}], "clusterIP": "10.0.0.9"})
    subsets = [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]
    c.add("endpoints", "outside", subsets=subsets)
    c.add(
        "services",
        "public",
        spec={"type": "LoadBalancer", "ports": [{"port": 80}], "ipFamilies": ["IPv4"], "selector": {"a": "b"}},
    )
    c.add("servicecidrs.networking.k8s.io", "more", spec={"cidrs": ["10.1.0.0/24"]})


def storage(c: Disturbed) -> None:
    size, claim = {"storage": "1Gi"}, {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}
    data = {"name": "d", "ephemeral": {"volumeClaimTemplate": {"spec": {**claim, "resources": {"requests": size}}}}}
    c.add("pods", "scratch", spec={"containers": [], "volumes": [data]})
    c.add(CLAIMS, "grows", spec={**claim, "resources": {"requests": size}})
    ref = {"namespace": "default", "name": "there"}
    csi = {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}
    c.add(VOLUMES, "pv", spec={"claimRef": ref, "csi": csi, "accessModes": ["ReadWriteOnce"]})
    c.add(CLAIMS, "there", spec={"volumeName": "pv"}, status={"phase": "Bound"})
    used = {"name": "v", "persistentVolumeClaim": {"claimName": "there"}}
    c.add("pods", "attached", spec={"nodeName": "n1", "containers": [], "volumes": [used]})
    c.add("volumeattributesclasses.storage.k8s.io", "gold", driverName="d")


def grow(c: Disturbed) -> None:
    c.until(lambda: meta.status(c.require(CLAIMS, "default", "grows")).get("phase") == "Bound")
    c.change(CLAIMS, "grows", spec={"resources": {"requests": {"storage": "2Gi"}}})


def devices(c: Disturbed) -> None:
    c.add(TEMPLATES, "t", spec={"spec": {"devices": {"requests": []}}})
    entry = {"name": "gpu", "resourceClaimTemplateName": "t"}
    c.add("pods", "computes", spec={"resourceClaims": [entry], "containers": []})
    taint = {"key": "k", "effect": "None"}
    c.add(
        "devicetaintrules.resource.k8s.io",
        "r",
        spec={"deviceSelector": {"driver": "d"}, "taint": taint},
        metadata={"generation": 1},
    )


def policies(c: Disturbed) -> None:
    c.add("resourcequotas", "q", spec={"hard": {"pods": "50"}})
    c.add(
        "podgroups.scheduling.k8s.io",
        "g",
        metadata={"finalizers": [PROTECTION]},
        spec={"schedulingPolicy": {"basic": {}}},
    )
    level = {"priorityLevelConfiguration": {"name": "none"}}
    c.add("flowschemas.flowcontrol.apiserver.k8s.io", "f", spec=level)
    labels = {"aggregate": "yes"}
    selectors = [{"matchLabels": labels}]
    c.add(
        "clusterroles.rbac.authorization.k8s.io", "all", aggregationRule={"clusterRoleSelectors": selectors}, rules=[]
    )
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
    c.add("clusterroles.rbac.authorization.k8s.io", "part", metadata={"labels": labels}, rules=[rule])
    names = {"plural": "toys", "kind": "Toy"}
    versions = [{"name": "v1", "served": True, "storage": True}]
    c.add(
        "customresourcedefinitions.apiextensions.k8s.io",
        "toys.example.com",
        spec={"group": "example.com", "names": names, "versions": versions, "scope": "Namespaced"},
    )


def leftovers(c: Disturbed) -> None:
    c.add("namespaces", "kube-system", spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    c.add(
        "secrets",
        "bootstrap-token-abcdef",
        namespace="kube-system",
        type="bootstrap.kubernetes.io/token",
        data={"expiration": "MjAyNS0wMS0wMVQwMDowMDowMFo="},
    )
    notes = {"annotations": {"kubernetes.io/service-account.name": "nobody", "kubernetes.io/service-account.uid": "u"}}
    c.add("serviceaccounts", "robot", secrets=[{"name": "robot-token"}])
    whose = {"annotations": {"kubernetes.io/service-account.name": "robot"}}
    c.add("secrets", "robot-token", metadata=whose, type="kubernetes.io/service-account-token")
    old(c, "secrets", "robot-token", "default")
    c.add("secrets", "token", metadata=notes, type="kubernetes.io/service-account-token")
    for resource, space in (
        ("certificatesigningrequests.certificates.k8s.io", ""),
        ("podcertificaterequests.certificates.k8s.io", "default"),
    ):
        c.add(resource, "r", spec={})
        old(c, resource, "r", space)
    c.add(
        "configmaps",
        "kube-apiserver-legacy-service-account-token-tracking",
        namespace="kube-system",
        data={"since": "2024-01-01"},
    )
    c.add("pods", "lost", spec={"nodeName": "gone", "containers": []}, status={"phase": "Running"})
    c.node("n4")
    c.add("pods", "victim", spec={"nodeName": "n4", "containers": []})
    c.change("nodes", "n4", spec={"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": c.now.stamp}]})
    c.start()  # some look for what is old only as they start, and seldom after that


def ends(c: Disturbed) -> None:
    c.delete("podgroups.scheduling.k8s.io", "g", "default")
    c.delete("volumeattributesclasses.storage.k8s.io", "gold")
    c.delete("pods", "scratch", "default")
    c.delete("servicecidrs.networking.k8s.io", "more")


SCENARIO = (begin, workloads, services, storage, devices, policies, leftovers, grow, ends)
#: Who has scenarios of his own.
ELSEWHERE = {
    **dict.fromkeys(
        ("volumesnapshot", "garbagecollector-aggregated", "storageversionmigrator"), "test_elsewhere_converge.py"
    ),
    **dict.fromkeys(
        ("podchaos", "networkchaos", "stresschaos", "chaosschedule", "chaosworkflow"), "test_experiments_converge.py"
    ),
}
_VOLATILE = re.compile(r"uid-[0-9]+|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|-[0-9]{5}\b|127\.64\.[0-9.]+")
#: What says how it came about, and not what came about.
_WAYS = {"resourceVersion", "managedFields", "generation", "observedGeneration", "nodeName", "nodeAffinity", "csi"}


class Watched(Disturbed):
    """A cluster that notes which controllers had something to do."""

    def __init__(self, rng: random.Random, faults: Iterable[str] = ()) -> None:
        self.acted: set[str] = set()
        super().__init__(rng, faults)

    def carry_out(self, wanted: Result, slot: Slot) -> Outcome:
        if any(wanted.stages):
            self.acted.add(slot.controller.name)
        return super().carry_out(wanted, slot)


def end_of(c: Disturbed) -> dict[str, list[str]]:
    """All that is there in the end, without generated names and moments."""
    shown = sorted(c.objects.keys() - {LEASES})
    return {resource: sorted(map(_shown, c.list(resource))) for resource in shown if c.list(resource)}


def _shown(o: Object) -> str:
    return _VOLATILE.sub("*", json.dumps(_without_ways(o), sort_keys=True))


def _without_ways(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ways(one) for key, one in value.items() if key not in _WAYS}
    return [*map(_without_ways, value)] if isinstance(value, list) else value


@functools.cache
def undisturbed() -> dict[str, list[str]]:
    cluster = Disturbed(random.Random(0))
    cluster.run(SCENARIO)
    return end_of(cluster)


@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(FAULTS), min_size=1))
@settings(max_examples=examples(20), deadline=None)
def test_controllers_converge_whatever_befalls_them(seed: int, faults: set[str]) -> None:
    cluster = Disturbed(random.Random(seed), faults)
    cluster.run(SCENARIO)
    assert end_of(cluster) == undisturbed()


def test_every_controller_is_disturbed_somewhere() -> None:
    acted = set[str]()
    for scenario in (SCENARIO, test_convergence.SCENARIO):
        cluster = Watched(random.Random(0))
        cluster.run(scenario)
        acted |= cluster.acted
    assert {slot.controller.name for slot in cluster.slots} == acted | ELSEWHERE.keys()

"""Whatever befalls the controllers: they end where they would have ended undisturbed, and keep promises meanwhile."""

from __future__ import annotations

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active
from rayplane.control_plane.controllers.replicaset import wanted
from tests.controllers.disturbed import CLAIMS, FAULTS, VOLUMES, Disturbed
from tests.tiers import examples

Act = Callable[[Disturbed], None]
DEPLOYMENTS, SETS, JOBS = "deployments.apps", "replicasets.apps", "jobs.batch"
INDEX = "batch.kubernetes.io/job-completion-index"
STATEFUL, DAEMONS = "statefulsets.apps", "daemonsets.apps"


# --- what users do --------------------------------------------------------------------------------


def template(app: str, image: str = "i:1", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


def workload(app: str, image: str = "i:1", **spec: Any) -> dict[str, Any]:
    return {"selector": {"matchLabels": {"app": app}}, "template": template(app, image), **spec}


def begin(c: Disturbed) -> None:
    for name in ("default", "doomed"):
        c.add("namespaces", name, spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    c.add(
        "storageclasses.storage.k8s.io",
        "fast",
        provisioner="rayplane.io/local",
        reclaimPolicy="Delete",
        volumeBindingMode="Immediate",
    )


def deploy(c: Disturbed) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    fields: dict[str, Any] = {"revisionHistoryLimit": 2, "progressDeadlineSeconds": 600, "strategy": rolling}
    c.add(DEPLOYMENTS, "web", spec=workload("web", replicas=3, **fields))
    shared = {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}
    c.add("services", "web", metadata=shared, spec=spec)
    c.add("poddisruptionbudgets.policy", "web", spec={"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}})


def recreated(c: Disturbed) -> None:
    c.add(DEPLOYMENTS, "one", spec=workload("one", replicas=2, strategy={"type": "Recreate"}, revisionHistoryLimit=2))
    c.add(DEPLOYMENTS, "left", spec=workload("left", replicas=2))


def stateful(c: Disturbed) -> None:
    resources = {"requests": {"storage": "1Gi"}}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": resources}
    c.add(
        STATEFUL,
        "db",
        spec=workload(
            "db",
            replicas=3,
            serviceName="db",
            podManagementPolicy="OrderedReady",
            revisionHistoryLimit=2,
            updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Retain"},
            volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": spec}],
        ),
    )


def daemons(c: Disturbed) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    c.add(DAEMONS, "agent", spec=workload("agent", updateStrategy=rolling, revisionHistoryLimit=2))


def job(c: Disturbed) -> None:
    for name, mode in (("sum", "NonIndexed"), ("each", "Indexed")):
        fields = {"completions": 4, "parallelism": 2, "backoffLimit": 100, "completionMode": mode, "suspend": False}
        pods = template(name, restartPolicy="Never")
        labels = {"batch.kubernetes.io/job-name": name}
        pods["metadata"]["labels"] |= labels
        c.add(JOBS, name, spec={**fields, "template": pods, "selector": {"matchLabels": labels}})


def owned(c: Disturbed) -> None:
    owner = c.add("configmaps", "owner", data={})
    for n in range(3):
        refs = [meta.owner_reference(owner, controller=False, block=n == 0)]
        c.add("configmaps", f"owned-{n}", metadata={"ownerReferences": refs}, data={})
    c.add(DEPLOYMENTS, "short", namespace="doomed", spec=workload("short", replicas=2))
    c.add("configmaps", "x", namespace="doomed", data={})


def image(resource: str, name: str, app: str, to: str) -> Act:
    return lambda c: void(c.change(resource, name, spec={"template": template(app, to)}))


def scale(resource: str, name: str, to: int) -> Act:
    return lambda c: void(c.change(resource, name, spec={"replicas": to}))


def delete(resource: str, name: str, space: str, propagation: str) -> Act:
    def act(c: Disturbed) -> None:
        c.delete(resource, name, space, propagation=propagation)

    return act


def ready(name: str) -> Act:
    """The user looks at a Deployment until all of it is there."""

    def act(c: Disturbed) -> None:
        c.until(lambda: meta.status(c.require(DEPLOYMENTS, "default", name)).get("availableReplicas") == 2)

    return act


def void(_: object) -> None:
    pass


SCENARIO: tuple[Act, ...] = (
    begin,
    deploy,
    stateful,
    daemons,
    job,
    owned,
    recreated,
    image(DEPLOYMENTS, "web", "web", "i:2"),
    scale(STATEFUL, "db", 1),
    image(DAEMONS, "agent", "agent", "i:2"),
    scale(DEPLOYMENTS, "web", 5),
    delete("namespaces", "doomed", "", "Background"),
    image(STATEFUL, "db", "db", "i:2"),
    delete("configmaps", "owner", "default", "Foreground"),
    image(DEPLOYMENTS, "one", "one", "i:2"),
    scale(STATEFUL, "db", 2),
    image(DEPLOYMENTS, "web", "web", "i:1"),
    ready("left"),
    delete(DEPLOYMENTS, "left", "default", "Orphan"),
)


# --- promises -------------------------------------------------------------------------------------


class Promises:
    """What holds after every single write."""

    def __init__(self, cluster: Disturbed) -> None:
        self.cluster = cluster
        self._sizes: dict[str, list[tuple[int, int]]] = {}
        cluster.listeners.append(self.check)

    def check(self, resource: str, kind: str, _old: Object | None, obj: Object) -> None:
        if resource == SETS and kind != "DELETED":
            self._sizes.setdefault(meta.uid(obj), []).append((meta.generation(obj), wanted(obj)))
            self._sets_within_bounds()
        if resource == "pods" and kind == "ADDED":
            owner = meta.controller_of(obj) or {}
            by_kind = {
                "ReplicaSet": self._no_more_than_wanted,
                "DaemonSet": self._one_on_each_node,
                "Job": self._one_of_each_index,
            }
            if owner["kind"] in by_kind:  # pods of StatefulSets are kept apart by their names
                by_kind[owner["kind"]](obj, owner)
        if resource == JOBS and kind == "MODIFIED":
            assert (meta.status(obj).get("succeeded") or 0) <= 4

    def _pods(self, **labels: str) -> list[Object]:
        active = [p for p in self.cluster.list("pods") if pod_is_active(p) and meta.namespace(p) == "default"]
        return [p for p in active if labels.items() <= meta.labels(p).items()]

    def _sets_within_bounds(self) -> None:
        """All ReplicaSets of a Deployment together want at most `replicas + maxSurge` pods (5 + 1 in the end)."""
        mine = [rs for rs in self.cluster.list(SETS) if (meta.controller_of(rs) or {}).get("name") == "web"]
        assert sum(map(wanted, mine)) <= 6

    def _no_more_than_wanted(self, pod: Object, owner: Object) -> None:
        """As many pods as the set wants, or wanted until its controller can have seen otherwise; of one version where
        there must not be two."""
        rs = self.cluster.get(SETS, meta.namespace(pod), owner["name"])
        if rs is None or meta.namespace(rs) != "default":
            return
        seen = meta.status(rs).get("observedGeneration") or 0
        most = max(size for generation, size in self._sizes[meta.uid(rs)] if generation >= seen)
        assert len([p for p in self._pods() if meta.is_controlled_by(p, rs)]) <= most
        if meta.labels(pod).get("app") == "one":
            assert len({p["spec"]["containers"][0]["image"] for p in self._pods(app="one")}) == 1

    def _one_on_each_node(self, _pod: Object, _owner: Object) -> None:
        assert max(Counter(map(_pin, self._pods(app="agent"))).values(), default=0) <= 1

    def _one_of_each_index(self, pod: Object, owner: Object) -> None:
        mine = self._pods(**{"batch.kubernetes.io/job-name": owner["name"]})
        assert len(mine) <= 2
        indexes = [meta.labels(p)[INDEX] for p in mine if INDEX in meta.labels(p)]
        assert len(indexes) == len(set(indexes)) and (owner["name"] == "sum" or meta.labels(pod).get(INDEX))


def _pin(pod: Object) -> str:
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


# --- the end --------------------------------------------------------------------------------------

_VOLATILE = re.compile(r"uid-[0-9]+|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")
SHOWN = (
    DEPLOYMENTS, SETS, STATEFUL, DAEMONS, JOBS, "pods", CLAIMS, VOLUMES, "configmaps", "namespaces",
    "poddisruptionbudgets.policy", "serviceaccounts",
)  # fmt: skip


def end_of(c: Disturbed) -> dict[str, list[str]]:
    """All that users see, without generated names, moments, and how many versions lay between."""
    found = {}
    for resource in SHOWN:
        found[resource] = sorted(_shown(obj) for obj in c.list(resource) if not _is_history(obj))
    slices = c.list("endpointslices.discovery.k8s.io")
    ready = [e for s in slices for e in s.get("endpoints") or () if e["conditions"]["ready"]]
    hints = Counter(zone["name"] for e in ready for zone in (e.get("hints") or {}).get("forZones") or ())
    found["endpoints"] = [f"{len(ready)}", *(f"{zone} {count}" for zone, count in sorted(hints.items()))]
    return found


def _is_history(obj: Object) -> bool:
    """What came between, of which more or less may be left: it depends on what was seen of it."""
    owner = meta.controller_of(obj) or {}
    return (obj["kind"] == "ReplicaSet" and wanted(obj) == 0) or (obj["kind"] == "Pod" and owner.get("kind") == "Job")


def _shown(obj: Object) -> str:
    own, spec, status = obj["metadata"], dict(meta.spec(obj)), dict(meta.status(obj))
    name = own.get("generateName") or own["name"]
    owners = sorted(f"{ref['kind']} {ref['name']}" for ref in own.get("ownerReferences") or ())
    if obj["kind"] == "Pod":
        spec = {"image": spec["containers"][0]["image"], "volumes": spec.get("volumes")}
        status = {"phase": status.get("phase")}
    for field in ("observedGeneration", "currentRevision", "updateRevision", "failed"):
        status.pop(field, None)
    spec.pop("claimRef", None)
    spec.pop("csi", None)
    spec.pop("nodeAffinity", None)
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in status.pop("conditions", None) or ()}
    labels = {k: v for k, v in meta.labels(obj).items() if "revision-hash" not in k and "controller-uid" not in k}
    facts = [name, own.get("namespace"), labels, sorted(own.get("finalizers") or ()), owners, spec, status, conditions]
    return _VOLATILE.sub("*", json.dumps([*facts, meta.is_deleting(obj)], sort_keys=True))


@functools.cache
def undisturbed() -> dict[str, list[str]]:
    cluster = Disturbed(random.Random(0))
    Promises(cluster)
    cluster.run(SCENARIO)
    return end_of(cluster)


def test_the_scenario_ends_as_its_users_want_it() -> None:
    end = undisturbed()
    assert [len(end[resource]) for resource in (DEPLOYMENTS, STATEFUL, DAEMONS, JOBS, CLAIMS)] == [2, 1, 1, 2, 2]
    assert end["endpoints"] == ["5", "z1 2", "z2 3"]
    assert sum('"i:1"' in pod and '"app": "web"' in pod for pod in end["pods"]) == 5


@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(FAULTS), min_size=1))
@settings(max_examples=examples(20), deadline=None)
def test_controllers_converge_whatever_befalls_them(seed: int, faults: set[str]) -> None:
    cluster = Disturbed(random.Random(seed), faults)
    Promises(cluster)
    cluster.run(SCENARIO)
    assert end_of(cluster) == undisturbed()

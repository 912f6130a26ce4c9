"""Invariants at rest: workloads are as they are wanted, quotas are exact, nothing is left that nobody owns."""

from collections.abc import Iterable
from datetime import UTC, datetime

from rayplane.control_plane.api import meta, quotas
from rayplane.control_plane.api.machinery.quantity import milli
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants.history import History
from rayplane.control_plane.invariants.judge import Invariant
from rayplane.control_plane.invariants.pods import NODES, PODS

DEPLOYMENTS, SETS, REPLICA_SETS, DAEMONS = (
    "deployments.apps",
    "statefulsets.apps",
    "replicasets.apps",
    "daemonsets.apps",
)
COUNTED = ("replicas", "readyReplicas", "updatedReplicas")
_COUNTED = (quotas.PODS, quotas.SERVICES, quotas.CLAIMS)
_EARLY, _LATE = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def missing(resource: str, workload: Object) -> str:
    """Why a workload is not yet as it is wanted; empty when it is, and for what is no workload."""
    spec, status = meta.spec(workload), meta.status(workload)
    if resource not in (DEPLOYMENTS, SETS, REPLICA_SETS, DAEMONS):
        return ""
    if status.get("observedGeneration", 0) < meta.generation(workload):
        return "its controller has not seen its newest version"
    if resource == DAEMONS:
        wanted = status.get("desiredNumberScheduled", 0)
        names = ["currentNumberScheduled", "numberReady", *(["updatedNumberScheduled"] if _updates(spec) else [])]
    else:
        wanted = spec.get("replicas", 1)
        names = list(COUNTED if resource != REPLICA_SETS and _updates(spec) else COUNTED[:2])
    counts = {name: status.get(name, 0) for name in names}
    return "" if counts == dict.fromkeys(counts, wanted) else f"it has {counts}, wanted {wanted}"


def _updates(spec: Object) -> bool:
    """Whether all its pods are to be of its newest template."""
    strategy = spec.get("updateStrategy") or {}
    partition = (strategy.get("rollingUpdate") or {}).get("partition")
    return not spec.get("paused") and strategy.get("type") != "OnDelete" and not partition


class Converges(Invariant):
    """Every workload has in the end what its spec asks for, ready and of the newest template."""

    name = "every workload converges"
    settles = True
    looked = 0

    def finished(self, history: History) -> Iterable[str]:
        for resource in (DEPLOYMENTS, SETS, DAEMONS, REPLICA_SETS):
            for key, workload in history.items(resource):
                self.looked += 1
                if why := missing(resource, workload):
                    yield f"{resource} {key}: {why}"


class QuotasExact(Invariant):
    """A quota's status says in the end what the objects of its namespace use, no more and no less."""

    name = "quotas exact"
    settles = True
    looked = 0

    def finished(self, history: History) -> Iterable[str]:
        for quota in history.list("resourcequotas"):
            space = meta.namespace(quota)
            objects = {r: history.list(r, space) for r in (*_COUNTED, *history.resources())}
            # A pod that is being deleted counts until it should have gone, whenever that is.
            least, most = quotas.used(quota, objects, _LATE), quotas.used(quota, objects, _EARLY)
            told = meta.status(quota).get("used") or {}
            for name in sorted(set(most) & set(told)):
                self.looked += 1
                if not milli(least[name]) <= milli(told[name]) <= milli(most[name]):
                    yield f"quota {meta.key(quota)} says {told[name]} of {name} used, and it is {most[name]}"


class NoOrphans(Invariant):
    """Objects have an owner in the end, unless they never had one; pods have their node."""

    name = "no orphans"
    settles = True
    looked = 0

    def finished(self, history: History) -> Iterable[str]:
        there = {meta.uid(o) for resource in history.resources() for _, o in history.items(resource)}
        for resource in history.resources():
            for key, obj in history.items(resource):
                owners = meta.metadata(obj).get("ownerReferences") or ()
                self.looked += bool(owners)
                if owners and not any(owner.get("uid") in there for owner in owners):
                    yield f"{resource} {key} is there, and its owner {owners[0].get('name')} is gone"
        for key, pod in history.items(PODS):
            self.looked += bool(meta.node_name(pod))
            if (node := meta.node_name(pod)) and history.get(NODES, node) is None:
                yield f"pod {key} is there, and its node {node} is gone"

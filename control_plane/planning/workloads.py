"""The pods that workloads ask for, as their controllers would make them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.daemonset import pod_for_node, wants_node
from rayplane.control_plane.controllers.templates import pod_from

#: Of objects that are not there yet: an API server wants to know whom a pod is of.
PLANNED_UID = "planned"
_Spec = Mapping[str, Any]
_POD, _DAEMON_SET, _CRON_JOB = ("", "Pod"), ("apps", "DaemonSet"), ("batch", "CronJob")
_OTHERS = (_POD, _DAEMON_SET, _CRON_JOB)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Pods of one workload. `pod` is the first of them, not yet seen by an API server."""

    pod: Object
    count: int = 1
    set_of: Object | None = None
    """The DaemonSet of which each node is to have a pod, if it will have one; `count` says nothing then."""

    def on(self, node: Object) -> Object | None:
        """The pod of a node, if it is to have one."""
        assert self.set_of is not None
        return pod_for_node(self.set_of, meta.name(node)) if wants_node(self.set_of, node) else None


def is_workload(obj: Object) -> bool:
    """Whether pods come of it, or it is one."""
    return _group_and_kind(obj) in {*_COUNTS, *_OTHERS}


def wanted(obj: Object, *, times: float = 1.0) -> Wanted:
    """The pods of a workload that an API server has taken, `times` as many as it says."""
    kind = _group_and_kind(obj)
    if kind == _POD:
        return Wanted(obj, _times(1, times))
    if kind == _DAEMON_SET:
        owner = _known(obj)
        return Wanted(pod_for_node(owner, "node"), set_of=owner)
    if kind == _CRON_JOB:
        job = {**obj, "spec": (meta.spec(obj).get("jobTemplate") or {}).get("spec") or {}}
        return _of_template(job, _of_job, times)
    return _of_template(obj, _COUNTS[kind], times)


def _times(count: int, times: float) -> int:
    """Ten times 1.1 is 11, whatever the machine's numbers make of it."""
    return math.ceil(round(count * times, 6))


def _of_template(owner: Object, count: Callable[[_Spec], int], times: float) -> Wanted:
    owner, spec = _known(owner), meta.spec(owner)
    pod = pod_from(spec.get("template") or {}, owner)
    # A claim of its own for each pod, which is not there yet.
    volumes = [{"name": meta.name(one), "ephemeral": {}} for one in spec.get("volumeClaimTemplates") or ()]
    if volumes:
        pod["spec"]["volumes"] = [*(pod["spec"].get("volumes") or ()), *volumes]
    return Wanted(pod, _times(count(spec), times))


def _of_replicas(spec: _Spec) -> int:
    found = spec.get("replicas")
    return 1 if found is None else int(found)


def _of_job(spec: _Spec) -> int:
    """As many as run at once."""
    parallel, completions = spec.get("parallelism"), spec.get("completions")
    parallel = 1 if parallel is None else int(parallel)
    return parallel if completions is None else min(parallel, int(completions))


def _known(obj: Object) -> Object:
    """As it would be if it were there."""
    own = {**meta.metadata(obj), "uid": PLANNED_UID}
    return {**obj, "metadata": {**own, "namespace": own.get("namespace") or "default"}}


def _group_and_kind(obj: Object) -> tuple[str, str]:
    group, slash, _ = str(obj.get("apiVersion")).rpartition("/")
    return group if slash else "", str(obj.get("kind"))


_COUNTS: Mapping[tuple[str, str], Callable[[_Spec], int]] = {
    ("apps", "Deployment"): _of_replicas,
    ("apps", "ReplicaSet"): _of_replicas,
    ("apps", "StatefulSet"): _of_replicas,
    ("", "ReplicationController"): _of_replicas,
    ("batch", "Job"): _of_job,
}

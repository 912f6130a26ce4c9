"""How fast the scheduler's core decides, in the cases of kube-scheduler's own benchmark."""

from __future__ import annotations

import itertools
import time
from typing import Annotated, Any

import typer

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler import Cluster, Cycle, Failure, Placement, SchedulerConfig
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.gangs import GroupCycle
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, PodParser
from scripts.benchmarks.clusters import say
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Json, show
from scripts.benchmarks.scheduler_cases import HUGE, VIP, Case, Make, cases, node

KUBERNETES = Profile(name="default-scheduler")
MARK = 10
DRIVER = "test-driver.cdi.k8s.io"


def scheduler(
    only: Annotated[str, typer.Option(help="Cases whose name has this in it.")] = "",
    scale: Annotated[float, typer.Option(help="Share of each case's nodes and pods.")] = 1.0,
    json: Json = "",
) -> None:
    """Decisions per second of CPU time of the scheduler's core, beside the thresholds of scheduler_perf."""
    machine = description()
    rows = []
    for case in cases():
        if only.lower() in case.name.lower():
            with say.status(case.name):
                rows.append(Bed(case, scale).measure())
    notes = [
        "One thread, no API server: pods' objects read, decided and assumed, by Kubernetes' default profile.",
        f"threshold: what kube-scheduler has to reach, with an API server; times: this rate by it (mark: {MARK}).",
        "GangScheduling: groups of 3 pods per second, and of scheduler_perf's milliseconds per attempt the reciprocal.",
    ]
    if not rows:
        raise typer.BadParameter(f"--only {only!r}: no case has that in its name")
    show("scheduler", rows, machine, target=json, notes=notes)


class Bed:
    """A cycle over the nodes and pods of one case, driven directly."""

    def __init__(self, case: Case, scale: float) -> None:
        self._case = case
        self._scale = scale
        self._cluster = Cluster()
        self._cycle = Cycle(SchedulerConfig(identity="bench", profiles=(KUBERNETES,)), self._cluster)
        self._groups = GroupCycle(self._cycle)
        self._wave: list[PodInfo] = []
        self._parser = PodParser()
        self._numbers = itertools.count()
        self.placed = self.failed = self.preempted = 0

    def _scaled(self, count: int) -> int:
        return max(1, int(count * self._scale))

    def measure(self) -> dict[str, Any]:
        case = self._case
        self._prepare()
        for count, make in case.first:
            for i in range(self._scaled(count)):
                self._schedule(self._with_volume(make(i)))
        before = self.placed, self.failed
        objects = [self._with_volume(case.pod(i)) for i in range(self._scaled(case.measured))]
        began = time.process_time()
        if case.gang:
            self._schedule_groups(objects)
        else:
            self._schedule_all(objects)
        placed = self.placed - before[0]
        rate = placed / (time.process_time() - began) / (case.gang or 1)
        return {
            "case": case.name,
            "nodes": self._scaled(case.nodes),
            "placed": placed,
            "failed": self.failed - before[1],
            "preempted": self.preempted,
            "per_cpu_s": round(rate),
            "threshold": case.threshold,
            "times": round(rate / case.threshold, 1),
        }

    def _schedule_all(self, objects: list[Object]) -> None:
        case = self._case
        for i, one in enumerate(objects):
            if case.wave and i % case.wave == 0:
                self._end_wave()
            self._schedule(one)
            if case.churn and i % case.churn_every == 0:
                self._churn()

    def _schedule_groups(self, objects: list[Object]) -> None:
        """Pods of one group come together; the group is there before them."""
        for first in range(0, len(objects), self._case.gang):
            infos = []
            for one in objects[first : first + self._case.gang]:
                infos.append(self._parser.parse(one))
                self._cluster.groups.join(infos[-1])
            for decision in self._groups.schedule(infos).decisions:
                self.placed += isinstance(decision, Placement)
                self.failed += isinstance(decision, Failure)

    def _end_wave(self) -> None:
        """The pods that came last are gone, and their claims."""
        for pod in self._wave:
            self._cluster.snapshot.remove_pod(pod.key)
            for _, key in pod.device_claims:
                self._cluster.devices.remove_claim(key)
        self._wave = []

    def _prepare(self) -> None:
        case, cluster = self._case, self._cluster
        for i in range(self._scaled(case.nodes)):
            cluster.snapshot.set_node(NodeInfo.of(case.node(i)))
        for name, labels in case.namespaces:
            cluster.snapshot.set_namespace(name, labels)
        if case.has_service:
            where = {"name": "service", "namespace": "service-ns"}
            cluster.owners.set("Service", {"metadata": where, "spec": {"selector": {"foo": ""}}})
        if case.limits:
            driver = {"name": "ebs.csi.aws.com", "allocatable": {"count": case.limits}}
            for name in cluster.snapshot.index:
                cluster.volumes.use.set_csi_node({"metadata": {"name": name}, "spec": {"drivers": [driver]}})

        if case.devices:
            self._offer_devices(case.devices)
        if case.gang:
            space = case.pod(0)["metadata"]["namespace"]
            policy = {"schedulingPolicy": {"gang": {"minCount": case.gang}}}
            for i in range(-(-self._scaled(case.measured) // case.gang)):
                cluster.groups.set({"metadata": {"name": f"gang-{i}", "namespace": space}, "spec": policy})

    def _offer_devices(self, count: int) -> None:
        """So many on each node; the first claims that the case wants have theirs, spread over the nodes."""
        devices, nodes = self._cluster.devices, [*self._cluster.snapshot.index]
        selectors = [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]
        devices.set_class({"metadata": {"name": "test-class"}, "spec": {"selectors": selectors}})
        for name in nodes:
            pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
            offered = [{"name": f"device-{i}"} for i in range(count)]
            spec = {"driver": DRIVER, "pool": pool, "nodeName": name, "devices": offered}
            devices.set_slice({"metadata": {"name": f"slice-{name}"}, "spec": spec})
        for i in range(min(self._scaled(self._case.claimed), count * len(nodes) - 1) if self._case.claimed else 0):
            result = {"request": "req-0", "driver": DRIVER, "pool": nodes[i % len(nodes)]}
            result["device"] = f"device-{i // len(nodes)}"
            devices.set_claim({**_claim(f"init-{i}"), "status": {"allocation": {"devices": {"results": [result]}}}})

    def _with_claim(self, pod: Object) -> None:
        """A claim to one device is made for the pod, as of a template."""
        name = f"claim-{next(self._numbers)}"
        self._cluster.devices.set_claim(_claim(name, pod["metadata"]["namespace"]))
        pod["spec"]["resourceClaims"] = [{"name": "resource", "resourceClaimName": name}]

    def _told(self, placement: Placement) -> None:
        """What the placed pod's claims got is written, and seen."""
        for key in placement.devices:
            devices = self._cluster.devices
            status = {"allocation": devices.allocation(key), "reservedFor": [{"uid": placement.pod.uid}]}
            devices.set_claim({**devices.claims[key], "status": status})

    def _with_volume(self, pod: Object) -> Object:
        """The pod, with a claim of its own that has its volume, where the case wants that; with its group's name."""
        if self._case.gang:
            number = int(pod["metadata"]["name"].rpartition("-")[2])
            pod["spec"]["schedulingGroup"] = {"podGroupName": f"gang-{number // self._case.gang}"}
        driver = self._case.volumes
        if driver:
            name = f"volume-{next(self._numbers)}"
            space = pod["metadata"]["namespace"]
            source = {"awsElasticBlockStore": {"volumeID": name}} if driver == "aws" else {"csi": {"driver": driver}}
            ref = {"name": name, "namespace": space}
            size = {"storage": "1Gi"}
            spec = {"accessModes": ["ReadOnlyMany"], "capacity": size, "claimRef": ref, **source}
            self._cluster.volumes.set_volume({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Bound"}})
            wants = {"accessModes": ["ReadOnlyMany"], "volumeName": name, "resources": {"requests": size}}
            self._cluster.volumes.set_claim({"metadata": ref, "spec": wants, "status": {"phase": "Bound"}})
            pod["spec"]["volumes"] = [{"name": "vol", "persistentVolumeClaim": {"claimName": name}}]
        return pod

    def _schedule(self, pod: Object) -> None:
        """One pod; whom it preempts is gone at once, and it is tried again."""
        if self._case.devices:
            self._with_claim(pod)
        info = self._parser.parse(pod)
        (decision,) = self._cycle.schedule([info])
        if isinstance(decision, Failure) and decision.preemption is not None:
            self._cycle.nominate(info, decision.preemption.node)
            for victim in decision.preemption.victims:
                self._cluster.snapshot.remove_pod(victim.key)
                self.preempted += 1
            (decision,) = self._cycle.schedule([info])
        if isinstance(decision, Placement):
            self.placed += 1
            self._told(decision)
            if self._case.wave:
                self._wave.append(info)
        else:
            self.failed += 1

    def _churn(self) -> None:
        """What comes beside the measured pods; it does not count as placed."""
        placed, number = self.placed, next(self._numbers)
        made: dict[str, tuple[Make, ...]] = {"vip": (VIP,), "huge": (HUGE,), "mixed": (HUGE,)}
        for make in made[self._case.churn]:
            self._schedule(make(number))
        if self._case.churn == "mixed":
            name = {"name": "churn", "namespace": "default"}
            self._cluster.snapshot.remove_node("node-99999")
            self._cluster.snapshot.set_node(NodeInfo.of(node(99_999)))
            self._cluster.owners.set("Service", {"metadata": name, "spec": {"selector": {"app": "churn"}}})
        self.placed = placed


def _claim(name: str, namespace: str = "init") -> Object:
    """A claim to one device of the class."""
    request = {"name": "req-0", "exactly": {"deviceClassName": "test-class"}}
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": name},
        "spec": {"devices": {"requests": [request]}},
    }

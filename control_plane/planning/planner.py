"""The shell of a plan: pods as an API server would store them, what the scheduler would see there, and the answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.api.packing import workload_of
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.autoscaling.template import template
from rayplane.control_plane.cluster.components import with_profiles
from rayplane.control_plane.cluster.config import NODES_MAX, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.in_memory import AsyncFake
from rayplane.control_plane.planning.plan import NODE, Group, Limits, Plan, plan
from rayplane.control_plane.planning.workloads import Wanted, is_workload, wanted
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.onlooker import Onlooker
from rayplane.control_plane.scheduler.pods import PodInfo

ZONES_MAX = 100
TIMES_MAX = 10_000.0
PODS_MAX = 500_000
SURVIVE = ("", NODE, "zone")
#: Of what they name something is called, which is not there; and nothing is to be told elsewhere.
_CALLED = frozenset({"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})


class CannotPlan(ClusterError):
    """A manifest that no API server would take, or that asks for more than is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question: how many nodes do `objects` need?

    `times`: so many times as many pods as they say. `zones`: new nodes are spread over so many; 0: over those there
    are. `nodes_max`: all nodes. `survive`: see `plan.Limits`. Empty amounts of new nodes: as the cluster's are.
    """

    objects: Sequence[Object] = ()
    times: float = 1.0
    zones: int = 0
    nodes_max: int = NODES_MAX
    survive: str = ""
    node_cpu: str = ""
    node_memory: str = ""

    def validate(self) -> None:
        """Raises UsageError that names the flag."""
        if self.survive not in SURVIVE:
            raise UsageError(f"--survive {self.survive!r}: use node or zone")
        if not 0 < self.times <= TIMES_MAX:
            raise UsageError(f"--times {self.times:g}: use more than 0, up to {TIMES_MAX:g}")
        if not 0 <= self.zones <= ZONES_MAX:
            raise UsageError(f"--zones {self.zones}: use 1 to {ZONES_MAX}")
        if not 1 <= self.nodes_max <= NODES_MAX:
            raise UsageError(f"--max-nodes {self.nodes_max}: use 1 to {NODES_MAX}")

    def sized(self, config: ClusterConfig) -> ClusterConfig:
        """A cluster's configuration with nodes as asked for. Raises UsageError."""
        config = replace(
            config,
            node_cpu=self.node_cpu or config.node_cpu,
            node_memory=self.node_memory or config.node_memory,
        )
        config.validate()
        return config


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, and what was left out of account, a sentence each."""

    plan: Plan
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.plan.to_json(), "leftOut": self.left_out}


class _Ended(Exception):
    """Nobody waits for the plan any more."""


async def plan_anew(config: ClusterConfig, question: Question) -> Answer:
    """The plan of a cluster that has nothing yet, whose nodes and scheduling are as `config` says.

    Raises UsageError, CannotPlan.
    """
    question.validate()
    async with AsyncFake() as fake:
        asker = _Asker(fake.api, question, question.sized(config))
        await asker.prepare()
        return await asker.answer()


async def plan_beside(api: ApiClient, config: ClusterConfig, question: Question) -> Answer:
    """The plan of what a running cluster needs for the objects beside its own, and for its pods that wait.

    Nothing is written. Raises UsageError, CannotPlan, ApiError.
    """
    question.validate()
    asker = _Asker(api, question, question.sized(config))
    await asker.compare()
    return await asker.answer()


class _Asker:
    def __init__(self, api: ApiClient, question: Question, config: ClusterConfig) -> None:
        self._api, self._question, self._config = api, question, config
        self._workloads = [_placed(one) for one in question.objects if is_workload(one)]
        self._others = [one for one in question.objects if not is_workload(one)]
        self._kinds = builtin_registry()
        self._onlooker = Onlooker(with_profiles(SchedulerConfig(identity="plan"), config))
        self._left_out: dict[str, None] = {}
        self._number = itertools.count()

    async def prepare(self) -> None:
        """Make what pods hang on: namespaces first, then classes and whatever is no workload."""
        said = {meta.name(one) for one in self._others if one.get("kind") == "Namespace"}
        spaces = {meta.namespace(one) or "default" for one in (*self._workloads, *self._others)} - said
        made = [{"metadata": {"name": name}, "kind": "Namespace", "apiVersion": "v1"} for name in sorted(spaces)]
        for obj in sorted([*made, *self._others], key=lambda one: one.get("kind") != "Namespace"):
            resource = self._resource(obj)
            if not resource or obj.get("kind") in _CALLED:
                self._leave_out(f"{_said(obj)}: it is not asked")
                continue
            try:
                await self._api.create(resource, _placed(obj) if self._is_namespaced(obj) else obj)
            except AlreadyExists:
                pass
            except ApiError as e:
                self._leave_out(f"{_said(obj)}: {e.message}")

    async def compare(self) -> None:
        """Say what stands in the cluster already."""
        if kinds := sorted({str(one.get("kind")) for one in self._others}):
            self._leave_out(f"{', '.join(kinds)}: as they are in the cluster")
        left = []
        for obj in self._workloads:
            with contextlib.suppress(NotFound):
                await self._api.get(self._resource(obj), meta.name(obj), meta.namespace(obj))
                if obj.get("kind") == "DaemonSet":
                    self._leave_out(f"{_said(obj)}: it is there already")
                    continue
                self._leave_out(f"{_said(obj)}: it is there already, and these pods would be more")
            left.append(obj)
        self._workloads = left

    async def answer(self) -> Answer:
        onlooker = self._onlooker
        await onlooker.start(self._api)
        try:
            groups = _waiting(onlooker)
            for obj in self._workloads:
                group = await self._group(obj)
                groups.append(group)
                if sum(len(one.pods) for one in groups) > PODS_MAX:
                    raise CannotPlan(f"more than {PODS_MAX} pods: plan a part of them")
        finally:
            # From here on nothing but the plan changes what it saw.
            await onlooker.stop()
        cycle = onlooker.cycle
        if others := sorted({pod.scheduler for pod in cycle.snapshot.pods.values() if not cycle.handles(pod)}):
            self._leave_out(f"where pods of {', '.join(others)} would go when their node is lost")
        return Answer(await self._planned(groups), tuple(self._left_out))

    async def _planned(self, groups: Sequence[Group]) -> Plan:
        nodes, ended = self._onlooker.nodes(), threading.Event()
        like = {} if self._question.node_cpu or self._question.node_memory else nodes

        def check() -> None:
            if ended.is_set():
                raise _Ended

        try:
            return await asyncio.to_thread(
                plan,
                self._onlooker.cycle,
                groups,
                _limits(self._question, nodes.values()),
                template=lambda name, zone: template(self._config, name, zone, like),
                parse=self._onlooker.unbound,
                check=check,
            )
        finally:
            ended.set()

    async def _group(self, obj: Object) -> Group:
        """The pods of a workload, of which an API server sees the first. Raises CannotPlan, ApiError."""
        resource = self._resource(obj)
        try:
            one = wanted(await self._taken(resource, obj), times=self._question.times)
            if one.count > PODS_MAX:
                raise CannotPlan(f"{_said(obj)}: more than {PODS_MAX} pods: plan a part of them")
            pod = await self._taken("pods", await self._without_claims(obj, one.pod))
            if (await self._api.list("resourcequotas", meta.namespace(pod), limit=1)).items:
                self._leave_out(f"quotas of {meta.namespace(pod)}, but for the first pod of each workload")
        except NotFound as e:
            raise CannotPlan(f"{_said(obj)}: {e.message}: create it first, or plan without --running") from e
        except ApiError as e:
            raise CannotPlan(f"{_said(obj)}: {e.message}") from e
        return self._group_of(obj, one, pod)

    def _group_of(self, obj: Object, one: Wanted, pod: Object) -> Group:
        spec = meta.spec(pod)
        sample = self._read(pod, meta.name(obj), spec)
        if sample is not None and not self._onlooker.cycle.handles(sample):
            raise CannotPlan(f"{_said(obj)}: no profile is named {sample.scheduler!r}: give --scheduler-config")
        if one.set_of is not None:

            def on(node: Object) -> PodInfo | None:
                own = one.on(node)
                name = f"{meta.name(obj)}-planned-{meta.name(node)}"
                return self._read(pod, name, {**spec, "affinity": meta.spec(own)["affinity"]}) if own else None

            return Group((), on)
        names = (f"{meta.name(obj)}-planned-{next(self._number)}" for _ in range(one.count))
        return Group([found for name in names if (found := self._read(pod, name, spec)) is not None])

    def _read(self, pod: Object, name: str, spec: Object) -> PodInfo | None:
        return self._onlooker.read({**pod, "metadata": {**meta.metadata(pod), "name": name, "uid": name}, "spec": spec})

    async def _taken(self, resource: str, obj: Object) -> Object:
        """An object as it would be stored under a name that nothing has yet. Raises ApiError."""
        own = {key: value for key, value in meta.metadata(obj).items() if key != "name"}
        named = {**obj, "metadata": {**own, "generateName": f"{meta.name(obj) or 'planned'}-"}}
        taken = await self._api.create(resource, named, dry_run=True)
        return {**taken, "metadata": {**meta.metadata(taken), "name": meta.name(obj)}}

    async def _without_claims(self, obj: Object, pod: Object) -> Object:
        """The pod with room of its node in place of volumes that are not there yet."""
        spec, volumes, gone = meta.spec(pod), [], False
        for volume in spec.get("volumes") or ():
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if "ephemeral" in volume or (name and not await self._is_bound(name, meta.namespace(pod))):
                volume, gone = {"name": volume.get("name"), "emptyDir": {}}, True
            volumes.append(volume)
        if gone:
            self._leave_out(f"{_said(obj)}: room for its volumes")
        return {**pod, "spec": {**spec, "volumes": volumes}} if gone else pod

    async def _is_bound(self, claim: str, namespace: str) -> bool:
        try:
            found = await self._api.get("persistentvolumeclaims", claim, namespace)
        except NotFound:
            return False
        return meta.status(found).get("phase") == "Bound"

    def _leave_out(self, what: str) -> None:
        self._left_out[what] = None

    def _resource(self, obj: Object) -> str:
        """Name of the resource; empty for a kind that is not built in."""
        info = self._kinds.by_kind(str(obj.get("apiVersion")), str(obj.get("kind")))
        return f"{info.plural}.{info.version}.{info.group}".rstrip(".") if info is not None else ""

    def _is_namespaced(self, obj: Object) -> bool:
        info = self._kinds.by_kind(str(obj.get("apiVersion")), str(obj.get("kind")))
        return info is not None and info.namespaced


def _limits(question: Question, nodes: Iterable[Object]) -> Limits:
    there = sorted({meta.labels(node).get(ZONE, "") for node in nodes})
    zones = tuple(f"zone-{i}" for i in range(question.zones)) or tuple(there) or ("",)
    if question.survive not in ("", NODE) and len(zones) < 2:
        raise UsageError("--survive zone: nodes of one zone cannot; say --zones, two at least")
    return Limits(nodes_max=question.nodes_max, zones=zones, survive=question.survive)


def _waiting(onlooker: Onlooker) -> list[Group]:
    """The pods without a node, those that are alike together."""
    alike: dict[tuple[str, int], list[PodInfo]] = {}
    for pod in onlooker.pending():
        alike.setdefault((workload_of(pod.obj), id(pod.shape)), []).append(pod)
    return [Group(pods) for pods in alike.values()]


def _placed(obj: Object) -> Object:
    """In the namespace where `kubectl apply` would make it."""
    own = meta.metadata(obj)
    return {**obj, "metadata": {**own, "namespace": own.get("namespace") or "default"}}


def _said(obj: Object) -> str:
    space = meta.namespace(obj)
    return "/".join(part for part in (str(obj.get("kind")), space, meta.name(obj)) if part)

"""The shell of a plan: pods as an API server would store them, what the scheduler would see there, and the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from rayplane.control_plane.planning.workloads import Wanted, wanted
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.onlooker import Onlooker
from rayplane.control_plane.scheduler.pods import PodInfo

ZONES_MAX = 100
TIMES_MAX = 10_000.0
PODS_MAX = 500_000
SURVIVE = ("", NODE, "zone")


class CannotPlan(ClusterError):
    """A manifest that no API server would take, or that asks for more than is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question: how many nodes do `objects` need?

    `times`: so many times as many pods as they say. `zones`: new nodes are spread over so many; 0: over those there
    are. `nodes_max`: all nodes. `survive`: see `plan.Limits`.
    """

    objects: Sequence[Object] = ()
    times: float = 1.0
    zones: int = 0
    nodes_max: int = NODES_MAX
    survive: str = ""

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


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, and what was left out of account, a sentence each."""

    plan: Plan
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.plan.to_json(), "leftOut": self.left_out}


async def plan_anew(config: ClusterConfig, question: Question) -> Answer:
    """The plan of a cluster that has nothing yet, whose nodes and scheduling are as `config` says.

    Raises UsageError, CannotPlan.
    """
    config.validate()
    question.validate()
    async with AsyncFake() as fake:
        groups, others = wanted(question.objects, times=question.times)
        left_out = await _prepare(fake.api, groups, others)
        return await _answered(fake.api, config, question, groups, left_out)


async def plan_beside(api: ApiClient, config: ClusterConfig, question: Question) -> Answer:
    """The plan of what a running cluster needs for the objects beside its own, and for its pods that wait.

    Nothing is written. Raises UsageError, CannotPlan, ApiError.
    """
    question.validate()
    groups, others = wanted(question.objects, times=question.times)
    kinds = sorted({str(one.get("kind")) for one in others})
    left_out = [f"{', '.join(kinds)}: counted as they are in the cluster"] if kinds else []
    return await _answered(api, config, question, groups, left_out)


async def _prepare(api: ApiClient, groups: Iterable[Wanted], others: Sequence[Object]) -> list[str]:
    """Make what pods hang on: namespaces first, then classes and whatever is no workload."""
    kinds, left_out = builtin_registry(), list[str]()
    spaces = {meta.namespace(one) or "default" for one in (*(group.pod for group in groups), *others)}
    said = {meta.name(one) for one in others if one.get("kind") == "Namespace"}
    made = [{"metadata": {"name": name}, "kind": "Namespace", "apiVersion": "v1"} for name in sorted(spaces - said)]
    for obj in sorted([*made, *others], key=lambda one: one.get("kind") != "Namespace"):
        info = kinds.by_kind(str(obj.get("apiVersion")), str(obj.get("kind")))
        if info is None:
            left_out.append(f"{_said(obj)}: a kind that is not built in")
            continue
        space = {"namespace": meta.namespace(obj) or "default"} if info.namespaced else {}
        try:
            await api.create(
                f"{info.plural}.{info.version}.{info.group}".rstrip("."),
                {**obj, "metadata": {**meta.metadata(obj), **space}},
            )
        except AlreadyExists:
            pass
        except ApiError as e:
            left_out.append(f"{_said(obj)}: {e.message}")
    return left_out


async def _answered(
    api: ApiClient, config: ClusterConfig, question: Question, groups: Sequence[Wanted], left_out: list[str]
) -> Answer:
    onlooker = Onlooker(with_profiles(SchedulerConfig(identity="plan"), config))
    await onlooker.start(api)
    try:
        found = _waiting(onlooker)
        for one in groups:
            if sum(len(group.pods) for group in found) + one.count > PODS_MAX:
                raise CannotPlan(f"more than {PODS_MAX} pods: plan a part of them")
            found.append(_group(onlooker, one, await _admitted(api, one, left_out)))
    finally:
        # From here on nothing but the plan changes what it saw.
        await onlooker.stop()
    nodes = onlooker.nodes()
    limits = _limits(question, nodes.values())
    made = await asyncio.to_thread(
        plan,
        onlooker.cycle,
        found,
        limits,
        template=lambda name, zone: template(config, name, zone, nodes),
        parse=onlooker.unbound,
    )
    return Answer(made, tuple(left_out))


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


async def _admitted(api: ApiClient, one: Wanted, left_out: list[str]) -> Object:
    """The first pod of a workload as it would be stored. Raises CannotPlan, ApiError."""
    pod = await _without_claims(api, one.pod, left_out)
    try:
        return await api.create("pods", pod, dry_run=True)
    except NotFound as e:
        raise CannotPlan(f"{workload_of(one.pod)}: {e.message}: create it first, or plan without --running") from e
    except ApiError as e:
        raise CannotPlan(f"{workload_of(one.pod)}: {e.message}") from e


async def _without_claims(api: ApiClient, pod: Object, left_out: list[str]) -> Object:
    """The pod with room of its node in place of volumes that are not there yet."""
    spec, volumes, gone = meta.spec(pod), [], False
    for volume in spec.get("volumes") or ():
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if "ephemeral" in volume or (name and not await _is_bound(api, name, meta.namespace(pod))):
            volume, gone = {"name": volume.get("name"), "emptyDir": {}}, True
        volumes.append(volume)
    if not gone:
        return pod
    left_out.append(f"{workload_of(pod)}: room for its volumes")
    return {**pod, "spec": {**spec, "volumes": volumes}}


async def _is_bound(api: ApiClient, claim: str, namespace: str) -> bool:
    try:
        found = await api.get("persistentvolumeclaims", claim, namespace)
    except NotFound:
        return False
    return meta.status(found).get("phase") == "Bound"


def _group(onlooker: Onlooker, one: Wanted, pod: Object) -> Group:
    """The workload's pods, of which an API server has seen the first."""

    def read(name: str, spec: Object) -> PodInfo | None:
        key = f"{workload_of(pod)}/{name}"
        return onlooker.read({**pod, "metadata": {**meta.metadata(pod), "name": name, "uid": key}, "spec": spec})

    spec = meta.spec(pod)
    if one.set_of is not None:
        owner = meta.name(one.set_of)

        def on(node: str) -> PodInfo | None:
            return read(f"{owner}-{node}", {**spec, "affinity": meta.spec(one.on(node))["affinity"]})

        return Group((), on)
    base = meta.name(pod)
    return Group([found for i in range(one.count) if (found := read(f"{base}-{i}", spec)) is not None])


def _said(obj: Object) -> str:
    return f"{obj.get('kind')} {meta.name(obj)}"

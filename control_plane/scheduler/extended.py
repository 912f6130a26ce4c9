"""The way of the pods in which HTTP extenders have a say: beside the loop, so that others do not wait for theirs.

The plug-ins say which nodes will do, extenders leave out some of these, in their order, and score the rest; then the
pod is assumed on the best one that still does, as the world may have moved. Where none does any more, all is asked
again, a few times. Many pods are on this way at the same time, at most `AT_ONCE_MAX`; more wait for their turn in the
order in which the queue gave them.

Where an extender fails that cannot be ignored, its words are the pod's error, and it tries again after its back-off.

Source: KEP-1819; Kubernetes "Scheduler extender".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.cycle import Cycle, Explanation, Failure, NodeExplanation, Placement, fault
from rayplane.control_plane.scheduler.extenders import Extender, ExtenderError, Filtered, Victims
from rayplane.control_plane.scheduler.plugins import Refusal
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.preemption import Candidate, Preemption, choose, importance
from rayplane.control_plane.scheduler.queue import Place, SchedulingQueue

if TYPE_CHECKING:
    from rayplane.control_plane.scheduler.extender_client import ExtenderClient

log = logging.getLogger(__name__)

AT_ONCE_MAX = 16
ROUNDS_MAX = 3
EXTENDER = "Extender"
"""In place of a plug-in: an extender refused a node. Any event may help then."""
NO_CANDIDATE = "preemption: no candidate node for preemption"
Decided = Callable[[Placement | Failure, Explanation | None], None]
_Scores = dict[str, dict[str, float]]


def clients_of(extenders: Sequence[Extender]) -> list[ExtenderClient]:
    """A client for each; aiohttp is imported where there are any."""
    if not extenders:
        return []
    from rayplane.control_plane.scheduler.extender_client import ExtenderClient

    return [ExtenderClient(one) for one in extenders]


class ExtendedScheduling:
    """The extenders of one term, and the pods that are on their way past them."""

    def __init__(
        self, clients: Sequence[ExtenderClient], cycle: Cycle, queue: SchedulingQueue, *, decided: Decided
    ) -> None:
        """`decided` is told each decision; a placed pod is assumed in the snapshot by then."""
        self._clients = clients
        self._cycle = cycle
        self._queue = queue
        self._decided = decided
        self._waiting: deque[PodInfo] = deque()
        self._workers = 0

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    def take(self, tasks: asyncio.TaskGroup, pods: list[PodInfo]) -> list[PodInfo]:
        """Start on the pods in which extenders have a say; the others."""
        if not self._clients:
            return pods
        others = []
        for pod in pods:
            if self._interested(pod):
                self._waiting.append(pod)
            else:
                others.append(pod)
        for _ in range(min(len(self._waiting), AT_ONCE_MAX - self._workers)):
            self._workers += 1
            tasks.create_task(self._work())
        return others

    def concern(self, pod: PodInfo) -> bool:
        """Whether extenders have a say in the pod."""
        return bool(self._interested(pod))

    def _interested(self, pod: PodInfo) -> list[ExtenderClient]:
        return [client for client in self._clients if client.extender.is_interested(pod.obj)]

    async def _work(self) -> None:
        try:
            while self._waiting:
                pod = self._waiting.popleft()
                decision, detail = await self._guarded(pod)
                if decision is not None:
                    self._decided(decision, detail)
        finally:
            self._workers -= 1

    async def _guarded(self, pod: PodInfo) -> tuple[Placement | Failure | None, Explanation | None]:
        try:
            found = await self._decide(pod)
        except ExtenderError as e:
            found = Failure(pod, str(e), is_fault=True), None
        except Exception as e:  # whatever it is, it is wrong with this pod and must not end the term
            found = fault(pod, e), None
        return found if self._is_wanted(pod) else (None, None)

    def _is_wanted(self, pod: PodInfo) -> bool:
        """Whether the pod still waits for this decision: it may be gone, or have a node by others."""
        queued = self._queue.find(pod.key)
        return queued is not None and queued.pod.uid == pod.uid and queued.place is Place.IN_FLIGHT

    # -- one pod -------------------------------------------------------------------------------------------

    async def _decide(self, pod: PodInfo) -> tuple[Placement | Failure | None, Explanation | None]:
        clients, detail = self._interested(pod), None
        for _ in range(ROUNDS_MAX):
            if not self._is_wanted(pod):
                return None, None
            detail = self._cycle.explain(pod)
            names = [one.node for one in detail.nodes if one.refusal is None]
            if not names:
                return await self._refused_by_plugins(pod, clients, detail), detail
            nominated = self._cycle.nominated_node(pod.key) or pod.nominated
            if nominated in names and await self._admits(pod, clients, nominated):
                placement = self._place(pod, [nominated])
                if placement is not None:
                    return placement, detail
            names, refusals = await self._filtered(pod, clients, names)
            detail = _refused(detail, refusals)
            if not names:
                return await self._failure(pod, clients, detail), detail
            scores = await self._scores(pod, clients, names)
            placement = self._place(pod, sorted(scores, key=lambda name: (-sum(scores[name].values()), name)))
            if placement is not None:
                return placement, _scored(detail, scores)
        return Failure(pod, "all nodes that extenders chose were taken meanwhile", is_fault=True), detail

    def _place(self, pod: PodInfo, nodes: Sequence[str]) -> Placement | None:
        return self._cycle.place(pod, nodes) if self._is_wanted(pod) else None

    def _objects(self, names: Iterable[str]) -> Mapping[str, object]:
        known = self._cycle.cluster.node_objects
        return {name: known[name] for name in names if name in known}

    async def _admits(self, pod: PodInfo, clients: Sequence[ExtenderClient], node: str) -> bool:
        """Whether all let the pod go to the node that was kept for it; where one fails all nodes are looked at."""
        try:
            return bool((await self._filtered(pod, clients, [node]))[0])
        except ExtenderError as e:
            log.info("pod %s: its nominated node %s: %s", pod.key, node, e)
            return False

    async def _filtered(
        self, pod: PodInfo, clients: Sequence[ExtenderClient], names: list[str]
    ) -> tuple[list[str], dict[str, Refusal]]:
        """The nodes that all let through, and why others are not. ExtenderError."""
        refusals: dict[str, Refusal] = {}
        for client in clients:
            if not names:
                break
            if not client.extender.filter_verb:
                continue
            try:
                said = await client.filter(pod.obj, self._objects(names))
            except ExtenderError as e:
                if not client.extender.ignorable:
                    raise
                log.info("pod %s: an extender is passed over: %s", pod.key, e)
                continue
            refusals.update({n: _refusal(client.extender, said, n) for n in names if n not in said.nodes})
            names = [name for name in names if name in said.nodes]
        return names, refusals

    async def _scores(self, pod: PodInfo, clients: Sequence[ExtenderClient], names: Iterable[str]) -> _Scores:
        """By node that still does and by who gave it. An extender that fails gives none."""
        scores = self._cycle.scores(pod, names)
        asked = [client for client in clients if client.extender.prioritize_verb]
        if len(scores) < 2 or not asked:
            return scores
        objects = self._objects(scores)
        answers = await asyncio.gather(*(self._prioritized(client, pod, objects) for client in asked))
        for client, given in zip(asked, answers, strict=True):
            for name, score in given.items():
                scores[name][_name(client.extender)] = float(score)
        return scores

    async def _prioritized(
        self, client: ExtenderClient, pod: PodInfo, nodes: Mapping[str, object]
    ) -> Mapping[str, int]:
        try:
            return await client.prioritize(pod.obj, nodes)
        except ExtenderError as e:
            log.info("pod %s: an extender gives no scores: %s", pod.key, e)
            return {}

    async def _refused_by_plugins(
        self, pod: PodInfo, clients: Sequence[ExtenderClient], detail: Explanation
    ) -> Placement | Failure:
        decision = self._cycle.schedule([pod])[0]
        if isinstance(decision, Placement) or decision.preemption is None:
            return decision
        if not any(client.extender.preempt_verb for client in clients):
            return decision
        found = await self._preemption(pod, clients, _helpful(detail))
        if isinstance(found, str):
            after = self._cycle.after_filters(pod, found, decision.plugins)
            return replace(decision, message=f"{decision.message} {after}", preemption=None)
        return replace(decision, preemption=found)

    async def _failure(self, pod: PodInfo, clients: Sequence[ExtenderClient], detail: Explanation) -> Failure:
        """No node is left; deleting pods may help on those of which nobody said that it does not."""
        refusals = [one.refusal for one in detail.nodes if one.refusal is not None]
        found = await self._preemption(pod, clients, _helpful(detail))
        reasons = Counter(reason for refusal in refusals for reason in refusal.reasons)
        blamed = frozenset(refusal.plugin.partition(" ")[0] for refusal in refusals)
        message = report.fit_error(len(detail.nodes), reasons, after=self._cycle.after_filters(pod, found, blamed))
        return Failure(pod, message, None if isinstance(found, str) else found, plugins=blamed)

    async def _preemption(
        self, pod: PodInfo, clients: Sequence[ExtenderClient], nodes: Sequence[str]
    ) -> Preemption | str:
        """Whom to delete, as extenders agree, or the sentence that says why nobody is."""
        asked = [client for client in clients if client.extender.preempt_verb]
        if not asked:
            return self._cycle.preempt(pod, nodes)
        found = self._cycle.candidates(pod, nodes)
        if isinstance(found, str):
            return found
        for client in asked:
            if not found:
                break
            try:
                found = await self._agreed(pod, client, found)
            except ExtenderError as e:
                if not client.extender.ignorable:
                    return f"preemption: {e}"
                log.info("pod %s: an extender is passed over: %s", pod.key, e)
        chosen = choose(found)
        return self._cycle.whole(chosen) if chosen is not None else NO_CANDIDATE

    async def _agreed(
        self, pod: PodInfo, client: ExtenderClient, candidates: Mapping[str, Candidate]
    ) -> dict[str, Candidate]:
        """The candidates that an extender leaves, with the victims that it wants. ExtenderError."""
        told = {node: Victims([v.obj for v in one.victims], one.breaking) for node, one in candidates.items()}
        found: dict[str, Candidate] = {}
        for node, (uids, breaking) in (await client.preempt(pod.obj, told)).items():
            victims = tuple(sorted((self._pod_on(node, uid, client.extender) for uid in uids), key=importance))
            if not victims and candidates[node].victims:
                if not client.extender.ignorable:
                    raise ExtenderError(f'expected at least one victim pod on node "{node}"')
                continue
            found[node] = Candidate(victims, breaking)
        return found

    def _pod_on(self, node: str, uid: str, extender: Extender) -> PodInfo:
        """ExtenderError when it is not there."""
        for one in self._cycle.snapshot.pods_on(node).values():
            if one.uid == uid:
                return one
        text = f"claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
        raise ExtenderError(f"extender: {extender.url} {text}")

    # -- binding -------------------------------------------------------------------------------------------

    def binds(self, pod: PodInfo) -> bool:
        """Whether an extender binds the pod."""
        return any(client.extender.bind_verb for client in self._interested(pod))

    async def bind(self, placement: Placement) -> bool:
        """Have an extender bind the pod; whether one did. ExtenderError."""
        for client in self._interested(placement.pod):
            if not client.extender.bind_verb:
                continue
            try:
                await client.bind(placement.pod.obj, placement.node)
            except ExtenderError as e:
                if not client.extender.ignorable:
                    raise
                log.info("pod %s: an extender does not bind it: %s", placement.pod.key, e)
                continue
            return True
        return False


def _name(extender: Extender) -> str:
    return f"{EXTENDER} {extender.url}"


def _helpful(detail: Explanation) -> list[str]:
    """Nodes where deleting pods may help."""
    return [one.node for one in detail.nodes if one.refusal is not None and one.refusal.resolvable]


def _refusal(extender: Extender, said: Filtered, node: str) -> Refusal:
    """What keeps a pod off a node; of one without a word nothing is known that would help."""
    final = said.unresolvable.get(node)
    if final is not None:
        return Refusal(_name(extender), (final,), False)
    reason = said.failed.get(node)
    return Refusal(_name(extender), () if reason is None else (reason,), reason is not None)


def _refused(detail: Explanation, refusals: Mapping[str, Refusal]) -> Explanation:
    """What plug-ins and extenders say of each node."""
    nodes = (NodeExplanation(n.node, refusals[n.node]) if n.node in refusals else n for n in detail.nodes)
    return replace(detail, nodes=tuple(nodes))


def _scored(detail: Explanation, scores: _Scores) -> Explanation:
    """With the scores that counted."""
    nodes = (
        replace(n, scores=scores[n.node], total=sum(scores[n.node].values())) if n.node in scores else n
        for n in detail.nodes
    )
    return replace(detail, nodes=tuple(nodes))

"""Explaining decisions: those that were taken, and the one that would be taken now.

Owns the log of decisions of one term. What it tells is computed between two turns of the loop, from what the loop has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.scheduler.cycle import Cycle, Explanation, Failure, Placement
from rayplane.control_plane.scheduler.decisions import Budget, DecisionLog, told
from rayplane.control_plane.scheduler.framework import PluginError
from rayplane.control_plane.scheduler.gangs import GroupCycle, Verdict
from rayplane.control_plane.scheduler.pods import PodInfo, unbound
from rayplane.control_plane.scheduler.queue import Place, QueuedPod, SchedulingQueue
from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb
from rayplane.storage.env import Env

log = logging.getLogger(__name__)
Timed = tuple[Verdict, float]
"""What became of a pod group, and the seconds that it took to find out."""


class Explainer:
    """An explainer of one term's decisions."""

    def __init__(
        self,
        cycle: Cycle,
        queue: SchedulingQueue,
        env: Env,
        *,
        groups: GroupCycle,
        parse: Callable[[Object], PodInfo | None],
        extended: Callable[[PodInfo], bool],
    ) -> None:
        """`extended`: whether extenders have a say in a pod. What they would say now is not asked."""
        self._cycle = cycle
        self._queue = queue
        self._env = env
        self._groups = groups
        self._parse = parse
        self._extended = extended
        self._budget = Budget(_now())
        self.past = DecisionLog()

    def decide(self, taken: Iterable[Sequence[PodInfo]]) -> tuple[list[Placement | Failure], list[Timed]]:
        """Decide pods in order, as the cycle does, those of a pod group together, and remember why."""
        decisions: list[Placement | Failure] = []
        verdicts: list[Timed] = []
        stamp = self._env.timestamp()
        for pods in taken:
            detail = self._detail(pods[0])
            if pods[0].group:
                began, together = _now(), self._groups.schedule(pods)
                decided = together.decisions
                if together.verdict is not None:
                    verdicts.append((together.verdict, _now() - began))
            else:
                decided = self._cycle.schedule(pods)
            before = _now()
            for decision in decided:
                self.past.add(decision, stamp, detail if decision.pod is pods[0] else None)
            if detail is not None:
                self._budget.spend(_now() - before)
            decisions += decided
        return decisions, verdicts

    def remember(self, decision: Placement | Failure, detail: Explanation | None) -> None:
        """Remember a decision that was taken elsewhere, and what was known of each node, as long as there is time."""
        before = _now()
        self.past.add(decision, self._env.timestamp(), detail if self._budget.allows(before) else None)
        self._budget.spend(_now() - before)

    def _detail(self, pod: PodInfo) -> Explanation | None:
        """What is known of each node, as long as there is time for it."""
        before = _now()
        if not self._budget.allows(before):
            return None
        try:
            return self._cycle.explain(pod)
        except Exception:  # what is wrong with the pod is the decision's to tell
            log.debug("pod %s cannot be explained", pod.key, exc_info=True)
            return None
        finally:
            self._budget.spend(_now() - before)

    def explain(self, key: str) -> pb.ExplainResponse | None:
        """All there is to say of a pod; None when there is none."""
        queued, placed = self._queue.find(key), self._cycle.snapshot.pods.get(key)
        pod = queued.pod if queued is not None else placed
        if pod is None:
            return None
        answer = pb.ExplainResponse(past=self.past.of(key, pod.uid))
        if placed is not None:
            answer.node = placed.node
        elif queued is not None:
            answer.queue, answer.attempts = queued.place.value, queued.attempts
            waits = {queued.gate.plugin} if queued.gate else queued.plugins
            if queued.place in (Place.GATED, Place.UNSCHEDULABLE, Place.BACKOFF):
                answer.waits_for.extend(sorted(plugin for plugin in waits if plugin))
        pending = self._pending(pod)
        if pending is not None and self._cycle.handles(pending):
            try:
                answer.now.CopyFrom(told(self._now(pending)))
                if queued is not None and (message := self._together(queued)):
                    answer.now.node, answer.now.message = "", message
                if answer.now.node and self._extended(pending):
                    alone = f"as its extenders say, which are not asked here; plug-ins alone: {answer.now.node}"
                    answer.now.node, answer.now.message = "", alone
            except PluginError as e:
                answer.now.message = str(e)
        return answer

    def _together(self, queued: QueuedPod) -> str:
        """Why a pod of a group gets no node now, whatever it would get by itself; empty when nothing is against it."""
        if queued.gate is not None and queued.gate.message:
            return queued.gate.message
        waiting = self._queue.waiting(queued.pod.group)
        return self._groups.explain(waiting) if waiting else ""

    def _pending(self, pod: PodInfo) -> PodInfo | None:
        """The pod as it was before it had a node."""
        return self._parse(unbound(pod.obj))

    def _now(self, pod: PodInfo) -> Explanation:
        snapshot = self._cycle.snapshot
        known = snapshot.remove_pod(pod.key)
        try:
            return self._cycle.explain(pod)
        finally:
            if known is not None:
                snapshot.set_pod(known)


class ExplainService:
    """The service `rayplane.v1.Scheduler`. `leading`: the explainer, None on a replica that does not lead."""

    def __init__(self, leading: Callable[[], Explainer | None]) -> None:
        self._leading = leading

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        explainer = self._leading()
        if explainer is None:
            raise RpcError(Code.FAILED_PRECONDITION, "this scheduler does not lead; ask the others")
        pod = {"metadata": {"namespace": request.namespace, "name": request.name}}
        found = explainer.explain(meta.key(pod))
        if found is None:
            key = f"{request.namespace}/{request.name}"
            raise RpcError(Code.NOT_FOUND, f"no pod {key} here: there is none, it ended, or names another scheduler")
        return found


def _now() -> float:
    return asyncio.get_running_loop().time()

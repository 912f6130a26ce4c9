"""Player of stages on the pods of one node: chooses the next one, waits for its time, carries it out.

The rules are `control_plane.stages`' and pure; this is the loop around them. A pod has one stage before it at a time,
which stays chosen as long as it matches. A stage that writes a status takes the pod over (`StagedPod`); one that only
tells, makes or changes other things leaves it to its worker. What fails is told by an Event on the pod, and tried again
when the pod has changed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.choice import Transition, next_transition
from rayplane.control_plane.stages.effects import ChangeObject, Effect, MakeObject, WriteStatus, play
from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.pace import UNDELAYED_MAX, Pace
from rayplane.control_plane.stages.stage import Delete, Stage, Tell
from rayplane.control_plane.stages.templates import Given
from rayplane.node.events import Events
from rayplane.node.kubelet.account_writes import AccountWrites
from rayplane.node.kubelet.pod_worker import PodWorker
from rayplane.node.kubelet.stage_catalog import StageCatalog
from rayplane.node.kubelet.staged_pod import StagedPod
from rayplane.node.tasks import Tasks
from rayplane.storage.env import Env

Worker = PodWorker | StagedPod


class Pods(Protocol):
    """The pods of a node, as a player needs them."""

    def staged(self, uid: str) -> StagedPod | None:
        """The pod as one whose life stages decide, taken over if need be; None when it is gone."""

    def worker_of(self, uid: str) -> Worker | None: ...

    def given(self, address: Callable[[], str]) -> Given:
        """The functions for templates."""


@dataclass(frozen=True, slots=True)
class PlayerParts:
    """Parts that the players of one host share."""

    catalog: StageCatalog
    writes: AccountWrites
    env: Env
    events: Events
    tasks: Tasks


@dataclass(slots=True)
class _Ahead:
    """A pod's way: the stage that is before it, and those behind it."""

    pace: Pace = field(default_factory=Pace)
    chosen: Transition | None = None
    timer: asyncio.TimerHandle | None = None
    seen: str = ""
    """The version of the pod on which a stage was played last."""
    played: str = ""
    """The name of that stage."""
    busy: bool = False
    """Whether something is being written in its account's name."""


class StagePlayer:
    """The player of one node's pods. `look` at each that is new or has changed."""

    def __init__(self, parts: PlayerParts, pods: Pods) -> None:
        self._parts = parts
        self._pods = pods
        self._ahead: dict[str, _Ahead] = {}  # by uid

    @property
    def active(self) -> bool:
        """Tells whether there is any stage for pods."""
        return bool(self._parts.catalog.pods)

    def begins(self, pod: Object) -> bool:
        """Whether a stage is for a pod as it is now."""
        return any(stage.matches(pod) for stage in self._parts.catalog.pods)

    def forget(self, uid: str) -> None:
        ahead = self._ahead.pop(uid, None)
        if ahead is not None and ahead.timer is not None:
            ahead.timer.cancel()

    def close(self) -> None:
        for uid in [*self._ahead]:
            self.forget(uid)

    def look_anew(self, worker: Worker) -> None:
        """As `look`, since the stages have changed: what was played on the pod as it is is not played again."""
        self.look(worker, anew=True)

    def look(self, worker: Worker, *, again: bool = False, anew: bool = False) -> None:
        """Choose what comes next, unless it is chosen already. `again`: though the pod is as it was."""
        pod, uid = worker.pod, meta.uid(worker.pod)
        ahead = self._ahead.get(uid)
        if ahead is None:
            ahead = self._ahead[uid] = _Ahead()
        if ahead.busy:
            return
        stages = self._parts.catalog.pods
        if ahead.chosen is not None:
            if ahead.chosen.stage in stages and ahead.chosen.stage.matches(pod):
                return
            self._drop(ahead)
        seen = meta.resource_version(pod) == ahead.seen
        if not again and ((isinstance(worker, StagedPod) and not worker.settled) or (seen and not anew)):
            return
        if seen and anew:
            stages = tuple(stage for stage in stages if stage.name != ahead.played)
        chosen = next_transition(stages, pod, self._parts.env.clock.now(), self._parts.env.rng.random)
        if chosen is not None:
            self._choose(uid, ahead, chosen, pod)
        elif isinstance(worker, StagedPod) and meta.is_deleting(pod):
            worker.end()

    def _choose(self, uid: str, ahead: _Ahead, chosen: Transition, pod: Object) -> None:
        delay_s, held = ahead.pace.paced(chosen.delay_s)
        if held:
            text = (
                f"{UNDELAYED_MAX} stages followed each other without a delay, now {chosen.stage.name}: give one of "
                f"them a delay; the next is played in {delay_s:.0f} s"
            )
            self._parts.events.record(pod, "Warning", "StagesLoop", text)
        ahead.chosen = chosen
        # Also without a delay not within this call: whoever changes an object is not done with it yet.
        ahead.timer = asyncio.get_running_loop().call_later(delay_s, self._due, uid, chosen.stage)

    def _drop(self, ahead: _Ahead) -> None:
        if ahead.timer is not None:
            ahead.timer.cancel()
        ahead.chosen = ahead.timer = None

    # --- its time has come ------------------------------------------------------------------------

    def _due(self, uid: str, stage: Stage) -> None:
        ahead, worker = self._ahead.get(uid), self._pods.worker_of(uid)
        if ahead is None or worker is None:
            return
        self._drop(ahead)
        pod = worker.pod
        if not stage.matches(pod):
            self.look(worker)
            return
        ahead.seen, ahead.played = meta.resource_version(pod), stage.name
        try:
            effects = play(stage, pod, self._pods.given(lambda: self._address(uid)))
        except Failed as e:
            self._failed(pod, stage, str(e))
            return
        if any(isinstance(one, ChangeObject | MakeObject) for one in effects):
            ahead.busy = True
            work = self._carry_out(uid, stage, effects, pod)
            self._parts.tasks.spawn(work, f"stage {stage.name} of {meta.key(pod)}")
            return
        for effect in effects:
            self._do(uid, stage, effect, pod)
        self._played(uid, stage, effects)

    def _address(self, uid: str) -> str:
        worker = self._pods.staged(uid)
        return worker.address() if worker is not None else ""

    async def _carry_out(self, uid: str, stage: Stage, effects: list[Effect], pod: Object) -> None:
        try:
            for effect in effects:
                if isinstance(effect, ChangeObject | MakeObject):
                    await self._parts.writes.carry_out(pod, effect)
                else:
                    self._do(uid, stage, effect, pod)
        except ApiError as e:
            account = pod["spec"].get("serviceAccountName") or "default"
            self._failed(pod, stage, f"as service account {account}: {e.message}")
            effects = []
        finally:
            if uid in self._ahead:
                self._ahead[uid].busy = False
        self._played(uid, stage, effects)

    def _do(self, uid: str, stage: Stage, effect: Effect, pod: Object) -> None:
        if isinstance(effect, Tell):
            self._parts.events.record(pod, effect.type, effect.reason, effect.message)
            return
        worker = self._pods.staged(uid)
        if worker is None:
            return
        if isinstance(effect, WriteStatus):
            if effect.status != meta.status(worker.pod):
                worker.write(effect.status, stage.name)
        elif isinstance(effect, Delete):
            worker.end()

    def _played(self, uid: str, stage: Stage, effects: list[Effect]) -> None:
        worker, ahead = self._pods.worker_of(uid), self._ahead.get(uid)
        if worker is None or ahead is None:
            return
        changed = isinstance(worker, StagedPod) and not worker.settled
        self.look(worker, again=stage.immediate and changed and any(isinstance(one, WriteStatus) for one in effects))

    def _failed(self, pod: Object, stage: Stage, why: str) -> None:
        self._parts.events.record(pod, "Warning", "StageFailed", f"Stage {stage.name}: {why}")

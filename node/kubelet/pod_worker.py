"""Pod worker: carries out what the life cycle of one pod asks for, and tells it what came of it.

All on the event loop. Events are worked off in the order they came; an event that arises while effects are carried
out waits for its turn, so the life cycle is never entered twice. A simulated pod whose start needs no look-up goes
from seen to ready within one call.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import part_of
from rayplane.node.errors import ContainerConfigError, NodeError
from rayplane.node.images.containers import ContainerImage
from rayplane.node.images.errors import ImageError
from rayplane.node.kubelet import attendance, housing
from rayplane.node.kubelet.admission import Room
from rayplane.node.kubelet.image_manager import not_started
from rayplane.node.kubelet.run_listener import RunListener
from rayplane.node.kubelet.sandbox import Sandbox, needs_lookup
from rayplane.node.kubelet.status_manager import Written
from rayplane.node.kubelet.worker_parts import WorkerParts
from rayplane.node.lifecycle import (
    DeadlineChanged,
    Effect,
    EphemeralAdded,
    Event,
    FinalizePod,
    HoldResources,
    Moment,
    PodMachine,
    PrepareSandbox,
    Record,
    Rejected,
    ResourcesHeld,
    RunHook,
    SetTimer,
    StartContainer,
    StartFailed,
    StartProbe,
    StopContainer,
    StopRequested,
    TearDown,
    TimerFired,
    Vanished,
    grace_left,
    injected,
    render_status,
    suspensions,
)
from rayplane.node.lifecycle.model import Run, Stage
from rayplane.node.runtime import ContainerRun, StartOrder

log = logging.getLogger(__name__)


class PodWorker:
    """A worker that drives one `PodMachine`.

    `pod` is the API object as last seen (shared with the informer: read-only).
    """

    __slots__ = (
        "_closed",
        "_draining",
        "_finalize",
        "_freed",
        "_holds_room",
        "_inbox",
        "_parts",
        "_seen_at",
        "_tasks",
        "_timers",
        "_to_hold",
        "_unmounting",
        "hooks",
        "known",
        "machine",
        "mirror",
        "pod",
        "previous",
        "removed",
        "room",
        "runs",
        "sandbox",
        "waits",
        "written",
    )

    def __init__(self, pod: Object, room: Room, parts: WorkerParts) -> None:
        self._parts = parts
        self._inbox: deque[Event | None] = deque()
        self._freed: asyncio.Event | None = None
        self._draining = self._holds_room = self._closed = self._finalize = False
        self._seen_at = asyncio.get_running_loop().time()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._to_hold: HoldResources | None = None  # while the runtime is asked for resources
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self.hooks: dict[str, asyncio.Task[None]] = {}  # that run, by container
        self._unmounting: asyncio.Task[None] | None = None
        self.pod = self.known = pod
        self.machine = PodMachine(pod, parts.restarts)
        self.runs: dict[str, ContainerRun] = {}
        self.previous: dict[str, ContainerRun] = {}
        self.sandbox: Sandbox | None = None
        self.waits = False  # for its sandbox to be tried again
        self.room = room
        self.mirror: str | None = None  # uid of a static pod's mirror, empty while there is none
        self.removed = False  # the API object is gone
        self.written = Written()

    # --- what the kubelet says --------------------------------------------------------------------

    def begin(self, *, suspended: bool, refusal: Rejected | None) -> None:
        """Start the pod, or take it over from an earlier life of this node. `suspended`: not before `Resumed`."""
        status = meta.status(self.pod)
        had_run = any("running" in c.get("state", {}) for c in status.get("containerStatuses") or ())
        survivors, uid = self._parts.runtime.survivors, meta.uid(self.pod)
        left = survivors.of(uid) if refusal is None else {}
        self.machine.adopt(status, self._parts.env.timestamp(), left)
        survivors.keep(uid, [c.name for c in self.machine.containers if c.goes_on])
        self.machine.suspensions = suspensions(self.pod, lost_cluster=suspended)
        if had_run and self.machine.stage is not Stage.ENDED and not self.machine.goes_on:
            text = "Pod sandbox changed, it will be killed and re-created."
            self._parts.events.record(self.pod, "Normal", "SandboxChanged", text)
        if meta.is_deleting(self.pod):
            self.post(StopRequested(grace_left(self.pod, self._grace(), self._parts.env.timestamp())))
        else:
            if self.machine.stage is not Stage.ENDED:
                self._holds_room = True
                self._parts.room.hold(self.room)
            self.post(refusal)

    @property
    def is_simulated(self) -> bool:
        return not self._parts.runs_processes

    @property
    def takes_room(self) -> bool:
        """Tells whether the pod runs or is going to."""
        return self._holds_room

    @property
    def is_ending(self) -> bool:
        """Tells whether the pod ends, or has."""
        return self.machine.deleting or self.machine.stage in (Stage.ENDING, Stage.ENDED, Stage.GONE)

    async def gave_up_room(self) -> None:
        """Wait until the pod holds no room of the node any more."""
        if self._holds_room and not self._closed:
            self._freed = self._freed or asyncio.Event()
            await self._freed.wait()

    def _give_up_room(self) -> None:
        if self._freed is not None:
            self._freed.set()
        if self._holds_room:
            self._holds_room = False
            self._parts.room.release(self.room)
            self._parts.freed()

    def change_room(self, room: Room) -> None:
        """Hold other room of the node than before."""
        if self._holds_room:
            self._parts.room.release(self.room)
            self._parts.room.hold(room)
        self.room = room
        self._parts.freed()

    def resize(self, pod: Object) -> None:
        """Hold its containers together to what the spec of `pod` says. Raises NodeError."""
        self._parts.runtime.resize_pod(pod)

    def update(self, pod: Object) -> None:
        old, self.pod = self.pod, pod
        self.known = pod
        if meta.is_deleting(pod) and (not meta.is_deleting(old) or self._grace() != self.machine.grace_s):
            self.post(StopRequested(self._grace()))
        elif self.machine.spec.get("readinessGates") or self._is_overruled():
            self.written = self.written.disputed()
            self._parts.statuses.mark(self)
        for event in injected(old, pod):
            self.post(event)
        if meta.annotations(pod) != meta.annotations(old):
            for run in self.runs.values():
                run.stress(pod)
        limit = pod["spec"].get("activeDeadlineSeconds")
        if limit is not None and limit != old["spec"].get("activeDeadlineSeconds"):
            self.post(DeadlineChanged(limit))
        if added := self._added(pod):
            self.post(EphemeralAdded(added))
        if meta.generation(pod) != meta.generation(old):
            self._parts.respecified(self)
        if self.sandbox is not None and self.sandbox.live:
            self.sandbox.refresh(pod)

    def _added(self, pod: Object) -> tuple[dict[str, Any], ...]:
        parts = pod["spec"].get("ephemeralContainers") or ()
        return tuple(part for part in parts if part["name"] not in self.machine.by_name)

    def _is_overruled(self) -> bool:
        """Whether somebody else changed the pod's readiness, as controllers do while a node is not heard."""
        theirs, ours = meta.get_condition(self.pod, "Ready"), self.machine.conditions.get("Ready")
        return theirs is not None and ours is not None and theirs.get("status") != ours[0]

    def remove(self) -> None:
        """The API object is gone."""
        self.removed = True
        self._give_up_room()
        self.post(Vanished())

    def close(self) -> None:
        """Drop everything that is not a process; for a host that stops or a pod that is gone."""
        self._closed = True
        if self._freed is not None:
            self._freed.set()
        self._drop_work()
        self._parts.addresses.forget(self.prepare)
        self._parts.statuses.forget(self)

    def _drop_work(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in [*self._tasks]:
            task.cancel()

    def retire(self) -> Sandbox | None:
        """Give the pod up to another: nothing of it runs here any more. Its sandbox is for the other to give back."""
        self.close()
        self._give_up_room()
        for run in self.runs.values():
            run.stop(0)
        return self.sandbox

    def prepare(self) -> None:
        self._carry_out(PrepareSandbox())

    # --- events -----------------------------------------------------------------------------------

    def post(self, event: Event | None) -> None:
        if self._closed:
            return  # a timer of a container whose host has stopped
        self._parts.fence.check()
        self._inbox.append(event)
        if not self._draining:
            self._drain()

    def _drain(self) -> None:
        self._draining = True
        loop, clock = asyncio.get_running_loop(), self._parts.env
        try:
            while self._inbox:
                now = Moment(loop.time(), clock.timestamp())
                for effect in self.machine.step(self._inbox.popleft(), now):
                    self._carry_out(effect)
        except NodeError:
            log.exception("pod %s: an event was lost", meta.key(self.pod))
        finally:
            self._draining = False
        if self.removed and self.machine.stage is Stage.GONE:
            self._parts.gone(self)
        else:
            self._parts.statuses.mark(self)

    def _carry_out(self, effect: Effect) -> None:
        _CARRY_OUT[type(effect)](self, effect)

    # --- effects ----------------------------------------------------------------------------------

    def _prepare_sandbox(self, _: PrepareSandbox) -> None:
        housing.prepare(self, self._parts)

    def _start_container(self, effect: StartContainer) -> None:
        container = self.machine.by_name[effect.container]
        if container.goes_on:
            self._start_now(effect, {})
        elif self._parts.runs_processes or needs_lookup(container.spec):
            self.spawn(self._look_up_and_start(effect), f"start {effect.container}")
        else:
            self._start_now(effect, {})

    async def _look_up_and_start(self, effect: StartContainer) -> None:
        container = self.machine.by_name[effect.container]
        assert self.sandbox is not None
        images = self._parts.images
        try:
            image = await images.image(self.pod, container.spec) if images is not None else None
            self.sandbox.check_mounts(container.spec)
            env = await self.sandbox.environment(self.pod, container.spec)
        except (ContainerConfigError, ImageError, OSError) as e:
            self.post(not_started(effect, e))
            return
        if container.run is not Run.STARTING or container.attempt != effect.attempt:
            # It was to be stopped before it ran.
            self.post(StartFailed(effect.container, effect.attempt, "Cancelled", "stopped"))
            return
        self._start_now(effect, env, image)

    def _start_now(self, effect: StartContainer, env: dict[str, str], image: ContainerImage | None = None) -> None:
        outside = self._parts.env
        name = effect.container
        container = self.machine.by_name[name]
        spec = container.spec
        assert self.sandbox is not None
        order = StartOrder(
            pod=self.pod,
            container=spec,
            attempt=effect.attempt,
            container_id=f"rayplane://{outside.rng.getrandbits(256):064x}",
            pod_ip=self.sandbox.ip,
            host_name=self.sandbox.host_name,
            env=env,
            mounts=self.sandbox.mounts(spec, env) if not container.goes_on else (),
            survivor=container.container_id if container.goes_on else "",
            devices=self.sandbox.devices(spec),
            directory=self.sandbox.directory,
            stamp=outside.timestamp(),
            image=image,
        )
        self._parts.metrics.started_containers += 1
        if not self.runs:
            self._parts.metrics.started_pods += 1
            self._parts.metrics.pod_start.observe(asyncio.get_running_loop().time() - self._seen_at)
        if name in self.runs:
            self.previous[name] = self.runs[name]
        listener = RunListener(self, effect, order, looked=self._parts.images is not None)
        # A simulated container calls back at once: its events wait until the run is known.
        nested, self._draining = self._draining, True
        try:
            self.runs[name] = self._parts.runtime.start(order, listener)
        finally:
            self._draining = nested
        if not nested:
            self._drain()

    def _stop_container(self, effect: StopContainer) -> None:
        container = self.machine.by_name[effect.container]
        self.end_hook(effect.container)
        run = self.runs.get(effect.container)
        # Without a run of this attempt its start is still being looked up, and will see that it is to stop.
        if run is not None and container.attempt == effect.attempt:
            run.stop(effect.grace_s)

    def _run_hook(self, effect: RunHook) -> None:
        attendance.run_hook(self, effect)

    def end_hook(self, container: str) -> None:
        attendance.end_hook(self, container)

    def _start_probe(self, effect: StartProbe) -> None:
        attendance.start_probe(self, self._parts, effect)

    def _set_timer(self, effect: SetTimer) -> None:
        self.timer(effect.key[:2], effect.at, TimerFired(effect.key))

    def _hold_resources(self, effect: HoldResources) -> None:
        begins, self._to_hold = self._to_hold is None, effect
        if begins:
            self.spawn(self._hold(effect), "resize")

    async def _hold(self, effect: HoldResources) -> None:
        """One after the other: what is asked for meanwhile has the last word."""
        try:
            error = await attendance.hold(self, effect.containers)
            while self._to_hold is not None and self._to_hold is not effect:
                effect = self._to_hold
                error = await attendance.hold(self, effect.containers)
        finally:
            self._to_hold = None
        self.post(ResourcesHeld(error))

    def _record(self, effect: Record) -> None:
        part = part_of(meta.spec(self.pod), effect.container) if effect.container else ""
        self._parts.events.record(self.pod, effect.type, effect.reason, effect.message, part=part)

    def _tear_down(self, _: TearDown) -> None:
        self._give_up_room()
        self._drop_work()
        if self._parts.images is not None:
            self._parts.images.release(meta.uid(self.pod))
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is None:
            return
        housing.give_back(sandbox, self._parts)
        if not sandbox.is_trivial:
            self._unmounting = self._parts.tasks.spawn(sandbox.unmount(), f"unmount {meta.key(self.pod)}")
            self._unmounting.add_done_callback(lambda _: self.post(None))

    def _finalize_pod(self, _: FinalizePod) -> None:
        self._finalize = True

    # --- what the status writer asks --------------------------------------------------------------

    @property
    def api_uid(self) -> str:
        return meta.uid(self.pod) if self.mirror is None else self.mirror

    def mirrored(self, uid: str) -> None:
        """The API shows this static pod by another one, which has no status yet."""
        if uid != self.mirror:
            self.mirror, self.written = uid, Written()
            self._parts.statuses.mark(self)

    def status(self) -> dict[str, Any]:
        stamp, why = self._parts.env.timestamp(), self._parts.undisturbed(meta.uid(self.pod))
        return render_status(
            self.machine, self.pod, host_ip=self._parts.addresses.node_ip, stamp=stamp, undisturbed=why
        )

    @property
    def wants_final_delete(self) -> bool:
        # Not before its volumes are given back: whoever has them next finds what it wrote last.
        return self._finalize and (self._unmounting is None or self._unmounting.done())

    @property
    def wants_final_status(self) -> bool:
        # Whoever keeps the object by a finalizer wants to read how the pod ended.
        return self._parts.runs_processes or bool(meta.finalizers(self.pod))

    def final_delete_done(self) -> None:
        self._finalize = False

    # --- small things -----------------------------------------------------------------------------

    def _grace(self) -> float:
        grace = meta.metadata(self.pod).get("deletionGracePeriodSeconds")
        return self.machine.grace_s if grace is None else float(grace)

    def timer(self, slot: object, at: float, event: Event) -> None:
        old = self._timers.pop(slot, None)
        if old is not None:
            old.cancel()
        self._timers[slot] = asyncio.get_running_loop().call_at(at, self._fire, slot, event)

    def _fire(self, slot: object, event: Event) -> None:
        self._timers.pop(slot, None)
        self.post(event)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = self._parts.tasks.spawn(work, f"{what} of {meta.key(self.pod)}")
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task


_CARRY_OUT: dict[type, Callable[[PodWorker, Any], None]] = {
    PrepareSandbox: PodWorker._prepare_sandbox,
    StartContainer: PodWorker._start_container,
    StopContainer: PodWorker._stop_container,
    RunHook: PodWorker._run_hook,
    StartProbe: PodWorker._start_probe,
    SetTimer: PodWorker._set_timer,
    HoldResources: PodWorker._hold_resources,
    Record: PodWorker._record,
    TearDown: PodWorker._tear_down,
    FinalizePod: PodWorker._finalize_pod,
}

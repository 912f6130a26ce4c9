"""One pod on one node: carries out what the life cycle asks for and tells it what came of it.

All on the event loop. Events are worked off in the order they came; an event that arises while effects are carried
out waits for its turn, so the life cycle is never entered twice. A simulated pod whose start needs no look-up goes
from seen to ready within one call.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import AddressesExhausted, ContainerConfigError, NodeError
from rayplane.node.kubelet.admission import room_of
from rayplane.node.kubelet.sandbox import Sandbox, needs_lookup
from rayplane.node.lifecycle import (
    Effect,
    Event,
    Exited,
    FinalizePod,
    Moment,
    PodMachine,
    PrepareSandbox,
    Probed,
    Record,
    Rejected,
    SandboxFailed,
    SandboxReady,
    SetTimer,
    StartContainer,
    Started,
    StartFailed,
    StartProbe,
    StopContainer,
    StopRequested,
    TearDown,
    TimerFired,
    Vanished,
    render_status,
)
from rayplane.node.lifecycle.model import Run, Stage
from rayplane.node.runtime import ContainerRun, StartOrder

if TYPE_CHECKING:
    from rayplane.node.kubelet.kubelet import Kubelet

log = logging.getLogger(__name__)


class PodWorker:
    """Drives one `PodMachine`. `pod` is the API object as last seen (shared with the informer: read-only)."""

    __slots__ = (
        "_closed",
        "_draining",
        "_finalize",
        "_holds_room",
        "_inbox",
        "_kubelet",
        "_tasks",
        "_timers",
        "machine",
        "pod",
        "previous",
        "removed",
        "room",
        "runs",
        "sandbox",
        "written",
    )

    def __init__(self, kubelet: "Kubelet", pod: Object) -> None:
        self._kubelet = kubelet
        self._inbox: deque[Event | None] = deque()
        self._draining = False
        self._holds_room = False
        self._closed = False
        self._finalize = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self.pod = pod
        self.machine = PodMachine(pod, kubelet.host.config.timing.restarts)
        self.runs: dict[str, ContainerRun] = {}
        self.previous: dict[str, ContainerRun] = {}
        self.sandbox: Sandbox | None = None
        self.room = room_of(pod)
        self.removed = False  # the API object is gone
        self.written = b""

    # --- what the kubelet says --------------------------------------------------------------------

    def begin(self, *, suspended: bool, refusal: Rejected | None) -> None:
        """Start the pod, or take it over from an earlier life of this node. `suspended`: not before `Resumed`."""
        status = meta.status(self.pod)
        had_run = any("running" in c.get("state", {}) for c in status.get("containerStatuses") or ())
        self.machine.adopt(status, self._kubelet.host.env.timestamp())
        self.machine.suspended = suspended
        if had_run and self.machine.stage is not Stage.ENDED:
            text = "Pod sandbox changed, it will be killed and re-created."
            self._kubelet.host.record(self.pod, "Normal", "SandboxChanged", text)
        if meta.is_deleting(self.pod):
            self.post(StopRequested(self._grace()))
        else:
            if self.machine.stage is not Stage.ENDED:
                self._holds_room = True
                self._kubelet.hold(self.room)
            self.post(refusal)

    @property
    def takes_room(self) -> bool:
        """Whether it runs or is going to."""
        return self._holds_room

    def _give_up_room(self) -> None:
        if self._holds_room:
            self._holds_room = False
            self._kubelet.release(self.room)

    def update(self, pod: Object) -> None:
        old, self.pod = self.pod, pod
        if meta.is_deleting(pod) and (not meta.is_deleting(old) or self._grace() != self.machine.grace_s):
            self.post(StopRequested(self._grace()))
        elif self.machine.spec.get("readinessGates") or self._is_overruled():
            self.written = b""
            self._kubelet.host.writer.mark(self)
        if self.sandbox is not None and self.sandbox.live:
            self.sandbox.refresh(pod)

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
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in [*self._tasks]:
            task.cancel()
        self._kubelet.host.writer.forget(self)

    def prepare(self) -> None:
        """Make the sandbox, now that the node has addresses."""
        self._carry_out(PrepareSandbox())

    # --- events -----------------------------------------------------------------------------------

    def post(self, event: Event | None) -> None:
        if self._closed:
            return  # a timer of a container whose host has stopped
        self._kubelet.fence_if_late()
        self._inbox.append(event)
        if not self._draining:
            self._drain()

    def _drain(self) -> None:
        self._draining = True
        loop, clock = asyncio.get_running_loop(), self._kubelet.host.env
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
            self._kubelet.drop(self)
        else:
            self._kubelet.host.writer.mark(self)

    def _carry_out(self, effect: Effect) -> None:
        _CARRY_OUT[type(effect)](self, effect)

    # --- effects ----------------------------------------------------------------------------------

    def _prepare_sandbox(self, _: PrepareSandbox) -> None:
        pool = self._kubelet.pool
        if pool is None:
            self._kubelet.await_addresses(self)
            return
        if self.sandbox is not None:
            return  # it is being made; its end will be told
        host_network = bool(self.machine.spec.get("hostNetwork"))
        try:
            ip = pool.node_address if host_network else pool.take()
        except AddressesExhausted as e:
            self.post(SandboxFailed("FailedCreatePodSandBox", str(e)))
            return
        self.sandbox = Sandbox(self.pod, ip, own_address=not host_network, kubelet=self._kubelet)
        if self.sandbox.is_trivial:
            self.post(SandboxReady(ip))
        else:
            self._spawn(self._mount(self.sandbox), "mount")

    async def _mount(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.mount()
        except (NodeError, OSError) as e:
            await sandbox.unmount()
            self.sandbox = None
            self._give_back(sandbox)
            self.post(SandboxFailed("FailedMount", str(e)))
        else:
            self.post(SandboxReady(sandbox.ip))

    def _start_container(self, effect: StartContainer) -> None:
        container = self.machine.by_name[effect.container]
        if self._kubelet.runs_processes or needs_lookup(container.spec):
            self._spawn(self._look_up_and_start(effect), f"start {effect.container}")
        else:
            self._start_now(effect, {})

    async def _look_up_and_start(self, effect: StartContainer) -> None:
        container = self.machine.by_name[effect.container]
        assert self.sandbox is not None
        try:
            env = await self.sandbox.environment(self.pod, container.spec)
        except ContainerConfigError as e:
            self.post(StartFailed(effect.container, effect.attempt, e.reason, str(e)))
            return
        if container.run is not Run.STARTING or container.attempt != effect.attempt:
            # It was to be stopped before it ran.
            self.post(StartFailed(effect.container, effect.attempt, "Cancelled", "stopped"))
            return
        self._start_now(effect, env)

    def _start_now(self, effect: StartContainer, env: dict[str, str]) -> None:
        host = self._kubelet.host
        name = effect.container
        spec = self.machine.by_name[name].spec
        assert self.sandbox is not None
        order = StartOrder(
            pod=self.pod,
            container=spec,
            attempt=effect.attempt,
            container_id=f"rayplane://{host.env.rng.getrandbits(256):064x}",
            pod_ip=self.sandbox.ip,
            env=env,
            mounts=self.sandbox.mounts(spec, env),
            directory=self.sandbox.directory,
            stamp=host.env.timestamp(),
        )
        if name in self.runs:
            self.previous[name] = self.runs[name]
        listener = _RunListener(self, effect, order.container_id)
        # A simulated container calls back at once: its events wait until the run is known.
        nested, self._draining = self._draining, True
        try:
            self.runs[name] = self._kubelet.runtime.start(order, listener)
        finally:
            self._draining = nested
        if not nested:
            self._drain()

    def _stop_container(self, effect: StopContainer) -> None:
        container = self.machine.by_name[effect.container]
        run = self.runs.get(effect.container)
        # Without a run of this attempt its start is still being looked up, and will see that it is to stop.
        if run is not None and container.attempt == effect.attempt:
            run.stop(effect.grace_s)

    def _start_probe(self, effect: StartProbe) -> None:
        delay = self.runs[effect.container].probe_delay(effect.probe)
        if delay is None:
            self._spawn(self._kubelet.host.prober.run(self, effect), f"{effect.probe} {effect.container}")
            return
        wait, ok = delay
        result = Probed(effect.container, effect.attempt, effect.probe, ok, "simulated")
        if wait <= 0:
            self.post(result)
        elif wait != float("inf"):
            at = asyncio.get_running_loop().time() + wait
            self._timer((effect.container, effect.probe), at, result)

    def _set_timer(self, effect: SetTimer) -> None:
        self._timer(effect.key[:2], effect.at, TimerFired(effect.key))

    def _record(self, effect: Record) -> None:
        self._kubelet.host.record(self.pod, effect.type, effect.reason, effect.message)

    def _tear_down(self, _: TearDown) -> None:
        self._give_up_room()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in [*self._tasks]:
            task.cancel()
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is None:
            return
        self._give_back(sandbox)
        if not sandbox.is_trivial:
            self._kubelet.host.spawn(sandbox.unmount(), f"unmount {meta.key(self.pod)}")

    def _give_back(self, sandbox: Sandbox) -> None:
        if sandbox.own_address and self._kubelet.pool is not None:
            self._kubelet.pool.give_back(sandbox.ip)

    def _finalize_pod(self, _: FinalizePod) -> None:
        self._finalize = True

    # --- what the status writer asks --------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        stamp = self._kubelet.host.env.timestamp()
        return render_status(self.machine, self.pod, host_ip=self._kubelet.node_ip, stamp=stamp)

    @property
    def wants_final_delete(self) -> bool:
        return self._finalize

    @property
    def wants_final_status(self) -> bool:
        # Whoever keeps the object by a finalizer wants to read how the pod ended.
        return self._kubelet.runs_processes or bool(meta.finalizers(self.pod))

    def final_delete_done(self) -> None:
        self._finalize = False

    # --- small things -----------------------------------------------------------------------------

    def _grace(self) -> float:
        grace = meta.metadata(self.pod).get("deletionGracePeriodSeconds")
        return self.machine.grace_s if grace is None else float(grace)

    def _timer(self, slot: object, at: float, event: Event) -> None:
        old = self._timers.pop(slot, None)
        if old is not None:
            old.cancel()
        self._timers[slot] = asyncio.get_running_loop().call_at(at, self._fire, slot, event)

    def _fire(self, slot: object, event: Event) -> None:
        self._timers.pop(slot, None)
        self.post(event)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = self._kubelet.host.spawn(work, f"{what} of {meta.key(self.pod)}")
        self._tasks[task] = None
        done: Callable[[asyncio.Task[None]], object] = lambda t: self._tasks.pop(t, None)  # noqa: E731
        task.add_done_callback(done)


class _RunListener:
    """Turns the runtime's callbacks into events of the run they are about."""

    __slots__ = ("_effect", "_id", "_worker")

    def __init__(self, worker: PodWorker, effect: StartContainer, container_id: str) -> None:
        self._worker = worker
        self._effect = effect
        self._id = container_id

    def started(self) -> None:
        self._worker.post(Started(self._effect.container, self._effect.attempt, self._id))

    def failed(self, reason: str, message: str) -> None:
        self._worker.post(StartFailed(self._effect.container, self._effect.attempt, reason, message))

    def exited(self, exit_code: int, signal: int, message: str) -> None:
        effect = self._effect
        self._worker.post(Exited(effect.container, effect.attempt, exit_code, signal, message))


_CARRY_OUT: dict[type, Callable[[PodWorker, Any], None]] = {
    PrepareSandbox: PodWorker._prepare_sandbox,
    StartContainer: PodWorker._start_container,
    StopContainer: PodWorker._stop_container,
    StartProbe: PodWorker._start_probe,
    SetTimer: PodWorker._set_timer,
    Record: PodWorker._record,
    TearDown: PodWorker._tear_down,
    FinalizePod: PodWorker._finalize_pod,
}

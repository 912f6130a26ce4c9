"""The state machine of a pod: all transitions of its life cycle.

`runs` says what an event does to a container in each state, `_POD` what an event does to a pod in each stage, and
`_advance` draws the consequences until nothing changes.

Source: Kubernetes documentation, "Pod Lifecycle", "Init Containers" and "Sidecar Containers".
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rayplane.control_plane.api.meta import Object, parse_time
from rayplane.control_plane.api.pods.state import TERMINAL_PHASES
from rayplane.node.errors import LifecycleError
from rayplane.node.lifecycle.containers import containers_of, ephemeral_containers, has_initialized, hook_of, recall
from rayplane.node.lifecycle.model import (
    GRACE_MIN_S,
    POST_START,
    PRE_STOP,
    Container,
    ContainerEvent,
    DeadlineChanged,
    Effect,
    EphemeralAdded,
    Event,
    Evicted,
    FinalizePod,
    HoldResources,
    Killed,
    Moment,
    PrepareSandbox,
    Rejected,
    ResizePending,
    ResourcesHeld,
    Respecified,
    Resumed,
    Role,
    Run,
    SandboxFailed,
    SandboxReady,
    SetTimer,
    Stage,
    Stop,
    StopRequested,
    Survivor,
    Suspended,
    TearDown,
    TimerFired,
    TimerKey,
    Vanished,
)
from rayplane.node.lifecycle.runs import LIVE, ContainerRuns
from rayplane.node.restarts import RestartTiming

DEFAULT_GRACE_S = 30.0
_TOO_LONG = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
_NONE: Mapping[str, Survivor] = MappingProxyType({})
_RANK = {"Pending": 0, "Running": 1, "Succeeded": 2, "Failed": 2}


class PodMachine(ContainerRuns):
    """One pod on one node.

    `step` takes an event and gives effects. Readable state: `stage`, `phase`, `containers` (init containers first, in
    the order of the spec), `ip`, `reason`/`message` (why the pod failed, when its containers did not decide it).
    """

    __slots__ = (
        "_ending_since",
        "apps_begun",
        "conditions",
        "deleting",
        "disruption",
        "ends_failed",
        "ip",
        "message",
        "phase",
        "reason",
        "recursive",
        "rejected",
        "resize_error",
        "resize_pending",
        "resizing",
        "sandboxes",
        "spec",
        "start_stamp",
        "unheld",
        "vanished",
    )

    def __init__(self, pod: Object, timing: RestartTiming) -> None:
        meta = pod["metadata"]
        self.spec: dict[str, Any] = pod["spec"]
        super().__init__(containers_of(self.spec), (meta["name"], meta["namespace"]), meta.get("uid", ""), timing)
        self.phase = "Pending"
        self.reason = self.message = ""
        self.ip = ""
        self.start_stamp = ""
        self.sandboxes = 0
        self.apps_begun = False
        self.deleting = self.vanished = self.ends_failed = self.rejected = False
        self.recursive = False  # whether what is mounted below read-only volumes can be read-only, too
        self.disruption = ("", "")
        self.resize_pending = ("", "")
        self.resizing = self.resize_error = ""
        self.unheld: tuple[str, ...] | None = None
        """Containers that are yet to be held to what is set aside for them, the pod as a whole after them."""
        grace = self.spec.get("terminationGracePeriodSeconds")
        # Below zero is one second, as when a pod is deleted.
        self.grace_s = DEFAULT_GRACE_S if grace is None else float(grace if grace >= 0 else 1)
        self.conditions: dict[str, tuple[str, str]] = {}
        self._ending_since = 0.0

    # --- what callers may ask ---------------------------------------------------------------------

    def of_role(self, *roles: Role) -> Iterator[Container]:
        return (c for c in self.containers if c.role in roles)

    @property
    def initialized(self) -> bool:
        """All init containers completed and all sidecars started, at some time in this sandbox."""
        return self.apps_begun or all(has_initialized(c) for c in self.containers)

    @property
    def goes_on(self) -> bool:
        """Whether something of it runs that is yet to be taken over."""
        return any(c.goes_on for c in self.containers)

    @property
    def _takes_over(self) -> bool:
        """Whether something of it is still to be taken over, and can be."""
        if self.stage not in _LIVE:
            return False
        return any(c.goes_on and c.run in (Run.IDLE, Run.STARTING) for c in self.containers)

    @property
    def resize_in_progress(self) -> bool:
        """Whether the pod is not held to what is set aside for it, or a container ran last with other resources."""
        run = (Run.RUNNING, Run.STOPPING)
        concerned = (c for c in self.containers if c.run in run or (c.ended and c.run is not Run.DONE))
        waits = any(c.in_force != c.spec.get("resources") for c in concerned)
        return bool(self.resizing) and (self.unheld is not None or waits)

    # --- start ------------------------------------------------------------------------------------

    def adopt(self, status: dict[str, Any], stamp: str, survivors: Mapping[str, Survivor] = _NONE) -> None:
        """Take over a pod whose status an earlier life of this node wrote. At `stamp` nothing of it runs any more, but
        for the survivors: runs by their container's name.
        """
        self.phase = status.get("phase") or "Pending"
        self.start_stamp = status.get("startTime") or ""
        self.reason, self.message = status.get("reason") or "", status.get("message") or ""
        for condition in status.get("conditions") or ():
            self.conditions[condition["type"]] = (condition["status"], condition.get("lastTransitionTime") or "")
        parts = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        statuses = {known["name"]: known for part in parts for known in status.get(part) or ()}
        mounts = (mount for known in statuses.values() for mount in known.get("volumeMounts") or ())
        self.recursive = any(mount.get("recursiveReadOnly") == "Enabled" for mount in mounts)
        for c in self.containers:
            if c.name in statuses or c.name in survivors:
                recall(c, statuses.get(c.name) or {}, stamp, survivors.get(c.name))
        if self.phase in TERMINAL_PHASES:
            self.stage = Stage.ENDED
            for c in self.containers:
                c.run, c.goes_on = Run.DONE, False
        elif self.goes_on:
            self._go_on_in_sandbox(status.get("podIP") or "")

    def _go_on_in_sandbox(self, ip: str) -> None:
        """It is the one that the pod had, with all that its init containers did."""
        self.ip, self.sandboxes = ip, 1
        self.apps_begun = any(c.goes_on for c in self.of_role(Role.APP))
        for c in self.of_role(Role.INIT):
            if not c.goes_on and c.ended is not None and c.ended.exit_code == 0:
                c.run = Run.DONE

    # --- step -------------------------------------------------------------------------------------

    def step(self, event: Event | None, now: Moment) -> list[Effect]:
        """Effects of `event`, in the order they must be carried out. None: begin, or look again.

        LifecycleError when the event cannot happen in this state.
        """
        self._now = now
        self._effects = []
        if isinstance(event, ContainerEvent):
            self._container_event(event)
        elif event is not None:
            try:
                handler = _POD[self.stage, type(event)]
            except KeyError:
                raise LifecycleError(f"{event} came in stage {self.stage.value}") from None
            if handler is not None:
                handler(self, event)
        self._advance()
        if self.resizing and self.stage in _LIVE and not self.resize_in_progress:
            self._record("ResizeCompleted", f"Pod resize completed: {self.resizing}")
            self.resizing = ""
        self._set_phase()
        return self._effects

    # --- pod transitions --------------------------------------------------------------------------

    def _sandbox_ready(self, event: SandboxReady) -> None:
        self.ip, self.recursive = event.ip, event.recursive
        self.stage = Stage.ACTIVE
        self.sandboxes += 1
        self._watch_deadline()

    def _sandbox_replaced(self, event: SandboxReady) -> None:
        """Its runtime had lost it: what ran in it has ended or is going to be told to have."""
        self.ip, self.recursive = event.ip, event.recursive
        self.sandboxes += 1

    def _watch_deadline(self) -> None:
        limit = self.spec.get("activeDeadlineSeconds")
        if limit is not None:
            passed = parse_time(self._now.stamp) - parse_time(self.start_stamp)
            left = max(0.0, float(limit) - passed.total_seconds())
            self._effects.append(SetTimer(TimerKey("deadline"), self._now.at + left))

    def _sandbox_failed(self, event: SandboxFailed) -> None:
        self._record(event.reason, event.message, warning=True)
        if self.deleting:
            self._begin_to_end()
        else:
            self._effects.append(SetTimer(TimerKey("sandbox"), self._now.at + self._timing.retry_s))

    def _timer_fired(self, event: TimerFired) -> None:
        kind, name, attempt = event.key
        if kind == "deadline":
            self._record(*_TOO_LONG)
            self._fail(*_TOO_LONG)
        elif kind == "sandbox":
            if self.stage is Stage.PREPARING:
                self._effects.append(PrepareSandbox())
        elif kind == "resize":
            if self.unheld is not None:
                self._effects.append(HoldResources(self.unheld))
        else:
            c = self.by_name[name]
            if c.attempt == attempt and c.run in (Run.BACKOFF, Run.FAULT):
                c.run = Run.IDLE

    def _stop_requested(self, event: StopRequested) -> None:
        shorter = event.grace_s < self.grace_s
        self.grace_s = min(self.grace_s, event.grace_s) if self.deleting else event.grace_s
        self.deleting = True
        if self.stage is Stage.ENDED:
            return
        if self._takes_over and not self.vanished:
            self._ending_since = self._now.at
            return  # what runs is taken over first, and told then
        if shorter:
            self._hasten()
        self._begin_to_end()

    def _hasten(self) -> None:
        """There is less time now, and it counts from now."""
        self._ending_since = self._now.at
        for c in self.containers:
            if c.run is Run.STOPPING:
                c.stop_by = min(c.stop_by, self._now.at + self.grace_s)
                if c.stop is not Stop.TURN:
                    self._tell(c, self.grace_s)

    def _begin_to_end(self) -> None:
        if self.stage is not Stage.ENDING:
            self.stage = Stage.ENDING
            self._ending_since = self._now.at

    def _vanished(self, _: Vanished) -> None:
        self.vanished = True
        self._stop_requested(StopRequested(0.0))

    def _ephemeral_added(self, event: EphemeralAdded) -> None:
        added = [c for c in ephemeral_containers(event.containers) if c.name not in self.by_name]
        self.containers += added
        self.by_name |= {c.name: c for c in added}

    def _deadline_changed(self, event: DeadlineChanged) -> None:
        self.spec = {**self.spec, "activeDeadlineSeconds": event.active_s}
        if self.stage is Stage.ACTIVE:
            self._watch_deadline()

    def _reject(self, event: Rejected) -> None:
        self.rejected = True
        self._record(event.reason, event.message, warning=True)
        self._fail(event.reason, f"Pod was rejected: {event.message}")

    def _evicted(self, event: Evicted) -> None:
        self._record(event.reason, event.message, warning=True)
        self.disruption = event.disruption
        self.grace_s = min(self.grace_s, event.grace_s)
        self._fail(event.reason, event.message)

    def _resize_pending(self, event: ResizePending) -> None:
        if self.resize_pending == (event.reason, event.message):
            return
        self.resize_pending = event.reason, event.message
        if event.reason:
            self._record(f"Resize{event.reason}", f"Pod resize {event.reason}: {event.told}", warning=True)

    def _respecified(self, event: Respecified) -> None:
        restart = dict(event.restart)
        if event.of_pod is not None:
            self.spec = {**self.spec, "resources": event.of_pod}
        if event.told:
            self.resizing = event.told
            self._record("ResizeStarted", f"Pod resize started: {event.told}")
            names = dict.fromkeys((*(self.unheld or ()), *(part["name"] for part in event.containers)))
            self.unheld = tuple(name for name in names if name not in restart)
            self._effects.append(HoldResources(self.unheld))
        for part in event.containers:
            c = self.by_name[part["name"]]
            c.spec = part
            if c.name in restart and c.run in (Run.OPENING, Run.RUNNING):
                c.again = True
                self._record("Killing", restart[c.name], of=c)
                self._stop(c, self.grace_s)

    def _resources_held(self, event: ResourcesHeld) -> None:
        if event.error:
            if event.error != self.resize_error:
                self._record("ResizeError", f"Pod resize error: {event.error}", warning=True)
            self._effects.append(SetTimer(TimerKey("resize"), self._now.at + self._timing.retry_s))
        else:
            for c in map(self.by_name.__getitem__, self.unheld or ()):
                c.in_force = c.spec.get("resources")
            self.unheld = None
        self.resize_error = event.error

    def _suspended(self, event: Suspended) -> None:
        self.suspensions.add(event.why)
        for c in self.containers:
            if c.run in LIVE or c.run is Run.STOPPING:
                c.run = Run.STOPPING
                self._tell(c, 0.0)

    def _resumed(self, event: Resumed) -> None:
        self.suspensions.discard(event.why)

    def _killed(self, event: Killed) -> None:
        for c in self.containers:
            if c.name in event.containers and c.run in LIVE:
                self._record("Killing", f"Container {c.name} is killed by an experiment")
                self._stop(c, 0.0)

    # --- consequences -----------------------------------------------------------------------------

    def _advance(self) -> None:
        if self.stage is Stage.NEW and not self.suspended:
            self.stage = Stage.PREPARING
            self.start_stamp = self.start_stamp or self._now.stamp
            self._effects.append(PrepareSandbox())
        if self.stage is Stage.ACTIVE and self.deleting:
            self._take_over_to_end()
        if self.stage is Stage.ACTIVE and not self.deleting:
            if self.restarting_all:
                self._have_all_ended()
            elif all(c.run is Run.DONE for c in self.of_role(Role.APP)):
                self._begin_to_end()
            if not self.suspended and not self.restarting_all and self.stage is Stage.ACTIVE:
                self._start_in_turn()
        if self.stage is Stage.ENDING:
            self._wind_down()
            if all(c.run is Run.DONE for c in self.containers):
                self.stage = Stage.ENDED
                self._effects.append(TearDown())
        if self.stage is Stage.ENDED and self.deleting:
            self.stage = Stage.GONE
            if not self.vanished:
                self._effects.append(FinalizePod())

    def _take_over_to_end(self) -> None:
        """Only what goes on is begun, and once it is known the pod ends in what is left of its grace."""
        if not self._takes_over:
            self.stage = Stage.ENDING
        for c in self.containers:
            if c.goes_on and c.run is Run.IDLE:
                self._start(c)

    def _have_all_ended(self) -> None:
        """Once all have, they begin anew, init containers first."""
        if any(c.run in LIVE or c.run in (Run.STOPPING, Run.BACKOFF) for c in self.containers):
            return
        self.restarting_all = self.apps_begun = False
        for c in self.of_role(Role.INIT, Role.SIDECAR, Role.APP):
            c.run, c.again, c.startup_passed = Run.IDLE, False, False

    def _start_in_turn(self) -> None:
        begun = self.apps_begun
        # They are there to look into a pod that may hang in an init container.
        for c in self.of_role(Role.EPHEMERAL):
            if c.run is Run.IDLE:
                self._start(c)
        for c in self.of_role(Role.INIT, Role.SIDECAR):
            # Once the others run, a sidecar is only restarted by itself, and nobody waits for it.
            if c.run is Run.IDLE and (c.role is Role.SIDECAR or not begun):
                self._start(c)
            if begun or has_initialized(c):
                continue
            if c.role is Role.INIT and c.run is Run.DONE:
                self.ends_failed = True
                self._begin_to_end()
            return
        self.apps_begun = True
        for c in self.of_role(Role.APP):
            if c.run is Run.IDLE:
                self._start(c)
            if c.run in (Run.STARTING, Run.OPENING) and hook_of(c, POST_START):
                return  # those after it may need what its hook waits for

    def _wind_down(self) -> None:
        """Stop what runs: the containers at once, then the sidecars one by one, the last one first.

        PreStop hooks run as soon as the pod begins to end, whoever's turn it is.
        """
        turn = True
        for c in self.of_role(Role.INIT, Role.APP, Role.EPHEMERAL):
            turn &= self._end(c, turn=True)
        for c in reversed(list(self.of_role(Role.SIDECAR))):
            turn &= self._end(c, turn=turn)

    def _end(self, c: Container, *, turn: bool) -> bool:
        """Have the container end for good; whether it has."""
        if c.run in (Run.IDLE, Run.BACKOFF, Run.FAULT):
            c.run, c.goes_on = Run.DONE, False
        elif c.run in LIVE and (turn or (c.run is not Run.STARTING and self.grace_s > 0 and hook_of(c, PRE_STOP))):
            self._record("Killing", f"Stopping container {c.name}", of=c)
            self._stop(c, self._grace_left())
        elif c.run is Run.STOPPING and c.stop is Stop.TURN and turn:
            self._tell_what_is_left(c)
        return c.run is Run.DONE

    def _grace_left(self) -> float:
        passed = self._now.at - self._ending_since
        return max(GRACE_MIN_S, self.grace_s - passed) if passed > 0 and self.grace_s > 0 else self.grace_s

    def _fail(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        self.ends_failed = True
        self._begin_to_end()

    def _set_phase(self) -> None:
        phase = self._phase_now()
        # A sandbox made anew repeats its init containers, yet a phase never goes back.
        if _RANK[phase] > _RANK[self.phase]:
            self.phase = phase

    def _phase_now(self) -> str:
        apps = list(self.of_role(Role.APP))
        if self.stage in (Stage.ENDED, Stage.GONE):
            done = all(c.ended is not None and c.ended.exit_code == 0 for c in apps)
            return "Succeeded" if done and not self.ends_failed else "Failed"
        ran = all(c.run in (Run.RUNNING, Run.STOPPING) or c.ended is not None for c in apps)
        return "Running" if ran and self.sandboxes else "Pending"


# --- tables ---------------------------------------------------------------------------------------

_M = PodMachine
_PodHandler = Callable[[PodMachine, Any], None] | None
_LIVE = (Stage.NEW, Stage.PREPARING, Stage.ACTIVE)
_LATE = (Stage.ENDING, Stage.ENDED, Stage.GONE)

_POD: dict[tuple[Stage, type], _PodHandler] = {
    (Stage.PREPARING, SandboxReady): _M._sandbox_ready,
    (Stage.ACTIVE, SandboxReady): _M._sandbox_replaced,
    (Stage.PREPARING, SandboxFailed): _M._sandbox_failed,
    # The pod was stopped while its sandbox was being made.
    **{(stage, SandboxReady): None for stage in _LATE},
    **{(stage, SandboxFailed): None for stage in _LATE},
    **{(stage, TimerFired): _M._timer_fired for stage in _LIVE},
    **{(stage, TimerFired): None for stage in _LATE},
    **{(stage, StopRequested): _M._stop_requested for stage in Stage if stage is not Stage.GONE},
    (Stage.GONE, StopRequested): None,
    **{(stage, Vanished): _M._vanished for stage in Stage if stage is not Stage.GONE},
    (Stage.GONE, Vanished): None,
    **{(stage, EphemeralAdded): _M._ephemeral_added for stage in _LIVE},
    **{(stage, EphemeralAdded): None for stage in _LATE},
    **{(stage, DeadlineChanged): _M._deadline_changed for stage in _LIVE},
    **{(stage, DeadlineChanged): None for stage in _LATE},
    **{(stage, Rejected): _M._reject for stage in _LIVE},
    **{(stage, Rejected): None for stage in _LATE},
    **{(stage, Evicted): _M._evicted for stage in _LIVE},
    **{(stage, Evicted): None for stage in _LATE},
    **{(stage, ResizePending): _M._resize_pending for stage in _LIVE},
    **{(stage, ResizePending): None for stage in _LATE},
    **{(stage, Respecified): _M._respecified for stage in _LIVE},
    **{(stage, Respecified): None for stage in _LATE},
    **{(stage, ResourcesHeld): _M._resources_held for stage in _LIVE},
    **{(stage, ResourcesHeld): None for stage in _LATE},
    **{(stage, Killed): _M._killed for stage in _LIVE},
    **{(stage, Killed): None for stage in _LATE},
    **{(stage, Suspended): _M._suspended for stage in Stage},
    **{(stage, Resumed): _M._resumed for stage in Stage},
}

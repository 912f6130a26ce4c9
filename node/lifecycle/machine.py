"""The state machine of a pod: all transitions of its life cycle.

`_CONTAINER` says what an event does to a container in each state, `_POD` what an event does to a pod in each stage,
and `_advance` draws the consequences until nothing changes.

Source: Kubernetes documentation, "Pod Lifecycle", "Init Containers" and "Sidecar Containers".
"""

from collections.abc import Callable, Iterator
from typing import Any

from rayplane.control_plane.api.meta import Object, parse_time
from rayplane.control_plane.api.pods.state import TERMINAL_PHASES
from rayplane.node.errors import LifecycleError
from rayplane.node.lifecycle.containers import containers_of, ephemeral_containers, has_initialized, recall, restarts
from rayplane.node.lifecycle.model import (
    START_ERROR,
    Container,
    DeadlineChanged,
    Effect,
    EphemeralAdded,
    Event,
    Exited,
    FinalizePod,
    Moment,
    PrepareSandbox,
    Probed,
    Record,
    Rejected,
    RestartTiming,
    Resumed,
    Role,
    Run,
    SandboxFailed,
    SandboxReady,
    SetTimer,
    Stage,
    StartContainer,
    Started,
    StartFailed,
    StartProbe,
    StopContainer,
    StopRequested,
    Suspended,
    TearDown,
    Termination,
    TimerFired,
    TimerKey,
    Vanished,
)

DEFAULT_GRACE_S = 30.0
_NEVER = "1970-01-01T00:00:00Z"
START_ERROR_CODE = 128
"""Exit code of a container whose program could not be started."""
_PROBES = {
    "startup": "startupProbe",
    "readiness": "readinessProbe",
    "liveness": "livenessProbe",
}
_RANK = {"Pending": 0, "Running": 1, "Succeeded": 2, "Failed": 2}


class PodMachine:
    """One pod on one node.

    `step` takes an event and gives effects. Readable state: `stage`, `phase`, `containers` (init containers first, in
    the order of the spec), `ip`, `reason`/`message` (why the pod failed, when its containers did not decide it).
    """

    __slots__ = (
        "_effects",
        "_now",
        "_timing",
        "by_name",
        "conditions",
        "containers",
        "deleting",
        "ends_failed",
        "grace_s",
        "ip",
        "message",
        "phase",
        "pod_name",
        "pod_uid",
        "reason",
        "rejected",
        "sandboxes",
        "spec",
        "stage",
        "start_stamp",
        "suspended",
        "vanished",
    )

    def __init__(self, pod: Object, timing: RestartTiming) -> None:
        meta = pod["metadata"]
        self.spec: dict[str, Any] = pod["spec"]
        self.pod_name = (meta["name"], meta["namespace"])
        self.pod_uid = meta.get("uid", "")
        self._timing = timing
        self.stage = Stage.NEW
        self.phase = "Pending"
        self.reason = self.message = ""
        self.ip = ""
        self.start_stamp = ""
        self.sandboxes = 0
        self.suspended = self.deleting = self.vanished = self.ends_failed = self.rejected = False
        grace = self.spec.get("terminationGracePeriodSeconds")
        # Below zero is one second, as when a pod is deleted.
        self.grace_s = DEFAULT_GRACE_S if grace is None else float(grace if grace >= 0 else 1)
        self.containers = containers_of(self.spec)
        self.by_name = {c.name: c for c in self.containers}
        self.conditions: dict[str, tuple[str, str]] = {}
        self._effects: list[Effect] = []
        self._now = Moment(0.0, "")

    # --- what callers may ask ---------------------------------------------------------------------

    def of_role(self, *roles: Role) -> Iterator[Container]:
        return (c for c in self.containers if c.role in roles)

    @property
    def initialized(self) -> bool:
        """All init containers completed and all sidecars started, at some time in this sandbox."""
        return self.apps_begun or all(has_initialized(c) for c in self.containers)

    @property
    def apps_begun(self) -> bool:
        return any(c.attempt for c in self.of_role(Role.APP))

    # --- start ------------------------------------------------------------------------------------

    def adopt(self, status: dict[str, Any], stamp: str) -> None:
        """Take over a pod whose status an earlier life of this node wrote; nothing of it runs any more at `stamp`."""
        self.phase = status.get("phase") or "Pending"
        self.start_stamp = status.get("startTime") or ""
        self.reason, self.message = status.get("reason") or "", status.get("message") or ""
        for condition in status.get("conditions") or ():
            self.conditions[condition["type"]] = (condition["status"], condition.get("lastTransitionTime") or "")
        for part in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
            for known in status.get(part) or ():
                container = self.by_name.get(known["name"])
                if container is not None:
                    recall(container, known, stamp)
        if self.phase in TERMINAL_PHASES:
            self.stage = Stage.ENDED
            for container in self.containers:
                container.run = Run.DONE

    # --- step -------------------------------------------------------------------------------------

    def step(self, event: Event | None, now: Moment) -> list[Effect]:
        """Effects of `event`, in the order they must be carried out. None: begin, or look again.

        LifecycleError when the event cannot happen in this state.
        """
        self._now = now
        self._effects = []
        if isinstance(event, Started | StartFailed | Exited | Probed):
            self._container_event(event)
        elif event is not None:
            try:
                handler = _POD[self.stage, type(event)]
            except KeyError:
                raise LifecycleError(f"{event} came in stage {self.stage.value}") from None
            if handler is not None:
                handler(self, event)
        self._advance()
        self._set_phase()
        return self._effects

    def _container_event(self, event: Started | StartFailed | Exited | Probed) -> None:
        container = self.by_name.get(event.container)
        if container is None or container.attempt != event.attempt:
            return  # of an older run
        try:
            handler = _CONTAINER[container.run, type(event)]
        except KeyError:
            raise LifecycleError(f"{event} came while {event.container} is {container.run.value}") from None
        if handler is not None:
            handler(self, container, event)

    # --- container transitions --------------------------------------------------------------------

    def _started(self, c: Container, event: Started) -> None:
        c.container_id = event.container_id
        c.started_at, c.started_stamp = self._now.at, self._now.stamp
        if c.ended is not None:
            c.restart_count += 1
        c.fault = None
        image = c.spec.get("image") or ""
        self._record("Pulled", f'Container image "{image}" already present on machine')
        self._record("Created", f"Created container: {c.name}")
        self._record("Started", f"Started container {c.name}")
        if c.run is Run.STOPPING:
            return
        c.run = Run.RUNNING
        if _PROBES["startup"] in c.spec:
            self._effects.append(StartProbe(c.name, c.attempt, "startup"))
        else:
            self._passed_startup(c)

    def _passed_startup(self, c: Container) -> None:
        c.startup_passed = True
        c.ready = _PROBES["readiness"] not in c.spec
        for probe in ("readiness", "liveness"):
            if _PROBES[probe] in c.spec:
                self._effects.append(StartProbe(c.name, c.attempt, probe))

    def _start_failed(self, c: Container, event: StartFailed) -> None:
        if c.run is Run.STOPPING:
            c.run = Run.DONE if self.stage is Stage.ENDING else Run.IDLE
            return
        text = f"Error: {event.message}"
        self._record("Failed", text, warning=True)
        if event.reason == START_ERROR:
            self._ended_at_start(c, event)
            return
        c.fault = (event.reason, event.message)
        c.run = Run.FAULT
        self._timer(c, self._timing.retry_s)

    def _ended_at_start(self, c: Container, event: StartFailed) -> None:
        """A program that cannot be started is a run that ended as it began, and counts as one."""
        c.restart_count += c.ended is not None
        c.fault = None
        c.ended = Termination(
            START_ERROR_CODE, START_ERROR, _NEVER, self._now.stamp, c.container_id, message=event.message
        )
        self._run_is_over(c, START_ERROR_CODE, 0.0)

    def _exited(self, c: Container, event: Exited) -> None:
        ran_s = self._now.at - c.started_at if c.started_stamp else 0.0
        c.ended = Termination(
            exit_code=event.exit_code,
            reason="Completed" if event.exit_code == 0 else "Error",
            started=c.started_stamp or self._now.stamp,
            finished=self._now.stamp,
            container_id=c.container_id,
            signal=event.signal,
            message=event.message,
        )
        c.startup_passed = c.ready = False
        c.started_stamp = ""
        self._run_is_over(c, event.exit_code, ran_s)

    def _run_is_over(self, c: Container, exit_code: int, ran_s: float) -> None:
        if self.stage is not Stage.ACTIVE or not restarts(c, exit_code):
            c.run = Run.DONE
            return
        if self.suspended:
            c.run = Run.IDLE
            return
        self._back_off(c, ran_s)

    def _back_off(self, c: Container, ran_s: float) -> None:
        c.waited_s = 0.0 if ran_s >= self._timing.reset_after_s else c.backoff_s
        c.backoff_s = self._timing.backoff.after_s(c.waited_s)
        if c.waited_s == 0:
            c.run = Run.IDLE
            return
        c.run = Run.BACKOFF
        name, space = self.pod_name
        pod = f"{name}_{space}({self.pod_uid})"
        text = f"Back-off restarting failed container {c.name} in pod {pod}"
        self._record("BackOff", text, warning=True)
        self._timer(c, c.waited_s)

    def _probed(self, c: Container, event: Probed) -> None:
        if not event.ok:
            text = f"{event.probe.capitalize()} probe failed: {event.message}"
            self._record("Unhealthy", text, warning=True)
        elif event.message:
            self._record("ProbeWarning", f"{event.probe.capitalize()} probe warning: {event.message}", warning=True)
        if event.probe == "readiness":
            c.ready = event.ok and c.startup_passed
        elif event.probe == "startup" and event.ok:
            if not c.startup_passed:
                self._passed_startup(c)
        elif not event.ok:
            text = f"Container {c.name} failed {event.probe} probe, will be restarted"
            self._record("Killing", text)
            grace = (c.spec.get(_PROBES[event.probe]) or {}).get("terminationGracePeriodSeconds")
            self._stop(c, self.grace_s if grace is None else float(grace))

    # --- pod transitions --------------------------------------------------------------------------

    def _sandbox_ready(self, event: SandboxReady) -> None:
        self.ip = event.ip
        self.stage = Stage.ACTIVE
        self.sandboxes += 1
        self._watch_deadline()

    def _watch_deadline(self) -> None:
        limit = self.spec.get("activeDeadlineSeconds")
        if limit is not None:
            passed = parse_time(self._now.stamp) - parse_time(self.start_stamp)
            left = max(0.0, float(limit) - passed.total_seconds())
            self._effects.append(SetTimer(TimerKey("deadline"), self._now.at + left))

    def _sandbox_failed(self, event: SandboxFailed) -> None:
        self._record(event.reason, event.message, warning=True)
        self._effects.append(SetTimer(TimerKey("sandbox"), self._now.at + self._timing.retry_s))

    def _timer_fired(self, event: TimerFired) -> None:
        kind, name, attempt = event.key
        if kind == "deadline":
            self._fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        elif kind == "sandbox":
            if self.stage is Stage.PREPARING:
                self._effects.append(PrepareSandbox())
        else:
            c = self.by_name[name]
            if c.attempt == attempt and c.run in (Run.BACKOFF, Run.FAULT):
                c.run = Run.IDLE

    def _stop_requested(self, event: StopRequested) -> None:
        shorter = event.grace_s < self.grace_s
        self.deleting = True
        self.grace_s = event.grace_s
        if self.stage is Stage.ENDED:
            return
        if shorter:
            for c in self.containers:
                if c.run is Run.STOPPING:
                    self._effects.append(StopContainer(c.name, c.attempt, self.grace_s))
        self.stage = Stage.ENDING

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
        self._fail(event.reason, event.message)

    def _suspended(self, _: Suspended) -> None:
        self.suspended = True
        for c in self.containers:
            if c.run in (Run.STARTING, Run.RUNNING, Run.STOPPING):
                c.run = Run.STOPPING
                self._effects.append(StopContainer(c.name, c.attempt, 0.0))

    def _resumed(self, _: Resumed) -> None:
        self.suspended = False

    # --- consequences -----------------------------------------------------------------------------

    def _advance(self) -> None:
        if self.stage is Stage.NEW and not self.suspended:
            self.stage = Stage.PREPARING
            self.start_stamp = self.start_stamp or self._now.stamp
            self._effects.append(PrepareSandbox())
        if self.stage is Stage.ACTIVE:
            if all(c.run is Run.DONE for c in self.of_role(Role.APP)):
                self.stage = Stage.ENDING
            elif not self.suspended:
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
                self.stage = Stage.ENDING
            return
        for c in self.of_role(Role.APP):
            if c.run is Run.IDLE:
                self._start(c)

    def _wind_down(self) -> None:
        """Stop what runs: the containers at once, then the sidecars one by one, the last one first."""
        waiting = False
        for c in self.of_role(Role.INIT, Role.APP, Role.EPHEMERAL):
            waiting |= self._end(c)
        for c in reversed(list(self.of_role(Role.SIDECAR))):
            if waiting:
                return
            waiting |= self._end(c)

    def _end(self, c: Container) -> bool:
        """Have the container end for good; whether it is still to exit."""
        if c.run in (Run.IDLE, Run.BACKOFF, Run.FAULT):
            c.run = Run.DONE
        elif c.run in (Run.STARTING, Run.RUNNING):
            self._record("Killing", f"Stopping container {c.name}")
            self._stop(c, self.grace_s)
        return c.run is not Run.DONE

    def _start(self, c: Container) -> None:
        c.run = Run.STARTING
        c.attempt += 1
        c.startup_passed = c.ready = False
        self._effects.append(StartContainer(c.name, c.attempt))

    def _stop(self, c: Container, grace_s: float) -> None:
        c.run = Run.STOPPING
        self._effects.append(StopContainer(c.name, c.attempt, grace_s))

    def _fail(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        self.ends_failed = True
        self.stage = Stage.ENDING

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

    def _record(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._effects.append(Record("Warning" if warning else "Normal", reason, message))

    def _timer(self, c: Container, wait_s: float) -> None:
        key = TimerKey("container", c.name, c.attempt)
        self._effects.append(SetTimer(key, self._now.at + wait_s))


# --- tables ---------------------------------------------------------------------------------------

_Handler = Callable[[PodMachine, Container, Any], None] | None
_M = PodMachine

_CONTAINER: dict[tuple[Run, type], _Handler] = {
    (Run.STARTING, Started): _M._started,
    (Run.STARTING, StartFailed): _M._start_failed,
    (Run.STARTING, Exited): _M._exited,
    (Run.RUNNING, Exited): _M._exited,
    (Run.RUNNING, Probed): _M._probed,
    (Run.STOPPING, Started): _M._started,  # it was asked to stop before its start was through
    (Run.STOPPING, StartFailed): _M._start_failed,
    (Run.STOPPING, Exited): _M._exited,
    # Results of a probe that was under way when the run ended are of no use.
    **{(run, Probed): None for run in Run if run is not Run.RUNNING},
}

_PodHandler = Callable[[PodMachine, Any], None] | None
_LIVE = (Stage.NEW, Stage.PREPARING, Stage.ACTIVE)
_LATE = (Stage.ENDING, Stage.ENDED, Stage.GONE)

_POD: dict[tuple[Stage, type], _PodHandler] = {
    (Stage.PREPARING, SandboxReady): _M._sandbox_ready,
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
    **{(stage, Suspended): _M._suspended for stage in Stage},
    **{(stage, Resumed): _M._resumed for stage in Stage},
}

"""The containers of a pod and what events do to them: the first half of its state machine.

`_CONTAINER` says what an event does to a container in each state. Hooks belong to a run: until a postStart hook is
done a container counts as not running yet, and a preStop hook takes its time from the grace of the stop.

Source: Kubernetes documentation, "Pod Lifecycle" and "Container Lifecycle Hooks"; KEP-753, KEP-5307.
"""

from collections.abc import Callable
from typing import Any

from rayplane.node.errors import LifecycleError
from rayplane.node.lifecycle.containers import RESTART_ALL, hook_of, present_text, restarts, rule_for
from rayplane.node.lifecycle.model import (
    GRACE_MIN_S,
    POST_START,
    PRE_STOP,
    START_ERROR,
    TOO_MANY_PROCESSES,
    Container,
    ContainerEvent,
    Effect,
    Exited,
    HookRan,
    Moment,
    Probed,
    Record,
    Role,
    Run,
    RunHook,
    SetTimer,
    Stage,
    StartContainer,
    Started,
    StartFailed,
    StartProbe,
    Stop,
    StopContainer,
    Termination,
    TimerKey,
)
from rayplane.node.restarts import RestartTiming

START_ERROR_CODE = 128
"""Exit code of a container whose program could not be started."""
_NEVER = "1970-01-01T00:00:00Z"
_PROBES = {
    "startup": "startupProbe",
    "readiness": "readinessProbe",
    "liveness": "livenessProbe",
}
LIVE = (Run.STARTING, Run.OPENING, Run.RUNNING)


class ContainerRuns:
    """The containers of one pod and the step under way. `PodMachine` adds the pod."""

    __slots__ = (
        "_effects",
        "_now",
        "_timing",
        "by_name",
        "containers",
        "grace_s",
        "pod_name",
        "pod_uid",
        "restarting_all",
        "stage",
        "suspensions",
    )

    def __init__(self, containers: list[Container], name: tuple[str, str], uid: str, timing: RestartTiming) -> None:
        self.containers = containers
        self.by_name = {c.name: c for c in containers}
        self.pod_name, self.pod_uid = name, uid
        self.stage = Stage.NEW
        self.grace_s = 0.0
        self.suspensions: set[str] = set()
        """Why nothing is started now."""
        self.restarting_all = False
        """A container's end asked for a new start of all: none is started until all have ended."""
        self._timing = timing
        self._effects: list[Effect] = []
        self._now = Moment(0.0, "")

    @property
    def suspended(self) -> bool:
        return bool(self.suspensions)

    def _container_event(self, event: ContainerEvent) -> None:
        container = self.by_name.get(event.container)
        if container is None or container.attempt != event.attempt:
            return  # of an older run
        try:
            handler = _CONTAINER[container.run, type(event)]
        except KeyError:
            raise LifecycleError(f"{event} came while {event.container} is {container.run.value}") from None
        if handler is not None:
            handler(self, container, event)

    # --- start ------------------------------------------------------------------------------------

    def _start(self, c: Container) -> None:
        c.run = Run.STARTING
        c.attempt += 1
        c.stop = Stop.NONE
        if not c.goes_on:
            c.startup_passed = c.ready = c.again = False
        self._effects.append(StartContainer(c.name, c.attempt))

    def _started(self, c: Container, event: Started) -> None:
        if c.goes_on:
            self._taken_over(c)
            return
        c.container_id = event.container_id
        c.started_at, c.started_stamp = self._now.at, self._now.stamp
        if c.ended is not None:
            c.restart_count += 1
        c.fault = None
        c.in_force = c.spec.get("resources")
        c.image, c.image_id, c.user = event.image, event.image_id, event.user
        if not event.image:  # else whoever looked for it has told
            self._record("Pulled", present_text(c.spec.get("image") or ""), of=c)
        self._record("Created", "Container created", of=c)
        self._record("Started", "Container started", of=c)
        if c.run is Run.STOPPING:
            return
        if hook_of(c, POST_START):
            c.run = Run.OPENING
            self._effects.append(RunHook(c.name, c.attempt, POST_START))
        else:
            self._runs(c)

    def _taken_over(self, c: Container) -> None:
        """A run that outlived the node's earlier life: nothing of it begins anew but its probes."""
        c.goes_on = False
        c.started_at = self._now.at
        c.in_force = c.spec.get("resources")
        if c.run is Run.STOPPING:
            return
        if c.startup_passed:
            c.run = Run.RUNNING
            self._probe(c)
        else:
            self._runs(c)

    def _runs(self, c: Container) -> None:
        c.run = Run.RUNNING
        if _PROBES["startup"] in c.spec:
            self._effects.append(StartProbe(c.name, c.attempt, "startup"))
        else:
            self._passed_startup(c)

    def _opened(self, c: Container, event: HookRan) -> None:
        if event.hook != POST_START:
            return
        if not event.failed:
            self._runs(c)
            return
        self._record("FailedPostStartHook", f"PostStartHook failed: {event.failed}", warning=True, of=c)
        self._record("Killing", "FailedPostStartHook", of=c)
        self._stop(c, self.grace_s)

    def _passed_startup(self, c: Container) -> None:
        c.startup_passed = True
        c.ready = _PROBES["readiness"] not in c.spec
        self._probe(c)

    def _probe(self, c: Container) -> None:
        for probe in ("readiness", "liveness"):
            if _PROBES[probe] in c.spec:
                self._effects.append(StartProbe(c.name, c.attempt, probe))

    def _start_failed(self, c: Container, event: StartFailed) -> None:
        if c.run is Run.STOPPING:
            c.run = Run.DONE if self.stage is Stage.ENDING else Run.IDLE
            return
        self._record("Failed", f"Error: {event.told or event.message}", warning=True, of=c)
        if event.reason == START_ERROR:
            self._ended_at_start(c, event)
            return
        c.fault = (event.reason, event.message)
        c.run = Run.FAULT
        self._timer(c, self._timing.retry_s if event.retry_s is None else event.retry_s)

    def _ended_at_start(self, c: Container, event: StartFailed) -> None:
        """A program that cannot be started is a run that ended as it began, and counts as one."""
        c.restart_count += c.ended is not None
        c.fault = None
        c.ended = Termination(
            START_ERROR_CODE, START_ERROR, _NEVER, self._now.stamp, c.container_id, message=event.message
        )
        self._run_is_over(c, START_ERROR_CODE, 0.0)

    # --- end --------------------------------------------------------------------------------------

    def _stop(self, c: Container, grace_s: float) -> None:
        """Have the container exit, after its hook if it has one and there is time."""
        up = c.run in (Run.OPENING, Run.RUNNING)
        c.run = Run.STOPPING
        c.stop_by = self._now.at + grace_s
        if up and grace_s > 0 and hook_of(c, PRE_STOP):
            c.stop = Stop.HOOK
            self._effects.append(RunHook(c.name, c.attempt, PRE_STOP, grace_s))
        else:
            self._tell(c, grace_s)

    def _tell(self, c: Container, grace_s: float) -> None:
        c.stop = Stop.TOLD
        self._effects.append(StopContainer(c.name, c.attempt, grace_s))

    def _tell_what_is_left(self, c: Container) -> None:
        self._tell(c, max(GRACE_MIN_S, c.stop_by - self._now.at))

    def _stopping_hook_ran(self, c: Container, event: HookRan) -> None:
        if event.hook != PRE_STOP or c.stop is not Stop.HOOK:
            return
        if event.failed:
            self._record("FailedPreStopHook", f"PreStopHook failed: {event.failed}", warning=True, of=c)
        if self.stage is Stage.ENDING:
            c.stop = Stop.TURN
        else:
            self._tell_what_is_left(c)

    def _exited(self, c: Container, event: Exited) -> None:
        ran_s = self._now.at - c.started_at if c.started_stamp else 0.0
        c.ended = Termination(
            exit_code=event.exit_code,
            reason=event.reason or ("Completed" if event.exit_code == 0 else "Error"),
            started=c.started_stamp or self._now.stamp,
            finished=self._now.stamp,
            container_id=c.container_id,
            signal=event.signal,
            message=event.message,
        )
        c.startup_passed = c.ready = False
        c.started_stamp = ""
        if event.reason == TOO_MANY_PROCESSES:
            self._record(event.reason, f"Container {c.name} had more processes than a pod may have", warning=True, of=c)
        self._run_is_over(c, event.exit_code, ran_s)

    def _run_is_over(self, c: Container, exit_code: int, ran_s: float) -> None:
        if self.stage is Stage.ACTIVE and rule_for(c, exit_code) == RESTART_ALL and not c.again:
            self._restart_all(c)
        if self.stage is not Stage.ACTIVE or not (c.again or restarts(c, exit_code)):
            c.run = Run.DONE
        elif self.suspended or c.again:
            c.run = Run.IDLE
        else:
            self._back_off(c, ran_s)

    def _restart_all(self, cause: Container) -> None:
        """All others end at once, to start again in their order."""
        self.restarting_all = True
        for c in self.containers:
            if c is not cause and c.run in (Run.BACKOFF, Run.FAULT):
                c.run = Run.IDLE
            elif c is not cause and c.run in LIVE:
                c.again = c.role is not Role.EPHEMERAL
                self._stop(c, 0.0)

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
        self._record("BackOff", text, warning=True, of=c)
        self._timer(c, c.waited_s)

    # --- probes -----------------------------------------------------------------------------------

    def _probed(self, c: Container, event: Probed) -> None:
        if not event.ok:
            text = f"{event.probe.capitalize()} probe failed: {event.message}"
            self._record("Unhealthy", text, warning=True, of=c)
        elif event.message:
            self._record(
                "ProbeWarning", f"{event.probe.capitalize()} probe warning: {event.message}", warning=True, of=c
            )
        if not event.decides:
            return
        if event.probe == "readiness":
            c.ready = event.ok and c.startup_passed
        elif c.run is Run.STOPPING:
            return
        elif event.probe == "startup" and event.ok:
            if not c.startup_passed:
                self._passed_startup(c)
        elif not event.ok:
            text = f"Container {c.name} failed {event.probe} probe, will be restarted"
            self._record("Killing", text, of=c)
            grace = (c.spec.get(_PROBES[event.probe]) or {}).get("terminationGracePeriodSeconds")
            self._stop(c, self.grace_s if grace is None else float(grace))

    # --- what all steps do ------------------------------------------------------------------------

    def _record(self, reason: str, message: str, *, warning: bool = False, of: Container | None = None) -> None:
        about = of.name if of is not None else ""
        self._effects.append(Record("Warning" if warning else "Normal", reason, message, about))

    def _timer(self, c: Container, wait_s: float) -> None:
        key = TimerKey("container", c.name, c.attempt)
        self._effects.append(SetTimer(key, self._now.at + wait_s))


_R = ContainerRuns
_CONTAINER: dict[tuple[Run, type], Callable[[Any, Container, Any], None] | None] = {
    (Run.STARTING, Started): _R._started,
    (Run.STARTING, StartFailed): _R._start_failed,
    (Run.STARTING, Exited): _R._exited,
    (Run.OPENING, HookRan): _R._opened,
    (Run.OPENING, Exited): _R._exited,
    (Run.RUNNING, Exited): _R._exited,
    (Run.RUNNING, Probed): _R._probed,
    (Run.STOPPING, Started): _R._started,  # it was asked to stop before its start was through
    (Run.STOPPING, StartFailed): _R._start_failed,
    (Run.STOPPING, HookRan): _R._stopping_hook_ran,
    (Run.STOPPING, Probed): _R._probed,  # whether it is ready matters to its end
    (Run.STOPPING, Exited): _R._exited,
    # Results of what was under way when the run ended are of no use.
    **{(run, Probed): None for run in Run if run not in (Run.RUNNING, Run.STOPPING)},
    **{(run, HookRan): None for run in Run if run not in (Run.OPENING, Run.STOPPING)},
}

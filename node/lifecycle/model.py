"""Events, effects and states of the pod life cycle.

Containers are named by their name in the pod's spec and, for one run of it, by the attempt: a number that grows with
every start asked for. An event of an older attempt is stale and changes nothing.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

# --- time -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: `at` in seconds of the event loop's clock (for spans), `stamp` as RFC 3339 (for people)."""

    at: float
    stamp: str


# --- states ---------------------------------------------------------------------------------------


GRACE_MIN_S = 2.0
"""A container has at least this long to end when its hook, those before it, or the node's absence took its grace."""


class Stage(Enum):
    """Stage of the pod as a whole."""

    NEW = "new"
    PREPARING = "preparing"  # waits for its address and volumes
    ACTIVE = "active"  # containers are started as the order and their policies ask
    ENDING = "ending"  # containers are being stopped; none is started any more
    ENDED = "ended"  # nothing runs; address and volumes were given back
    GONE = "gone"  # and the API object is to go, or went


class Run(Enum):
    """State of one container."""

    IDLE = "idle"  # never started in this sandbox, or to be started when its turn comes
    STARTING = "starting"
    OPENING = "opening"  # it runs, and so does its postStart hook
    RUNNING = "running"
    STOPPING = "stopping"  # it is to end (`Stop` says how far that is); it has not exited yet
    BACKOFF = "backoff"  # exited; started again when the timer fires
    FAULT = "fault"  # could not be started; tried again when the timer fires
    DONE = "done"  # will not run again


class Stop(Enum):
    """Progress of a stop of a container."""

    NONE = "none"
    HOOK = "hook"  # its preStop hook runs
    TURN = "turn"  # the hook is done; it waits for the containers that end before it
    TOLD = "told"


class Role(Enum):
    INIT = "init"
    SIDECAR = "sidecar"  # an init container with restartPolicy Always
    APP = "app"
    EPHEMERAL = "ephemeral"  # put into a running pod to look into it; nothing waits for it


@dataclass(frozen=True, slots=True)
class Termination:
    """The end of one run; times as RFC 3339."""

    exit_code: int
    reason: str
    started: str
    finished: str
    container_id: str
    signal: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Survivor:
    """The newest run of a container that a runtime has from an earlier life of this node. `container_id`: as statuses
    tell it, empty for one that never began; `attempt`: its number; `since`: when it was made, RFC 3339.
    """

    container_id: str
    attempt: int
    since: str


class ContainerUser(NamedTuple):
    """The user as whom a container's first process began, by the numbers that it sees."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(slots=True)
class Container:
    """State of one container. `spec` is the container's part of the pod's spec (read-only); `in_force`: the resources
    that its run has.
    """

    name: str
    role: Role
    spec: dict[str, Any]  # with the resources that are set aside for it
    policy: str  # restart policy in force: Always, OnFailure, Never
    run: Run = Run.IDLE
    attempt: int = 0
    container_id: str = ""
    started_stamp: str = ""
    started_at: float = 0.0
    stop: Stop = Stop.NONE
    stop_by: float = 0.0  # when it is to have ended, since it is stopping
    in_force: dict[str, Any] | None = None
    goes_on: bool = False  # its run outlived the node's earlier life, and is yet to be taken over
    again: bool = False  # it is stopped to run anew, whatever its policy says
    startup_passed: bool = False
    ready: bool = False
    restart_count: int = 0
    backoff_s: float = 0.0  # wait before the next restart
    waited_s: float = 0.0  # wait of the restart under way
    ended: Termination | None = None  # the last run's end
    fault: tuple[str, str] | None = None  # reason, message
    image: str = ""  # as the last start found it
    image_id: str = ""
    user: ContainerUser | None = None  # of the last run, where that is known


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """Address assigned, volumes mounted. `recursive`: whether what is mounted below read-only ones can be so, too."""

    ip: str
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class SandboxFailed:
    reason: str  # of the Event, e.g. FailedMount
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    container: str
    attempt: int
    container_id: str
    image: str = ""  # in full; empty where nobody looked for it
    image_id: str = ""
    user: ContainerUser | None = None  # None where nobody is, or can tell


START_ERROR = "StartError"
TOO_MANY_PROCESSES = "TooManyProcesses"
POST_START, PRE_STOP = "postStart", "preStop"


@dataclass(frozen=True, slots=True)
class StartFailed:
    container: str
    attempt: int
    reason: str  # of the waiting state, e.g. CreateContainerConfigError; START_ERROR: its program cannot be started
    message: str
    told: str = ""  # what the Event says in place of the message
    retry_s: float | None = None  # when to try again, if not after the usual time


@dataclass(frozen=True, slots=True)
class Exited:
    container: str
    attempt: int
    exit_code: int
    signal: int = 0
    message: str = ""  # termination message
    reason: str = ""  # where it is more than its code tells: OOMKilled, TOO_MANY_PROCESSES


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe's result. `message`: why it failed, or what is odd about a success.

    `decides`: the container counts as this from now on (thresholds were applied by the prober); else it is only told.
    """

    container: str
    attempt: int
    probe: str  # startup, readiness, liveness
    ok: bool
    message: str = ""
    decides: bool = True


@dataclass(frozen=True, slots=True)
class HookRan:
    """A hook has ended. `failed`: why it did not do what it should, empty when it did."""

    container: str
    attempt: int
    hook: str  # POST_START, PRE_STOP
    failed: str = ""


class TimerKey(NamedTuple):
    kind: str  # container, sandbox, deadline, resize
    container: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    key: TimerKey


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The API object has a deletion time stamp. May come again with a shorter grace."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Vanished:
    """The API object is gone: nothing may go on running for it."""


@dataclass(frozen=True, slots=True)
class EphemeralAdded:
    """Ephemeral containers that were added to the pod's spec."""

    containers: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class DeadlineChanged:
    """The pod may be active for another time than before, counted from its start."""

    active_s: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The node does not take the pod."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """The node ends the pod for its own sake. `reason` and `message` are the pod's then.

    `disruption`: reason and message of its DisruptionTarget condition; empty for none.
    """

    reason: str
    message: str
    grace_s: float
    disruption: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class ResizePending:
    """A refusal of the resources that the pod's spec asks for now: Infeasible, Deferred; empty: nothing is refused.

    `told`: what the event says of it.
    """

    reason: str
    message: str
    told: str = ""


@dataclass(frozen=True, slots=True)
class Respecified:
    """Containers are something else from now on. `restart`: which of them take that only by a new run, and what is told
    of that. `of_pod`: the resources of the pod as a whole, where they change. `told`: what events say of a resize."""

    containers: tuple[dict[str, Any], ...]
    restart: tuple[tuple[str, str], ...] = ()
    of_pod: dict[str, Any] | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class ResourcesHeld:
    """The outcome of HoldResources. `error`: why it is to be tried again; empty: it is done."""

    error: str = ""


LOST_CLUSTER, EXPERIMENT = "lost-cluster", "experiment"


@dataclass(frozen=True, slots=True)
class Suspended:
    """The order to stop everything, and start nothing until `Resumed` for the same reason.

    The node has lost the cluster, or an experiment keeps the pod from working.
    """

    why: str = LOST_CLUSTER


@dataclass(frozen=True, slots=True)
class Resumed:
    why: str = LOST_CLUSTER


@dataclass(frozen=True, slots=True)
class Killed:
    """The end of containers at once, as if they had crashed."""

    containers: tuple[str, ...]


ContainerEvent = Started | StartFailed | Exited | Probed | HookRan
Event = (
    ContainerEvent
    | SandboxReady
    | SandboxFailed
    | TimerFired
    | StopRequested
    | Vanished
    | EphemeralAdded
    | DeadlineChanged
    | Rejected
    | Evicted
    | ResizePending
    | Respecified
    | ResourcesHeld
    | Suspended
    | Resumed
    | Killed
)


# --- effects --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareSandbox:
    """An order to get an address and mount the volumes, answered with SandboxReady or SandboxFailed."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    """An order answered with Started or StartFailed, later with Exited."""

    container: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StopContainer:
    """An order to end, and to kill after `grace_s`, answered with Exited.

    A second one with a shorter grace is obeyed.
    """

    container: str
    attempt: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class RunHook:
    """An order answered with HookRan, unless the container is stopped or exits before.

    `limit_s`: after so long the hook has failed.
    """

    container: str
    attempt: int
    hook: str
    limit_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class StartProbe:
    """An order to probe until the container's run ends, answered with Probed on every change and every failure."""

    container: str
    attempt: int
    probe: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """An order answered with TimerFired(key) when the loop's clock shows `at`. A stale timer is harmless."""

    key: TimerKey
    at: float


@dataclass(frozen=True, slots=True)
class HoldResources:
    """An order to hold these containers, as far as they run, and the pod as a whole to the resources that are set aside
    for them now, answered with ResourcesHeld."""

    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A Kubernetes Event to write on the pod."""

    type: str  # Normal, Warning
    reason: str
    message: str
    container: str = ""
    """The one that it is about; empty: the whole pod."""


@dataclass(frozen=True, slots=True)
class TearDown:
    """An order to unmount the volumes and give the address back."""


@dataclass(frozen=True, slots=True)
class FinalizePod:
    """The deletion of the API object for good (grace 0, uid as precondition), after its last status was written."""


Effect = (
    PrepareSandbox
    | StartContainer
    | StopContainer
    | RunHook
    | StartProbe
    | SetTimer
    | HoldResources
    | Record
    | TearDown
    | FinalizePod
)

"""Containers as data: they start, run, become ready, crash and end as the pod's annotations say.

Annotations (each also as `<name>.<container>` for one container; times as seconds or 500ms, 2s, 1m):

| annotation | meaning | default |
|---|---|---|
| rayplane.io/start-delay | from the start order to running | 0 |
| rayplane.io/run-duration | then the container exits | `usual_run_s`; 0 for init containers |
| rayplane.io/exit-code | with this code | 0 |
| rayplane.io/crash-rate | crashes per second of running, with exit code 1 | 0 |
| rayplane.io/stop-delay | from the stop order to the exit (at most the grace period) | 0 |
| rayplane.io/ready-after | until the readiness probe passes, or `never` | 0 |
| rayplane.io/liveness-fails-after | until the liveness probe fails | never |
| rayplane.io/honor-initial-delay | `true`: readiness waits for initialDelaySeconds too | false |
| rayplane.io/cpu-usage, rayplane.io/memory-usage | what stats say, as the pod is then | the requests |
| rayplane.io/log | text of the log's second line | none |

No task per container: one timer of the event loop for each delay that is not zero.
"""

import asyncio
import errno
import random
import socket
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import is_sidecar
from rayplane.control_plane.api.pods.marks import Stress, stresses
from rayplane.control_plane.api.pods.resources import container_limits, container_requests
from rayplane.control_plane.durations import parse_span
from rayplane.node.errors import Unsupported
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime import ExecSession, Features, Listener, LogOptions, StartOrder, Usage
from rayplane.node.runtime.answers import Answers, ScriptedExec
from rayplane.node.runtime.attach import FROM_NOW, Attached
from rayplane.node.runtime.logs import LogLine, select_lines
from rayplane.node.runtime.nothing_shared import NothingShared
from rayplane.node.runtime.pod_network import DIRECT

PREFIX = "rayplane.io/"
JOB_RUN_S = 1.0
HELM_HOOK = "helm.sh/hook"


class SimulatedRuntime(NothingShared):
    """A runtime that starts containers that are data. `rng` decides when they crash."""

    features = Features({"": True}, groups_policy=True)
    """Nobody is there who could write, or has groups."""

    def __init__(self, rng: random.Random, stamp: Callable[[], str], answers: Answers | None = None) -> None:
        self.rng = rng
        self.stamp = stamp
        self.answers = answers

    async def open(self) -> None:
        """Do nothing: there is nothing to open."""

    async def close(self) -> None:
        """Do nothing: nothing runs outside the event loop."""

    def keep_alive(self, seconds: float) -> None:
        """Simulated containers need no watchdog: they live in the process that watches."""

    def start(self, order: StartOrder, listener: Listener) -> "SimulatedRun":
        run = SimulatedRun(order, listener, self)
        try:
            run.begin(self.rng)
        except ValueError as e:
            listener.failed("CreateContainerConfigError", f"an annotation {PREFIX}...: {e}")
        return run

    def show(self, order: StartOrder) -> "SimulatedRun":
        """A run that somebody else begins and ends."""
        return SimulatedRun(order, _NOBODY, self)


class SimulatedRun:
    """One run of a simulated container."""

    __slots__ = ("_listener", "_order", "_over", "_runtime", "_since", "_timer", "_waiters")
    real = False
    log_path = ""

    def __init__(self, order: StartOrder, listener: Listener, runtime: SimulatedRuntime) -> None:
        self._order = order
        self._listener = listener
        self._runtime = runtime
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._since = 0.0
        self._waiters: list[asyncio.Future[None]] = []

    def begin(self, rng: random.Random) -> None:
        """Draw this run's fate from the annotations (ValueError when one is malformed) and start it."""
        delay = self._span("start-delay", 0.0)
        duration = self._duration()
        exit_code = int(self._text("exit-code") or 0)
        rate = float(self._text("crash-rate") or 0.0)
        if rate > 0:
            crash = rng.expovariate(rate)
            if duration is None or crash < duration:
                duration, exit_code = crash, 1
        for name in ("ready-after", "liveness-fails-after", "stop-delay"):
            if self._text(name) != "never":
                self._span(name, 0.0)
        self._after(delay, self._run, duration, exit_code)

    def _run(self, duration_s: float | None, exit_code: int) -> None:
        self._timer = None
        self._since = asyncio.get_running_loop().time()
        self._listener.started()
        if duration_s is not None and not self._over:
            self._after(duration_s, self._exit, exit_code, 0)

    def _exit(self, exit_code: int, signal: int) -> None:
        if self._over:
            return
        self._over = True
        self._timer = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._listener.exited(exit_code, signal, "")

    def stop(self, grace_s: float) -> None:
        if self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
        text = self._text("stop-delay")
        wait = float("inf") if text == "never" else self._span("stop-delay", 0.0)
        if wait <= grace_s:
            self._after(wait, self._exit, 143, 0)
        else:
            self._after(grace_s, self._exit, 137, 0)

    async def connect(self, host: str, port: int) -> socket.socket:
        answers = self._runtime.answers
        target = await answers.forward(self._order.pod, port) if answers is not None else None
        if target is None:
            raise OSError(errno.ECONNREFUSED, "a simulated container listens nowhere")
        return await DIRECT.connect(*target)

    async def forward(self, ip: str, port: int) -> socket.socket:
        return await self.connect(ip, port)

    def stress(self, pod: Object) -> None:
        """What it uses follows from its pod's annotations."""

    async def resize(self, pod: Object, container: dict[str, Any]) -> None:
        """What it uses follows from its pod's annotations."""

    def probe_delay(self, probe: str) -> tuple[float, bool] | None:
        if probe == "readiness":
            if self._text("ready-after") == "never":
                return float("inf"), True
            wait = self._span("ready-after", 0.0)
            if self._text("honor-initial-delay") == "true":
                wait += self._order.container["readinessProbe"].get("initialDelaySeconds") or 0
            return wait, True
        if probe == "liveness" and self._text("liveness-fails-after") not in ("", "never"):
            return self._span("liveness-fails-after", 0.0), False
        return 0.0, True

    async def logs(self, options: LogOptions) -> AsyncIterator[bytes]:
        data = select_lines(await self._lines(options.previous), options)
        if data:
            yield data
        if options.follow:
            await self._ended()

    async def _lines(self, previous: bool) -> list[LogLine]:
        name, stamp, answers = self._order.container["name"], self._order.stamp, self._runtime.answers
        if answers is not None:
            said = await answers.output("Logs", self._order.pod, name, previous=previous)
            if said is not None:
                return [LogLine(stamp, line) for line in said.splitlines(keepends=True)]
        lines = [LogLine(stamp, f"simulated container {name} started\n".encode())]
        text = self._text("log")
        if text:
            lines.append(LogLine(stamp, text.encode() + b"\n"))
        return lines

    async def exec(self, command: list[str], *, tty: bool, stdin: bool, size: tuple[int, int] = (0, 0)) -> ExecSession:
        order, answers = self._order, self._runtime.answers
        answer = await answers.answer(order.pod, order.container["name"], command) if answers is not None else None
        if answer is None:
            raise Unsupported(
                f"container {order.container['name']} is simulated and runs no commands: give it answers in an Exec of "
                "kwok.x-k8s.io; on nodes with the process runtime give it a command, or its image a program by "
                "`rayplane image load` or `map`"
            )
        return ScriptedExec(answer)

    async def attach(self, *, stdin: bool) -> ExecSession:
        order, answers = self._order, self._runtime.answers
        said = await answers.output("Attach", order.pod, order.container["name"]) if answers is not None else None
        output = self._follow(said) if said is not None else self.logs(FROM_NOW)
        return Attached((data, b"") async for data in output)

    async def _follow(self, said: bytes) -> AsyncIterator[bytes]:
        yield said
        await self._ended()

    async def _ended(self) -> None:
        if not self._over:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def usage(self, pod: Object) -> Usage:
        if self._over:
            return Usage()
        container = self._order.container
        requests, answers = container_requests(container), self._runtime.answers
        cores = memory_bytes = None
        if answers is not None:
            chance = self._runtime.rng.random
            cores, memory_bytes = answers.usage(pod, container["name"], self._order.stamp, chance)
        if cores is None:
            cpu = self._amount(pod, "cpu-usage") or quantity.parse(requests.get("cpu") or 0)
            cores = cpu.milli / 1000
        if memory_bytes is None:
            memory_bytes = (self._amount(pod, "memory-usage") or quantity.parse(requests.get("memory") or 0)).value
        if beside := stresses(meta.annotations(pod), container["name"]):
            cores, memory_bytes = _stressed(container, cores, memory_bytes, beside.values())
        ran_s = asyncio.get_running_loop().time() - self._since
        return Usage(round(cores * 1e9), round(memory_bytes), 1, round(cores * ran_s * 1e9))

    def _amount(self, pod: Object, name: str) -> quantity.Quantity | None:
        """An amount that the pod says, as it is now; None where it says none, or what is none."""
        text = annotation(pod, self._order.container, name)
        return quantity.parse(text) if text and quantity.is_quantity(text) else None

    def _duration(self) -> float | None:
        container, pod = self._order.container, self._order.pod
        if self._text("run-duration"):
            return self._span("run-duration", 0.0)
        inits = pod["spec"].get("initContainers") or ()
        if any(c is container or c["name"] == container["name"] for c in inits):
            return None if is_sidecar(container) else 0.0
        return usual_run_s(pod, container)

    def _text(self, name: str) -> str:
        return annotation(self._order.pod, self._order.container, name)

    def _span(self, name: str, default: float) -> float:
        text = self._text(name)
        return parse_span(text) if text else default

    def _after(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        if delay_s <= 0:
            callback(*args)
        elif delay_s != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(delay_s, callback, *args)


def usual_run_s(pod: Object, container: dict[str, Any]) -> float | None:
    """How long a container runs, of which nobody says; None: for ever.

    Pods of Jobs, pods that a Helm test makes, and pods of nobody that are not to be restarted whatever happens end by
    themselves: of the last only containers that say what they run, since without a command an image may well serve.
    `sleep N` takes its time.
    """
    owner = meta.controller_of(pod)
    if owner is not None:
        return JOB_RUN_S if owner.get("kind") == "Job" else None
    ends = pod["spec"].get("restartPolicy") in ("Never", "OnFailure")
    if "test" in meta.annotations(pod).get(HELM_HOOK, ""):
        return _slept_s(container, JOB_RUN_S) if ends else None
    runs = container.get("command") or container.get("args")
    return _slept_s(container, JOB_RUN_S) if ends and runs else None


def _slept_s(container: dict[str, Any], otherwise_s: float) -> float | None:
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if len(words) != 2 or words[0].rpartition("/")[2] != "sleep":
        return otherwise_s
    try:
        return parse_span(words[1])
    except ValueError:
        return None


def _stressed(
    container: dict[str, Any], cores: float, memory_bytes: float, beside: Collection[Stress]
) -> tuple[float, float]:
    """What a container uses with work beside it: no more than its limits let it."""
    limits = container_limits(container)
    cores += sum(one.cores for one in beside)
    memory_bytes += sum(one.memory for one in beside)
    if limits.get("cpu"):
        cores = min(cores, quantity.milli(limits["cpu"]) / 1000)
    if limits.get("memory"):
        memory_bytes = min(memory_bytes, quantity.value(limits["memory"]))
    return cores, memory_bytes


class _Nobody:
    """A listener of runs that nobody is told of."""

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        return

    def failed(self, reason: str, message: str) -> None:
        return

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        return


_NOBODY = _Nobody()


def annotation(pod: Object, container: dict[str, Any], name: str) -> str:
    """The annotation for this container, else the pod's, else empty."""
    annotations = meta.annotations(pod)
    if not annotations:
        return ""
    own = annotations.get(f"{PREFIX}{name}.{container['name']}")
    return own if own is not None else annotations.get(PREFIX + name) or ""

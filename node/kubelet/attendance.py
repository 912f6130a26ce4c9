"""Attendance on running containers: their hooks, probes and resources, carried out for the worker of their pod.

What a simulated container would answer is known beforehand: a timer stands for its probes, and hooks are done at once.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import NodeError
from rayplane.node.kubelet.hooks import outcome
from rayplane.node.kubelet.resizing import as_given
from rayplane.node.kubelet.worker_parts import WorkerParts
from rayplane.node.lifecycle import Event, HookRan, PodMachine, Probed, RunHook, StartProbe
from rayplane.node.lifecycle.model import Run
from rayplane.node.runtime import ContainerRun

log = logging.getLogger(__name__)


class AttendedPod(Protocol):
    """The worker of a pod. `hooks`: those that run, by container."""

    pod: Object
    machine: PodMachine
    runs: dict[str, ContainerRun]
    hooks: dict[str, asyncio.Task[None]]

    def post(self, event: Event | None) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Have something done that ends with the pod at the latest."""

    def timer(self, slot: object, at: float, event: Event) -> None:
        """Post an event at a time of the loop, in place of the slot's last one."""

    def resize(self, pod: Object) -> None:
        """Hold its containers together to what the spec of `pod` says. Raises NodeError."""


def run_hook(worker: AttendedPod, effect: RunHook) -> None:
    end_hook(worker, effect.container)
    run, container = worker.runs[effect.container], worker.machine.by_name[effect.container].spec
    hook: dict[str, Any] = container["lifecycle"][effect.hook]
    if not run.real and "sleep" not in hook:  # which takes no program
        worker.post(HookRan(effect.container, effect.attempt, effect.hook))
        return
    work = _hook(worker, effect, hook, run, container)
    worker.hooks[effect.container] = worker.spawn(work, f"{effect.hook} {effect.container}")


async def _hook(
    worker: AttendedPod, effect: RunHook, hook: dict[str, Any], run: ContainerRun, container: dict[str, Any]
) -> None:
    failed = await outcome(hook, run, container, ip=worker.machine.ip, limit_s=effect.limit_s)
    worker.hooks.pop(effect.container, None)
    worker.post(HookRan(effect.container, effect.attempt, effect.hook, failed))


def end_hook(worker: AttendedPod, container: str) -> None:
    """What it was to do is done, or there is no more time, or nobody to do it."""
    hook = worker.hooks.pop(container, None)
    if hook is not None:
        hook.cancel()


def start_probe(worker: AttendedPod, parts: WorkerParts, effect: StartProbe) -> None:
    delay = worker.runs[effect.container].probe_delay(effect.probe)
    if delay is None:
        worker.spawn(_probe(worker, parts, effect), f"{effect.probe} {effect.container}")
        return
    wait, ok = delay
    result = Probed(effect.container, effect.attempt, effect.probe, ok, "" if ok else "simulated")
    if wait <= 0:
        worker.post(result)
    elif wait != float("inf"):
        worker.timer((effect.container, effect.probe), asyncio.get_running_loop().time() + wait, result)


async def _probe(worker: AttendedPod, parts: WorkerParts, effect: StartProbe) -> None:
    container = worker.machine.by_name[effect.container]

    # Whether a container is ready matters to whoever it still serves while it ends.
    states = (Run.RUNNING, Run.STOPPING) if effect.probe == "readiness" else (Run.RUNNING,)

    def report(ok: bool, message: str, decides: bool) -> None:
        parts.metrics.probed(effect.container, worker.pod, effect.probe, ok=ok)
        if decides or message or not ok:
            worker.post(Probed(effect.container, effect.attempt, effect.probe, ok, message, decides))

    await parts.prober.run(
        effect.probe,
        container.spec,
        worker.runs[effect.container],
        ip=worker.machine.ip,
        runs=lambda: container.attempt == effect.attempt and container.run in states,
        report=report,
    )


async def hold(worker: AttendedPod, containers: Iterable[str]) -> str:
    """Hold those that run, and then the pod as a whole, to what is set aside for them; what of it failed."""
    given = {name: c.spec for name, c in worker.machine.by_name.items()}
    now = as_given(worker.pod, given, worker.machine.spec.get("resources"))

    async def held(name: str) -> str:
        try:
            if (run := worker.runs.get(name)) is not None:
                await run.resize(now, given[name])
        except NodeError as e:
            return f"container {name}: {e}"
        return ""

    # Side by side: one that is being started may wait for that.
    failed = [why for why in await asyncio.gather(*map(held, containers)) if why]
    try:
        worker.resize(now)
    except NodeError as e:
        failed.append(str(e))
    if failed:
        log.warning("pod %s keeps resources: %s", meta.key(worker.pod), "; ".join(failed))
    return "; ".join(failed)

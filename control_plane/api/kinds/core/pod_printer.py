"""Rows of pods: readiness, the one-word status, restarts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NONE,
    Cell,
    Column,
    age,
    since,
)
from rayplane.control_plane.api.meta import Object, condition_is, get_condition, is_deleting, name
from rayplane.control_plane.api.pods.containers import lasting, sidecars
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_is_terminated

COLUMNS = (
    NAME,
    Column("Ready", description="Containers that are ready, of all."),
    Column("Status", description="Where the pod is in its life, in one word."),
    Column("Restarts", description="Times its containers were restarted, and when last."),
    AGE,
    Column("IP", priority=1),
    Column("Node", priority=1),
    Column("Nominated Node", priority=1),
    Column("Readiness Gates", priority=1),
)


class _Restarts:
    """Counts restarts and keeps the time of the latest."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def add(self, status: Mapping[str, Any]) -> None:
        self.count += status.get("restartCount") or 0
        ended = (status.get("lastState") or {}).get("terminated") or {}
        self.last = max(self.last, ended.get("finishedAt") or "")

    def text(self, now: datetime) -> str:
        if self.count and self.last:
            return f"{self.count} ({since(self.last, now)} ago)"
        return str(self.count)


def _ended(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode') or 0}"


def _init_reason(status: Mapping[str, Any], *, sidecar: bool, index: int, total: int) -> str | None:
    """What an init container holds the pod up with; None when it does not."""
    state = status.get("state") or {}
    terminated, waiting = state.get("terminated"), state.get("waiting")
    if terminated is not None and not terminated.get("exitCode"):
        return None
    if sidecar and status.get("started"):
        return None
    if terminated is not None:
        return "Init:" + _ended(terminated)
    if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
        return f"Init:{waiting['reason']}"
    return f"Init:{index}/{total}"


def pod_row(pod: Object, now: datetime) -> list[Cell]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    init_specs = spec.get("initContainers") or ()
    of_pod = {c.get("name") for c in sidecars(spec)}
    total = len(lasting(spec))
    ready = 0
    reason = status.get("reason") or status.get("phase") or ""
    gated = get_condition(pod, "PodScheduled")
    if gated and gated.get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    restarts, of_sidecars = _Restarts(), _Restarts()
    initializing = False
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        sidecar = container.get("name") in of_pod
        restarts.add(container)
        if sidecar:
            of_sidecars.add(container)
            ready += bool(container.get("started") and container.get("ready"))
        held = _init_reason(container, sidecar=sidecar, index=index, total=len(init_specs))
        if held is not None:
            reason, initializing = held, True
            break
    if not initializing or condition_is(pod, "Initialized"):
        restarts = of_sidecars
        reason, running = _main_reason(status, restarts, reason)
        ready += running
        if reason == "Completed" and running:
            reason = "Running" if pod_is_ready(pod) else "NotReady"
    if is_deleting(pod):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif not pod_is_terminated(pod):
            reason = "Terminating"
    return [
        name(pod),
        f"{ready}/{total}",
        reason,
        restarts.text(now),
        age(pod, now),
        _address(status),
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(pod, spec),
    ]


def _main_reason(status: Mapping[str, Any], restarts: _Restarts, reason: str) -> tuple[str, int]:
    running = 0
    for container in reversed(status.get("containerStatuses") or ()):
        restarts.add(container)
        state = container.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            reason = waiting["reason"]
        elif terminated is not None:
            reason = _ended(terminated)
        elif container.get("ready") and state.get("running") is not None:
            running += 1
    return reason, running


def _address(status: Mapping[str, Any]) -> str:
    listed = status.get("podIPs")
    if listed:
        return str(listed[0].get("ip") or NONE)
    return str(status.get("podIP") or NONE)


def _gates(pod: Object, spec: Mapping[str, Any]) -> str:
    gates = spec.get("readinessGates")
    if not gates:
        return NONE
    true = sum(condition_is(pod, gate.get("conditionType") or "") for gate in gates)
    return f"{true}/{len(gates)}"


def row_conditions(pod: Object) -> list[dict[str, str]]:
    """The conditions of a pod's row: `Completed` for pods that ended."""
    phase = (pod.get("status") or {}).get("phase")
    texts = {
        "Succeeded": "The pod has completed successfully.",
        "Failed": "The pod failed.",
    }
    if phase not in texts:
        return []
    return [{"type": "Completed", "status": "True", "reason": phase, "message": texts[phase]}]

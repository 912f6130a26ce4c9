"""The state of a pod's containers as its status tells it, for pods whose status is not made here. Pure."""

from typing import Any

from rayplane.control_plane.api.pods.state import TERMINAL_PHASES
from rayplane.node.lifecycle.machine import PodMachine
from rayplane.node.lifecycle.model import Container, Run, Stage, Termination

_PARTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def mirror(machine: PodMachine, status: dict[str, Any]) -> None:
    """Show in `machine` what `status` says. The machine is not stepped any more."""
    machine.phase = status.get("phase") or "Pending"
    machine.ip = status.get("podIP") or ""
    machine.start_stamp = status.get("startTime") or ""
    machine.stage = Stage.ENDED if machine.phase in TERMINAL_PHASES else Stage.ACTIVE
    for part in _PARTS:
        for told in status.get(part) or ():
            container = machine.by_name.get(told.get("name") or "")
            if container is not None:
                _show(container, told)


def _show(c: Container, told: dict[str, Any]) -> None:
    state = told.get("state") or {}
    running, ended, waiting = state.get("running"), state.get("terminated"), state.get("waiting")
    c.ready = bool(told.get("ready"))
    c.restart_count = told.get("restartCount") or 0
    c.container_id = told.get("containerID") or ""
    c.startup_passed = running is not None
    c.started_stamp = (running or {}).get("startedAt") or ""
    c.fault = ((waiting or {}).get("reason") or "", (waiting or {}).get("message") or "") if waiting else None
    last = ended or (told.get("lastState") or {}).get("terminated")
    if last:
        c.ended = Termination(
            exit_code=last.get("exitCode") or 0,
            reason=last.get("reason") or "",
            started=last.get("startedAt") or "",
            finished=last.get("finishedAt") or "",
            container_id=last.get("containerID") or "",
            signal=last.get("signal") or 0,
            message=last.get("message") or "",
        )
    c.run = Run.RUNNING if running is not None else Run.DONE if ended else Run.IDLE

"""Status of a pod, rendered from the state of its machine (core/v1 PodStatus)."""

import hashlib
from typing import Any

from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import DISTURBED
from rayplane.control_plane.api.pods.qos import qos_class
from rayplane.control_plane.api.pods.resources import reported
from rayplane.control_plane.durations import format_duration
from rayplane.node.lifecycle.containers import has_initialized, is_recursive
from rayplane.node.lifecycle.machine import PodMachine
from rayplane.node.lifecycle.model import EXPERIMENT, Container, Role, Run, Stage, Termination

ALWAYS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
)
PASSING = ("AllContainersRestarting", "PodResizePending", "PodResizeInProgress", DISTURBED)
"""Types of the kubelet's own conditions: those that each pod has, and those that come and go."""
_Condition = tuple[str, str, str]  # status, reason, message
_TRUE: _Condition = ("True", "", "")
MESSAGES_MAX = 12 * 1024
"""Bytes of the termination messages of all containers of a pod together; each has an equal part."""


def render_status(
    machine: PodMachine, pod: Object, *, host_ip: str, stamp: str, undisturbed: str = ""
) -> dict[str, Any]:
    """The whole status. Conditions which are not the kubelet's are taken over from `pod`.

    `stamp`: now, for conditions whose status changes; the machine remembers when each last did. `undisturbed`: why the
    pod loses no packets that experiments want it to lose.
    """
    status: dict[str, Any] = {
        "phase": machine.phase,
        "conditions": _conditions(machine, pod, stamp, undisturbed),
        "qosClass": qos_class(pod),
    }
    if host_ip:
        status["hostIP"] = host_ip
        status["hostIPs"] = [{"ip": host_ip}]
    if machine.ip:
        status["podIP"] = machine.ip
        status["podIPs"] = [{"ip": machine.ip}]
    if machine.start_stamp:
        status["startTime"] = machine.start_stamp
    if machine.reason:
        status["reason"] = machine.reason
    if machine.message:
        status["message"] = machine.message
    if not machine.rejected:  # else nothing was ever made of it
        status |= _container_statuses(machine)
        if of_pod := machine.spec.get("resources"):
            status |= reported(of_pod, of_pod)
    generation = pod["metadata"].get("generation")
    if generation:
        status["observedGeneration"] = generation
    return status


def _container_statuses(machine: PodMachine) -> dict[str, Any]:
    status: dict[str, Any] = {}
    inits = list(machine.of_role(Role.INIT, Role.SIDECAR))
    if inits:
        status["initContainerStatuses"] = [_container_status(machine, c) for c in inits]
    apps = machine.of_role(Role.APP)
    status["containerStatuses"] = [_container_status(machine, c) for c in apps]
    ephemeral = [_ephemeral_status(machine, c) for c in machine.of_role(Role.EPHEMERAL)]
    if ephemeral:
        status["ephemeralContainerStatuses"] = ephemeral
    return status


# --- conditions -----------------------------------------------------------------------------------


def _conditions(machine: PodMachine, pod: Object, stamp: str, undisturbed: str) -> list[dict[str, Any]]:
    own = _own_conditions(machine)
    if undisturbed:
        own[DISTURBED] = ("False", "NotDisturbed", undisturbed)
    for kind in PASSING:
        if kind not in own:
            machine.conditions.pop(kind, None)
    known = (pod.get("status") or {}).get("conditions") or ()
    foreign = [c for c in known if c["type"] not in ALWAYS and c["type"] not in own and c["type"] not in PASSING]
    generation = pod["metadata"].get("generation")
    out = []
    for kind, (value, reason, message) in (_wanted(machine, foreign) | own).items():
        before, since = machine.conditions.get(kind, ("", ""))
        if before != value or not since:
            since = stamp
            machine.conditions[kind] = (value, since)
        condition = {"type": kind, "status": value, "lastTransitionTime": since}
        if reason:
            condition["reason"] = reason
        if message:
            condition["message"] = message
        if generation:
            condition["observedGeneration"] = generation
        out.append(condition)
    return [*out, *foreign]


def _own_conditions(machine: PodMachine) -> dict[str, _Condition]:
    """Those that a pod only has when there is something to say."""
    found: dict[str, _Condition] = {}
    if machine.disruption[0]:
        found["DisruptionTarget"] = ("True", *machine.disruption)
    if machine.restarting_all:
        found["AllContainersRestarting"] = _TRUE
    if machine.resize_pending[0]:
        found["PodResizePending"] = ("True", *machine.resize_pending)
    if machine.resize_in_progress:
        error = machine.resize_error
        found["PodResizeInProgress"] = ("True", "Error", error) if error else _TRUE
    return found


def _wanted(machine: PodMachine, foreign: list[dict[str, Any]]) -> dict[str, _Condition]:
    containers_ready = _containers_ready(machine)
    sandbox = machine.sandboxes > 0 and machine.stage not in (Stage.ENDED, Stage.GONE)
    return {
        "PodReadyToStartContainers": _TRUE if sandbox else ("False", "", ""),
        "Initialized": _initialized(machine),
        "Ready": _pod_ready(machine, containers_ready, foreign),
        "ContainersReady": containers_ready,
        "PodScheduled": _TRUE,
    }


def _initialized(machine: PodMachine) -> _Condition:
    if machine.phase == "Succeeded":
        return "True", "PodCompleted", ""
    inits = machine.of_role(Role.INIT, Role.SIDECAR)
    missing = [c.name for c in inits if not has_initialized(c)]
    if machine.apps_begun or not missing:
        return _TRUE
    text = f"containers with incomplete status: [{' '.join(missing)}]"
    return "False", "ContainersNotInitialized", text


def _containers_ready(machine: PodMachine) -> _Condition:
    if machine.phase == "Succeeded":
        return "False", "PodCompleted", ""
    if machine.phase == "Failed":
        return "False", "PodFailed", ""
    unready = [c.name for c in machine.of_role(Role.SIDECAR, Role.APP) if not _is_ready(c)]
    if not unready:
        return _TRUE
    return "False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"


def _pod_ready(machine: PodMachine, containers_ready: _Condition, foreign: list[dict[str, Any]]) -> _Condition:
    if containers_ready[0] != "True":
        return containers_ready
    given = {c["type"]: c.get("status") for c in foreign}
    missing = []
    for gate in (g["conditionType"] for g in machine.spec.get("readinessGates") or ()):
        if gate not in given:
            missing.append(f'corresponding condition of pod readiness gate "{gate}" does not exist.')
        elif given[gate] != "True":
            missing.append(f'the status of pod readiness gate "{gate}" is not "True", but {given[gate]}')
    return ("False", "ReadinessGatesNotReady", ", ".join(missing)) if missing else _TRUE


# --- containers -----------------------------------------------------------------------------------


def _is_ready(c: Container) -> bool:
    return c.ready and (c.goes_on or c.run in (Run.RUNNING, Run.STOPPING))


def _container_status(machine: PodMachine, c: Container) -> dict[str, Any]:
    image = c.image or c.spec.get("image") or ""
    image_id = c.image_id or _image_id(image)
    running = (c.goes_on or c.run in (Run.RUNNING, Run.STOPPING)) and bool(c.started_stamp)
    status: dict[str, Any] = {
        "name": c.name,
        "image": image,
        "imageID": image_id if c.container_id or c.ended else "",
        "ready": has_initialized(c) if c.role is Role.INIT else _is_ready(c),
        "restartCount": c.restart_count,
        "started": running and c.startup_passed,
        "state": _state(machine, c, running),
        "lastState": {},
    }
    if c.ended is not None and (running or "waiting" in status["state"]):
        status["lastState"] = {"terminated": _terminated(machine, c.ended)}
    container_id = c.container_id or (c.ended.container_id if c.ended else "")
    if container_id:
        status["containerID"] = container_id
    if signal := (c.spec.get("lifecycle") or {}).get("stopSignal"):
        status["stopSignal"] = signal
    if mounts := c.spec.get("volumeMounts"):
        status["volumeMounts"] = [_mounted(mount, machine.recursive) for mount in mounts]
    if c.user is not None:
        more = {"supplementalGroups": [*c.user.groups]} if c.user.groups else {}
        status["user"] = {"linux": {"uid": c.user.uid, "gid": c.user.gid, **more}}
    if c.run is not Run.DONE:
        status |= reported(c.spec.get("resources"), c.in_force)
    return status


def _mounted(mount: dict[str, Any], recursive: bool) -> dict[str, Any]:
    told = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if not mount.get("readOnly"):
        return told
    return told | {"readOnly": True, "recursiveReadOnly": "Enabled" if is_recursive(mount, recursive) else "Disabled"}


def _ephemeral_status(machine: PodMachine, c: Container) -> dict[str, Any]:
    """It is never ready: nobody sends it anything."""
    status = _container_status(machine, c) | {"ready": False}
    del status["started"]
    return status


def _state(machine: PodMachine, c: Container, running: bool) -> dict[str, Any]:
    if running:
        return {"running": {"startedAt": c.started_stamp}}
    if c.run is Run.DONE and c.ended is not None:
        return {"terminated": _terminated(machine, c.ended)}
    if EXPERIMENT in machine.suspensions:
        return {"waiting": {"reason": "PodFailure", "message": "an experiment keeps the pod from working"}}
    if c.run is Run.BACKOFF:
        name, space = machine.pod_name
        text = (
            f"back-off {format_duration(c.waited_s)} restarting failed container={c.name} "
            f"pod={name}_{space}({machine.pod_uid})"
        )
        return {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    if c.fault is not None:
        return {"waiting": {"reason": c.fault[0], "message": c.fault[1]}}
    inits = any(True for _ in machine.of_role(Role.INIT, Role.SIDECAR))
    initializing = inits and (c.role in (Role.INIT, Role.SIDECAR) or not machine.initialized)
    return {"waiting": {"reason": "PodInitializing" if initializing else "ContainerCreating"}}


def _terminated(machine: PodMachine, end: Termination) -> dict[str, Any]:
    own_part = MESSAGES_MAX // len(machine.containers)
    message = end.message
    if len(message) * 4 > own_part:
        message = message.encode()[:own_part].decode(errors="ignore")
    state: dict[str, Any] = {"exitCode": end.exit_code, "reason": end.reason}
    for key, value in (
        ("signal", end.signal),
        ("message", message),
        ("startedAt", end.started),
        ("finishedAt", end.finished),
        ("containerID", end.container_id),
    ):
        if value:
            state[key] = value
    return state


@remembered(4096)
def _image_id(image: str) -> str:
    """Images are not pulled: the digest is of the name, so that equal names have equal ids."""
    name = image.rsplit("@", 1)[0]
    head, _, tail = name.rpartition("/")
    name = f"{head}/{tail.split(':')[0]}" if head else tail.split(":")[0]
    return f"{name}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"

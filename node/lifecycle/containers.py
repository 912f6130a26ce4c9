"""Containers of a pod, read from its spec and its last known status, and their restart policies."""

from collections.abc import Iterable, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import is_sidecar
from rayplane.node.errors import ContainerConfigError
from rayplane.node.lifecycle.model import GRACE_MIN_S, Container, ContainerUser, Role, Run, Survivor, Termination

RESTART = "Restart"
RESTART_ALL = "RestartAllContainers"
_LOST = ("The container could not be located when the node came back", "Unknown", 255)


def containers_of(spec: dict[str, Any]) -> list[Container]:
    """Init containers and sidecars, then the others, ephemeral ones last."""
    pod_policy = spec.get("restartPolicy") or "Always"
    found = []
    for part in spec.get("initContainers") or ():
        if is_sidecar(part):
            found.append(Container(part["name"], Role.SIDECAR, part, "Always"))
        else:
            # A completed init container is never run again in the same sandbox.
            policy = part.get("restartPolicy") or pod_policy
            policy = "Never" if policy == "Never" else "OnFailure"
            found.append(Container(part["name"], Role.INIT, part, policy))
    for part in spec["containers"]:
        policy = part.get("restartPolicy") or pod_policy
        found.append(Container(part["name"], Role.APP, part, policy))
    return [*found, *ephemeral_containers(spec.get("ephemeralContainers") or ())]


def is_recursive(mount: Mapping[str, Any], can: bool) -> bool:
    """Whether what is mounted below a volume is read-only with it. `can`: whether the runtime knows how to."""
    return can and bool(mount.get("readOnly")) and mount.get("recursiveReadOnly") in ("Enabled", "IfPossible")


def check_recursive(container: Mapping[str, Any], can: bool) -> None:
    """Raises ContainerConfigError where it is to be so, and cannot."""
    for mount in container.get("volumeMounts") or ():
        if mount.get("recursiveReadOnly") == "Enabled" and not can:
            asked = f'volume "{mount["name"]}" requested recursive read-only mode'
            text = f"{asked}, but it is not supported by the runtime"
            raise ContainerConfigError(f"failed to resolve recursive read-only mode: {text}")


def ephemeral_containers(parts: Iterable[dict[str, Any]]) -> list[Container]:
    """Containers that run once."""
    return [Container(part["name"], Role.EPHEMERAL, part, "Never") for part in parts]


def present_text(image: str) -> str:
    """What an event tells of an image that need not be pulled."""
    return f'Container image "{image}" already present on machine and can be accessed by the pod'


def hook_of(c: Container, hook: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (c.spec.get("lifecycle") or {}).get(hook)
    return found


def has_initialized(c: Container) -> bool:
    """Tell whether the containers after this one need not wait for it."""
    if c.role is Role.SIDECAR:
        return c.startup_passed
    completed = c.run is Run.DONE and c.ended is not None and c.ended.exit_code == 0
    return c.role in (Role.APP, Role.EPHEMERAL) or completed


def restarts(c: Container, exit_code: int) -> bool:
    """Whether it runs again when it ended so: by its rules, else by its policy."""
    if c.role is Role.INIT and exit_code == 0:
        return False  # it has done its part
    return bool(rule_for(c, exit_code)) or c.policy == "Always" or (c.policy == "OnFailure" and exit_code != 0)


def rule_for(c: Container, exit_code: int) -> str:
    """What the first of its rules that an exit code fits says: RESTART or RESTART_ALL; empty for none."""
    for rule in c.spec.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        among = exit_code in (codes.get("values") or ())
        if among == (codes.get("operator") == "In"):
            return str(rule.get("action") or RESTART)
    return ""


def recall(c: Container, known: dict[str, Any], stamp: str, survivor: Survivor | None = None) -> None:
    """Fill `c` from its last container status. A run that it shows goes on if it is the `survivor`, else it has ended
    by `stamp`: when exactly nobody knows.
    """
    c.restart_count = known.get("restartCount") or 0
    if (user := (known.get("user") or {}).get("linux")) is not None:
        c.user = ContainerUser(user["uid"], user["gid"], tuple(user.get("supplementalGroups") or ()))
    state = known.get("state") or {}
    running, terminated = state.get("running"), state.get("terminated")
    last = (known.get("lastState") or {}).get("terminated")
    is_known = survivor is not None and running is not None and known.get("containerID") == survivor.container_id
    if running is not None and not is_known:
        message, reason, code = _LOST
        started, container_id = running.get("startedAt") or "", known.get("containerID") or ""
        c.ended = Termination(code, reason, started, stamp, container_id, message=message)
    elif (end := terminated or last) is not None:
        c.ended = Termination(
            exit_code=end.get("exitCode") or 0,
            reason=end.get("reason") or "Completed",
            started=end.get("startedAt") or "",
            finished=end.get("finishedAt") or "",
            container_id=end.get("containerID") or "",
            signal=end.get("signal") or 0,
            message=end.get("message") or "",
        )
    # Numbers of runs, and with them names of logs, are not had twice.
    c.attempt = c.restart_count + (c.ended is not None or is_known)
    if survivor is not None:
        c.attempt = max(c.attempt, survivor.attempt)
        if survivor.container_id and (c.ended is None or c.ended.container_id != survivor.container_id):
            _go_on(c, known if is_known else {}, survivor)
            return
    # Init containers run again in the new sandbox; others only when their policy says so.
    if c.role in (Role.APP, Role.EPHEMERAL) and c.ended is not None and not restarts(c, c.ended.exit_code):
        c.run = Run.DONE


def grace_left(pod: Object, grace_s: float, stamp: str) -> float:
    """What is left at `stamp` of a deleted pod's grace, which is over at the time that its deletion says."""
    until = meta.parse_time(meta.metadata(pod)["deletionTimestamp"])
    return min(grace_s, max(GRACE_MIN_S, (until - meta.parse_time(stamp)).total_seconds()))


def _go_on(c: Container, known: dict[str, Any], survivor: Survivor) -> None:
    """Have its run be the survivor. `known`: what its status says of that one, if it has heard of it."""
    c.goes_on, c.attempt = True, survivor.attempt - 1
    c.container_id = survivor.container_id
    c.started_stamp = (known.get("state") or {}).get("running", {}).get("startedAt") or survivor.since
    c.startup_passed, c.ready = bool(known.get("started")), bool(known.get("ready"))
    c.image, c.image_id = known.get("image") or "", known.get("imageID") or ""
    if not known:
        c.restart_count += c.ended is not None

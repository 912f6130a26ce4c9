"""Containers by their image: what they run, as whom and where, by the image's config and Kubernetes' rules. Pure.

A container's `command` stands for the image's entry point and drops its Cmd; `args` alone stand for its Cmd.
"""

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.users import Accounts, User, user_numbered, user_of

UPPER = "image-upper"
"""The part of a container's directory that has what it writes above its image."""
SIMULATED_ID = "simulated@"
"""What `imageID` begins with where a container is data on a node of processes: its image is nowhere."""
SHELL = "sh"
_REAL_TIME = re.compile(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image as a container runs from it, or a program that stands for one.

    `name`, `image_id`: what the container's status shows; `layers`: directories, the highest first, None where the
    machine's own files are the container's.
    """

    name: str
    image_id: str
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    accounts: Accounts = field(default_factory=Accounts)
    working_dir: str = ""
    stop_signal: str = ""
    volumes: Sequence[str] = ()
    layers: Sequence[str] | None = None

    def words(self, container: Mapping[str, Any], expand: Callable[[str], str] = str) -> list[str]:
        """The words of its command. `expand`: what becomes of those that the pod gives, and of no others."""
        command = [expand(word) for word in container.get("command") or ()]
        args = [expand(word) for word in container.get("args") or ()]
        if command:
            return [*command, *args]
        return [*self.entrypoint, *(args or self.cmd)]


def own_command(
    container: dict[str, Any], image: ContainerImage | None = None, expanded: Callable[[str], str] = str
) -> list[str]:
    """Command and arguments of a container; empty when it has none and is simulated.

    Images that are used by hand (`kubectl run -it`, `kubectl debug -it`; `kubectl run -i -- sh -c ...` in scripts) have
    a shell or no entry point.
    `expanded`: what becomes of the pod's own words.
    """
    if image is not None:
        return image.words(container, expanded)
    args = container.get("args") or ()
    if command := container.get("command"):
        return [expanded(word) for word in (*command, *args)]
    if container.get("stdin") and (args or container.get("tty")):
        return [expanded(word) for word in args] or [SHELL]
    return []


def to_run(*, isolates: bool) -> str:
    """What to do for a container to run a program where nothing is its image. `isolates`: whether its node does."""
    how = "load the image (`rayplane image load`), bring the cluster up with --pull REGISTRY"
    if not isolates:
        how = "bring the cluster up with --isolation namespaces"
    return f"To run it: {how}, let a program stand for it (`rayplane image map`), or give the container a command."


def environment(words: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words) if name}


def user_for(image: ContainerImage, pod: Mapping[str, Any], container: Mapping[str, Any]) -> User:
    """The user of a container by the security contexts and the image. Raises ContainerConfigError."""
    outer, own = pod.get("securityContext") or {}, container.get("securityContext") or {}

    def setting(name: str) -> Any:
        value = own.get(name)
        return outer.get(name) if value is None else value

    asked, group = setting("runAsUser"), setting("runAsGroup")
    user = user_numbered(int(asked), image.accounts) if asked is not None else user_of(image.user, image.accounts)
    if setting("runAsNonRoot"):
        _check_not_root(image, user, asked is not None)
    more = [int(one) for one in outer.get("supplementalGroups") or ()]
    if outer.get("fsGroup") is not None:
        more.append(int(outer["fsGroup"]))
    known = () if outer.get("supplementalGroupsPolicy") == "Strict" else user.groups
    groups = tuple(dict.fromkeys((*known, *more)))
    return User(user.uid, user.gid if group is None else int(group), groups, user.home or "/")


def _check_not_root(image: ContainerImage, user: User, asked: bool) -> None:
    if asked and user.uid == 0:
        raise ContainerConfigError("container's runAsUser breaks non-root policy")
    if user.uid == 0:
        raise ContainerConfigError("container has runAsNonRoot and image will run as root")
    if user.named:
        who = image.user.partition(":")[0]
        raise ContainerConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({who}), cannot verify user is non-root"
        )


def stop_signal(container: Mapping[str, Any], image: ContainerImage | None) -> int:
    """The signal that asks a container to end: its own, else its image's, else SIGTERM."""
    own = (container.get("lifecycle") or {}).get("stopSignal")
    said = str(own or (image.stop_signal if image is not None else ""))
    name = said.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and len(name) < 3 and 0 < int(name) < signal.NSIG:
        return int(name)
    real_time = _REAL_TIME.fullmatch(name)
    if real_time is not None:
        base = signal.SIGRTMIN if real_time[1] == "MIN" else signal.SIGRTMAX
        offset = int(real_time[3] or 0)
        return max(signal.SIGRTMIN, min(signal.SIGRTMAX, base - offset if real_time[2] == "-" else base + offset))
    return int(getattr(signal, f"SIG{name}", signal.SIGTERM)) if name.isalnum() else int(signal.SIGTERM)

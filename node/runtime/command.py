"""Command lines of containers: a spec becomes what a process of this machine runs. Pure.

There is no chroot, and of images only programs that stand for them (`rayplane image map`). What a manifest may rely on:

- `command` and `args` name programs of this machine, with `$(VAR)` expanded.
- A container with `stdin` and `tty` and without a command runs its arguments or a shell, as images do that people open
  at a terminal; any other without a command is simulated.
- The working directory is the container's root (RAYPLANE_ROOT), or `workingDir` below it or in a volume; `..` leads no
  higher than the root. Each volume appears below the root at its mount path (`tree` says how), and its real directory
  is in RAYPLANE_MOUNT_<NAME>.
- An absolute path at or below a mount path in command, args and values of env is rewritten to the real directory.
- The address 0.0.0.0 in command, args and env becomes the pod's own address, which is also in POD_IP: all pods of a
  machine share its loopback interface, and a process that listens on every address would take the port of all.
  Python programs are helped further: `preload/sitecustomize.py`, in PYTHONPATH, makes "every address" mean the pod's.
- Other absolute paths are the machine's. In commands run by exec they are the container's where its own root holds
  such a path, and `kubectl cp` reads and writes the container's (`copying`).
- There are no process namespaces either: pods see all processes of the machine, and run as the node host's user.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayplane.node.environment import expand
from rayplane.node.images.containers import own_command
from rayplane.node.runtime import StartOrder
from rayplane.node.shim.processes import MARK

PRELOAD = str(Path(__file__).with_name("preload"))
TERMINATION_LOG = "/dev/termination-log"
_PATH = re.compile(r"(?<![\w./-])/[\w.@%+,/-]+")
_ANY_ADDRESS = re.compile(r"(?<![\w.])0\.0\.0\.0(?![\w.])")


@dataclass(frozen=True, slots=True)
class Layout:
    """Real paths of one container."""

    root: str
    termination_log: str
    cwd: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A process that is to be. `setting`: what else the shim must know of where it runs."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    setting: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"argv": self.argv, "env": self.env, "cwd": self.cwd, **self.setting}


def command_line(order: StartOrder, layout: Layout, *, path: str) -> CommandLine:
    """`path`: the value of PATH unless the container sets its own."""
    container = order.container
    localize = localizer(order, layout)
    env = _own_env(order, layout, path) | {name: localize(value) for name, value in order.env.items()}
    argv = own_command(container, order.image, lambda word: localize(expand(word, env)))
    env["PYTHONPATH"] = f"{PRELOAD}:{env['PYTHONPATH']}" if env.get("PYTHONPATH") else PRELOAD
    env[MARK] = order.container_id  # by which what is left of the container is found: no pod may change it
    return CommandLine(argv, env, layout.cwd)


def localizer(order: StartOrder, layout: Layout) -> Callable[[str], str]:
    """Replaces mount paths, where they stand as whole path components, and the address that means all addresses."""
    rewrite = _rewriter(_targets(order, layout))
    if not order.pod_ip:
        return rewrite
    return lambda text: _ANY_ADDRESS.sub(order.pod_ip, rewrite(text))


def own_paths(root: str, has: Callable[[str], bool]) -> Callable[[str], str]:
    """Replaces absolute paths for which the container's root has something of its own."""
    return lambda text: _PATH.sub(lambda m: f"{root}{m.group()}" if has(m.group()) else m.group(), text)


def _targets(order: StartOrder, layout: Layout) -> dict[str, str]:
    targets = {m.mount_path.rstrip("/"): m.source for m in order.mounts}
    message_path = order.container.get("terminationMessagePath") or TERMINATION_LOG
    targets.setdefault(message_path, layout.termination_log)
    targets.pop("", None)
    return targets


def _rewriter(targets: Mapping[str, str]) -> Callable[[str], str]:
    longest_first = sorted(targets, key=len, reverse=True)
    pattern = re.compile(r"(?<![\w./-])(" + "|".join(re.escape(t) for t in longest_first) + r")(?![\w.-])")
    return lambda text: pattern.sub(lambda match: targets[match.group(1)], text)


def _own_env(order: StartOrder, layout: Layout, path: str) -> dict[str, str]:
    env = {
        "PATH": path,
        "HOME": layout.root,
        "HOSTNAME": order.host_name,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "POD_IP": order.pod_ip,
        "RAYPLANE_ROOT": layout.root,
    }
    if order.container.get("tty"):
        env["TERM"] = "xterm"
    return env | {mount_variable(mount.volume): mount.source for mount in order.mounts}


def mount_variable(volume: str) -> str:
    """The variable that tells a container where a volume is."""
    return f"RAYPLANE_MOUNT_{re.sub('[^A-Z0-9]', '_', volume.upper())}"

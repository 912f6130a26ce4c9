"""The file system that a container sees, as steps for `mounts`. Pure, but for `machine_of`.

With an image a container's root is that one's layers, and what it writes above them: there is nothing of the machine.

Without an image a container has the programs of the machine: the directories in `SHARED`, what it writes there kept in
a layer of its own, and the installation that this program runs in. It sees no home directory, no service's data, and
nothing of the cluster; /tmp, /var, /root and whatever it makes are its own. Volumes are mounted in the order of their
paths, so one may lie below another.
"""

import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.containers import UPPER, ContainerImage
from rayplane.node.runtime import Mount

STAGE = "/sys"
"""Where the shim has the directories of pods, and a new root stands until it is the root: no program is ever there."""
NEW_ROOT = f"{STAGE}/root"
PROC = f"{STAGE}/proc"
"""Where the shim sees the processes below it, by the numbers that it has for them; /proc is the machine's."""
OWN = f"{STAGE}/own"
"""Where it has what pods keep in memory."""
SKELETON = f"{OWN}/skeleton"
"""Where it has what is below the roots of containers without an image."""
SHARED = ("usr", "etc", "opt", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu")
_OWN = {"tmp": 0o1777, "var/tmp": 0o1777, "run": 0o755, "var/log": 0o755, "var/lib": 0o755, "root": 0o711, "sys": 0o555}
_KERNELS = {"proc": 0o555, "dev": 0o755, "sys": 0o555}

Step = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as containers without an image see it.

    `links` and `directories`: of SHARED, what is there, the links with where they lead; `programs`: directories of
    installations elsewhere, with where the shim has them.
    """

    links: Mapping[str, str]
    directories: tuple[str, ...]
    programs: Mapping[str, str] = field(default_factory=dict)


def machine_of(programs: Iterable[str], staged: Callable[[str], str] = str) -> Machine:
    """What containers see of this machine. `programs`: directories of installations that they may use; `staged`: where
    the shim has a directory."""
    links, directories = {}, []
    for name in SHARED:
        path = f"/{name}"
        if os.path.islink(path):
            links[name] = os.readlink(path)
        elif os.path.isdir(path):
            directories.append(name)
    elsewhere = [p for p in sorted(set(programs)) if p.split("/")[1] not in {*links, *directories}]
    return Machine(links, tuple(directories), {path: staged(path) for path in elsewhere})


@dataclass(frozen=True, slots=True)
class Box:
    """The directory of one container, and the files that its pod has for it.

    `directory` is as the shim sees it, and empty; in it come to be for each layer `NAME-upper` and `NAME-work`.
    `files`: path in the container to path as the shim sees it.
    """

    directory: str
    files: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    read_only: bool = False
    shm: str = ""
    """Where the shim has what is its /dev/shm."""
    host_pid: bool = False
    """Whether it sees the machine's processes."""
    hidden: Sequence[str] = ()
    """Directories of the machine that are not seen below what is mounted."""
    unmasked: bool = False
    """Whether it sees and writes all that is in /proc."""
    image: "ImageRoot | None" = None


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """The image of a container: layers as the shim sees them, the highest first; directories that are to be there."""

    layers: Sequence[str]
    volumes: Sequence[str] = ()


def image_root(image: ContainerImage | None, staged: Callable[[str], str]) -> ImageRoot | None:
    """None where the machine's own files are below the container."""
    if image is None or image.layers is None:
        return None
    return ImageRoot([staged(layer) for layer in image.layers], image.volumes)


def _lowers(machine: Machine) -> list[tuple[str, str, str]]:
    """Layers: the name of each, where the container sees it, and what of the machine lies below, never written to.

    Installations too: a read-only mount is only as good as the container has no right to make it a writable one.
    """
    shared = [(name, f"/{name}", f"/{name}") for name in machine.directories]
    programs = enumerate(machine.programs.items())
    return shared + [(f"programs{number}", path, source) for number, (path, source) in programs]


def plan(machine: Machine, box: Box) -> list[Step]:
    """The steps that make a container's root. Raises ContainerConfigError."""
    lowers = _lowers(machine) if box.image is None else []
    steps = _machine_root(machine, box) if box.image is None else _image_root(box.image, box)
    steps += [{"do": "bind", "from": PROC, "at": "/proc"} if box.host_pid else {"do": "proc", "at": "/proc"}]
    steps += [] if box.unmasked else [{"do": "mask", "at": "/proc"}]
    steps += [{"do": "devices", "at": "/dev"}, {"do": "bind", "from": box.shm, "at": "/dev/shm"}, {"do": "pivot"}]
    if box.image is not None:
        steps += [{"do": "directory", "at": posixpath.normpath(f"/{path}")} for path in box.image.volumes]
    steps += [{"do": "bind", "from": source, "at": path} for path, source in box.files.items()]
    for mount in sorted(box.mounts, key=lambda m: len(_target(m))):
        kept = {"read_only": mount.read_only, "recursive": mount.recursive}
        steps.append({"do": "bind", **_source(mount), "at": _target(mount), **kept})
        shown = posixpath.join(mount.source, mount.sub_path.strip("/")).rstrip("/")
        steps += [
            {"do": "hide", "at": f"{_target(mount)}{path.removeprefix(shown)}"}
            for path in box.hidden
            if path == shown or path.startswith(f"{shown}/")
        ]
    if box.read_only:
        # At last: volumes need directories to be mounted on. What a volume is mounted over cannot be reached any more.
        covered = {_target(mount) for mount in box.mounts}
        steps += [{"do": "read_only", "at": at} for at in ("", *(at for _, at, _ in lowers)) if at not in covered]
    return steps


def skeleton(machine: Machine) -> list[Step]:
    """The steps that make SKELETON: what the root of every container without an image has before anything is mounted.

    Directories are dear on disks, and each container would make the same.
    """
    steps: list[Step] = [{"do": "link", "at": f"/{name}", "to": to} for name, to in machine.links.items()]
    paths = [*(at.lstrip("/") for _, at, _ in _lowers(machine)), *_OWN]
    # What is above one is made with it, and its maker lets nobody else in unless told so.
    above = [str(one) for path in paths for one in reversed(PurePosixPath(path).parents[:-1])]
    directories = {**dict.fromkeys([*above, *paths], 0o755), **_KERNELS, **_OWN}
    return steps + [{"do": "directory", "at": f"/{path}", "mode": mode} for path, mode in directories.items()]


def _machine_root(machine: Machine, box: Box) -> list[Step]:
    upper, work = (f"{box.directory}/root-{part}" for part in ("upper", "work"))
    root = {"do": "image", "on": NEW_ROOT, "upper": upper, "work": work, **laid_over([SKELETON])}
    return [root, *(_layer(name, at, source, box) for name, at, source in _lowers(machine))]


def _image_root(image: ImageRoot, box: Box) -> list[Step]:
    """A root of an image's layers. What the kernel is mounted on must be directories: an image may have links there."""
    steps: list[Step] = []
    if image.layers:
        upper, work = f"{box.directory}/{UPPER}", f"{box.directory}/image-work"
        steps.append({"do": "image", "on": NEW_ROOT, "upper": upper, "work": work, **laid_over(image.layers)})
    else:
        steps.append({"do": "root", "from": f"{box.directory}/{UPPER}", "on": NEW_ROOT, "fresh": True})
    return steps + [{"do": "directory", "at": f"/{name}", "mode": mode} for name, mode in _KERNELS.items()]


def laid_over(layers: Sequence[str]) -> Step:
    """Layers of one image as a mount takes them: by names that are short, below where all of them are."""
    base = posixpath.commonpath(layers) if len(layers) > 1 else posixpath.dirname(layers[0])
    return {"base": base, "lower": [posixpath.relpath(layer, base) for layer in layers]}


def _layer(name: str, at: str, source: str, box: Box) -> Step:
    upper, work = (f"{box.directory}/{name}-{part}" for part in ("upper", "work"))
    return {"do": "overlay", "at": at, "lower": [source], "upper": upper, "work": work}


def _source(mount: Mount) -> Step:
    below = mount.sub_path.strip("/")
    more = {"below": below, "make": not mount.layers} if below else {}
    if len(mount.layers) > 1:
        return {"over": NEW_ROOT, **laid_over(mount.layers), **more}
    return {"from": mount.layers[0] if mount.layers else mount.source, **more}


def _target(mount: Mount) -> str:
    path = posixpath.normpath(f"/{mount.mount_path.lstrip('/')}")
    if ".." in mount.mount_path.split("/") or "\0" in path or path == "/":
        raise ContainerConfigError(
            f"mountPath {mount.mount_path!r} of volume {mount.volume} must not be / or contain '..'"
        )
    if f"{path}/".startswith("/proc/"):
        raise ContainerConfigError(
            f"mountPath {mount.mount_path!r} of volume {mount.volume} is inside /proc, where nothing can be mounted"
        )
    return path

"""Command `image build`: an image of a Dockerfile and the files beside it, for all machines of a cluster."""

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli.options import Name, State, console, errors, run, state_dir
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cluster.errors import UsageError, refusal
from rayplane.control_plane.cluster.state import BUILD_CACHE, BUILDS, StateDir
from rayplane.node.images.references import Reference, parse_reference
from rayplane.storage.beneath import Beneath

if TYPE_CHECKING:
    from rayplane.node.images.building import Build
    from rayplane.node.images.catalog import Stored
    from rayplane.node.images.stages import Stage
    from rayplane.node.images.store import ImageStore
    from rayplane.node.runtime.isolation.build_runner import IsolatedRunner

_STDERR = 2
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MEMORY = 0.5  # of the machine's


@dataclass(frozen=True, slots=True)
class _Asked:
    """A build as it is asked for."""

    folder: Path
    stages: "Sequence[Stage]"
    names: Sequence[Reference]
    arguments: Mapping[str, str]
    target: str
    egress: bool
    epoch: int
    memory: int
    cached: bool


def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What the Dockerfile copies from.")],
    tags: Annotated[list[str], typer.Option("-t", "--tag", metavar="NAME", help="The image's name; may be repeated.")],
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="The Dockerfile.  [default: DIR/Dockerfile]")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="The value of an ARG.")
    ] = None,
    target: Annotated[str, typer.Option("--target", metavar="STAGE", help="The stage to build.  [default: last]")] = "",
    egress: Annotated[
        bool, typer.Option("--egress", help="Let RUN use this machine's network; else it has none.")
    ] = False,
    memory: Annotated[
        str, typer.Option("--memory", metavar="BYTES", help="What a RUN may have: 2Gi.  [default: half the machine's]")
    ] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do each RUN again, whatever it did before.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Build an image from a Dockerfile and load it on every machine of the cluster.

    RUN works in a container of this machine, without root; what it made of the same files before is not made again.
    The same files give the same image, with times of SOURCE_DATE_EPOCH, as far as what RUN does is the same each time.
    """
    from rayplane.control_plane.cli.image_stores import checked_name
    from rayplane.node.images.dockerfile import BYTES_MAX, read_dockerfile
    from rayplane.node.images.platforms import architecture
    from rayplane.node.images.room import read_bounded
    from rayplane.node.images.stages import read_stages

    names = [parse_reference(checked_name(one)) for one in tags]
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name the one that the Dockerfile copies from")
    dockerfile, values = file or folder / "Dockerfile", _pairs(arguments or ())
    try:
        text = read_bounded(dockerfile, BYTES_MAX, "a Dockerfile")
    except OSError as e:
        raise UsageError(f"cannot read {dockerfile}: {refusal(e)}") from e
    stages = read_stages(read_dockerfile(text), values, architecture())
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 12):
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch[:100]!r}: use seconds since 1970")
    most = _bytes(memory)
    asked = _Asked(folder, stages, names, values, target, egress, int(epoch), most, not no_cache)
    directory = state_dir(name, state)
    # Beside the cluster's own: where nodes can keep layers, so can a build.
    with place_of_build(directory.path / BUILDS) as place:
        image = run(_built(directory, place, asked))
    console.print(plain(f"built {', '.join(image.names)} ({image.config})"), markup=False)


@contextmanager
def place_of_build(builds: Path) -> Iterator[Path]:
    """A directory that a build has for itself; what killed builds have left beside it goes."""
    builds.mkdir(mode=0o700, exist_ok=True)
    with _locked(builds / _LOCK):  # nobody begins meanwhile: what is not locked is nobody's
        _remove_left(builds)
        place = Path(tempfile.mkdtemp(dir=builds))
        held = os.open(place, _DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield place
    finally:
        Beneath(str(builds)).remove(place.name)  # whatever modes its files have
        os.close(held)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_left(builds: Path) -> None:
    for name in Beneath(str(builds)).names():
        if name == _LOCK:
            continue
        try:
            held = os.open(builds / name, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it ended meanwhile, or is nobody's build
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Beneath(str(builds)).remove(name)
        except BlockingIOError:
            continue  # somebody builds there
        finally:
            os.close(held)


async def _built(directory: StateDir, place: Path, asked: _Asked) -> "Stored":
    from rayplane.control_plane.cli.image_stores import send
    from rayplane.node.images.archives import saved
    from rayplane.node.images.build_cache import BuildCache
    from rayplane.node.images.building import Build
    from rayplane.node.images.stages import images_of, needed
    from rayplane.node.images.store import ImageStore
    from rayplane.node.images.unpacking import Owners
    from rayplane.node.runtime.isolation.build_runner import IsolatedRunner
    from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST

    owners = Owners(RANGE_FIRST, RANGE_COUNT) if os.geteuid() == 0 else None
    store = ImageStore(place / "images", owners, time.time)
    store.prepare()
    wanted = images_of(asked.stages, needed(asked.stages, asked.target))
    images = {one: await _fetched(directory, store, one, place / "base.tar") for one in wanted}
    runner = IsolatedRunner(store.root, network=asked.egress, output=_STDERR, epoch=asked.epoch, memory=asked.memory)
    work = Build(
        store,
        asked.folder,
        asked.stages,
        images,
        arguments=asked.arguments,
        runner=runner,
        epoch=asked.epoch,
        told=lambda text: errors.print(plain(text), markup=False),
    )
    work.cache = cache = BuildCache(directory.path / BUILD_CACHE, anew=not asked.cached)
    try:
        image = await _carried_out(work, runner, asked)
    finally:
        cache.trim()
    await send(directory, lambda: saved(store, image), [])
    return image


async def _fetched(directory: StateDir, store: "ImageStore", name: str, archive: Path) -> "Stored":
    """An image of the cluster, in a store of one's own."""
    from rayplane.control_plane.cli.image_stores import checked_name, fetch
    from rayplane.node.images.archives import load

    await fetch(directory, checked_name(name), archive)
    (image,) = load(store, archive)
    return image


async def _carried_out(work: "Build", runner: "IsolatedRunner", asked: _Asked) -> "Stored":
    """The image, built in a thread: who interrupts is heard meanwhile."""
    building = asyncio.ensure_future(asyncio.to_thread(work.image, asked.names, asked.target))
    try:
        return await asyncio.shield(building)
    except asyncio.CancelledError:
        runner.stop()
        await asyncio.gather(building, return_exceptions=True)  # that it was ended is no news
        raise


def _bytes(text: str) -> int:
    from rayplane.control_plane.api.machinery import quantity

    if not text:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _MEMORY)
    if not quantity.is_quantity(text) or quantity.value(text) <= 0:
        raise UsageError(f"--memory {text!r}: write bytes as Kubernetes does, 512Mi or 2Gi")
    return quantity.value(text)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        own, given, value = text.partition("=")
        if not own or (not given and own not in os.environ):
            raise UsageError(f"--build-arg {text!r}: write NAME=VALUE")
        found[own] = value if given else os.environ[own]
    return found

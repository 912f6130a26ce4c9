"""Commands on images: what containers run from, loaded, listed and removed on all machines of a cluster."""

import asyncio
import json
import os
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from rayplane.control_plane.cli.options import Name, Output, State, console, run, state_dir, wants_json
from rayplane.control_plane.cli.printing import aligned, plain
from rayplane.control_plane.cluster.access import access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.durations import human_duration
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.node.images.errors import BadReference
from rayplane.node.images.references import Reference, parse_reference
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from rayplane.storage.env import Beneath

if TYPE_CHECKING:
    from rayplane.node.images.catalog import Stored
    from rayplane.node.images.dockerfile import Plan

T = TypeVar("T", bound=Message)
PART_BYTES = 256 * 1024
TIMEOUT_S = 60.0
_IMAGES = pb.DESCRIPTOR.services_by_name["Images"]
_UNITS = ("B", "kB", "MB", "GB", "TB")
_DIGITS = 12

ImageName = Annotated[str, typer.Argument(metavar="IMAGE", help="Its name, or the first digits of its digest.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Images that containers run from, on all machines.", rich_markup_mode=None)
    group.command()(load)
    group.command()(save)
    group.command()(build)
    group.command(name="map")(map_program)
    group.command(name="list")(list_images)
    group.command()(tag)
    group.command()(rm)
    group.command()(prune)
    app.add_typer(group, name="image")


# --- commands -----------------------------------------------------------------------------------


def load(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="From `docker save`, or an OCI layout: archive or folder.")
    ],
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME", help="A name more for its image.")] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Load the images of an archive on every machine of the cluster."""
    if not file.exists():
        raise UsageError(f"there is no file {file}: check its name")
    if not os.access(file, os.R_OK):
        raise UsageError(f"cannot read {file}: check its mode")
    if file.is_dir():
        next(_parts_of(file))  # told here, before a machine is asked
    names = [_checked_name(one) for one in tags or ()]
    for image in run(_load(state_dir(name, state), lambda: _parts_of(file), names)):
        console.print(plain(f"loaded {', '.join(image.names) or image.digest}"), markup=False)


def save(
    image: ImageName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="For `image load` and `docker load`.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Write an image as an archive."""
    run(_save(state_dir(name, state), image, file))


def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What the Dockerfile copies from.")],
    tags: Annotated[list[str], typer.Option("-t", "--tag", metavar="NAME", help="The image's name; may be repeated.")],
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="The Dockerfile.  [default: DIR/Dockerfile]")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="The value of an ARG.")
    ] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Build an image from a Dockerfile (one stage, no RUN) and load it on every machine of the cluster.

    The same files give the same image, with times of SOURCE_DATE_EPOCH.
    """
    from rayplane.node.images.dockerfile import Plan, read_dockerfile

    names = [parse_reference(_checked_name(one)) for one in tags]
    dockerfile = file or folder / "Dockerfile"
    try:
        plan = Plan(read_dockerfile(dockerfile.read_bytes()), _pairs(arguments or ()))
    except OSError as e:
        raise UsageError(f"cannot read {dockerfile}: {e.strerror}") from e
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not epoch.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch!r}: use seconds since 1970")
    with tempfile.TemporaryDirectory(prefix="rayplane-build-") as place:
        image = run(_build(state_dir(name, state), Path(place), folder, plan, names, int(epoch)))
        Beneath(place).remove("images")  # whatever modes its files have
    console.print(plain(f"built {', '.join(image.names)} ({image.config})"), markup=False)


async def _build(
    directory: StateDir, place: Path, folder: Path, plan: "Plan", names: Sequence[Reference], epoch: int
) -> "Stored":
    from rayplane.node.images.archives import load as load_archive
    from rayplane.node.images.archives import saved
    from rayplane.node.images.building import SCRATCH, Build
    from rayplane.node.images.store import ImageStore

    store = ImageStore(place / "images", None, time.time)
    store.prepare()
    base = None
    if plan.base != SCRATCH:
        await _save(directory, _checked_name(plan.base), place / "base.tar")
        (base,) = load_archive(store, place / "base.tar")
    image = Build(store, folder, plan, base, epoch=epoch).image(names)
    await _load(directory, lambda: saved(store, image), [])
    return image


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        own, given, value = text.partition("=")
        if not own or (not given and own not in os.environ):
            raise UsageError(f"--build-arg {text!r}: write NAME=VALUE")
        found[own] = value if given else os.environ[own]
    return found


def map_program(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A name, with or without tag, or a pattern such as `shop/*`.")
    ],
    command: Annotated[str, typer.Option("--command", help="A program of the nodes' machines, with arguments.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="The name stands for no program any more.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Let a program of the machines stand for an image: containers of it run that, as if it were its entry point."""
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise UsageError(f"--command {command!r}: {e}") from e
    if bool(words) == remove:
        raise UsageError("give --command PROGRAM, or --remove")
    request = pb.MapImageRequest(program=pb.ImageProgram(name=image, command=words))
    run(_on_all(state_dir(name, state), lambda stub: stub.Map(request, timeout=TIMEOUT_S)))


def list_images(output: Output = "", name: Name = "default", state: State = None) -> None:
    """List the images of each machine, and the programs that stand for images."""
    as_json = wants_json(output)
    request = pb.ListImagesRequest()
    found = run(_on_all(state_dir(name, state), lambda stub: stub.List(request, timeout=TIMEOUT_S)))
    if as_json:
        told = {m: MessageToDict(one, always_print_fields_with_no_presence=True) for m, one in found.items()}
        print(json.dumps({"machines": told}, indent=2))
        return
    for line in lines(found, time.time()):
        console.print(plain(line), markup=False)


def tag(
    image: ImageName,
    new: Annotated[str, typer.Argument(metavar="NAME", help="The name that it gets more.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Give an image one more name."""
    request = pb.TagImageRequest(name=image, new_name=_checked_name(new))
    run(_on_any(state_dir(name, state), lambda stub: stub.Tag(request, timeout=TIMEOUT_S)))


def rm(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names, or first digits of digests.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Remove names of images, and images that have no other, from every machine."""
    for image in images:
        found = run(_on_any(state_dir(name, state), _removed(image)))
        for gone in dict.fromkeys(gone for answer in found.values() for gone in answer.gone):
            console.print(plain(f"removed {gone}"), markup=False)


def _removed(image: str) -> Callable[[Any], Awaitable[pb.RemoveImageResponse]]:
    request = pb.RemoveImageRequest(name=image)
    return lambda stub: stub.Remove(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]


def prune(
    everything: Annotated[bool, typer.Option("--all", help="Also images that have a name.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Remove images that no container uses and that have no name, from every machine."""
    request = pb.PruneImagesRequest(all=everything)
    found = run(_on_all(state_dir(name, state), lambda stub: stub.Prune(request, timeout=TIMEOUT_S)))
    for gone in dict.fromkeys(gone for answer in found.values() for gone in answer.gone):
        console.print(plain(f"removed {gone}"), markup=False)
    console.print(f"freed {size(sum(answer.freed_bytes for answer in found.values()))}")


# --- calls --------------------------------------------------------------------------------------


@asynccontextmanager
async def _stores(directory: StateDir) -> AsyncIterator[dict[str, Any]]:
    """The stores of all machines by the machine's address: one node host of each speaks for it."""
    async with access(directory) as admin:
        found: dict[str, Any] = {}
        for host in (await current_topology(admin)).of(Role.NODE_HOST):
            if host.machine.address not in found:
                found[host.machine.address] = Stub(admin.network.channel(host.endpoint("grpc")), _IMAGES)
        if not found:
            raise ClusterError("the cluster has no nodes: `rayplane add node` makes one")
        yield found


async def _told(machine: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except RpcError as e:
        raise RpcError(e.code, f"{e.message} (machine {machine})" if machine else e.message) from e


async def _on_all(directory: StateDir, call: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
    """The answers of all machines."""
    async with _stores(directory) as stores:
        answers = await asyncio.gather(*(_told(machine, call(stub)) for machine, stub in stores.items()))
        return dict(zip(stores, answers, strict=True))


async def _on_any(directory: StateDir, call: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
    """The answers of the machines that have the image; raises the error where none has it."""
    async with _stores(directory) as stores:
        results = await asyncio.gather(
            *(_told(machine, call(stub)) for machine, stub in stores.items()), return_exceptions=True
        )
    errors = [one for one in results if isinstance(one, BaseException)]
    others = [e for e in errors if not isinstance(e, RpcError) or e.code is not Code.NOT_FOUND]
    if others or len(errors) == len(results):
        raise (others or errors)[0]
    return {m: one for m, one in zip(stores, results, strict=True) if not isinstance(one, BaseException)}


async def _load(directory: StateDir, parts: Callable[[], Iterator[bytes]], names: Sequence[str]) -> list[pb.Image]:
    async def requests() -> AsyncIterator[pb.LoadImagesRequest]:
        yield pb.LoadImagesRequest(names=names)
        for part in parts():
            yield pb.LoadImagesRequest(data=part)

    async def sent(stub: Any) -> pb.LoadImagesResponse:
        async for answer in stub.Load(requests()):
            found: pb.LoadImagesResponse = answer
            return found
        raise ClusterError("a node host did not say what it loaded: try again")

    async with _stores(directory) as stores:
        # One after the other: each wants all that this machine can send.
        answers = [await _told(machine, sent(stub)) for machine, stub in stores.items()]
    return [*answers[0].images]


async def _save(directory: StateDir, image: str, file: Path) -> None:
    async with _stores(directory) as stores:
        for number, (machine, stub) in enumerate(stores.items(), 1):
            try:
                await _told(machine, _written(stub, image, file))
            except RpcError as e:
                if e.code is not Code.NOT_FOUND or number == len(stores):
                    raise
            else:
                return


async def _written(stub: Any, image: str, file: Path) -> pb.SaveImageResponse:
    """Write an archive, whole or not at all."""
    making = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with making.open("wb") as out:
            async for answer in stub.Save(pb.SaveImageRequest(name=image)):
                out.write(answer.data)
        making.replace(file)
    finally:
        making.unlink(missing_ok=True)
    return pb.SaveImageResponse()


def _parts_of(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        from rayplane.node.images.archives import packed

        yield from packed(path)
        return
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            yield data


def _checked_name(text: str) -> str:
    try:
        return str(parse_reference(text))
    except BadReference as e:
        raise UsageError(str(e)) from e


# --- in words -----------------------------------------------------------------------------------


def lines(found: dict[str, pb.ListImagesResponse], now: float) -> Iterator[str]:
    """What is on the machines, for people."""
    rows = [["IMAGE", "ID", "SIZE", "FROM", "AGE", "USED"]]
    several = len(found) > 1
    for machine, answer in found.items():
        for image in sorted(answer.images, key=lambda one: ([*one.names], one.digest)):
            age = human_duration(max(0.0, now - image.added))
            start = image.config.removeprefix("sha256:")[:_DIGITS]
            about = [start, size(image.size_bytes), image.source, age, "yes" if image.used else "no"]
            rows += [[name, *about, *([machine] if several else [])] for name in image.names or ["<none>"]]
    if several:
        rows[0].append("MACHINE")
    yield from aligned(rows)
    programs = {one.name: [*one.command] for answer in found.values() for one in answer.programs}
    if programs:
        yield ""
        yield from aligned(
            [["IMAGE", "PROGRAM"], *([name, shlex.join(words)] for name, words in sorted(programs.items()))]
        )


def size(count: int) -> str:
    """Bytes, for people."""
    amount = float(count)
    for unit in _UNITS[:-1]:
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} {_UNITS[-1]}"

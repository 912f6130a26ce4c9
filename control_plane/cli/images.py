"""Commands on images: what containers run from, loaded, listed and removed on all machines of a cluster.

What reaches the machines is imported when they run: a shell that completes their words needs none of it.
"""

import json
import os
import shlex
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli.image_build import build
from rayplane.control_plane.cli.options import Name, Output, State, console, run, state_dir, wants_json
from rayplane.control_plane.cli.printing import aligned, plain
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import human_duration

if TYPE_CHECKING:
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

TIMEOUT_S = 60.0
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
        Path,
        typer.Argument(
            metavar="FILE", help="From `docker save`, or an OCI layout: archive, folder, or - for standard input."
        ),
    ],
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME", help="A name more for its image.")] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Load the images of an archive on every machine of the cluster."""
    from rayplane.control_plane.cli.image_stores import checked_name, parts_of, send

    file = Path("/dev/stdin") if str(file) == "-" else file
    if not file.exists():
        raise UsageError(f"there is no file {file}: check its name")
    if not os.access(file, os.R_OK):
        raise UsageError(f"cannot read {file}: check its mode")
    if file.is_dir():
        next(parts_of(file))  # told here, before a machine is asked
    names = [checked_name(one) for one in tags or ()]
    with tempfile.TemporaryDirectory(prefix="rayplane-load-") as place:
        source = _readable_again(file, Path(place))
        for image in run(send(state_dir(name, state), lambda: parts_of(source), names)):
            console.print(plain(f"loaded {', '.join(image.names) or image.digest}"), markup=False)


def _readable_again(file: Path, place: Path) -> Path:
    """A file that gives the same each time: what comes of a pipe is kept in `place` first."""
    from rayplane.node.images.archives import spooled

    if file.is_file() or file.is_dir():
        return file
    spooled(file, place / "archive")
    return place / "archive"


def save(
    image: ImageName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="For `image load` and `docker load`.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Write an image as an archive."""
    from rayplane.control_plane.cli.image_stores import fetch

    run(fetch(state_dir(name, state), image, file))


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
    from rayplane.control_plane.cli.image_stores import on_all
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

    try:
        words = shlex.split(command)
    except ValueError as e:
        raise UsageError(f"--command {command!r}: {e}") from e
    if bool(words) == remove:
        raise UsageError("give --command PROGRAM, or --remove")
    request = pb.MapImageRequest(program=pb.ImageProgram(name=image, command=words))
    run(on_all(state_dir(name, state), lambda stub: stub.Map(request, timeout=TIMEOUT_S)))


def list_images(output: Output = "", name: Name = "default", state: State = None) -> None:
    """List the images of each machine, and the programs that stand for images."""
    from google.protobuf.json_format import MessageToDict

    from rayplane.control_plane.cli.image_stores import on_all
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

    as_json = wants_json(output)
    request = pb.ListImagesRequest()
    directory = state_dir(name, state)
    found = run(on_all(directory, lambda stub: stub.List(request, timeout=TIMEOUT_S)))
    if as_json:
        told = {m: MessageToDict(one, always_print_fields_with_no_presence=True) for m, one in found.items()}
        print(json.dumps({"machines": told}, indent=2))
        return
    for line in lines(found, directory.clock.now().timestamp()):
        console.print(plain(line), markup=False)


def tag(
    image: ImageName,
    new: Annotated[str, typer.Argument(metavar="NAME", help="The name that it gets more.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Give an image one more name."""
    from rayplane.control_plane.cli.image_stores import checked_name, on_any
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

    request = pb.TagImageRequest(name=image, new_name=checked_name(new))
    run(on_any(state_dir(name, state), lambda stub: stub.Tag(request, timeout=TIMEOUT_S)))


def rm(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names, or first digits of digests.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Remove names of images, and images that have no other, from every machine."""
    from rayplane.control_plane.cli.image_stores import on_any

    for image in images:
        found = run(on_any(state_dir(name, state), _removed(image)))
        for gone in dict.fromkeys(gone for answer in found.values() for gone in answer.gone):
            console.print(plain(f"removed {gone}"), markup=False)


def _removed(image: str) -> "Callable[[Any], Awaitable[pb.RemoveImageResponse]]":
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

    request = pb.RemoveImageRequest(name=image)
    return lambda stub: stub.Remove(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]


def prune(
    everything: Annotated[bool, typer.Option("--all", help="Also images that have a name.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Remove images that no container uses and that have no name, from every machine."""
    from rayplane.control_plane.cli.image_stores import on_all
    from rayplane.proto.rayplane.v1 import node_pb2 as pb

    request = pb.PruneImagesRequest(all=everything)
    found = run(on_all(state_dir(name, state), lambda stub: stub.Prune(request, timeout=TIMEOUT_S)))
    for gone in dict.fromkeys(gone for answer in found.values() for gone in answer.gone):
        console.print(plain(f"removed {gone}"), markup=False)
    console.print(f"freed {size(sum(answer.freed_bytes for answer in found.values()))}")


# --- in words -----------------------------------------------------------------------------------


def lines(found: "dict[str, pb.ListImagesResponse]", now: float) -> Iterator[str]:
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

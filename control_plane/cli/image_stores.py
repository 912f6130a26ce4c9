"""The stores of images on all machines of a cluster, as commands reach them."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from rayplane.control_plane.cluster.access import access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.node.images.errors import BadReference
from rayplane.node.images.references import parse_reference
from rayplane.proto.rayplane.v1 import node_pb2 as pb

T = TypeVar("T", bound=Message)
PART_BYTES = 256 * 1024
_IMAGES = pb.DESCRIPTOR.services_by_name["Images"]


@asynccontextmanager
async def _stores(directory: StateDir) -> AsyncIterator[dict[str, Any]]:
    """The stores of all machines by the machine's address: one node host of each speaks for it."""
    # A machine that unpacks and is busy beside answers late, and its images are nowhere else.
    async with access(directory, patient=True) as admin:
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


async def on_all(directory: StateDir, call: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
    """The answers of all machines."""
    async with _stores(directory) as stores:
        answers = await asyncio.gather(*(_told(machine, call(stub)) for machine, stub in stores.items()))
        return dict(zip(stores, answers, strict=True))


async def on_any(directory: StateDir, call: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
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


async def send(directory: StateDir, parts: Callable[[], Iterator[bytes]], names: Sequence[str]) -> list[pb.Image]:
    """The images of an archive, loaded on all machines. `parts`: gives it anew for each; `names`: more of them."""

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


async def fetch(directory: StateDir, image: str, file: Path) -> None:
    """Write an image that any machine has or may pull as an archive, whole or not at all. Raises RpcError, OSError."""
    async with _stores(directory) as stores:
        for number, (machine, stub) in enumerate(stores.items(), 1):
            try:
                await _told(machine, _written(stub, image, file))
            except RpcError:
                if number == len(stores):
                    raise
            else:
                return


async def _written(stub: Any, image: str, file: Path) -> pb.SaveImageResponse:
    making = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with making.open("wb") as out:
            async for answer in stub.Save(pb.SaveImageRequest(name=image)):
                out.write(answer.data)
        making.replace(file)
    finally:
        making.unlink(missing_ok=True)
    return pb.SaveImageResponse()


def parts_of(path: Path) -> Iterator[bytes]:
    """The bytes of an archive, or of a folder with an OCI image layout. Raises BadImage, OSError."""
    if path.is_dir():
        from rayplane.node.images.archives import packed

        yield from packed(path)
        return
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            yield data


def checked_name(text: str) -> str:
    """A name in full. Raises UsageError."""
    try:
        return str(parse_reference(text))
    except BadReference as e:
        raise UsageError(str(e)) from e

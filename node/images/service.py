"""The receiving end of `rayplane.v1.Images`: the machine's store, for the cluster's administrators."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from rayplane.control_plane.rpc import Context, Service
from rayplane.node import callers
from rayplane.node.errors import Malformed, Unsupported
from rayplane.node.images.archives import ARCHIVE_MAX, load, saved
from rayplane.node.images.catalog import Stored
from rayplane.node.images.errors import TooLarge
from rayplane.node.images.references import Reference, parse_reference
from rayplane.node.images.store import ImageStore
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from rayplane.storage.env.private import own_name

T = TypeVar("T")
NAMES_MAX = 100
ROOM_LEFT = 0.02
"""The part of a file system that archives on their way leave free."""


class Images(Protocol):
    """A store, and threads for its work."""

    store: ImageStore

    async def run(self, work: Callable[..., T], *args: object) -> T: ...


class ImagesService:
    """Handler of `rayplane.v1.Images`.

    `images`: None where all containers are simulated; `unpacks`: whether they have roots of their own, of layers.
    """

    def __init__(self, images: Images | None, *, unpacks: bool) -> None:
        self._known, self._unpacks = images, unpacks

    @property
    def _images(self) -> Images:
        if self._known is None:
            raise Unsupported("simulated nodes have no images: bring the cluster up with --runtime process")
        return self._known

    @property
    def _store(self) -> ImageStore:
        return self._images.store

    async def Load(self, requests: AsyncIterator[pb.LoadImagesRequest], context: Context) -> pb.LoadImagesResponse:
        first = await anext(requests, None)
        names = [parse_reference(name) for name in first.names] if first is not None else []
        if first is None or len(names) > NAMES_MAX:
            raise Malformed(f"send an archive, and at most {NAMES_MAX} names for its image in the first message")
        path = Path(own_name(str(self._store.root / "making" / "archive")))
        try:
            with await self._images.run(_fresh, path) as file:
                await self._images.run(_written, file, first.data)
                async for request in requests:
                    await self._images.run(_written, file, request.data)
            images = await self._images.run(self._load, path, names)
        finally:
            await self._images.run(lambda: path.unlink(missing_ok=True))
        return pb.LoadImagesResponse(images=[self._shown(one) for one in images])

    def _load(self, path: Path, names: list[Reference]) -> list[Stored]:
        images = load(self._store, path, names)
        # What cannot be unpacked is better told now than by a pod.
        for image in images if self._unpacks else ():
            self._store.ready(image)
        return images

    async def Save(self, request: pb.SaveImageRequest, context: Context) -> AsyncIterator[pb.SaveImageResponse]:
        image, _ = self._store.catalog().chosen(request.name)
        use = await self._images.run(self._store.use, image)
        try:
            parts = saved(self._store, image)
            while (data := await self._images.run(next, parts, None)) is not None:
                yield pb.SaveImageResponse(data=data)
        finally:
            use.close()

    async def List(self, request: pb.ListImagesRequest, context: Context) -> pb.ListImagesResponse:
        catalog = self._store.catalog()
        images = await self._images.run(lambda: [self._shown(one) for one in catalog.images.values()])
        programs = [pb.ImageProgram(name=one.pattern, command=one.command) for one in catalog.programs]
        return pb.ListImagesResponse(images=images, programs=programs)

    async def Remove(self, request: pb.RemoveImageRequest, context: Context) -> pb.RemoveImageResponse:
        return pb.RemoveImageResponse(gone=await self._images.run(self._store.remove, request.name))

    async def Prune(self, request: pb.PruneImagesRequest, context: Context) -> pb.PruneImagesResponse:
        catalog = self._store.catalog()
        unwanted = [one for one in catalog.images.values() if request.all or not one.names]
        gone = await self._images.run(self._store.remove_images, [one.digest for one in unwanted])
        freed = sum(one.size for one in unwanted if one.digest in gone)
        return pb.PruneImagesResponse(gone=gone, freed_bytes=freed)

    async def Map(self, request: pb.MapImageRequest, context: Context) -> pb.MapImageResponse:
        await self._images.run(self._store.map_program, request.program.name, [*request.program.command])
        return pb.MapImageResponse()

    async def Tag(self, request: pb.TagImageRequest, context: Context) -> pb.TagImageResponse:
        image, _ = self._store.catalog().chosen(request.name)
        await self._images.run(self._store.tag, image, parse_reference(request.new_name))
        return pb.TagImageResponse()

    def _shown(self, image: Stored) -> pb.Image:
        return pb.Image(
            digest=image.digest,
            config=image.config,
            names=image.names,
            size_bytes=image.size,
            source=image.source,
            added=int(image.added),
            used=self._store.is_used(image),
        )


def images_service(images: Images | None, *, unpacks: bool) -> Service:
    """The service of a host; see ImagesService."""
    descriptor = pb.DESCRIPTOR.services_by_name["Images"]
    return Service(descriptor, ImagesService(images, unpacks=unpacks), callers=callers.IMAGES)


def _fresh(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _written(file: BinaryIO, data: bytes) -> None:
    room = os.fstatvfs(file.fileno())
    left = room.f_bavail * room.f_frsize - len(data)
    if file.tell() + len(data) > ARCHIVE_MAX or left < ROOM_LEFT * room.f_blocks * room.f_frsize:
        raise TooLarge("the archive is larger than there is room for: free some, or choose another --state-dir")
    file.write(data)

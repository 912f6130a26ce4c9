"""The receiving end of `rayplane.v1.Images`: the machine's store, for the cluster's administrators."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from rayplane.control_plane.rpc import Context, Service
from rayplane.node import callers
from rayplane.node.errors import Malformed, Unsupported
from rayplane.node.images.archives import HEAD_BYTES, archive_max, check_head, load, saved
from rayplane.node.images.catalog import Stored
from rayplane.node.images.credentials import Auth
from rayplane.node.images.errors import ImageNotFound, TooLarge
from rayplane.node.images.references import Reference, parse_reference
from rayplane.node.images.store import ImageStore
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from rayplane.storage.env.private import own_name

T = TypeVar("T")
NAMES_MAX = 100


class Images(Protocol):
    """A store, threads for its work, and the way to registries."""

    store: ImageStore

    async def run(self, work: Callable[..., T], *args: object) -> T: ...

    async def fetched(self, said: str, reference: Reference, auths: Sequence[Auth]) -> Stored | None:
        """An image from where it may be pulled, else as it is here; None for neither. Raises ImageError, OSError."""


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
            arriving = await self._images.run(_Arriving, path)
            try:
                await self._images.run(arriving.write, first.data)
                async for request in requests:
                    await self._images.run(arriving.write, request.data)
                await self._images.run(arriving.whole)
            finally:
                arriving.close()
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
        image = await self._had(request.name)
        use = await self._images.run(self._store.use, image)
        try:
            parts = saved(self._store, image)
            while (data := await self._images.run(next, parts, None)) is not None:
                yield pb.SaveImageResponse(data=data)
        finally:
            use.close()

    async def _had(self, name: str) -> Stored:
        """An image of the store, pulled where it is not there and nodes may. Raises ImageError, OSError."""
        try:
            return self._store.catalog().chosen(name)[0]
        except ImageNotFound:
            found = await self._images.fetched(name, parse_reference(name), ())
            if found is None:
                raise
            return found

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
        gone, freed = await self._images.run(self._store.free, [one.digest for one in unwanted])
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


class _Arriving:
    """An archive on its way into a file; its size is bounded, and its beginning looked at as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self._most = archive_max(path.parent)
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")  # noqa: SIM115
        self._size, self._head = 0, b""

    def write(self, data: bytes) -> None:
        """Raises BadImage, TooLarge."""
        self._size += len(data)
        if self._size > self._most:
            what = f"the archive has more than {self._most} bytes, which is all that there is room for"
            raise TooLarge(f"{what}: free some, or choose another --state-dir")
        if len(self._head) < HEAD_BYTES:
            self._head += data[:HEAD_BYTES]
            if len(self._head) >= HEAD_BYTES:
                check_head(self._head)
        self._file.write(data)

    def whole(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

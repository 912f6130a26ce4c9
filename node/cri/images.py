"""Images as clients of CRI see them, over a store that somebody else keeps."""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from rayplane.control_plane.rpc import Context
from rayplane.node.errors import Malformed, TooMany
from rayplane.proto.cri import cri_pb2 as pb

NAMES_MAX = 4096
_DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a store. `size`: in bytes; `user`: whom its processes run as, where it says so by number or name."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    user: str = ""
    pinned: bool = False


class ImageStore(Protocol):
    """A store of a node's images. A name is what a pod says; an id or a digest names an image too."""

    async def images(self) -> list[StoredImage]: ...

    async def image(self, name: str) -> StoredImage | None: ...

    async def pull(self, name: str, auth: pb.AuthConfig) -> str:
        """Have it; its id. Raises NodeError."""

    async def remove(self, name: str) -> None:
        """Nothing happens to one that is not there. Raises NodeError."""

    async def used_bytes(self) -> tuple[str, int, int]:
        """Where the store is, and how many bytes and files are in it. Raises NodeError."""


def normalized(name: str) -> str:
    """A name with its tag."""
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:{_DEFAULT_TAG}"


class NamedImages:
    """Images that are names: of what pods here run, and of what was asked for. Nothing is stored.

    `used`: names that pods use. For nodes on which an image is not what makes a container run.
    """

    def __init__(self, used: Callable[[], Iterable[str]]) -> None:
        self._used = used
        self._pulled: OrderedDict[str, None] = OrderedDict()

    async def images(self) -> list[StoredImage]:
        return [_named(name) for name in dict.fromkeys([*map(normalized, self._used()), *self._pulled])]

    async def image(self, name: str) -> StoredImage | None:
        wanted = normalized(name)
        for found in await self.images():
            if wanted in (*found.tags, *found.digests) or found.id.removeprefix("sha256:").startswith(
                name.removeprefix("sha256:")
            ):
                return found
        return None

    async def pull(self, name: str, auth: pb.AuthConfig) -> str:
        if len(self._pulled) >= NAMES_MAX:
            raise TooMany(f"{NAMES_MAX} images were pulled here: remove some first")
        wanted = normalized(name)
        self._pulled[wanted] = None
        return _named(wanted).id

    async def remove(self, name: str) -> None:
        found = await self.image(name)
        for known in (*found.tags, *found.digests) if found is not None else ():
            self._pulled.pop(known, None)

    async def used_bytes(self) -> tuple[str, int, int]:
        return "", 0, 0


def _named(name: str) -> StoredImage:
    by_digest = "@" in name
    return StoredImage(
        f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
        tags=() if by_digest else (name,),
        digests=(name,) if by_digest else (),
        # Kubelets take an image without a size for a fault of the runtime.
        size=len(name),
    )


def _message(image: StoredImage) -> pb.Image:
    found = pb.Image(
        id=image.id,
        repo_tags=image.tags,
        repo_digests=image.digests,
        size=image.size,
        spec=pb.ImageSpec(image=image.id),
        pinned=image.pinned,
    )
    if image.user.isdigit():
        found.uid.value = int(image.user)
    else:
        found.username = image.user
    return found


class ImageService:
    """Handlers of `runtime.v1.ImageService`. `now`: nanoseconds since 1970."""

    def __init__(self, store: ImageStore, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    async def ListImages(self, request: pb.ListImagesRequest, context: Context) -> pb.ListImagesResponse:
        return pb.ListImagesResponse(images=await self._listed(request.filter))

    async def StreamImages(
        self, request: pb.StreamImagesRequest, context: Context
    ) -> AsyncIterator[pb.StreamImagesResponse]:
        for image in await self._listed(request.filter):
            yield pb.StreamImagesResponse(images=[image])

    async def _listed(self, asked: pb.ImageFilter) -> list[pb.Image]:
        if not asked.image.image:
            return [_message(image) for image in await self._store.images()]
        found = await self._store.image(asked.image.image)
        return [_message(found)] if found is not None else []

    async def ImageStatus(self, request: pb.ImageStatusRequest, context: Context) -> pb.ImageStatusResponse:
        """Without an image in it for one that is not there, as CRI has it."""
        found = await self._store.image(_name(request.image))
        if found is None:
            return pb.ImageStatusResponse()
        return pb.ImageStatusResponse(image=_message(found), info={"info": "{}"} if request.verbose else {})

    async def PullImage(self, request: pb.PullImageRequest, context: Context) -> pb.PullImageResponse:
        return pb.PullImageResponse(image_ref=await self._store.pull(_name(request.image), request.auth))

    async def RemoveImage(self, request: pb.RemoveImageRequest, context: Context) -> pb.RemoveImageResponse:
        await self._store.remove(_name(request.image))
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: pb.ImageFsInfoRequest, context: Context) -> pb.ImageFsInfoResponse:
        path, used, files = await self._store.used_bytes()
        usage = pb.FilesystemUsage(
            timestamp=self._now(),
            fs_id=pb.FilesystemIdentifier(mountpoint=path),
            used_bytes=pb.UInt64Value(value=used),
            inodes_used=pb.UInt64Value(value=files),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


def _name(image: pb.ImageSpec) -> str:
    if not image.image:
        raise Malformed("name an image")
    return image.image

"""The images of a node's store as clients of CRI see them, and as their containers run from them.

An image's id is the digest of its config, as with other runtimes. What is not in the store is a name alone, for which
the machine stands as it does for pods.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rayplane.node.cri.images import NamedImages, StoredImage
from rayplane.node.images.catalog import Catalog, Stored
from rayplane.node.images.containers import ContainerImage
from rayplane.node.images.credentials import Auth, auth_named
from rayplane.node.images.errors import BadReference, ImageError, ImageInUse, ImageNotFound, StoreFailed
from rayplane.node.images.references import Reference, parse_reference
from rayplane.node.images.store import ImageStore
from rayplane.proto.cri import cri_pb2 as pb

T = TypeVar("T")
FRESH_S = 10.0
"""So long it counts how much is in a store: what is unpacked there changes no catalog."""
_BLOCK = 512
"""Bytes of what `st_blocks` counts."""


class Manager(Protocol):
    """A host's way to images; see ImageManager."""

    store: ImageStore

    async def run(self, work: Callable[..., T], *args: Any) -> T: ...

    async def fetched(self, said: str, reference: Reference, auths: Sequence[Auth]) -> Stored | None: ...

    async def held(self, holder: str, image: Stored) -> ContainerImage | None: ...

    def release(self, uid: str) -> None: ...


class StoredImages:
    """Images of a store. `used`: names that pods use."""

    def __init__(self, manager: Manager, used: Callable[[], Iterable[str]]) -> None:
        self._manager, self._used = manager, used
        self._names = NamedImages(self._names_alone)
        self._measured: tuple[Catalog, float, tuple[int, int]] | None = None

    @property
    def _store(self) -> ImageStore:
        return self._manager.store

    def _names_alone(self) -> Iterable[str]:
        return [name for name in self._used() if self._find(name) is None]

    def _find(self, name: str) -> Stored | None:
        try:
            return self._store.catalog().chosen(name)[0]
        except ImageNotFound:
            return None

    # --- ImageService -----------------------------------------------------------------------------

    async def images(self) -> list[StoredImage]:
        stored = [*self._store.catalog().images.values()]
        shown = await self._manager.run(lambda: [self._shown(one) for one in stored])
        return [*shown, *await self._names.images()]

    async def image(self, name: str) -> StoredImage | None:
        found = self._find(name)
        return await self._manager.run(self._shown, found) if found is not None else await self._names.image(name)

    def _shown(self, image: Stored) -> StoredImage:
        try:
            user = self._store.config(image).user.partition(":")[0]
        except (ImageError, OSError):
            user = ""  # told by whoever runs from it
        digests = tuple(f"{name}@{image.digest}" for name in image.digests)
        # As with the node's own collection: what was loaded cannot be had again.
        return StoredImage(image.config, image.names, digests, image.size, user or "0", not image.goes_by_itself)

    async def pull(self, name: str, auth: pb.AuthConfig) -> str:
        found = self._find(name) if name.startswith("sha256:") else None
        if found is None:
            reference = parse_reference(name)
            own = auth_named(reference.registry, _entry(auth))
            try:
                found = await self._manager.fetched(name, reference, [own] if own is not None else [])
            except OSError as e:
                raise StoreFailed(f"the store of images at {self._store.root}: {e}") from e
        return found.config if found is not None else await self._names.pull(name, auth)

    async def remove(self, name: str) -> None:
        found = self._find(name)
        if found is None:
            await self._names.remove(name)
        elif not await self._manager.run(self._store.remove_images, [found.digest]):
            raise ImageInUse(f"containers run from image {name}: remove them first, or wait until pulls are over")

    async def used_bytes(self) -> tuple[str, int, int]:
        catalog, now = self._store.catalog(), asyncio.get_running_loop().time()
        if self._measured is None or self._measured[0] is not catalog or now - self._measured[1] >= FRESH_S:
            self._measured = (catalog, now, await self._manager.run(_measured, self._store.root))
        return str(self._store.root), *self._measured[2]

    # --- containers -------------------------------------------------------------------------------

    async def of_container(self, holder: str, name: str) -> ContainerImage | None:
        """The image that a container runs from, held until `release`; None where this machine stands for it.

        Raises ImageError, OSError.
        """
        found = self._find(name)
        if found is not None:
            return await self._manager.held(holder, found)
        alone = await self._names.image(name)
        said = next(iter((*alone.tags, *alone.digests)), name) if alone is not None else name
        try:
            reference = parse_reference(said)
        except BadReference:
            return None
        program = self._store.catalog().program(said, reference)
        return ContainerImage(said, name, entrypoint=program.command) if program is not None else None

    def release(self, holder: str) -> None:
        self._manager.release(holder)


def _entry(auth: pb.AuthConfig) -> dict[str, str]:
    """Credentials as an entry of a `.dockercfg` has them."""
    entry = {"username": auth.username, "password": auth.password, "auth": auth.auth}
    return {**entry, "identitytoken": auth.identity_token, "registrytoken": auth.registry_token}


def _measured(root: Path) -> tuple[int, int]:
    """Bytes and files of a directory; what goes meanwhile does not count."""
    used = files = 0
    pending = [str(root)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    files += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            continue
    return used, files

"""Images that a runtime has: as its nodes' statuses list them, and which of them go when its disk gets full.

The rule is that of the machine's own images. In use is what any container of the runtime has, of whomever it is; what a
pod here says; what the runtime pins, and what its sandboxes are made of. Bound: the time between looks.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from rayplane.node.errors import NodeError, RuntimeAway
from rayplane.node.images.collection import Candidate, Thresholds, Wanted, wanted
from rayplane.node.images.errors import BadReference
from rayplane.node.images.listing import listed
from rayplane.node.images.references import parse_reference
from rayplane.node.runtime.cri.client import CriClient
from rayplane.proto.cri import cri_pb2 as pb

log = logging.getLogger(__name__)

LOOK_S = 30.0
NAMES_MAX = 5
"""Names of one image in a node's status, as a kubelet lists them."""


class CriStock:
    """The images of one runtime. `held`: names and ids of those that pods here run, or are about to."""

    def __init__(self, client: CriClient, held: Callable[[], Collection[str]], thresholds: Thresholds) -> None:
        self._client, self._held, self._thresholds = client, held, thresholds
        self.place = ""
        """Where the runtime has its images, as it told last."""
        self._images: dict[str, pb.Image] = {}
        self._used_at: dict[str, float] = {}
        """When an image was last used, or came, by its id; those that were there before this host are long unused."""
        self._sandbox_image: str | None = None
        self._looked_at = float("-inf")

    async def open(self) -> None:
        """Do nothing: the runtime is looked at while it is there."""

    async def close(self) -> None:
        """Do nothing: the images are the runtime's."""

    def listed(self) -> list[dict[str, Any]]:
        images = self._images.values()
        return listed(([*one.repo_digests, *one.repo_tags][:NAMES_MAX], one.size) for one in images)

    def changed(self) -> None:
        """There is another image than before: look as soon as may be."""
        self._looked_at = float("-inf")

    async def look(self) -> bool:
        """Whether they are others than at the look before. Raises NodeError but for a runtime that is away."""
        if asyncio.get_running_loop().time() - self._looked_at < LOOK_S:
            return False
        before = self._images
        try:
            await self._detect()
        except RuntimeAway:
            return False  # its nodes say so
        return before != self._images

    async def _detect(self) -> None:
        """Ask which images there are, and note those that are used. Raises NodeError."""
        now = asyncio.get_running_loop().time()
        self._looked_at = now
        if self._sandbox_image is None:
            self._sandbox_image = await self._of_sandboxes()
        # Containers first: whose image comes after it is young.
        asked = await self._client.call("ListContainers", pb.ListContainersRequest())
        used = {ref for c in asked.containers for ref in (c.image_id, c.image_ref, c.image.image) if ref}
        answer = await self._client.image_call("ListImages", pb.ListImagesRequest())
        self.place = await self._where()
        came = now if self._used_at else float("-inf")
        self._images = {one.id: one for one in answer.images if one.id}
        self._used_at = {
            ident: now if self._is_used(one, used) else self._used_at.get(ident, came)
            for ident, one in self._images.items()
        }

    async def _where(self) -> str:
        answer = await self._client.image_call("ImageFsInfo", pb.ImageFsInfoRequest())
        return next((fs.fs_id.mountpoint for fs in answer.image_filesystems if fs.fs_id.mountpoint), "")

    async def _of_sandboxes(self) -> str:
        """The image that sandboxes are made of, where the runtime tells its configuration; else it has to pin it."""
        answer = await self._client.call("Status", pb.StatusRequest(verbose=True))
        try:
            return str(json.loads(answer.info.get("config") or "{}").get("sandboxImage") or "")
        except (ValueError, AttributeError):
            return ""

    def _is_used(self, image: pb.Image, used: Collection[str]) -> bool:
        return image.pinned or not set(_names_of(image)).isdisjoint(used) or self._is_held(image)

    def _is_held(self, image: pb.Image) -> bool:
        held = {in_full(said) for said in (*self._held(), self._sandbox_image or "")}
        return not set(_names_of(image)).isdisjoint(held)

    # --- those that go ----------------------------------------------------------------------------

    async def collect(self) -> tuple[int, int]:
        """Remove images, the longest unused first, until the disk has room; bytes that were short, and that still are.

        How much one frees is seen when it is gone. Raises NodeError, OSError.
        """
        tried: set[str] = set()
        try:
            plan = await self._plan(self._thresholds, tried)
            short, until = plan.short, replace(self._thresholds, high=self._thresholds.low)
            while plan.digests:
                # Whatever the runtime answers: each is tried once.
                tried.add(plan.digests[0])
                await self._remove(plan.digests[0])
                plan = await self._plan(until, tried)
        except RuntimeAway:
            return 0, 0
        return short, plan.short

    async def _plan(self, thresholds: Thresholds, tried: Collection[str]) -> Wanted:
        await self._detect()
        now = self._looked_at
        if not self.place:
            return Wanted()  # a runtime that does not tell where they are
        disk = await asyncio.to_thread(os.statvfs, self.place)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        candidates = [one for one in self._candidates() if one.digest not in tried]
        return wanted(candidates, total=total, free=free, thresholds=thresholds, now=now)

    def _candidates(self) -> list[Candidate]:
        """All that nobody used at the look just now."""
        return [
            Candidate(ident, one.size, self._used_at[ident])
            for ident, one in self._images.items()
            if self._used_at[ident] < self._looked_at
        ]

    async def _remove(self, ident: str) -> bool:
        """Whether it is gone. Raises RuntimeAway."""
        if self._is_held(self._images[ident]):
            return False  # a pod has come meanwhile
        try:
            await self._client.image_call("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=ident)))
        except RuntimeAway:
            raise
        except NodeError as e:
            log.info("image %s stays: %s", ident, e)
            return False
        self.changed()
        return True

    async def reclaim(self) -> bool:
        """Remove all that nobody uses; whether there was any."""
        gone = False
        try:
            await self._detect()
            for one in self._candidates():
                gone |= await self._remove(one.digest)
        except NodeError as e:
            log.info("images stay: %s", e)
        return gone


def in_full(said: str) -> str:
    """An image's name as runtimes list it; an id as it is."""
    try:
        return said if said.startswith("sha256:") else str(parse_reference(said))
    except BadReference:
        return said


def _names_of(image: pb.Image) -> Iterator[str]:
    yield image.id
    for name in (*image.repo_tags, *image.repo_digests):
        yield name
        yield in_full(name)

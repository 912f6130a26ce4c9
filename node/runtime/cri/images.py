"""Images of a runtime: whether a container's is there, and how it gets there.

A pull that failed is not tried again at once: until then containers that need it are told so. What happens is told by
the events that a kubelet writes. Bounds: pulls at a time, and names of images whose pull failed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import part_of
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.durations import format_duration
from rayplane.node.errors import ContainerConfigError, NodeError
from rayplane.node.images.errors import BadReference
from rayplane.node.images.references import parse_reference
from rayplane.node.lifecycle.containers import present_text
from rayplane.node.runtime.cri.client import PULL_S, CriClient
from rayplane.proto.cri import cri_pb2 as pb

PULLS_MAX = 5
FAILED_MAX = 1024
BACKOFF = Backoff(10.0, 300.0)

Keyring = Callable[[Object, str], Awaitable[list[pb.AuthConfig]]]
"""Credentials for a pod's image, those to be tried first; none: the registry takes anybody."""


class Record(Protocol):
    """A writer of events about pods; `part`: of the pod, which the event is about."""

    def __call__(self, about: Object, kind: str, reason: str, message: str, *, part: str = "") -> None: ...


def unwritten(about: Object, kind: str, reason: str, message: str, *, part: str = "") -> None:
    """An event that nobody hears of."""


class ImageError(ContainerConfigError):
    """The container's image cannot be had; `reason` as in Kubernetes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def no_keys(pod: Object, image: str) -> list[pb.AuthConfig]:
    return []


class Images:
    """Images of one runtime."""

    def __init__(self, client: CriClient, keyring: Keyring = no_keys, record: Record = unwritten) -> None:
        self.pulled: Callable[[], None] = lambda: None
        """Called when one has come."""
        self._client = client
        self._keyring = keyring
        self._record = record
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._failed: OrderedDict[str, tuple[float, float, str]] = OrderedDict()
        """Image to when it may be tried again, how long that was, and why it failed."""

    async def ensure(self, pod: Object, container: dict[str, Any], sandbox: pb.PodSandboxConfig) -> pb.Image:
        """The container's image, pulled where its policy says so. Raises ImageError, RuntimeAway."""
        name: str = container.get("image") or ""
        policy = container.get("imagePullPolicy") or "IfNotPresent"
        part = part_of(meta.spec(pod), container["name"])
        if not name:
            raise ImageError("InvalidImageName", f"container {container['name']} names no image")
        try:
            parse_reference(name)
        except BadReference as e:
            text = f'Failed to apply default image tag "{name}": {e}'
            self._record(pod, "Warning", "InspectFailed", text, part=part)
            raise ImageError("InvalidImageName", text) from e
        found = await self._status(name) if policy != "Always" else None
        if found is not None:
            self._record(pod, "Normal", "Pulled", present_text(name), part=part)
            return found
        if policy == "Never":
            text = f'Container image "{name}" is not present with pull policy of Never'
            self._record(pod, "Warning", "ErrImageNeverPull", text, part=part)
            raise ImageError("ErrImageNeverPull", text)
        self._check_back_off(pod, name, part)
        return await self._pulled(pod, name, sandbox, part)

    async def has(self, image: pb.Image) -> bool:
        """Whether the runtime still has an image that it had. Raises NodeError."""
        return await self._status(image.id) is not None

    async def _pulled(self, pod: Object, name: str, sandbox: pb.PodSandboxConfig, part: str) -> pb.Image:
        loop = asyncio.get_running_loop()
        self._record(pod, "Normal", "Pulling", f'Pulling image "{name}"', part=part)
        began = loop.time()
        try:
            ref = await self._pull(pod, name, sandbox)
            found = await self._status(ref) or await self._status(name)
            if found is None:
                raise self._failure(name, f"the runtime pulled {name} as {ref!r}, and does not know it")
        except ImageError as e:
            self._record(pod, "Warning", "Failed", f'Failed to pull image "{name}": {e}', part=part)
            raise
        self._failed.pop(name, None)
        self.pulled()
        took = format_duration(round(loop.time() - began, 3))
        size = f"Image size: {found.size} bytes."
        text = f'Successfully pulled image "{name}" in {took} ({took} including waiting). {size}'
        self._record(pod, "Normal", "Pulled", text, part=part)
        return found

    async def _status(self, name: str) -> pb.Image | None:
        asked = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        answer = await self._client.image_call("ImageStatus", asked)
        return answer.image if answer.HasField("image") and answer.image.id else None

    def _check_back_off(self, pod: Object, name: str, part: str) -> None:
        until, _, why = self._failed.get(name, (0.0, 0.0, ""))
        if asyncio.get_running_loop().time() < until:
            text = f'Back-off pulling image "{name}"'
            self._record(pod, "Normal", "BackOff", text, part=part)
            raise ImageError("ImagePullBackOff", f"{text}: ErrImagePull: {why}")

    async def _pull(self, pod: Object, name: str, sandbox: pb.PodSandboxConfig) -> str:
        """With each of the pod's credentials until one will do."""
        failed = "no try was made"
        async with self._pulls:
            keys: list[pb.AuthConfig | None] = [*await self._keyring(pod, name)]
            for auth in keys or [None]:
                asked = pb.PullImageRequest(image=pb.ImageSpec(image=name), auth=auth, sandbox_config=sandbox)
                try:
                    answer = await self._client.image_call("PullImage", asked, timeout=PULL_S)
                except NodeError as e:
                    failed = str(e)
                else:
                    return str(answer.image_ref)
        raise self._failure(name, failed)

    def _failure(self, name: str, why: str) -> ImageError:
        _, pause_s, _ = self._failed.pop(name, (0.0, 0.0, ""))
        pause_s = BACKOFF.after_s(pause_s)
        self._failed[name] = (asyncio.get_running_loop().time() + pause_s, pause_s, why)
        while len(self._failed) > FAILED_MAX:
            self._failed.popitem(last=False)
        return ImageError("ErrImagePull", why)


def name_and_id(name: str, image: pb.Image) -> tuple[str, str]:
    """An image and its id as a container's status tells them: by the name that the pod says, where it is one of its."""
    reference = parse_reference(name)
    own = [digest for digest in image.repo_digests if digest.startswith(f"{reference.name}@")]
    known = (*image.repo_tags, *image.repo_digests)
    shown = str(reference) if str(reference) in known else next(iter(known), str(reference))
    return shown, next(iter((*own, *image.repo_digests)), image.id)


def check_user(pod: Object, container: dict[str, Any], image: pb.Image) -> None:
    """Raises ContainerConfigError for a container that must not run as root, and would, or might."""
    whole: dict[str, Any] = pod["spec"].get("securityContext") or {}
    merged = whole | {k: v for k, v in (container.get("securityContext") or {}).items() if v is not None}
    if not merged.get("runAsNonRoot"):
        return
    user = merged.get("runAsUser")
    if user == 0:
        raise ContainerConfigError("container's runAsUser breaks non-root policy")
    if user is not None:
        return
    if image.username:
        which = f"image has non-numeric user ({image.username})"
        raise ContainerConfigError(f"container has runAsNonRoot and {which}, cannot verify user is non-root")
    if not image.HasField("uid") or image.uid.value == 0:
        raise ContainerConfigError("container has runAsNonRoot and image will run as root")

"""Listener of one run of a container: the runtime's callbacks become events of its pod's life."""

from dataclasses import replace
from typing import Any, Protocol

from rayplane.node.images.containers import SIMULATED_ID, own_command
from rayplane.node.images.errors import IMAGE_REASONS
from rayplane.node.images.manifests import digest_of
from rayplane.node.lifecycle import Event, Exited, StartContainer, Started, StartFailed
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime import StartOrder


class StartedPod(Protocol):
    """The worker of the pod."""

    def post(self, event: Event | None) -> None: ...

    def end_hook(self, container: str) -> None:
        """Nobody is there any more for whom a hook could run."""


class RunListener:
    """A listener that turns the runtime's callbacks into events of the run they are about, as Kubernetes' PLEG does."""

    __slots__ = ("_effect", "_started", "_worker")

    def __init__(self, worker: StartedPod, effect: StartContainer, order: StartOrder, *, looked: bool) -> None:
        """`looked`: the container's image was looked for, and what was found told to people."""
        self._worker = worker
        self._effect = effect
        image = (order.image.name, order.image.image_id) if order.image is not None else ("", "")
        if looked and order.image is None:
            image = _stood_for(order.container)
        self._started = Started(effect.container, effect.attempt, order.container_id, *image)

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        """`container_id`, `image`: the runtime's own, where it has them."""
        known = replace(self._started, user=user) if user is not None else self._started
        if container_id:
            known = replace(known, container_id=container_id)
        if any(image):
            known = replace(known, image=image[0], image_id=image[1])
        self._worker.post(known)

    def failed(self, reason: str, message: str) -> None:
        # Of images the Event tells the reason only.
        told = reason if reason in IMAGE_REASONS else ""
        self._worker.post(StartFailed(self._effect.container, self._effect.attempt, reason, message, told=told))

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        effect = self._effect
        self._worker.end_hook(effect.container)
        self._worker.post(Exited(effect.container, effect.attempt, exit_code, signal, message, reason))


def _stood_for(container: dict[str, Any]) -> tuple[str, str]:
    """Image and id of a container whose image is nowhere. Without a command it is data, and its id says so."""
    said = str(container.get("image") or "")
    return (said, "") if own_command(container) else (said, f"{SIMULATED_ID}{digest_of(said.encode())}")

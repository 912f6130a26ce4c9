"""Listener of one run of a container: the runtime's callbacks become events of its pod's life."""

from typing import Protocol

from rayplane.node.lifecycle import Event, Exited, StartContainer, Started, StartFailed


class StartedPod(Protocol):
    """The worker of the pod."""

    def post(self, event: Event | None) -> None: ...

    def end_hook(self, container: str) -> None:
        """Nobody is there any more for whom a hook could run."""


class RunListener:
    """A listener that turns the runtime's callbacks into events of the run they are about, as Kubernetes' PLEG does."""

    __slots__ = ("_effect", "_id", "_worker")

    def __init__(self, worker: StartedPod, effect: StartContainer, container_id: str) -> None:
        self._worker = worker
        self._effect = effect
        self._id = container_id

    def started(self, container_id: str = "") -> None:
        self._worker.post(Started(self._effect.container, self._effect.attempt, container_id or self._id))

    def failed(self, reason: str, message: str) -> None:
        self._worker.post(StartFailed(self._effect.container, self._effect.attempt, reason, message))

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        effect = self._effect
        self._worker.end_hook(effect.container)
        self._worker.post(Exited(effect.container, effect.attempt, exit_code, signal, message, reason))

"""Execution of actions: batches of writes to the API server, events, and the special actions' handlers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, EventRecorder, ops
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    DeleteVolume,
    Event,
    IfAbsent,
    IfAlive,
    Patch,
    Special,
    Update,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.core import Result, View
from rayplane.control_plane.controllers.elsewhere import kind_of
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

log = logging.getLogger(__name__)
BATCH_TIMEOUT_S = 30.0
ABSENT_MEMORY = 4096  # objects the API server said are gone for good


class ActionFailed(Exception):
    """A special action did not succeed; `retry_s` asks for a later try (None: ordinary back-off)."""

    def __init__(self, message: str, *, retry_s: float | None = None, event: Event | None = None) -> None:
        super().__init__(message)
        self.retry_s = retry_s
        self.event = event


Handler = Callable[[Action], Awaitable[list[Write]]]
"""Does an action's outside part; returns writes to do after it. Raises ActionFailed or ApiError."""


@dataclass(slots=True)
class Outcome:
    """The outcome of actions: writes with the server's answers, in their order, and whether to try again."""

    written: list[tuple[str, Object]] = field(default_factory=list)
    deleted: list[tuple[str, Object]] = field(default_factory=list)
    answers: list[tuple[Write, Object | ApiError]] = field(default_factory=list)
    """What the server said to each write."""
    failed: bool = False
    error: str = ""
    """Why, of the first that failed."""
    retry_s: float | None = None
    unanswered: list[Create] = field(default_factory=list)
    """Those of generated names that may have been done or not: to repeat them could make two of each."""
    refusal: str = ""
    """Why the first of the objects that were refused could not be created or deleted."""

    def fail(self, error: str) -> None:
        self.failed = True
        self.error = self.error or error


class Executor:
    """An executor that carries out the results of one controller."""

    def __init__(
        self,
        client: ApiClient,
        recorder: EventRecorder,
        view: View,
        *,
        batch_size: int,
        specials: dict[type, Handler] | None = None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._view = view
        self._batch_size = batch_size
        self._specials = dict(specials or {})
        self._absent: dict[tuple[str, str, str, str], None] = {}

    async def run(self, wanted: Result) -> Outcome:
        """Run the stages in turn, up to the first that fails; then what is to be done about what was refused."""
        outcome = Outcome()
        for stage in wanted.stages:
            await self._stage(stage, outcome)
            if outcome.failed:
                break
        if outcome.refusal and wanted.refused is not None:
            await self._stage(tuple(wanted.refused(outcome.refusal)), outcome)
        return outcome

    async def _stage(self, actions: Sequence[Action], outcome: Outcome) -> None:
        writes: list[Write] = []
        for action in actions:
            if isinstance(action, Event):
                self._event(action)
            elif isinstance(action, (Create, Update, UpdateStatus, Patch, Delete)):
                writes.append(action)
            else:
                writes += await self._special(action, outcome)
        for start in range(0, len(writes), self._batch_size):
            await self._write(writes[start : start + self._batch_size], outcome)

    async def _special(self, action: Special, outcome: Outcome) -> list[Write]:
        try:
            if isinstance(action, (IfAbsent, DeleteVolume)):
                await self._verify_absent(action.absent)
            if isinstance(action, IfAlive):
                await self._verify_alive(action)
            if isinstance(action, (IfAbsent, IfAlive)):
                return list(action.writes)
            return await self._specials[type(action)](action)
        except _Lives:
            return []
        except ActionFailed as e:
            outcome.retry_s = e.retry_s
            if e.event is not None:
                self._event(e.event)
            error = f"{type(action).__name__}: {e}"
        except ApiError as e:
            error = f"{type(action).__name__}: {e.message}"
        log.debug("%s", error)
        outcome.fail(error)
        return []

    async def _write(self, writes: Sequence[Write], outcome: Outcome) -> None:
        try:
            answers = await self._client.batch([operation(w) for w in writes], timeout=BATCH_TIMEOUT_S)
        except ApiError as e:
            log.debug("batch of %d: %s", len(writes), e.message)
            outcome.fail(e.message)
            outcome.retry_s = 1.0
            if not isinstance(e, (ServiceUnavailable, TooManyRequests)):  # which mean that nothing was done
                outcome.unanswered += [w for w in writes if isinstance(w, Create) and not meta.name(w.obj)]
            return
        outcome.answers += zip(writes, answers, strict=True)
        for write, answer in zip(writes, answers, strict=True):
            if isinstance(answer, ApiError):
                self._refused(write, answer, outcome)
            else:
                self._accepted(write, answer, outcome)

    async def look_up(self, unanswered: Iterable[Create]) -> list[tuple[str, Object]]:
        """What the API server has like these: what was made of them is among it. Raises ApiError."""
        kinds = {(c.resource, meta.namespace(c.obj), tuple(sorted(meta.labels(c.obj).items()))) for c in unanswered}
        found = []
        for resource, namespace, labels in sorted(kinds):
            selector = ",".join(f"{key}={value}" for key, value in labels)
            page = await self._client.list(resource, namespace, label_selector=selector)
            found += [(resource, obj) for obj in page.items]
        return found

    def _accepted(self, write: Write, answer: Object, outcome: Outcome) -> None:
        if isinstance(write, Delete):
            outcome.deleted.append((write.resource, write.obj))
            name = meta.name(write.obj)
        else:
            name = meta.name(answer)
            known = self._view.get(write.resource, meta.namespace(answer), name)
            # A write that changed nothing is no news: counting it would make its key come again for ever.
            if known is None or meta.resource_version(known) != meta.resource_version(answer):
                outcome.written.append((write.resource, answer))
        if write.done is not None:
            self._event(write.done, name=name)

    def _refused(self, write: Write, error: ApiError, outcome: Outcome) -> None:
        if isinstance(write, Delete) and isinstance(error, NotFound):
            outcome.deleted.append((write.resource, write.obj))
            return
        if isinstance(write, Create) and isinstance(error, AlreadyExists) and write.exists_ok:
            return
        if _namespace_is_terminating(error) or (isinstance(write, Patch) and write.may_fail):
            return
        log.debug("%s %s: %s", type(write).__name__, write.resource, error.message)
        outcome.fail(error.message)
        if isinstance(error, (AlreadyExists, Conflict, NotFound)):
            return  # the caches were behind
        if isinstance(write, (Create, Delete)):
            outcome.refusal = outcome.refusal or error.message
        failed = getattr(write, "failed", None)
        if failed is not None:
            self._event(failed, error=error.message)

    def _event(self, event: Event, *, name: str = "", error: str = "") -> None:
        message = event.message.replace("{name}", name).replace("{error}", error)
        self._recorder.event(event.about, event.type, event.reason, message)

    async def _verify_alive(self, action: IfAlive) -> None:
        """Ask the API server whether an owner is there and stays."""
        owner = action.owner
        found = await self._client.get(action.resource, meta.name(owner), meta.namespace(owner))
        if meta.uid(found) != meta.uid(owner) or meta.is_deleting(found):
            raise ActionFailed(f"{action.resource} {meta.key(owner)} is gone or goes: it adopts nothing")

    async def _verify_absent(self, absent: Iterable[tuple[str, str, str, str]]) -> None:
        """Ask the API server whether objects are really gone; what was gone once stays gone, as uids are unique."""
        for one in absent:
            resource, namespace, name, uid = one
            if uid and one in self._absent:
                continue
            if (kind := kind_of(resource)) is not None:
                await self._verify_absent_elsewhere(kind, namespace, name, uid)
                continue
            try:
                found = await self._client.get(resource, name, namespace)
            except NotFound:
                pass
            else:
                if not uid or meta.uid(found) == uid:
                    raise ActionFailed(f"{resource} {namespace}/{name} is still there", retry_s=1.0)
            if uid:
                self._absent[one] = None
                if len(self._absent) > ABSENT_MEMORY:
                    del self._absent[next(iter(self._absent))]

    async def _verify_absent_elsewhere(self, kind: tuple[str, str], namespace: str, name: str, uid: str) -> None:
        """Ask whoever keeps an object whether it is gone; what cannot be said counts as living. Raises _Lives."""
        group, _, version = kind[0].rpartition("/")
        try:
            found = await self._client.read_aggregated(group, [version], "", namespace, kind=kind[1], name=name)
        except NotFound:
            return
        except ApiError as e:
            log.debug("%s %s: %s", kind[1], name, e.message)
            raise _Lives from e
        own = found.get("metadata") if isinstance(found, dict) else None
        there = own.get("uid") if isinstance(own, dict) else None
        if not uid or not isinstance(there, str) or there in ("", uid):
            raise _Lives


class _Lives(Exception):
    """An owner lives, as far as anybody knows: there is nothing to do."""


def with_error(write: UpdateStatus, error: str) -> UpdateStatus:
    """The write of a status whose conditions, and whose event, tell an error where they have `{error}`."""
    status = meta.status(write.obj)
    conditions = [
        {**one, "message": str(one.get("message") or "").replace("{error}", error)}
        for one in status.get("conditions") or ()
    ]
    done = write.done
    if done is not None:
        done = replace(done, message=done.message.replace("{error}", error))
    return replace(write, obj={**write.obj, "status": {**status, "conditions": conditions}}, done=done)


def _namespace_is_terminating(error: ApiError) -> bool:
    causes = (error.details or {}).get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def operation(write: Write) -> pb.Operation:
    """The API operation of a write."""
    if isinstance(write, Create):
        return ops.create(write.resource, write.obj)
    if isinstance(write, Update):
        return ops.update(write.resource, write.obj)
    if isinstance(write, UpdateStatus):
        return ops.update_status(write.resource, write.obj)
    if isinstance(write, Patch):
        return ops.patch(
            write.resource,
            write.name,
            write.namespace,
            write.patch,
            kind=write.kind,
            subresource=write.subresource,
        )
    return ops.delete(
        write.resource,
        meta.name(write.obj),
        meta.namespace(write.obj),
        uid=meta.uid(write.obj),
        resource_version=meta.resource_version(write.obj) if write.guard_version else "",
        grace_period_s=write.grace_seconds,
        propagation=write.propagation,
    )

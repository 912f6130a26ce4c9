"""Status manager: writes the status of pods, and deletes pods that have ended, all of a host in shared batches.

A pod that changes again before its write has left is written once. One batch is under way at a time; while it is, the
next one fills. At most `BATCH_MAX` operations travel together. What could not be written stays marked and is tried
again, as often as it takes: the marks are bounded by the number of pods on the host.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.lifecycle.status import ALWAYS, PASSING

log = logging.getLogger(__name__)

BATCH_MAX = 256
RETRIES = Backoff(0.5, 5.0)
SETTLE_POLL_S = 0.02
_ADDRESSES = ("hostIPs", "podIPs")
_OWN = frozenset({*ALWAYS, *PASSING})
_UNEXPLAINED = {"reason": None, "message": None}


class Written(NamedTuple):
    """The status that was written last: its digest, and of its conditions' types some."""

    digest: bytes = b""
    passing: frozenset[str] = frozenset()
    """Those that not all pods have."""
    explained: frozenset[str] = frozenset()
    """Those with a reason or a message."""

    def disputed(self) -> "Written":
        """The same, to be written again: the API may have something else by now."""
        return self._replace(digest=b"")


NOTHING_WRITTEN = Written()


class WrittenPod(Protocol):
    """A pod whose status is written."""

    pod: Object
    written: Written

    known: Object
    """The pod as the API last told it."""

    @property
    def api_uid(self) -> str:
        """The uid that the pod has at the API; empty while it is not there."""

    def status(self) -> dict[str, Any]: ...

    @property
    def wants_final_delete(self) -> bool: ...

    @property
    def wants_final_status(self) -> bool:
        """Tells whether the last status is written even though the object is about to go."""

    def final_delete_done(self) -> None: ...


@dataclass(slots=True)
class _Write:
    subject: WrittenPod
    operation: Any
    written: Written | None = None  # the pod's, once it is; None: this is the final delete


class StatusManager:
    """The statuses that pods are given. `mark` a pod whenever its status may have changed."""

    def __init__(self, client: ApiClient, *, window_s: float) -> None:
        self._client = client
        self._window_s = window_s
        self._marked: dict[WrittenPod, None] = {}
        self._writing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="pod status writer")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def settle(self, limit_s: float) -> None:
        """Return when everything that is marked has been written, after `limit_s` at the latest."""
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        while (self._marked or self._writing) and loop.time() < until:
            await asyncio.sleep(SETTLE_POLL_S)

    def mark(self, subject: WrittenPod) -> None:
        self._marked[subject] = None
        self._wake.set()

    def forget(self, subject: WrittenPod) -> None:
        self._marked.pop(subject, None)

    async def _run(self) -> None:
        while True:
            try:
                await self._write_for_ever()
            except Exception:
                # Nobody else writes for the pods of this host: whatever one of them has done to this, go on.
                log.exception("pods cannot be written; trying again in %.1f s", RETRIES.max_s)
                await asyncio.sleep(RETRIES.max_s)

    async def _write_for_ever(self) -> None:
        pauses = Pauses(RETRIES)
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._window_s)
            self._writing = True
            writes = self._take()
            if not self._marked:
                self._wake.clear()
            if not writes:
                self._writing = False
                continue
            try:
                operations = [w.operation for w in writes]
                answers: Sequence[Object | ApiError] = await self._client.batch(operations, quiet=True)
            except ApiError as e:
                answers = [e] * len(writes)
            except Exception:
                for write in writes:
                    self.mark(write.subject)
                raise
            late = [w for w, answer in zip(writes, answers, strict=True) if not self._settle(w, answer)]
            self._writing = False
            if not late:
                pauses.reset()
                continue
            log.info("%d of %d writes of pods are late", len(late), len(writes))
            for write in late:
                self.mark(write.subject)
            await asyncio.sleep(pauses.next_s())

    def _take(self) -> list[_Write]:
        writes: list[_Write] = []
        while self._marked and len(writes) < BATCH_MAX:
            subject = next(iter(self._marked))
            del self._marked[subject]
            try:
                write = _write(subject)
            except Exception:
                # Its next change is written anew; the others must not wait for it.
                log.exception("the status of pod %s cannot be made", meta.key(subject.pod))
                continue
            if write is not None:
                writes.append(write)
        return writes

    def _settle(self, write: _Write, answer: Object | ApiError) -> bool:
        """Take an answer in; False when the write is to be tried again."""
        subject = write.subject
        if isinstance(answer, NotFound | Conflict):
            # Gone, or another pod has the name now; the informer tells the kubelet.
            if write.written is None:
                subject.final_delete_done()
            return True
        if isinstance(answer, ApiError):
            if answer.retryable:
                return False
            # The same status would be refused again; the pod's next change is written anew.
            log.warning("cannot write pod %s: %s", meta.key(subject.pod), answer.message)
        if write.written is None:
            subject.final_delete_done()
            return True
        subject.written = write.written
        if subject.wants_final_delete:
            self.mark(subject)
        return True


def _write(subject: WrittenPod) -> _Write | None:
    """The next write a pod needs: its status if that changed, then its deletion if it ended."""
    pod = subject.pod
    name, namespace, uid = meta.name(pod), meta.namespace(pod), subject.api_uid
    if not uid:
        return None
    if not subject.wants_final_delete or subject.wants_final_status:
        status = subject.status()
        digest = hashlib.blake2b(orjson.dumps(status), digest_size=16).digest()
        if digest != subject.written.digest:
            body = {"metadata": {"uid": uid}, "status": own_part(subject.known, status, subject.written)}
            patch = ops.patch("pods", name, namespace, body, kind="strategic", subresource="status")
            conditions = status.get("conditions") or ()
            passing = frozenset(one["type"] for one in conditions).difference(ALWAYS)
            return _Write(subject, patch, Written(digest, passing, _explained(conditions)))
    if not subject.wants_final_delete:
        return None
    return _Write(subject, ops.delete("pods", name, namespace, uid=uid, grace_period_s=0))


def _explained(conditions: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(one["type"] for one in conditions if "reason" in one or "message" in one)


def own_part(pod: Object, status: Mapping[str, Any], written: Written = NOTHING_WRITTEN) -> dict[str, Any]:
    """A pod's status as a strategic merge patch of the pod as last seen, without others' conditions that stay.

    They may have written theirs since then: who keeps a readiness gate, who disrupts the pod. Of the kubelet's own the
    pod may have been told already what is not seen yet: `written`. A merge keeps what it is not told to take back.
    """
    part = {**status}
    for field in _ADDRESSES:
        if field in status:
            part[field] = [{"$patch": "replace"}, *(status[field] or ())]
    if "conditions" in status:
        known, wanted = meta.status(pod).get("conditions") or (), status["conditions"] or ()
        kinds = {one["type"] for one in wanted}
        explained = written.explained | _explained(known)
        told = [
            _UNEXPLAINED | one if one["type"] in explained else one
            for one in wanted
            if one["type"] in _OWN or one not in known
        ]
        gone = sorted(written.passing.union(one["type"] for one in known) - kinds)
        part["conditions"] = [*told, *({"type": kind, "$patch": "delete"} for kind in gone)]
    return part

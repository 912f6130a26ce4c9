"""Named points on the way to the disk where a test can end or fail the process.

    hit("wal.before_sync")                          # in the code; a dict test while nothing is armed
    arm("wal.before_sync=kill@3")                   # here, or RAYPLANE_FAILPOINTS in the environment of a member

An armed point counts its hits and acts from the given one on (`@1` by default; errors go on, as a full disk does):
`kill` sends SIGKILL to the process, `stop` SIGSTOP, `error(ENOSPC)` raises DiskError with that errno's text, `count`
does nothing else. Several are separated by `;`. A name that is not in POINTS is refused.

Concurrency: hits may come from any thread; arming is for a process's start, and for tests between two steps.
"""

import errno
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

from rayplane.storage.env.disk import DiskError

ENVIRONMENT = "RAYPLANE_FAILPOINTS"

POINTS: dict[str, str] = {
    # The write-ahead log.
    "wal.before_append": "a batch of records is to be written",
    "wal.before_sync": "a frame is written, not synced",
    "wal.after_sync": "a frame is durable, nobody knows yet",
    "wal.before_segment": "a segment is full, the next is not begun",
    "wal.after_preallocate": "the next segment is there, empty",
    "wal.before_segment_name": "its head is synced, its name is not",
    "wal.before_finish": "the next segment is durable, the one before does not end",
    "wal.after_segment": "the next segment is durable, not used yet",
    "wal.before_mark": "a snapshot is durable, the log does not say so",
    "wal.after_mark": "the log says so, and may begin after it",
    "wal.before_release": "segments that a snapshot covers are to be removed",
    "wal.in_release": "one of them is removed",
    "wal.after_release": "all are removed, and durably so",
    "wal.before_cut": "the log is read, a torn end not cut off yet",
    "wal.after_cut": "the log ends durably where it was cut",
    # Snapshot files.
    "snapshot.before_write": "a snapshot file is to be written",
    "snapshot.in_write": "part of it is written",
    "snapshot.before_sync": "all of it is written, not synced",
    "snapshot.before_rename": "it is durable under its temporary name",
    "snapshot.before_name": "it has its name, not durably",
    "snapshot.after_write": "it is durable under its name",
    "snapshot.before_prune": "older files are to be removed",
    "snapshot.after_prune": "older files are removed",
    # A snapshot of the leader takes the place of this member's state.
    "install.before_mark": "the leader's snapshot is a durable file, raft has taken it",
    "install.before_restore": "the log begins after it, the store is as it was",
    "install.after_restore": "the store is as in the snapshot, nothing was told",
    # The store.
    "store.before_commit": "writes and their applied index are to be committed",
    "store.after_commit": "they are committed",
    "store.before_replace": "the content is to be replaced",
    "store.in_replace": "the new content is written, not committed",
    "store.after_replace": "the new content is committed",
    "store.before_swap": "a new store file is whole, the old one still has its name",
    "store.after_swap": "it has the name of the old one",
    "store.before_marker": "the marker of how the store was left is to be written",
    "store.after_marker": "the marker is durable",
    # Applying.
    "apply.before_entries": "committed entries are to be applied",
    "apply.after_entries": "they are applied and answered, not committed to the store",
    "apply.before_conf_change": "a change of members is to be applied",
    "apply.after_conf_change": "it is applied, not committed to the store",
    "apply.after_compaction": "history is forgotten, its bytes are still there",
    "apply.before_scrub": "bytes of forgotten history are to be removed",
    "apply.after_scrub": "some are removed, not committed",
    # The beginning of a member.
    "identity.before_create": "a member knows its id, its directory does not",
    "identity.before_rename": "the log is begun in a directory aside",
    "identity.after_create": "the log is begun, nothing is in it",
    "identity.before_found": "a founder is to write the first entries",
    "identity.after_found": "the first entries are durable",
    "identity.before_claim": "a joining member is to tell the others that it exists",
    "identity.after_claim": "the others know",
    # Defragmentation.
    "defrag.before": "the store is to be written anew",
    "defrag.after": "the store is written anew",
}
"""Every point, and what is and is not done there."""


class UnknownFailpoint(ValueError):
    """There is no such point or action."""


@dataclass(slots=True)
class _Armed:
    act: Callable[[str], None]
    first: int
    hits: int = 0


_armed: dict[str, _Armed] = {}
_RULE = re.compile(r"([a-z_.]+)=(kill|stop|count|error\(([A-Z0-9]+)\))(?:@([1-9]\d*))?")


def hit(name: str) -> None:
    """The process has come to this point."""
    if name in _armed:
        _act(name)


def _act(name: str) -> None:
    armed = _armed[name]
    armed.hits += 1
    if armed.hits >= armed.first:
        armed.act(name)


def arm(rules: str) -> None:
    """Arm points by rules (see the module), besides those armed already. Raises UnknownFailpoint."""
    for rule in filter(None, (part.strip() for part in rules.split(";"))):
        match = _RULE.fullmatch(rule)
        if match is None:
            raise UnknownFailpoint(
                f"failpoint {rule!r} must be NAME=kill|stop|count|error(ERRNO), with @N for the Nth hit"
            )
        name, action, number, first = match.groups()
        arm_call(name, _action(action, number), first=int(first or 1))


def arm_call(name: str, act: Callable[[str], None], *, first: int = 1) -> None:
    """Call something at a point, from the `first` hit on. Raises UnknownFailpoint."""
    if name not in POINTS:
        raise UnknownFailpoint(f"there is no failpoint {name!r}; see storage.env.failpoints.POINTS")
    _armed[name] = _Armed(act, first)


def arm_from_environment() -> None:
    """Arm what the environment says. Raises UnknownFailpoint."""
    arm(os.environ.get(ENVIRONMENT, ""))


def disarm() -> None:
    """Nothing happens at any point any more."""
    _armed.clear()


def hits() -> dict[str, int]:
    """How often each armed point was come to."""
    return {name: armed.hits for name, armed in _armed.items()}


def _action(action: str, number: str | None) -> Callable[[str], None]:
    if number is not None:
        code = getattr(errno, number, None)
        if code is None:
            raise UnknownFailpoint(f"there is no errno {number}")

        def fail(name: str) -> None:
            raise DiskError(f"cannot go on at {name}: {os.strerror(code)}")

        return fail
    return {"kill": _kill, "stop": _stop, "count": lambda name: None}[action]


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(name: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)

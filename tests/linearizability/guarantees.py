"""What holds beside linearizability of single keys: the order of revisions over all keys, and past states.

With these every answer is bound to one place in one order of all changes: revisions of acknowledged writes are unique
and follow real time over all keys, no linearizable read is answered from before a write that had been acknowledged
when it was called, and whatever is answered "as of revision R", stale or not, is the state of all keys at R.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rayplane.control_plane.invariants.kv_model import Delete, Get, KvModel, Put, Request, Response
from rayplane.control_plane.invariants.linearizable import Operation
from tests.linearizability.history import Truth


class PastRead(NamedTuple):
    """A serializable read, or one of an old revision. `member` names the life of the member that answered, if known."""

    request: Request
    response: Response
    revision: int = 0
    """The revision asked for; 0: whatever the member had."""
    member: str = ""


def wrote(request: Request, response: Response) -> bool:
    """Whether the answer tells of a change."""
    ops = request.ops if response.succeeded else request.otherwise
    return any(
        isinstance(op, Put) or (isinstance(op, Delete) and bool(result))
        for op, result in zip(ops, response.told, strict=True)
    )


def check_revisions(history: Sequence[Operation]) -> None:
    """Acknowledged writes have revisions of their own; revisions follow real time."""
    known = [op for op in history if op.known]
    writers: dict[int, Operation] = {}
    for op in known:
        if wrote(op.input, op.output):
            other = writers.setdefault(op.output.revision, op)
            assert other is op, f"two writes of revision {op.output.revision}: {other} and {op}"
    events = sorted(
        [(op.called, 0, n) for n, op in enumerate(known)] + [(op.returned, 1, n) for n, op in enumerate(known)]
    )
    newest: Operation | None = None
    needed: dict[int, Operation] = {}
    for _, kind, number in events:
        op = known[number]
        if kind == 0:
            if newest is not None:
                needed[number] = newest
            continue
        before = needed.get(number)
        if before is not None:
            least = before.output.revision + wrote(op.input, op.output)
            assert op.output.revision >= least, (
                f"{op} answers from before {before}, which had returned when it was called"
            )
        if newest is None or op.output.revision > newest.output.revision:
            newest = op


def check_answers(history: Sequence[Operation], truth: Truth) -> None:
    """Every answer is what the changes up to its revision make it, and its own changes are among them."""
    model = KvModel()
    for op in history:
        if not op.known:
            continue
        revision = op.output.revision
        keys = op.input.keys
        before = truth.state(keys, revision - wrote(op.input, op.output))
        expected = truth.state(keys, revision)
        assert revision <= truth.revision, f"{op} was acknowledged, but its revision was never applied"
        after = model.step(before, op.input, op.output)
        assert after == [expected], f"{op} does not fit {before}, or its effect is not in {expected}"


def check_past_reads(reads: Sequence[PastRead], truth: Truth) -> None:
    """Each is a state that was, of all its keys at once; one life of a member does not go back."""
    seen: dict[str, int] = {}
    for read in reads:
        at = read.revision or read.response.revision
        for op, result in zip(read.request.ops, read.response.told, strict=True):
            assert isinstance(op, Get)
            held = truth.at(op.key, at)
            assert held == result, f"{op.key!r} at revision {at} was {held}, but was answered as {result}"
        if read.member:
            assert read.response.revision >= seen.get(read.member, 0), f"{read} goes back"
            seen[read.member] = read.response.revision

"""Lease histories: no lease ends before its time, whoever leads; all of its keys go at once; in the end all go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.linearizability.history import Truth


class Renewal(NamedTuple):
    """A keep-alive, or the grant itself: when it was called, in seconds and as the recorder's moment; what it gave."""

    called: float
    moment: float
    ttl_s: int
    answered: float = inf
    """The recorder's moment."""


@dataclass
class LeaseStory:
    """One lease's life. Its keys are its own, and written once. `ended`: by the client itself (revoke)."""

    id: int
    keys: tuple[bytes, ...]
    renewals: list[Renewal] = field(default_factory=list)
    ended: bool = False


def check_leases(stories: Sequence[LeaseStory], truth: Truth) -> None:
    for story in stories:
        deletions = {
            revision
            for revision, changes in truth.changes.items()
            for change in changes
            if change.kv is None and change.key in story.keys
        }
        written = [key for key in story.keys if truth.at(key, truth.revision) is not None]
        assert not written, f"lease {story.id:x} never ran out: {written} are left"
        assert len(deletions) <= 1, f"the keys of lease {story.id:x} went in several revisions: {sorted(deletions)}"
        if not deletions or story.ended:
            continue
        time, moment = truth.applied_at[deletions.pop()]
        for renewal in story.renewals:
            if not renewal.ttl_s:
                assert moment < renewal.answered, f"lease {story.id:x} was called dead while it lived: {renewal}"
                continue
            assert renewal.moment < moment, f"lease {story.id:x} was renewed after it had ended at {time}: {renewal}"
            assert time >= renewal.called + renewal.ttl_s, (
                f"lease {story.id:x} ended at {time}, too early for {renewal}"
            )

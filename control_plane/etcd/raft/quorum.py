"""Majorities: of matched indexes and of votes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """Smallest number of voters of which any two sets meet."""
    return voters // 2 + 1


def committed_index(matches: list[int]) -> int:
    """Largest index that a majority has reached, given each voter's; 0 without voters. Sorts
    `matches`.
    """
    count = len(matches)
    if count == 1:
        return matches[0]
    if not count:
        return 0
    matches.sort()
    return matches[count - majority(count)]


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Outcome of an election with the answers so far; others than voters do not count."""
    need = majority(len(voters))
    granted = sum(1 for voter in voters if votes.get(voter))
    missing = sum(1 for voter in voters if voter not in votes)
    if granted >= need:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= need else VoteResult.LOST

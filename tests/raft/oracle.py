"""What may never happen to a raft group, checked at every step at a cost that does not grow with the log.

Each check is one of the properties of figure 3 of the Raft paper, or a rule of this library that they rest on. The
oracle sees all members at once, which no member can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.raft import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    ReadState,
    Ready,
    Role,
    Snapshot,
)

if TYPE_CHECKING:
    from tests.raft.harness import Member

CONF_CHANGE = EntryType.CONF_CHANGE
APP, APP_RESP, VOTE_RESP = MessageType.APP, MessageType.APP_RESP, MessageType.VOTE_RESP


def reconfigured(conf: ConfState, change: ConfChange) -> ConfState:
    """What a membership change must lead to."""
    voters = [v for v in conf.voters if v != change.node_id]
    learners = [v for v in conf.learners if v != change.node_id]
    if change.type is ConfChangeType.ADD_NODE:
        voters.append(change.node_id)
    elif change.type is ConfChangeType.ADD_LEARNER:
        learners.append(change.node_id)
    return ConfState(tuple(sorted(voters)), tuple(sorted(learners)))


class Oracle:
    """One for each group; `members` is the group's own mapping."""

    def __init__(self, founding: ConfState, members: Mapping[int, Member]) -> None:
        self.leaders: dict[int, int] = {}  # by term
        self.ledger: list[Entry] = []  # entry i at i - 1: committed, once and for all
        self.commit_terms: list[int] = []  # the term in which each became so
        self.confs: list[tuple[int, ConfState]] = [(0, founding)]  # since which index
        self.read_floor: dict[bytes, int] = {}
        self._members = members
        self._origin: dict[tuple[int, int], tuple[int, Entry]] = {}
        self._votes: dict[tuple[int, int], int] = {}

    def conf_at(self, index: int) -> ConfState:
        """The configuration once everything up to `index` is applied."""
        return next(conf for since, conf in reversed(self.confs) if since <= index)

    # After every input to a member

    def observe(self, member: Member) -> None:
        raft = member.node._raft
        if raft.log.committed > member.seen_commit:
            self._commits(member)
        if raft.role is Role.LEADER and raft.term != member.led_term:
            self._elected(member)

    def _elected(self, member: Member) -> None:
        """Election safety; leader completeness: what was committed in earlier terms is in its log."""
        raft = member.node._raft
        member.led_term, member.led_last = raft.term, raft.log.offset - 1
        first = self.leaders.setdefault(raft.term, member.id)
        assert first == member.id, f"{first} and {member.id} both lead in term {raft.term}"
        assert member.id in raft.conf.voters, f"{member.id} leads but is no voter"
        index = len(self.ledger)
        while index and self.commit_terms[index - 1] >= raft.term:
            index -= 1
        if index >= raft.log.first_index:
            assert raft.log.matches(index, self.ledger[index - 1].term), (
                f"leader {member.id} of term {raft.term} lacks committed {self.ledger[index - 1]}"
            )

    def _commits(self, member: Member) -> None:
        """State machine safety: one entry per index, for all and for ever."""
        raft, ledger = member.node._raft, self.ledger
        log, low, high = raft.log, member.seen_commit, raft.log.committed
        member.seen_commit = high
        known = len(ledger)
        if low + 1 < log.first_index:  # by a snapshot
            low = log.first_index - 1
            assert low <= known, f"{member.id} has a snapshot of {low}, which nobody committed"
            assert log.term(low) == ledger[low - 1].term, f"{member.id} has a snapshot of another history at {low}"
        for entry in log.entries(low + 1, high + 1, 1 << 62):
            if entry.index <= known:
                held = ledger[entry.index - 1]
                assert held is entry or held == entry, f"{member.id} commits {entry}, another committed {held}"
                continue
            ledger.append(entry)
            self.commit_terms.append(raft.term)
            if entry.type is CONF_CHANGE:
                change = ConfChange.decode(entry.data)
                self.confs.append((entry.index, reconfigured(self.confs[-1][1], change)))
        if len(ledger) > known and raft.role is Role.LEADER:
            self._chosen_by_majority(member, ledger[-1])

    def _chosen_by_majority(self, leader: Member, entry: Entry) -> None:
        """§5.4.2: a leader counts copies of entries of its own term only; and only copies that survive a crash."""
        raft = leader.node._raft
        assert entry.term == raft.term, f"{leader.id} commits {entry} of an older term by counting"
        voters = raft.conf.voters
        copies = sum(voter in self._members and self._members[voter].disk.holds(entry) for voter in voters)
        assert copies > len(voters) // 2, f"{entry} is committed with {copies} durable copies of {len(voters)}"

    # Output

    def takes(self, member: Member, ready: Ready) -> None:
        """A Ready was handed out: log matching, leader append-only, the rules of membership, limits."""
        raft = member.node._raft
        if ready.entries:
            self._appends(member, ready.entries)
        config = raft.config
        size = 0
        for message in ready.messages:
            assert message.type is not APP_RESP and message.type is not VOTE_RESP, f"{message} does not wait for disk"
            if message.type is APP and len(message.entries) > 1:
                size = sum([len(e.data) for e in message.entries])
                assert size <= config.max_size_per_message, f"{size} bytes in one append"
        if len(ready.committed_entries) > 1:
            size = sum([len(e.data) for e in ready.committed_entries])
            assert size <= config.max_committed_size_per_ready, f"{size} bytes to apply at once"
        for progress in raft.progress.values():
            assert progress.match < progress.next, "a member is fed what it has"
            assert len(progress.inflight) <= config.max_inflight_messages, "too many appends under way"
            beyond = progress.inflight[-1][1] if progress.inflight else 0
            assert progress.inflight_bytes - beyond < config.max_inflight_bytes, "too many bytes under way"
            assert progress.inflight_bytes == sum([size for _, size in progress.inflight])

    def _appends(self, member: Member, entries: Sequence[Entry]) -> None:
        raft, origin = member.node._raft, self._origin
        first = entries[0].index
        previous = raft.log.term(first - 1) if first >= raft.log.first_index else 0
        for entry in entries:
            key = (entry.index, entry.term)
            seen = origin.setdefault(key, (previous, entry))
            assert seen[0] == previous or not previous, f"before {entry} is term {previous} here, {seen[0]} elsewhere"
            assert seen[1] is entry or seen[1] == entry, f"{entry} here, {seen[1]} elsewhere"
            previous = entry.term
        if raft.role is Role.LEADER and member.led_term == raft.term:
            assert first > member.led_last, f"leader {member.id} replaces its own entry {first}"
            member.led_last = entries[-1].index
        newest = entries[-1]
        if newest.type is CONF_CHANGE and newest.term == raft.term and raft.role is Role.LEADER:
            # Of single-server changes (thesis §4.1) and their correction.
            known = raft.log.term(raft.log.committed) == raft.term
            assert known, f"{member.id} changes the membership before it has committed in term {raft.term}"
            older = [e.index for e in raft.log.scan(raft.log.committed + 1, newest.index) if e.type is CONF_CHANGE]
            assert not older, f"{member.id} appends {newest} with {older} not committed"

    def sends_after_append(self, member: Member, messages: Sequence[Message]) -> None:
        """What speaks of this member's log or vote may only say what its disk says."""
        disk = member.disk
        for message in messages:
            if message.type is APP_RESP and not message.reject:
                # Of an older term it counts for nothing: a newer leader was elected by a majority without the entry.
                early = message.index > disk.last_index() and message.term >= disk.hard_state.term
                assert not early, f"{member.id} acknowledges {message.index} too early"
            elif message.type is VOTE_RESP and not message.reject:
                key = (member.id, message.term)
                first = self._votes.setdefault(key, message.to)
                assert first == message.to, f"{member.id} votes for {first} and {message.to} in term {message.term}"
                hard = disk.hard_state
                durable = hard.term > message.term or (hard.term == message.term and hard.vote == message.to)
                assert durable, f"{member.id} votes before that is durable"

    def applies(self, member: Member, entries: Sequence[Entry]) -> None:
        """In order, what is committed, and durable here."""
        index, ledger = member.applied_index, self.ledger
        for entry in entries:
            index += 1
            assert entry.index == index, f"{member.id} applies {entry.index} instead of {index}"
            assert index <= len(ledger) and ledger[index - 1] == entry, f"{member.id} applies {entry}: not committed"
        assert index <= member.disk.last_index(), f"{member.id} applies {index} before it is durable"

    def configured(self, member: Member) -> None:
        """A member acts by the configuration of what it has applied, neither an older nor a newer one."""
        conf = member.node._raft.conf
        if conf is not member.conf:
            assert conf == member.conf, f"{member.id} acts by {conf} instead of {member.conf}"
        right = self.conf_at(member.applied_index)
        assert conf == right, f"{member.id} has {conf} at {member.applied_index}, not {right}"

    def restores(self, member: Member, snapshot: Snapshot) -> None:
        assert snapshot.index <= len(self.ledger), f"{member.id} restores what nobody committed"
        right = self.conf_at(snapshot.index)
        assert snapshot.conf_state == right, f"a snapshot at {snapshot.index} says {snapshot.conf_state}, not {right}"

    # Reads

    def asks(self, context: bytes) -> None:
        """The answer may not lie below anything committed anywhere by now."""
        self.read_floor[context] = len(self.ledger)

    def answers(self, read: ReadState) -> None:
        floor = self.read_floor[read.context]
        assert read.index >= floor, f"stale read {read}: {floor} was committed before it was asked for"

"""The leader's view of each member: what it has, what was sent, how fast it is fed."""

from __future__ import annotations

from collections import deque

from rayplane.control_plane.etcd.raft.types import PeerProgress, ProgressState

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


class Progress:
    """Invariant: match < next. `inflight` holds last index and payload of each append not acknowledged yet."""

    __slots__ = (
        "inflight",
        "inflight_bytes",
        "is_learner",
        "match",
        "max_inflight",
        "max_inflight_bytes",
        "next",
        "nudge",
        "paused",
        "pending_snapshot",
        "read_ack",
        "read_turn",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: int, *, max_inflight: int, max_inflight_bytes: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = PROBE
        self.is_learner = False
        self.recent_active = False
        self.pending_snapshot = 0
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        # one append was sent while probing: wait for the answer or a heartbeat's
        self.paused = False
        # a tick's heartbeat is out: its answer may show that something was lost
        self.nudge = False
        self.sent_commit = 0
        self.read_ack = 0  # newest ReadIndex round it confirmed
        self.read_turn = 0  # which confirmation of the leader's reads that was

    @property
    def slowness(self) -> tuple[bool, int, int]:
        """Orders members by how soon they may be expected to confirm a read."""
        return self.state is not REPLICATE, -self.read_ack, self.read_turn

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.paused = False
        self.pending_snapshot = 0
        self.inflight.clear()
        self.inflight_bytes = 0

    def become_probe(self) -> None:
        """Find where the logs match; after a snapshot, go on behind it."""
        snapshot = self.pending_snapshot if self.state is SNAPSHOT else 0
        self._reset(PROBE)
        self.next = max(self.match, snapshot) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._reset(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._reset(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def is_paused(self) -> bool:
        """Whether no append may be sent now."""
        if self.state is REPLICATE:
            return len(self.inflight) >= self.max_inflight or self.inflight_bytes >= self.max_inflight_bytes
        return self.state is SNAPSHOT or self.paused

    def sent(self, last_index: int, size: int) -> None:
        """An append of `size` bytes that ends at `last_index` left (not called for empty ones)."""
        if self.state is REPLICATE:
            self.next = last_index + 1
            self.inflight.append((last_index, size))
            self.inflight_bytes += size
        else:
            self.paused = True

    def acknowledged(self, index: int) -> bool:
        """The member has everything up to `index`; False when that is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.paused = False
        return True

    def free_inflight(self, index: int) -> None:
        """Appends up to `index` arrived."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= index:
            self.inflight_bytes -= inflight.popleft()[1]

    def rejected(self, refused: int, hint: int) -> bool:
        """An append whose previous index was `refused` did not match; False when the refusal is
        stale.
        """
        if self.state is REPLICATE:
            if refused <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.next - 1 != refused:
            return False
        self.next = max(min(refused, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.paused = False
        return True

    def view(self) -> PeerProgress:
        return PeerProgress(
            match=self.match,
            next=self.next,
            state=self.state,
            is_learner=self.is_learner,
            recent_active=self.recent_active,
            pending_snapshot=self.pending_snapshot,
            inflight=len(self.inflight),
            inflight_bytes=self.inflight_bytes,
        )

"""Configuration of one raft node."""

from __future__ import annotations

from dataclasses import dataclass

from rayplane.control_plane.etcd.raft.errors import ConfigError
from rayplane.control_plane.etcd.raft.types import NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Parameters of a RawNode; ticks, sizes and counts, never seconds."""

    #: This node's id, not NONE.
    id: int
    #: Ticks without a leader's word before a campaign; randomized to [election_ticks, 2 *
    #: election_ticks).
    election_ticks: int = 10
    #: Ticks between a leader's heartbeats.
    heartbeat_ticks: int = 1
    #: Last index the state machine holds: committed entries are handed out after it.
    applied: int = 0
    #: Payload of one append message in bytes; a single larger entry still travels.
    max_size_per_message: int = 1 << 20
    #: Payload of one Ready's committed_entries in bytes; at least one entry is handed out.
    max_committed_size_per_ready: int = 4 << 20
    #: Payload of a leader's uncommitted entries in bytes; proposals above are dropped.
    max_uncommitted_size: int = 256 << 20
    #: Append messages on their way to one member before the leader waits.
    max_inflight_messages: int = 256
    #: Payload of those messages in bytes; the one that goes beyond it still leaves. Bandwidth is at most this much per
    #: round trip: with 100 ms, 320 MB/s.
    max_inflight_bytes: int = 32 << 20
    #: Reads waiting for a quorum's confirmation on the leader.
    max_pending_reads: int = 65_536
    #: Ask whether an election could be won before raising the term (thesis §9.6).
    pre_vote: bool = True
    #: A leader that hears no quorum for an election timeout steps down; members that hear a leader
    #: ignore votes.
    check_quorum: bool = True

    def validate(self) -> None:
        """ConfigError on values that cannot work, alone or together."""
        if not NONE < self.id < 1 << 64:
            raise ConfigError(f"id {self.id} must be a uint64 other than 0")
        if self.heartbeat_ticks < 1:
            raise ConfigError(f"heartbeat_ticks {self.heartbeat_ticks} must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks {self.election_ticks} must be greater than heartbeat_ticks {self.heartbeat_ticks}"
            )
        if self.applied < 0:
            raise ConfigError(f"applied {self.applied} must not be negative")
        bounds = ("max_inflight_messages", "max_inflight_bytes", "max_pending_reads", "max_committed_size_per_ready")
        for name in bounds:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        if self.max_size_per_message < 0:
            raise ConfigError("max_size_per_message must not be negative (0 means one entry per message)")
        if self.max_inflight_bytes < self.max_size_per_message:
            raise ConfigError(
                f"max_inflight_bytes {self.max_inflight_bytes} must not be less than "
                f"max_size_per_message {self.max_size_per_message}"
            )
        if self.max_uncommitted_size < self.max_size_per_message:
            raise ConfigError(
                f"max_uncommitted_size {self.max_uncommitted_size} must not be less than "
                f"max_size_per_message {self.max_size_per_message}"
            )

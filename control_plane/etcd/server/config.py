"""Configuration of one member."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.control_plane.etcd.callers import CLIENTS, PEERS
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.rpc import Callers

#: Version reported to clients; API servers look at it before they rely on progress requests.
ETCD_VERSION = "3.5.21"

#: Messages may be this much larger than the largest request.
OVERHEAD_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """One member. The data directory is the root of the disk it is given."""

    name: str
    """Unique name within the cluster; a key of `initial_cluster`."""
    client_address: str
    """host:port to serve clients on; port 0 takes any free one."""
    peer_address: str
    """host:port to serve other members on: as the others reach it."""
    initial_cluster: Mapping[str, str] = field(default_factory=dict)
    """Name to peer URL ("http://host:port") of every founding or present member; empty: this one alone."""
    initial_cluster_token: str = "rayplane"
    """Keeps clusters apart that reuse addresses."""
    cluster_state: str = "new"
    """"new": found the cluster; "existing": join one that a member add has prepared."""
    scheme: str = "http"
    """Scheme of published URLs: "https" where the network speaks TLS."""
    advertise_client_url: str = ""
    """Published client URL; empty: made of scheme and the bound client address."""
    client_callers: Callers = CLIENTS
    """Who may call what clients are served: by the certificate, whatever etcd's own authentication adds to that."""
    peer_callers: Callers = PEERS
    """Who may call what the other members are served."""
    auth_root_groups: frozenset[str] = CLIENTS.groups
    """Groups of client certificates that act as root, without a token, once authentication is enabled: the cluster's
    own components must go on working then. Other certificates speak for the user of their common name."""
    auth_token: str = "simple"
    """Kind of tokens, in the form of etcd's --auth-token: "simple" or "jwt,sign-method=RS256,priv-key=FILE..."; key
    files are read at the start."""
    auth_token_ttl_s: float = 300.0
    """Seconds that a simple token lives after its last use."""
    bcrypt_cost: int = 10
    """Work for a password hash: doubled by each step, 4 to 31."""
    tick_s: float = 0.1
    """Seconds per raft tick; heartbeats go out every tick."""
    election_ticks: int = 8
    """Ticks without a leader before a campaign, randomized up to twice that: 0.8 to 1.6 s."""
    snapshot_count: int = 10_000
    """Applied entries between two raft snapshots; the log before the older one is released."""
    catch_up_entries: int = 5_000
    """Entries kept in memory behind a snapshot, for members that lag a little."""
    wal_segment_bytes: int = 64 << 20
    """Size of one preallocated file of the log."""
    quota_bytes: int = 2 << 30
    """Backend size above which writes are refused with a NOSPACE alarm; 0 for none."""
    max_request_bytes: int = 1536 * 1024
    """Largest encoded request."""
    max_txn_ops: int = 128
    """Most operations in one branch of a transaction."""
    max_pending_proposals: int = 5_000
    """Proposals that may wait for their outcome; more are refused with "too many requests"."""
    request_timeout_s: float = 5.0
    """Seconds a request may wait for consensus before it fails with "request timed out"."""
    progress_notify_interval_s: float = 5.0
    """Seconds of silence after which a watch that asked for progress notes gets one."""
    initial_corrupt_check: bool = False
    """Compare the store with the other members' before serving; reads all of it."""
    corrupt_check_s: float = 0.0
    """Seconds between two comparisons of all members' stores by the leader; 0 for none."""
    build: str = ""
    """The version of rayplane, for the other members and for those who look at the data later."""
    peer_queue_messages: int = 4_096
    """Raft messages that may wait for one peer's stream; more are dropped (raft sends them again)."""

    def validate(self) -> None:
        """Raises RefusedToStart on values that cannot work together."""
        if self.cluster_state not in ("new", "existing"):
            raise RefusedToStart(f'cluster_state {self.cluster_state!r} must be "new" or "existing"')
        if self.initial_cluster and self.name not in self.initial_cluster:
            raise RefusedToStart(f"initial_cluster must contain this member's name {self.name!r}")
        if not self.initial_cluster and self.cluster_state == "existing":
            raise RefusedToStart("to join an existing cluster, name its members in initial_cluster")
        urls = list(self.initial_cluster.values())
        if len(set(urls)) != len(urls):
            raise RefusedToStart("two members of initial_cluster have the same peer URL")
        if self.tick_s <= 0 or self.election_ticks < 2:
            raise RefusedToStart("tick_s must be positive and election_ticks at least 2")
        if not 4 <= self.bcrypt_cost <= 31 or self.auth_token_ttl_s <= 0:
            raise RefusedToStart("bcrypt_cost must be from 4 to 31 and auth_token_ttl_s positive")
        if self.catch_up_entries < 1 or self.snapshot_count < 1:
            raise RefusedToStart("snapshot_count and catch_up_entries must be at least 1")

    @property
    def max_message_bytes(self) -> int:
        """Largest message, entry, or fragment of a watch: the largest request and what is around it."""
        return self.max_request_bytes + OVERHEAD_BYTES

    @property
    def election_timeout_s(self) -> float:
        """Seconds, the least without a leader before a campaign."""
        return self.election_ticks * self.tick_s

    @property
    def min_lease_ttl_s(self) -> int:
        """Seconds, the least that a lease is granted for: one and a half election timeouts, rounded up, as in etcd."""
        return math.ceil(3 * self.election_ticks // 2 * self.tick_s)

    @property
    def peer_url(self) -> str:
        """This member's peer URL, as the others know it."""
        return self.initial_cluster.get(self.name) or f"{self.scheme}://{self.peer_address}"

    @property
    def founders(self) -> dict[int, tuple[str, str]]:
        """Member id to (name, peer URL), as every founding member derives it alike."""
        cluster = self.initial_cluster or {self.name: self.peer_url}
        return {member_id([url], self.initial_cluster_token): (name, url) for name, url in sorted(cluster.items())}


def member_id(peer_urls: list[str], salt: str) -> int:
    """A member's id: the first eight bytes of SHA-1 over its sorted peer URLs and a salt, never 0."""
    return _uint64("".join(sorted(peer_urls)).encode() + salt.encode())


def cluster_id(members: list[int]) -> int:
    """A cluster's id: the first eight bytes of SHA-1 over its founders' ids in order."""
    return _uint64(b"".join(m.to_bytes(8, "big") for m in sorted(members)))


def _uint64(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big") or 1

"""Leases: what is granted, which keys hang on them, when they run out.

Every member knows the same leases and keys, by the log. Only the leader (the primary) counts their time, in the
event loop's seconds, given to each call; it proposes to revoke what ran out. A new leader gives every lease its
full (or checkpointed) time anew, so that a lease never ends early because of an election.

Pure: no clock, no I/O, no storage. Seconds are floats of the loop's time; TTLs are whole seconds.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from rayplane.control_plane.etcd_errors import LeaseExists, LeaseNotFound, LeaseTTLTooLarge

#: Largest TTL in seconds, as in etcd.
TTL_MAX_S = 9_000_000_000
#: Leases longer than this have their remaining time written down this often, so that elections do not renew them.
CHECKPOINT_INTERVAL_S = 300.0
#: Expired leases handed out at once.
EXPIRED_BATCH_MAX = 500
#: Seconds after which an expired lease, whose revocation may have been lost, is handed out again.
RETRY_S = 2.0
#: Entries of ended leases kept in the heaps, beyond a few for each lease, before they are cleared out.
STALE_ENTRIES_MAX = 1_000


@dataclass(slots=True)
class Lease:
    """A grant. `remaining` is the checkpointed rest in seconds, 0 when the whole TTL counts."""

    id: int
    ttl_s: int
    remaining: int = 0
    expires_at: float = math.inf
    checkpoint_at: float = math.inf
    keys: dict[bytes, None] = field(default_factory=dict)

    @property
    def span(self) -> int:
        """Seconds to give it when the count starts anew."""
        return self.remaining or self.ttl_s


class Lessor:
    """All leases of one member."""

    def __init__(self, min_ttl_s: int = 1) -> None:
        self._min_ttl_s = min_ttl_s
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, int] = {}
        self._heap: list[tuple[float, int]] = []
        self._checkpoints: list[tuple[float, int]] = []
        self.primary = False
        # For the metrics.
        self.granted = self.revoked = self.renewed = self.ran_out = 0

    def load(self, leases: Iterable[tuple[int, int, int]], attached: Iterable[tuple[bytes, int]]) -> None:
        """Replace everything: (id, ttl_s, remaining) triples, and (key, lease) pairs."""
        self._leases = {i: Lease(i, ttl_s, remaining) for i, ttl_s, remaining in leases}
        self._lease_of = {}
        self._heap = []
        self._checkpoints = []
        for key, lease_id in attached:
            self.attach(key, lease_id)

    def check_grant(self, lease_id: int, ttl_s: int) -> int:
        """The TTL that a grant would get. Raises LeaseExists, LeaseTTLTooLarge."""
        if ttl_s > TTL_MAX_S:
            raise LeaseTTLTooLarge
        if lease_id in self._leases:
            raise LeaseExists
        return max(ttl_s, self._min_ttl_s)

    def grant(self, lease_id: int, ttl_s: int, now: float) -> Lease:
        """Add a lease; `ttl_s` comes from check_grant."""
        lease = self._leases[lease_id] = Lease(lease_id, ttl_s)
        self.granted += 1
        if self.primary:
            self._schedule(lease, now)
        return lease

    def get(self, lease_id: int) -> Lease:
        """Raises LeaseNotFound."""
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound
        return lease

    def exists(self, lease_id: int) -> bool:
        return lease_id in self._leases

    def revoke(self, lease_id: int) -> None:
        """Forget a lease; its keys have been deleted (and so detached) before."""
        lease = self._leases.pop(lease_id)
        self.revoked += 1
        for key in lease.keys:
            self._lease_of.pop(key, None)
        # Entries of leases that are gone stay in the heaps until their time comes, which may be never.
        if len(self._heap) + len(self._checkpoints) > 4 * len(self._leases) + STALE_ENTRIES_MAX:
            self._heap = [(lease.expires_at, lease.id) for lease in self._leases.values()]
            heapq.heapify(self._heap)
            self._checkpoints = [entry for entry in self._checkpoints if entry[1] in self._leases]
            heapq.heapify(self._checkpoints)

    def attach(self, key: bytes, lease_id: int) -> None:
        """Hang a key on a lease (0: on none), off the one it hung on before."""
        old = self._lease_of.pop(key, 0)
        if old and old in self._leases:
            self._leases[old].keys.pop(key, None)
        if lease_id and lease_id in self._leases:
            self._leases[lease_id].keys[key] = None
            self._lease_of[key] = lease_id

    def is_attached(self, key: bytes) -> bool:
        return key in self._lease_of

    def checkpoint(self, lease_id: int, remaining: int, now: float) -> bool:
        """Note a lease's remaining seconds; False when there is no such lease."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.remaining = remaining
        if self.primary:
            lease.checkpoint_at = now + CHECKPOINT_INTERVAL_S
            heapq.heappush(self._checkpoints, (lease.checkpoint_at, lease_id))
        return True

    def promote(self, now: float, extend: float) -> None:
        """This member leads now: every lease gets its time anew, and `extend` seconds more."""
        self.primary = True
        self._heap = []
        self._checkpoints = []
        for lease in self._leases.values():
            self._schedule(lease, now + extend)

    def demote(self) -> None:
        """This member leads no more: it counts no time."""
        self.primary = False
        self._heap = []
        self._checkpoints = []
        for lease in self._leases.values():
            lease.expires_at = math.inf

    def _schedule(self, lease: Lease, now: float) -> None:
        lease.expires_at = now + lease.span
        heapq.heappush(self._heap, (lease.expires_at, lease.id))
        if lease.ttl_s > CHECKPOINT_INTERVAL_S:
            lease.checkpoint_at = now + CHECKPOINT_INTERVAL_S
            heapq.heappush(self._checkpoints, (lease.checkpoint_at, lease.id))

    def renew(self, lease_id: int, now: float) -> int:
        """Give a lease its whole TTL again. Raises LeaseNotFound, also when it has run out already.

        `Lease.remaining` stays until a checkpoint of 0 has come through the log: the next leader goes by it.
        """
        lease = self.get(lease_id)
        if lease.expires_at <= now:
            raise LeaseNotFound
        # The heap's old entry is dropped when it comes up; see `expired`.
        lease.expires_at = now + lease.ttl_s
        self.renewed += 1
        return lease.ttl_s

    def remaining(self, lease_id: int, now: float) -> int:
        """Whole seconds left, at least 0. Raises LeaseNotFound."""
        lease = self.get(lease_id)
        if math.isinf(lease.expires_at):
            return lease.span
        return max(0, math.ceil(lease.expires_at - now))

    def expired(self, now: float) -> list[int]:
        """Leases that ran out, to be revoked through the log; each comes again after RETRY_S if it still exists."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(found) < EXPIRED_BATCH_MAX:
            _, lease_id = heapq.heappop(self._heap)
            lease = self._leases.get(lease_id)
            if lease is None:
                continue
            if lease.expires_at <= now:
                found.append(lease_id)
                self.ran_out += 1
                heapq.heappush(self._heap, (now + RETRY_S, lease_id))
            else:
                heapq.heappush(self._heap, (lease.expires_at, lease_id))
        return found

    def due_checkpoints(self, now: float) -> list[tuple[int, int]]:
        """(lease, remaining seconds) pairs to be written down through the log."""
        found: list[tuple[int, int]] = []
        while self._checkpoints and self._checkpoints[0][0] <= now and len(found) < EXPIRED_BATCH_MAX:
            _, lease_id = heapq.heappop(self._checkpoints)
            lease = self._leases.get(lease_id)
            if lease is None or lease.checkpoint_at > now or lease.expires_at <= now:
                continue
            found.append((lease_id, self.remaining(lease_id, now)))
            lease.checkpoint_at = math.inf
        return found

    def ids(self) -> list[int]:
        """All lease ids, soonest to run out first."""
        return sorted(self._leases, key=lambda i: (self._leases[i].expires_at, i))

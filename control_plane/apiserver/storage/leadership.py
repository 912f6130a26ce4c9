"""Leadership that a write claims: the write is done only while a Lease is held as the writer says.

A leader that stood still, or whose write is on its way for long, may have been replaced meanwhile. Its client names
the Lease with each write, and by whom and since how many changes it is held (`api.leadership`). Beside each Lease
stands a key with just that, its term: written in one transaction with the Lease whenever either changes, and left alone
by renewals. The transaction of a claimed write compares that key, so that etcd itself decides whose turn it was: no
write of a former leader comes after a new one has the Lease. It costs a write one more comparison, and no round trip.

Leases of nodes have no term, for nobody leads by them. Events and Leases are written whoever claims what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Conflict
from rayplane.control_plane.api.leadership import HEADER, parse_claim, term_of
from rayplane.control_plane.api.machinery.resources import LEASES, ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.proto.etcd import kv_pb2, rpc_pb2

NODES = "kube-node-lease"
# Leaders that write at the same time.
_CLAIMS_MAX = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim to lead by a Lease. `term`: who is said to hold it, since how many changes."""

    lease: str
    term: str

    @staticmethod
    def of(metadata: Mapping[str, str]) -> Claim | None:
        """What a call claims; BadRequest where that cannot be read."""
        text = metadata.get(HEADER, "")
        return Claim(*parse_claim(text)) if text else None

    def holds(self) -> rpc_pb2.Compare:
        """The Lease is held so."""
        return _condition(self)

    @property
    def look(self) -> rpc_pb2.RequestOp:
        """Shows how it is held."""
        return _question(self)

    def check(self, kvs: Sequence[kv_pb2.KeyValue]) -> None:
        """Raises Conflict when `look` showed that the Lease is held otherwise."""
        if not kvs or kvs[0].value != self.term.encode():
            raise Conflict(
                f"the Lease {self.lease} is not held as the writer claims ({self.term}): it does not lead any more, "
                "and nothing was done"
            )


# A leader claims the same with each write. Nobody changes these messages.


@lru_cache(_CLAIMS_MAX)
def _condition(claim: Claim) -> rpc_pb2.Compare:
    value, equal = rpc_pb2.Compare.VALUE, rpc_pb2.Compare.EQUAL
    return rpc_pb2.Compare(key=_key(claim.lease), target=value, result=equal, value=claim.term.encode())


@lru_cache(_CLAIMS_MAX)
def _question(claim: Claim) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=_key(claim.lease)))


CLAIMED: ContextVar[Claim | None] = ContextVar("claimed leadership", default=None)


def has_term(info: ResourceInfo, namespace: str) -> bool:
    """Whether a term stands beside an object of this kind."""
    return info.name == LEASES and namespace != NODES


def begin(lease: Object) -> rpc_pb2.RequestOp:
    """The write of a Lease's term."""
    op = rpc_pb2.RequestOp()
    op.request_put.key, op.request_put.value = _key(meta.key(lease)), term_of(lease).encode()
    return op


def end(lease: Object) -> rpc_pb2.RequestOp:
    """The removal of the term of a Lease that goes."""
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=_key(meta.key(lease))))


def _key(lease: str) -> bytes:
    return f"/rayplane/terms/{lease}".encode()

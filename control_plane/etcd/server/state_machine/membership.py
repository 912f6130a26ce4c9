"""Membership: who the members are, as the applied log says it; kept in the store's buckets beside the keys.

A member's identity is its id; addresses may change. A removed id never comes back. Changes are checked twice: before
they are proposed, to answer the client, and when they are applied, where a change that no longer fits is ignored by
all members alike.
"""

from collections.abc import Iterable

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.raft import ConfChange, ConfChangeType
from rayplane.proto.etcd.rpc_pb2 import Member
from rayplane.storage.keyvalue import Backend

#: Learners at a time, as in etcd.
LEARNERS_MAX = 1


class Membership:
    """Members by id; every change is written through to the backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._members: dict[int, Member] = {}
        self._removed: set[int] = set()
        self.load()

    def load(self) -> None:
        """Read everything anew: at start, and after the store was replaced."""
        self._members = {
            int.from_bytes(key, "big"): Member.FromString(value) for key, value in self._backend.scan("members")
        }
        self._removed = {int.from_bytes(key, "big") for key, _ in self._backend.scan("removed_members")}

    def all(self) -> list[Member]:
        """All members by ascending id; do not change them."""
        return [self._members[i] for i in sorted(self._members)]

    def get(self, member_id: int) -> Member | None:
        return self._members.get(member_id)

    def is_removed(self, member_id: int) -> bool:
        return member_id in self._removed

    @property
    def removed(self) -> list[int]:
        return sorted(self._removed)

    def voters(self) -> list[Member]:
        return [m for m in self.all() if not m.isLearner]

    def check(self, change: ConfChange, member: Member) -> None:
        """Raises what etcd answers when the change does not fit the present members."""
        held = self._members.get(change.node_id)
        if change.type is ConfChangeType.REMOVE_NODE:
            if held is None:
                raise errors.MemberNotFound
            return
        if change.node_id in self._removed:
            raise errors.MemberNotFound
        if change.type is ConfChangeType.ADD_NODE and held is not None:
            if not held.isLearner:
                raise errors.MemberNotLearner
            return
        if held is not None:
            raise errors.MemberExists
        self.check_urls(member.peerURLs, change.node_id)
        if change.type is ConfChangeType.ADD_LEARNER:
            learners = sum(m.isLearner for m in self._members.values())
            if learners >= LEARNERS_MAX:
                raise errors.TooManyLearners

    def check_urls(self, urls: Iterable[str], member_id: int) -> None:
        """Raises PeerURLExists when another member has one of these."""
        taken = {u for m in self._members.values() if member_id != m.ID for u in m.peerURLs}
        if taken.intersection(urls):
            raise errors.PeerURLExists

    def apply(self, change: ConfChange, member: Member) -> None:
        """Take a change that `check` lets pass."""
        held = self._members.get(change.node_id)
        if change.type is ConfChangeType.REMOVE_NODE:
            del self._members[change.node_id]
            self._removed.add(change.node_id)
            self._backend.delete("members", _key(change.node_id))
            self._backend.put("removed_members", _key(change.node_id), b"1")
        elif held is not None:
            promoted = Member()
            promoted.CopyFrom(held)
            promoted.isLearner = False
            self._put(promoted)
        else:
            added = Member()
            added.CopyFrom(member)
            added.ID = change.node_id
            added.isLearner = change.type is ConfChangeType.ADD_LEARNER
            self._put(added)

    def set_attributes(self, member_id: int, name: str, client_urls: Iterable[str], peer_urls: Iterable[str]) -> None:
        """What a member says of itself; nothing when it is not (or no more) a member.

        Peer URLs that another member has are not taken.
        """
        held = self._members.get(member_id)
        if held is None:
            return
        wanted = list(peer_urls) or list(held.peerURLs)
        try:
            self.check_urls(wanted, member_id)
        except errors.PeerURLExists:
            wanted = list(held.peerURLs)
        self._change(held, name=name, client_urls=client_urls, peer_urls=wanted)

    def set_peer_urls(self, member_id: int, urls: Iterable[str]) -> None:
        """Raises MemberNotFound, PeerURLExists."""
        held = self._members.get(member_id)
        if held is None:
            raise errors.MemberNotFound
        wanted = list(urls)
        self.check_urls(wanted, member_id)
        self._change(held, name=held.name, client_urls=held.clientURLs, peer_urls=wanted)

    def _change(self, held: Member, *, name: str, client_urls: Iterable[str], peer_urls: Iterable[str]) -> None:
        self._put(Member(ID=held.ID, name=name, peerURLs=peer_urls, clientURLs=client_urls, isLearner=held.isLearner))

    def _put(self, member: Member) -> None:
        self._members[member.ID] = member
        self._backend.put("members", _key(member.ID), member.SerializeToString())


def _key(member_id: int) -> bytes:
    return member_id.to_bytes(8, "big")


def address_of(url: str) -> str:
    """host:port of a URL, or of a bare host:port."""
    return url.rpartition("://")[2].rstrip("/")


def check_url_syntax(urls: Iterable[str]) -> None:
    """Raises MemberBadURLs unless every URL reads scheme://host:port; the host may be empty, as in etcd."""
    listed = [url.strip() for url in urls]
    for url in listed:
        scheme, separator, rest = url.partition("://")
        port = rest.rpartition(":")[2]
        if scheme not in ("http", "https") or not separator or ":" not in rest or not port.isdigit():
            raise errors.MemberBadURLs
    if not listed:
        raise errors.MemberBadURLs

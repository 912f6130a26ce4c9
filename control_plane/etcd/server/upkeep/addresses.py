"""Addresses of members: this one tells the others its own, and keeps links to where they are.

A member is its id; name and addresses are what it says of itself at each start. After a start at another address the
others cannot answer it before one of them has put the new address through the log.
"""

import asyncio
import logging
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.bootstrap.recovery import Recovery, initial_addresses
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import PeerStubs, Proposer
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL
from rayplane.control_plane.etcd.server.state_machine.membership import Membership, address_of
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

log = logging.getLogger(__name__)


async def first_addresses(config: MemberConfig, network: Network, recovery: Recovery) -> dict[int, str]:
    """Peers to begin with, as long as the log does not say them. Raises RefusedToStart."""
    own = recovery.identity.member_id
    if recovery.machine.members.get(own) is not None:
        return {}
    if recovery.identity.founder:
        return {i: address_of(url) for i, (_, url) in config.founders.items()}
    return await initial_addresses(config, network, own)


class Links(PeerStubs, Protocol):
    """The transport."""

    def set_peers(self, addresses: dict[int, tuple[str, ...]]) -> None: ...


class Addresses:
    """This member's addresses and its knowledge of the others'."""

    def __init__(
        self,
        config: MemberConfig,
        member_id: int,
        members: Membership,
        *,
        proposer: Proposer,
        links: Links,
        first: dict[int, str],
    ) -> None:
        self._config = config
        self._member_id = member_id
        self._members = members
        self._proposer = proposer
        self._links = links
        self._first = first

    def connect(self) -> None:
        """Keep links to the other members: where the log says they are, then where the configuration says."""
        listed = self._members.all()
        known: dict[int, list[str]] = {m.ID: [address_of(u) for u in m.peerURLs] for m in listed}
        if self._members.get(self._member_id) is None:
            # Until the log has come to this member itself, the beginning knows more.
            for peer, address in self._first.items():
                known.setdefault(peer, []).append(address)
        for other in listed:
            if url := self._config.initial_cluster.get(other.name):
                known[other.ID].append(address_of(url))
        known.pop(self._member_id, None)
        self._links.set_peers({i: tuple(dict.fromkeys(tried)) for i, tried in known.items() if tried})

    async def publish(self, client_url: str) -> None:
        """Tell the cluster this member's name and addresses, until it is heard."""
        attributes = wire.Attributes(
            id=self._member_id,
            name=self._config.name,
            client_urls=[client_url],
            peer_urls=[self._config.peer_url],
            level=LEVEL,
        )
        while True:
            try:
                if self._has_moved():
                    await self._announce(attributes)
                # Not for long: what the log says of this member may only now come to light, by its replay.
                async with asyncio.timeout(2 * self._config.election_timeout_s):
                    await self._proposer.propose(Kind.ATTRIBUTES, attributes)
            except (RpcError, TimeoutError) as e:
                log.debug("publishing failed, will be repeated: %s", e)
                await asyncio.sleep(self._config.tick_s)
            else:
                return

    def _has_moved(self) -> bool:
        held = self._members.get(self._member_id)
        return held is not None and self._config.peer_url not in held.peerURLs and bool(self._links.peers)

    async def _announce(self, attributes: wire.Attributes) -> None:
        """The others would send to the old address: one of them must put the new one through the log."""
        failure: RpcError = errors.NoLeader()
        for peer in self._links.peers:
            stub = self._links.stub_of(peer)
            if stub is not None:
                try:
                    await stub.Claim(attributes, timeout=self._config.request_timeout_s)
                    return
                except RpcError as e:
                    failure = e
        raise failure

"""Where members are: this one tells the others, and keeps links to where they are.

A member is its id; name and addresses are what it says of itself at each start. After a start at another address the
others cannot answer it before one of them has put the new address through the log.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.bootstrap.recovery import Recovery, initial_addresses
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.state_machine.membership import address_of
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member

log = logging.getLogger(__name__)


async def first_addresses(config: MemberConfig, network: Network, recovery: Recovery) -> dict[int, str]:
    """Peers to begin with, as long as the log does not say them. Raises RefusedToStart."""
    own = recovery.identity.member_id
    if recovery.machine.members.get(own) is not None:
        return {}
    if recovery.identity.founder:
        return {i: address_of(url) for i, (_, url) in config.founders.items()}
    return await initial_addresses(config, network, own)


class Presence:
    """One member's whereabouts and its knowledge of the others'."""

    def __init__(self, member: "Member", first: dict[int, str]) -> None:
        self._member = member
        self._first = first

    def connect(self) -> None:
        """Keep links to the other members: where the log says they are, then where the configuration says."""
        member = self._member
        listed = member.members()
        known: dict[int, list[str]] = {m.ID: [address_of(u) for u in m.peerURLs] for m in listed}
        if member.machine.members.get(member.member_id) is None:
            # Until the log has come to this member itself, the beginning knows more.
            for peer, address in self._first.items():
                known.setdefault(peer, []).append(address)
        for other in listed:
            if url := member.config.initial_cluster.get(other.name):
                known[other.ID].append(address_of(url))
        known.pop(member.member_id, None)
        member.transport.set_peers({i: tuple(dict.fromkeys(tried)) for i, tried in known.items() if tried})

    async def publish(self) -> None:
        """Tell the cluster this member's name and addresses, until it is heard."""
        member = self._member
        attributes = wire.Attributes(
            id=self._member.member_id,
            name=self._member.config.name,
            client_urls=[self._member.client_url],
            peer_urls=[self._member.config.peer_url],
        )
        while True:
            try:
                if self._has_moved():
                    await self._announce(attributes)
                # Not for long: what the log says of this member may only now come to light, by its replay.
                async with asyncio.timeout(2 * member.election_timeout_s):
                    await member.set_attributes(attributes)
            except (RpcError, TimeoutError) as e:
                log.debug("publishing failed, will be repeated: %s", e)
                await asyncio.sleep(self._member.config.tick_s)
            else:
                return

    def _has_moved(self) -> bool:
        held = self._member.machine.members.get(self._member.member_id)
        return (
            held is not None
            and self._member.config.peer_url not in held.peerURLs
            and bool(self._member.transport.peers)
        )

    async def _announce(self, attributes: wire.Attributes) -> None:
        """The others would send to the old address: one of them must put the new one through the log."""
        failure: RpcError = errors.NoLeader()
        for peer in self._member.transport.peers:
            stub = self._member.transport.stub_of(peer)
            if stub is not None:
                try:
                    await stub.Claim(attributes, timeout=self._member.config.request_timeout_s)
                    return
                except RpcError as e:
                    failure = e
        raise failure

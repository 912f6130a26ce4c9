"""Ports of the supervisor: its needs of the world, in a few methods each."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus
from rayplane.control_plane.cluster.topology import Instance, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code

#: An address, and ports on it that are taken: a port that is free there.
AllotPort = Callable[[str, Collection[int]], int]


class TopologyChanged(RpcError):
    """Another supervisor has stored a topology meanwhile, or this one without knowing: look again, and try again."""

    def __init__(self, revision: int) -> None:
        super().__init__(Code.UNAVAILABLE, f"the stored topology is not of revision {revision} any more")


class TopologyStore(Protocol):
    """The stored topology, and the names of former members. Calls raise RpcError."""

    async def load(self) -> tuple[Topology | None, int]:
        """The stored topology, if there is one, and its revision."""

    async def save(self, topology: Topology, *, revision: int, retire: Collection[str]) -> int:
        """Store a topology in the place of that of a revision, with names that retire; the new revision.

        Raises TopologyChanged when the stored one has another revision.
        """

    async def retired(self) -> frozenset[str]: ...


class MemberAdmin(Protocol):
    """Etcd's members. Calls raise RpcError."""

    async def members(self) -> tuple[MemberStatus, ...]: ...

    async def add_learner(self, peer: str) -> None: ...

    async def promote(self, member_id: int) -> None: ...

    async def remove(self, member_id: int) -> None: ...


class NodeRegistry(Protocol):
    """The Node objects of the API."""

    async def delete(self, node: str) -> None:
        """Nothing when there is none. Raises ApiError."""


class Specs(Protocol):
    """The specs that actors start with."""

    def make(self, instance: Instance, topology: Topology, *, restarted: bool) -> Spec: ...


class Directory(Protocol):
    """Whoever has to know the topology: where to call members and API servers, what to remember over a restart."""

    async def adopt(self, topology: Topology) -> None:
        """Raises OSError when it is not remembered; everybody is called where it says all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All of them together, for the one that holds the whole."""

    host: Host
    store: TopologyStore
    members: MemberAdmin
    nodes: NodeRegistry
    specs: Specs
    directory: Directory
    allot: AllotPort
    now: Callable[[], float]
    """Seconds of the running loop's clock."""
    slowdown: Callable[[], float]
    """How many times slower than idle the machine is (`patience`)."""
    leisure: float = 1.0
    """How many times longer than usual it waits while nothing is to be done (`timings`)."""

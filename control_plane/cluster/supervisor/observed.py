"""The observed state of a cluster: what a supervisor sees of it at one moment. Pure: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.control_plane.cluster.topology import Instance, Machine, Role


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A row of etcd's own list of members."""

    id: int
    peers: tuple[str, ...]
    """host:port of each of its peer URLs."""
    learner: bool = False
    healthy: bool = False
    """Whether it answers and knows a leader."""
    name: str = ""
    """As it said when it started; empty until then."""

    def is_of(self, instance: Instance) -> bool:
        """After a start at another address it is known by its name, which is never given again."""
        return instance.endpoint("peer") in self.peers or instance.name == self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Names are of actors. Times are seconds of the same clock that `plan` is given."""

    running: frozenset[str] = frozenset()
    """Those that exist, as their host says; also those that it restarts by itself."""
    starting: frozenset[str] = frozenset()
    stopping: frozenset[str] = frozenset()
    machines: tuple[Machine, ...] = ()
    """Those that are alive; empty when that is not known."""
    not_before: Mapping[str, float] = field(default_factory=dict)
    """When one that failed may be started again."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How many starts in a row have failed where the actor is planned now."""
    unfit: frozenset[tuple[Role, str]] = frozenset()
    """Ids of machines where an actor of a role did not start lately, however often it was tried."""
    crowded: frozenset[str] = frozenset()
    """Those whose last start failed since another program had a port of theirs."""
    lost: frozenset[str] = frozenset()
    """Members whose data is not what they acknowledged."""
    overdue: frozenset[str] = frozenset()
    """Those that have been in their phase for longer than whoever asked for it waits."""
    awaited: frozenset[str] = frozenset()
    """Those that somebody has asked for and waits for."""
    deregistered: frozenset[str] = frozenset()
    """Nodes whose objects are known to be deleted."""
    current: bool = True
    """Whether the topology is the stored one; another is good enough only to start what is missing."""
    members: tuple[MemberStatus, ...] | None = None
    """None when etcd was not asked, empty when it does not answer."""
    retired: frozenset[str] = frozenset()
    """Names that were members', or stand for such: never given again (`is_retired`)."""
    learnt_at: float = 0.0
    """When all clients know of the actors that came last, so that others may go."""
    steady_at: float = 0.0
    """When members and machines have been the same for so long that actors may be spread anew."""
    elastic: bool = False
    """Whether machines come for nodes alone, and go again when they carry none."""

"""Actions of a supervisor: each may be carried out again after it has been, without effect."""

from dataclasses import dataclass

from rayplane.control_plane.cluster.topology import Instance, Topology


@dataclass(frozen=True, slots=True)
class Start:
    """The start of an actor."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Stop:
    """The end of an actor for good, also of one that is just being started."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class StoreTopology:
    """Another topology that is to be the desired one.

    Instances without ports get free ones; names of members that are not in it any more are retired with it, in one
    transaction.
    """

    topology: Topology
    why: str


@dataclass(frozen=True, slots=True)
class AddLearner:
    """The addition of a member that does not vote yet."""

    name: str
    peer: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The promotion of a learner to a voter, which etcd does once it has caught up."""

    name: str
    member_id: int


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """The removal of a member from etcd."""

    name: str
    member_id: int


@dataclass(frozen=True, slots=True)
class DeleteNode:
    """The deletion of the object of a node that is gone."""

    node: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing else is to be done for this before a time of the clock that the plan was given."""

    time: float
    why: str


Action = Start | Stop | StoreTopology | AddLearner | Promote | RemoveMember | DeleteNode | WaitUntil

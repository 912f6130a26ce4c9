"""The invariants that hold of every cluster, by their names."""

from rayplane.control_plane.invariants.answers import CachesTrue, NothingLost, VersionsMonotonic
from rayplane.control_plane.invariants.judge import Invariant, Make
from rayplane.control_plane.invariants.members import HashesEqual, OneLeader
from rayplane.control_plane.invariants.pods import BoundOnce, Fits, OneOfAName, OneWriter, Room
from rayplane.control_plane.invariants.services import BudgetsHonoured, EndpointsReady
from rayplane.control_plane.invariants.workloads import Converges, NoOrphans, QuotasExact

_KINDS: tuple[type[Invariant], ...] = (
    NothingLost,
    VersionsMonotonic,
    CachesTrue,
    BoundOnce,
    Fits,
    Room,
    OneOfAName,
    OneWriter,
    EndpointsReady,
    BudgetsHonoured,
    NoOrphans,
    QuotasExact,
    Converges,
    OneLeader,
    HashesEqual,
)
BUILTIN: tuple[tuple[str, Make], ...] = tuple((kind.name, kind) for kind in _KINDS)

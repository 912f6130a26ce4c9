"""Failures of a component's start, told across the end of its process.

Ray carries only the text of what an actor's constructor raised; so what has to be known of it is coded there once, and
read once.
"""

import errno
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """The class of what was raised, a colon, and its text.

    `data_lost`: a member's data is gone or damaged; `port_taken`: another program listens where it was to.
    """

    text: str
    data_lost: bool = False
    port_taken: bool = False

    @staticmethod
    def of(error: BaseException) -> "Failure":
        if isinstance(error, ComponentFailed):
            return error.failure
        # Here, since the others of a cluster's components have no need of a member.
        from rayplane.control_plane.etcd.server.errors import DataLost
        from rayplane.storage.wal.errors import CorruptLog, CorruptSnapshotFile, LogMissing

        lost = isinstance(error, (DataLost, CorruptLog, CorruptSnapshotFile, LogMissing))
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        return Failure(f"{type(error).__name__}: {error}", lost, taken)


class ComponentFailed(Exception):
    """An actor's component did not start; the text is the failure, on one line."""

    def __init__(self, failure: Failure) -> None:
        # Without what it is not: a supervisor of an older build may read it.
        super().__init__(json.dumps({"text": "", **{name: said for name, said in asdict(failure).items() if said}}))
        self.failure = failure

    def __reduce__(self) -> tuple[type["ComponentFailed"], tuple[Failure]]:
        """Ray takes the error itself along, too, and says nothing else where it cannot be put together again."""
        return type(self), (self.failure,)


def failure_in(traceback: str) -> Failure:
    """The failure that a traceback of a ComponentFailed ends with; of any other, its last line."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    _, found, coded = last.partition(f"{ComponentFailed.__name__}: ")
    return Failure(**json.loads(coded)) if found else Failure(last)

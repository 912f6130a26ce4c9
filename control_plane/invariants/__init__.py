"""Invariants: what must hold of a cluster, judged from its history alone, in simulation and on live clusters. Pure.

Owns the history (`history`: changes of objects in the order of etcd's revisions, answers of clients with their
intervals, what was seen of members and nodes), the judge (`judge`), and one module for each family of invariants;
`catalogue` names them all. Does not own who records a history.

A check is either of two:

    def no_pod_runs_as_root(history):                 # a function: after every change, and once in the end
        for pod in history.list("pods"):
            if pod["spec"].get("securityContext", {}).get("runAsUser") == 0:
                yield f"pod {pod['metadata']['name']} runs as root"

    class NeverFewerThanTwo(Invariant):               # a class: made anew for each run, keeps what it needs
        name = "never fewer than two"
        def changed(self, change, history): ...       # also begun, answered, observed, finished

    INVARIANTS = [no_pod_runs_as_root, NeverFewerThanTwo]

A file of such checks names them in `INVARIANTS`; `made_by` reads that of the module. `history.last` is the change that
a check is called for, None in the end, when every fault is over; a function is asked then until it finds nothing or the
time to come to rest is over, and what it still finds counts. What a check yields is a violation; what it raises is one
too. The history keeps what is there now and the latest changes, no more:
memory is bounded by the cluster, and a check keeps its own state so.
"""

from rayplane.control_plane.invariants.history import (
    ADDED,
    DELETED,
    DONE,
    MODIFIED,
    REFUSED,
    UNKNOWN,
    Answer,
    Change,
    Fact,
    Hashed,
    History,
    Leads,
    Listed,
    Runs,
)
from rayplane.control_plane.invariants.judge import BadInvariants, Invariant, Judge, Make, Violation, made_by

__all__ = [
    "ADDED",
    "DELETED",
    "DONE",
    "MODIFIED",
    "REFUSED",
    "UNKNOWN",
    "Answer",
    "BadInvariants",
    "Change",
    "Fact",
    "Hashed",
    "History",
    "Invariant",
    "Judge",
    "Leads",
    "Listed",
    "Make",
    "Runs",
    "Violation",
    "made_by",
]
